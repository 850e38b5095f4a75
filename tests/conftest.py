"""Strict numerics for every test: full float32 products, and no broadcasting that changes the rank."""

import os
from pathlib import Path

# Tests must not use the network. Set before the Hub client is imported, which reads it then.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# On toy networks torch's threads mostly wait for each other, and on a busy machine for very long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers would give way to all that runs beside the tests, and take minutes.
os.environ.setdefault("RAY_worker_niceness", "0")

import jax
import numpy as np
import pytest

pytest_plugins = ["compilations"]

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--one-of-each", action="store_true", help="Run one case of each parametrised test.")


def pytest_collection_modifyitems(config, items):
    if not config.option.one_of_each:
        return
    first = {}
    for item in items:
        first.setdefault(item.nodeid.partition("[")[0], item)
    kept = {item.nodeid for item in first.values()}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
    items[:] = first.values()


@pytest.fixture(scope="session")
def real_data():
    """The folder of published files that BARK_JAX_REAL_DATA names: vocabulary, voices, recordings."""
    if not (folder := os.environ.get("BARK_JAX_REAL_DATA")):
        pytest.skip("BARK_JAX_REAL_DATA names no folder of published files")
    return Path(folder).resolve()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
    """A random Bark of the toy's sizes and token spaces, in torch and here: it runs the toy's programs."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from reference import make_twins

    return make_twins(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="session")
def gentle_twins(tmp_path_factory):
    """Twins with smaller weights, for bounds on rounding errors; their greedy tokens vary less."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from reference import make_twins

    return make_twins(tmp_path_factory.mktemp("gentle_twins"), scale=0.5)


@pytest.fixture(scope="session")
def bark_twins(tmp_path_factory):
    """Torch and JAX twins with Bark's own token spaces."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from reference import make_bark_twins

    return make_bark_twins(tmp_path_factory.mktemp("bark_twins"))


@pytest.fixture(scope="session")
def voice():
    """A random voice as long as the published ones, of Bark's own token spaces."""
    return draw_voice(10_000, 1024, 300, 450)


@pytest.fixture(scope="session")
def toy_voice():
    """A random voice for the toy, longer than any stage reads."""
    return draw_voice(123, 256, 134, 201)


def draw_voice(n_semantic_ids, n_codes, n_semantic, n_frames):
    from bark_jax.voices.voice import Voice

    rng = np.random.default_rng(1)
    fine = rng.integers(0, n_codes, (8, n_frames))
    return Voice(semantic=rng.integers(0, n_semantic_ids, n_semantic), coarse=fine[:2], fine=fine)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """The folder of a random model of toy size, with its tokenizer."""
    from toy import make_toy

    return make_toy(tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture(scope="session", autouse=True)
def built_in(toy_folder):
    """The folder of the built-in voice. Everywhere else "tiny" is the toy, as most tests want no speech but speed."""
    from bark_jax import tiny

    with pytest.MonkeyPatch.context() as patch:
        folder = tiny.FOLDER
        patch.setattr(tiny, "FOLDER", toy_folder)
        yield folder


@pytest.fixture(scope="session")
def toy_model(toy_folder):
    """The model of `toy_folder`. Tests must change only copies of it."""
    from bark_jax.model import BarkModel

    return BarkModel.from_pretrained(toy_folder)
