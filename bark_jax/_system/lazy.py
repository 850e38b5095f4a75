"""Lazy imports: public names of a package that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, module_by_name: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Makes a package's `__getattr__`, `__dir__` and `__all__` (PEP 562), so that importing it does not import JAX.

    The `__getattr__` raises AttributeError for a name that is not in `module_by_name`.

    Args:
      package: the package's `__name__`.
      module_by_name: the module of each public name, relative to bark_jax: {"convert": "checkpoints.conversion"}.
    """
    names = sorted(module_by_name)

    def find(name: str) -> Any:
        if name not in module_by_name:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"bark_jax.{module_by_name[name]}"), name)

    return find, lambda: names, names
