"""JAX options that a user's program has set: tokens do not change, and the options are restored."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bark_jax import Bark
from bark_jax._system.own_jax_config import own_config, under_own_config
from bark_jax.generation.engine import Engine, Request
from bark_jax.generation.seeds import row_keys

ROOT = Path(__file__).parents[1]
OPTIONS = {
    "none": {},
    "64-bit types": {"jax_enable_x64": True},
    "strict promotion": {"jax_numpy_dtype_promotion": "strict"},
    "other bits of a key": {"jax_threefry_partitionable": False},
    "looking for nan": {"jax_debug_nans": True},
    "no transfers": {"jax_transfer_guard": "disallow"},
    "another generator": {"jax_default_prng_impl": "rbg"},
}
SCRIPT = """
import hashlib, json, sys
import jax
jax.config.update("jax_default_matmul_precision", "highest")
for name, value in json.loads(sys.argv[1]).items():
    jax.config.update(name, value)
import numpy as np
from bark_jax import Bark
from bark_jax.generation.engine import Engine, Request
from bark_jax.generation.seeds import row_keys

bark = Bark.from_pretrained(sys.argv[2])
ask = dict(max_new_tokens=12, allow_early_stop=False)
clip = bark.generate("hello", seed=3, **ask)
(row,) = bark.rows("hello", None, row_keys(3, None, 1), ask)
engine = next(iter(Engine(bark.model, n_slots=2).run([Request(0, row)]))).utterance
found = {
    "a row": clip.fine,
    "a voice": bark.generate(["hello", "hi"], seed=[1, 2], voice=[clip.as_voice(), None], **ask)[0].fine,
    "cuts": bark.generate("hello", seed=3, top_k=5, top_p=0.9, **ask).fine,
    "candidates": bark.generate("hello", seed=3, best_of=2, **ask).fine,
    "sentences": bark.generate_long("hello there. how are you?", seed=3, **ask).samples,
    "a stream": np.concatenate([part.samples for part in bark.stream("hello", seed=3, **ask)]),
    "arrays": bark.model.generate(np.array([[5, 9, 12]]), seed=3, **ask),
    "the engine": engine.fine,
}
with jax.transfer_guard("allow"):
    for name, array in found.items():
        array = np.asarray(array)
        print(name, array.dtype, hashlib.sha256(array.tobytes()).hexdigest())
print([getattr(jax.config, name) for name in json.loads(sys.argv[1])])
"""


def tokens_under(options, folder):
    import json

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(options), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    *lines, after = done.stdout.splitlines()
    assert after == str(list(options.values())), "the program's options are not its own any more"
    return lines


@pytest.fixture(scope="module")
def default_tokens(toy_folder):
    return tokens_under({}, toy_folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["64-bit types", "no transfers"])
def test_tokens_are_the_same_whatever_a_program_has_set(name, default_tokens, toy_folder):
    assert len(default_tokens) == 8
    assert tokens_under(OPTIONS[name], toy_folder) == default_tokens


@contextlib.contextmanager
def options_set(options):
    """Sets JAX options as a user's program would, for the block."""
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def speak(bark, engine):
    """Results of a row, a stream, an engine's row and an array's row, as bytes."""
    ask = dict(max_new_tokens=12, allow_early_stop=False)
    clip = bark.generate("hello", seed=3, **ask)
    parts = list(bark.stream("hello", seed=3, **ask))
    (row,) = bark.rows("hello", None, row_keys(3, None, 1), ask)
    (finished,) = engine.run([Request(0, row)])
    assert finished.error is None
    audio = bark.model.generate(np.array([[5, 9, 12]]), seed=3, **ask)
    tokens = bark.model.semantic.generate(
        np.array([[5, 9, 12]]), bark.model.generation_config.semantic_config, seed=3, **ask
    )
    with jax.transfer_guard("allow"):
        arrays = [
            clip.semantic,
            clip.coarse,
            clip.fine,
            *(part.samples for part in parts),
            finished.utterance.fine,
            audio,
            tokens,
        ]
        return [(np.asarray(array).dtype, np.asarray(array).tobytes()) for array in arrays]


@pytest.mark.slow
def test_a_process_speaks_alike_before_and_after_options_are_set(toy_folder):
    """In one process, where nothing is compiled again for them."""
    bark = Bark.from_pretrained(toy_folder)
    engine = Engine(bark.model, n_slots=1)
    expected = speak(bark, engine)
    for name, options in OPTIONS.items():
        with options_set(options):
            assert speak(bark, engine) == expected, name


def test_a_generators_caller_keeps_its_own_options():
    @under_own_config
    def steps():
        for _ in range(2):
            yield jax.config.jax_threefry_partitionable, np.asarray(jax.numpy.zeros(1, int)).dtype

    with jax.threefry_partitionable(False):
        for is_own, dtype in steps():
            assert is_own and dtype == np.int32
            assert not jax.config.jax_threefry_partitionable
    assert jax.config.jax_threefry_partitionable


def test_a_generator_that_is_left_is_closed():
    log = []

    @under_own_config
    def steps():
        try:
            yield 1
        finally:
            log.append(jax.config.jax_debug_nans)

    with own_config():
        found = steps()
    next(found)
    found.close()
    assert log == [False]
