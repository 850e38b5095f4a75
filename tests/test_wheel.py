"""The wheel: one package with the built-in voice, which shadows no module of a user's."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bark_jax
from bark_jax.checkpoints import convert

PACKAGE = Path(bark_jax.__file__).parent


@pytest.fixture(scope="module")
def names_in_wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, PACKAGE.parent]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow  # pip fetches hatchling, and the other tests ask no network
def test_the_wheel_installs_the_package_alone(names_in_wheel):
    tops = {name.partition("/")[0] for name in names_in_wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"bark_jax"} and len(tops) == 2


@pytest.mark.slow
def test_the_wheel_has_all_files_of_the_package(names_in_wheel):
    files = {
        str(path.relative_to(PACKAGE.parent))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == {name for name in names_in_wheel if name.startswith("bark_jax/")}
    assert {
        f"bark_jax/tiny/model/{name}" for name in ("config.json", "semantic.safetensors", "tokenizer.json")
    } <= files


def module_names():
    """Every top-level name that the repository or a room of the package has, and that a user may have too."""
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    return {name for name in rooms if not name.startswith("__")} | {"converters", "tests", "benchmarks"}


SCRIPT = """
import sys
from bark_jax import BarkModel
from bark_jax.checkpoints import convert, export_transformers

source, converted, exported = sys.argv[1:]
export_transformers(convert(source, converted), exported)
BarkModel.from_pretrained(converted)
BarkModel.from_pretrained(exported)
"""


def test_a_script_may_have_modules_of_the_same_names_beside_it(tmp_path, toy_folder):
    source = convert(toy_folder, tmp_path / "source", to="transformers")
    project = tmp_path / "project"
    project.mkdir()
    for name in module_names():
        content = f"raise SystemExit('the {name} of the user was imported')\n"
        path = project / name / "__init__.py" if name in ("tests", "converters") else project / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    (project / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    arguments = [source, tmp_path / "converted", tmp_path / "exported"]
    done = subprocess.run(
        [sys.executable, "script.py", *map(str, arguments)],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
