"""The persistent compilation cache: on by default, and off or elsewhere on request."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bark_jax import Bark
from bark_jax.checkpoints import compiled
from bark_jax.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def jax_config(monkeypatch, tmp_path):
    """Records the JAX options that are set, without setting them; JAX has no compilation cache folder yet."""
    values = {}
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_jaxs_folder", lambda: None)
    monkeypatch.setattr("jax.config.update", values.__setitem__)
    monkeypatch.setattr("jax.experimental.compilation_cache.compilation_cache.reset_cache", lambda: None)
    return values


def test_programs_are_kept_beside_the_models(jax_config, tmp_path):
    assert compiled.keep_compiled_programs()
    assert jax_config["jax_compilation_cache_dir"] == str(tmp_path / "bark_jax" / "compiled")


def test_a_folder_that_takes_no_files_is_left_alone(jax_config, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "file"))
    assert not compiled.keep_compiled_programs()
    assert not jax_config


def test_an_argument_and_a_variable_switch_it_off(jax_config, monkeypatch):
    assert not compiled.keep_compiled_programs(wanted=False)
    monkeypatch.setenv("BARK_JAX_KEEP_COMPILED", "0")
    assert not compiled.keep_compiled_programs()
    assert not jax_config


def test_the_argument_reaches_it(jax_config, toy_folder):
    Bark.from_pretrained(toy_folder, keep_compiled=False)
    assert not jax_config
    Bark.from_pretrained(toy_folder)
    assert jax_config


def test_a_folder_that_jax_has_stays(monkeypatch):
    folder = jax.config.jax_compilation_cache_dir
    assert folder and compiled.keep_compiled_programs(wanted=False)
    assert str(compiled.compiled_folder()) == jax.config.jax_compilation_cache_dir == folder


LATE = """
import jax, jax.numpy as jnp
jax.jit(lambda x: x + 1)(jnp.zeros(3))  # JAX has looked for its cache by now
from bark_jax.checkpoints import compiled
compiled.MIN_COMPILE_SECONDS = 0.0
assert compiled.keep_compiled_programs()
jax.jit(lambda x: x - 1)(jnp.zeros(3))
print(len(list(compiled.compiled_folder().iterdir())))
"""


def test_a_process_that_has_compiled_before_keeps_what_it_compiles_from_then_on(tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    done = subprocess.run([sys.executable, "-c", LATE], env=environment, capture_output=True, text=True)
    assert int(done.stdout) > 0, done.stderr


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(rows="a"), "rows is 'a', expected an integer"),
        (dict(rows=0), "rows is 0"),
        (dict(rows=[1, [1]]), r"rows is \[1\], expected an integer"),
        (dict(rows=10**6), "1,000,000 rows at once"),
        (dict(rows=10**9), "rows is 1000000000"),
        (dict(seconds="x"), "max_seconds is 'x'"),
        (dict(seconds=[0.1, -1]), "max_seconds is -1"),
        (dict(temperature=-1), "temperature is -1"),
    ],
)
def test_a_warm_up_of_what_makes_no_sense_is_refused_before_anything_runs(toy_folder, asked, message, monkeypatch):
    bark = Bark.from_pretrained(toy_folder)
    monkeypatch.setattr(type(bark.model), "generate_rows", lambda *_: pytest.fail("something runs"))
    with pytest.raises(InputError, match=message):
        bark.warm_up(**asked)


def test_what_was_warmed_up_compiles_nothing(toy_folder, toy_voice):
    from test_many_calls import Programs

    bark = Bark.from_pretrained(toy_folder)
    bark.warm_up(rows=1, seconds=0.2, voice=toy_voice)
    with Programs() as programs:
        bark.generate("One.", voice=toy_voice, seed=5, max_seconds=0.2, allow_early_stop=False)
    assert not programs.names
