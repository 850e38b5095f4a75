"""What a type checker knows: the packages' names, which are imported lazily."""

import ast
from pathlib import Path

import pytest

import bark_jax
from bark_jax import batch, checkpoints, training


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
