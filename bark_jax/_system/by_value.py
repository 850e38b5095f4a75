"""Equality of dataclasses that hold numpy arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


class ByValue:
    """Mixin of dataclasses with array fields: two are equal where every field is, arrays by dtype, shape and values.

    NaN equals NaN. The `__eq__` of `dataclass(eq=True)` raises ValueError for two arrays, so use `eq=False` with it.
    """

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_are_equal(mine, theirs) for mine, theirs in zip(_values(self), _values(other), strict=True))

    def __hash__(self) -> int:
        plain = [value for value in _values(self) if isinstance(value, (str, int))]  # arrays have no hash
        return hash((type(self), *plain))


def _values(result: Any) -> list[Any]:
    return [getattr(result, field.name) for field in dataclasses.fields(result)]


def _are_equal(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        return mine.dtype == theirs.dtype and np.array_equal(mine, theirs, equal_nan=mine.dtype.kind in "fc")
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        return mine.keys() == theirs.keys() and all(_are_equal(value, theirs[key]) for key, value in mine.items())
    return bool(mine == theirs)
