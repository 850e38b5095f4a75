"""Every program of the built-in model, compiled for a TPU v5e that is not here. It needs libtpu, and runs nothing.

pip install --target .ci/tpu "libtpu==0.0.42.*"         the version that this JAX's extra "tpu" names
PYTHONPATH=.ci/tpu JAX_PLATFORMS=cpu python -m pytest -q -n 0 -m slow tests/test_tpu.py
"""

import functools

import jax
import pytest

from bark_jax.errors import UnsupportedError
from benchmarks.programs import NETWORKS
from benchmarks.tpu import all_programs, cache_bytes, compile_program, find_device

pytestmark = pytest.mark.slow
N_ROWS, N_SLOTS, N_TRAINED = 8, 8, 1
WITH_A_CACHE = (
    "semantic prompt",
    "semantic loop",
    "coarse prompt",
    "coarse loop",
    "engine, semantic chunk",
    "engine, rows into slots before a semantic chunk",
    "engine, coarse window",
    "engine, rows into slots before a coarse window",
)
WITHOUT = ("fine", "codec", *(f"training step, {name}" for name in NETWORKS))


@functools.cache
def programs():
    try:
        device = find_device()
    except UnsupportedError as error:
        pytest.skip(str(error))
    return {program.name: program for program in all_programs("tiny", N_ROWS, N_SLOTS, N_TRAINED, device)}


@pytest.mark.parametrize("name", WITH_A_CACHE)
def test_a_program_with_a_cache_compiles_and_copies_it_at_most_once(name):
    program = programs()[name]
    costs = compile_program(program)
    assert costs.temporary <= 1.3 * cache_bytes(program)


@pytest.fixture
def quickly():
    """Compiles with few optimisations, in less than half of the time. The tests of memory need all of them."""
    before = jax.config.jax_optimization_level
    jax.config.update("jax_optimization_level", "O0")
    yield
    jax.config.update("jax_optimization_level", before)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_program_without_a_cache_compiles(name, quickly):
    assert compile_program(programs()[name]).flops > 0


def test_these_are_all_programs():
    assert set(programs()) == {*WITH_A_CACHE, *WITHOUT}
