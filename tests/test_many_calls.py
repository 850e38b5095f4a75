"""Many calls in one process: memory, open files and programs do not grow."""

import collections
import gc
import logging
import os
import random
import re
import warnings
from functools import partial

import jax
import numpy as np
import pytest

from bark_jax import Bark
from bark_jax.audio.clip import EmptyClipWarning
from bark_jax.errors import InputError
from bark_jax.generation import coarse, fine
from bark_jax.generation.runner import sampling_of, semantic_prompt
from bark_jax.generation.sampling import key_data
from bark_jax.generation.seeds import CANDIDATE, derive_key, derive_keys, row_keys
from bark_jax.text.processor import BarkProcessor

WARM_UP, N_CALLS = 120, int(os.environ.get("BARK_JAX_SOAK_CALLS", "200"))
MAX_GROWTH_BYTES = 33 * 10**6  # over the calls after the warm-up
# In one, two or four rows: six of the semantic stage, with and without cuts; nine of the coarse stage, three of the
# fine stage and three of the codec. Two of streams, two that turn weights, and the one that derives keys.
MAX_PROGRAMS = 26


@pytest.fixture(scope="module")
def bark(toy_model, toy_folder):
    return Bark(toy_model, BarkProcessor.from_pretrained(toy_folder))


class Programs(logging.Handler):
    """Counts what is compiled while the block runs."""

    def __init__(self):
        super().__init__()
        self.names = collections.Counter()

    def __enter__(self):
        self._logger = logging.getLogger("jax._src.dispatch")
        self._logger.addHandler(self)
        self._was_logged, self._propagates = jax.config.jax_log_compiles, self._logger.propagate
        self._logger.propagate = False
        jax.config.update("jax_log_compiles", True)
        return self

    def __exit__(self, *_):
        jax.config.update("jax_log_compiles", self._was_logged)
        self._logger.propagate = self._propagates
        self._logger.removeHandler(self)

    def emit(self, record):
        if found := re.match(r"Finished XLA compilation of jit\((\w+)\)", record.getMessage()):
            self.names[found[1]] += 1


def resident_bytes():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files():
    return len(os.listdir("/proc/self/fd"))


def varied_call(bark, dice, voices):
    """A call that differs from the others in text, length, rows, voice or settings; one in ten is invalid."""
    text = "".join(dice.choice("abcdefgh ijklmnop.,") for _ in range(dice.randrange(1, 60))) + "a"
    settings = dict(
        seed=dice.randrange(2**32),
        voice=dice.choice([None, *voices]),
        max_new_tokens=dice.randrange(3, 16),
        temperature=dice.uniform(0.3, 1.5),
    )
    settings |= dice.choice([{}, {"top_k": dice.randrange(1, 50)}, {"top_p": dice.uniform(0.1, 1)}, {"min_eos_p": 0.3}])
    kind = dice.random()
    if kind < 0.1:
        with pytest.raises(InputError, match="nothing to speak"):  # `refused` would forget what is compiled
            bark.generate(" ", seed=0)
    elif kind < 0.2:
        list(bark.stream(text, **settings))
    elif kind < 0.3:
        bark.generate_long(text, max_tokens=30, **settings)
    elif kind < 0.6:
        bark.generate([text] * dice.randrange(3, 5), **settings)
    else:
        voices.append(bark.generate(text, allow_early_stop=False, **settings).as_voice())
        del voices[:-3]


@pytest.mark.slow
def test_hundreds_of_calls_take_no_more_than_the_first(bark):
    dice, voices = random.Random(0), []
    with warnings.catch_warnings(), Programs() as programs:
        warnings.simplefilter("ignore", EmptyClipWarning)
        for _ in range(WARM_UP):
            varied_call(bark, dice, voices)
        memory, files, compiled = resident_bytes(), open_files(), programs.names.copy()
        for _ in range(N_CALLS - WARM_UP):
            varied_call(bark, dice, voices)
    growth = resident_bytes() - memory
    print(f"{programs.names}, {growth:,} bytes more after {WARM_UP} of {N_CALLS} calls")
    assert growth < MAX_GROWTH_BYTES
    assert open_files() == files
    assert programs.names == compiled
    assert programs.names.total() <= MAX_PROGRAMS


def test_calls_with_everything_new_compile_nothing(bark):
    dice, voices = random.Random(1), [None]
    ways = {
        "a row": lambda text, **settings: voices.append(bark.generate(text, **settings).as_voice()),
        "two rows": lambda text, **settings: bark.generate([text, text[1:] + "b"], **settings),
        "a stream": lambda text, **settings: list(bark.stream(text, **settings)),
    }

    def call(way):
        ways[way](
            "".join(dice.choice("abcdefgh ijklmnop.,") for _ in range(dice.randrange(1, 60))) + "a",
            seed=dice.randrange(2**64),
            voice=dice.choice(voices[-3:]),
            max_new_tokens=dice.randrange(3, 16),
            allow_early_stop=False,
            temperature=dice.uniform(0.3, 1.5),
            min_eos_p=dice.uniform(0.1, 1),
            semantic_top_k=dice.randrange(1, 50),
            fine_temperature=dice.uniform(0, 1.5),
        )

    for way in ways:
        call(way)
    with Programs() as programs:
        for _ in range(25):
            call(dice.choice(list(ways)))
    assert len(voices) > 5 and not programs.names


def test_what_is_laid_out_on_the_host_compiles_nothing(bark):
    """Or else each number of rows adds a program for each kind of array."""
    model, n_rows = bark.model, 7
    rows = bark.rows(["a"] * n_rows, None, row_keys(5, None, n_rows), {})
    tokens, codes = [np.zeros(9, np.int32)] * n_rows, [np.zeros((2, 9), np.int32)] * n_rows
    with Programs() as programs:
        semantic_prompt(rows, model.spaces, len(rows))
        prompt = coarse.make_prompt(tokens, [None] * n_rows, model.spaces)
        fine.make_prompt(codes, [None] * n_rows, model.spaces)
        for stage in ("semantic", "coarse", "fine"):
            sampling_of(rows, stage, n_rows)
        model.codec_model.init_decode_state(n_rows)
        done = jax.eval_shape(partial(coarse.start, spaces=model.spaces), model.coarse_acoustics, prompt)
        done = jax.tree.map(lambda array: np.zeros(array.shape, array.dtype), done)
        codes = coarse.read_codes(prompt, done, spaces=model.spaces)
    assert codes.codes_BQT.shape[:2] == (n_rows, 2)
    assert not programs.names


def test_any_number_of_derived_keys_is_one_program():
    with Programs() as programs:
        keys = [derive_keys(key_data(5), CANDIDATE, n) for n in (1, 2, 17, 40)]
    assert programs.names.total() <= 1
    base = jax.random.fold_in(jax.random.key(5), CANDIDATE)
    expected = [jax.random.key_data(jax.random.fold_in(base, number)) for number in range(1, 40)]
    for few in keys:
        np.testing.assert_array_equal(few, [key_data(5), *expected][: len(few)])
    np.testing.assert_array_equal(derive_key(key_data(5), CANDIDATE, 33), expected[32])
