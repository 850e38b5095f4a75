"""Parity: compares a checkpoint in this package with transformers' torch Bark, stage by stage.

    rows = compare("bark-small", max_new_tokens=40)
    print(format_table(rows))

`comparison` runs both sides, `reference` is the torch side, `rows` has the results and their bounds. It needs torch and
transformers (`pip install 'bark-jax[parity]'`); `reference` is the one module of the package that imports them, on use.
"""

import importlib
from typing import Any

from bark_jax.parity.rows import Row, format_table

__all__ = ["Row", "compare", "format_table"]


def __getattr__(name: str) -> Any:  # on first use, as it loads JAX
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("bark_jax.parity.comparison").compare
