"""Static types: lazily imported names, and the types that the README's calls return."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bark_jax
from bark_jax import batch, checkpoints, training

ROOT = Path(__file__).parent.parent
EXAMPLES = Path(__file__).with_name("typed_examples.py")


def names_for_type_checkers(package):
    """The module of each name that a package imports, under that name, where TYPE_CHECKING holds."""
    (block,) = (
        node
        for node in ast.parse(Path(package.__file__).read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    # Without "as" a name is the package's own, which a type checker hides.
    return {alias.asname: (node.module, alias.name) for node in block.body for alias in node.names}


@pytest.mark.parametrize("package", [bark_jax, batch, checkpoints, training], ids=lambda package: package.__name__)
def test_type_checkers_see_the_names_that_are_imported_when_they_are_used(package):
    lazy = {name: (f"bark_jax.{module}", name) for name, module in package._MODULE_BY_NAME.items()}
    assert names_for_type_checkers(package) == lazy


def test_the_package_says_that_it_is_typed():
    assert Path(bark_jax.__file__).with_name("py.typed").is_file()


def test_the_examples_have_every_line_of_the_readmes_python():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    examples = iter(EXAMPLES.read_text().splitlines())
    lines = [line for block in blocks for line in block.splitlines() if line and not line.startswith("import ")]
    assert [line for line in lines if line not in examples] == [], "in this order"


def test_a_strict_type_checker_knows_what_the_readmes_calls_return(tmp_path):
    """Expected errors have a `type: ignore` in the examples; mypy also reports an ignore without an error."""
    pytest.importorskip("mypy", reason="mypy is not installed: pip install '.[dev]'")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(EXAMPLES)],
        cwd=tmp_path,  # where no configuration is
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
