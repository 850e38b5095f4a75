"""The harness detects work that is done before a refusal, however fast the machine is."""

import contextlib
import sys

import jax
import numpy as np
import pytest

from bad_inputs.conftest import GOOD
from bad_inputs.harness import (
    ALL_NETWORKS_CALLS,
    ARGUMENT_CALLS,
    FILE_BYTES,
    FOLDER_CALLS,
    MISSPELT_CALLS,
    NETWORK_CALLS,
    TooMuchWorkError,
    counted,
    refused,
)
from bark_jax import Bark
from bark_jax.checkpoints.load import module_maker, read_configs
from bark_jax.checkpoints.model_folder import load_network
from bark_jax.errors import InputError
from bark_jax.stage_models import BarkSemanticModel


def refuse():
    raise InputError("no")


@pytest.mark.parametrize("calls", [ARGUMENT_CALLS, MISSPELT_CALLS])
def test_a_refusal_after_a_clip_is_noticed(bark, calls):
    bark.generate(**GOOD)
    with pytest.raises(TooMuchWorkError), refused(InputError, calls=calls):
        bark.generate(**GOOD)
        refuse()


def test_a_refusal_after_one_network_is_read_is_noticed(bark_folder):
    size = read_configs(bark_folder)[0].semantic_config
    with pytest.raises(TooMuchWorkError), refused(InputError, calls=FOLDER_CALLS):
        load_network(bark_folder, "semantic", module_maker(BarkSemanticModel, size), config=size)
        refuse()


# The bound may be hit while JAX closes a generator, where Python ignores errors.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_refusal_after_all_networks_are_read_is_noticed(bark_folder):
    with pytest.raises(TooMuchWorkError), refused(InputError, calls=NETWORK_CALLS):
        Bark.from_pretrained(bark_folder)
        refuse()


def test_a_refusal_after_a_compilation_is_noticed():
    with pytest.raises(AssertionError, match="programs=1"), refused(InputError, calls=ALL_NETWORKS_CALLS):
        jax.jit(lambda x: x * 3 + len("a program that nothing else compiles"))(np.float32(1))
        refuse()


def test_what_has_no_end_is_ended():
    def step():
        pass

    with pytest.raises(TooMuchWorkError, match="more than 4,000 calls"), refused(InputError):
        while True:
            with contextlib.suppress(Exception):
                step()


def test_memory_that_was_given_back_is_noticed():
    with pytest.raises(AssertionError, match="peak_bytes=2"), refused(InputError, memory=FILE_BYTES):
        bytes(2 * FILE_BYTES)
        refuse()


def test_a_count_is_the_same_each_time_and_leaves_things_as_they_were(bark):
    def count():
        with counted(ARGUMENT_CALLS) as work:
            bark.processor("hello")
        return work.calls

    count()
    assert 10 < count() == count() and sys.getprofile() is None


def test_an_import_is_not_counted(monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with counted(20) as work:
        import wave  # noqa: F401
    assert work.calls < 20
