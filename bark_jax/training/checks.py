"""Checks of training settings."""

import math
from typing import Any

from bark_jax.errors import InputError


def is_integer(value: Any, least: int) -> bool:
    """Whether the value is an int, not a bool, and `least` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises InputError unless the value is a whole number, `least` or more."""
    if not is_integer(value, least):
        raise InputError(f"{name} is {value!r}, expected a whole number, {least} or more")


def check_weight(name: str, value: Any) -> None:
    """Raises InputError unless the value, the weight of a loss, is a finite number, 0 or more."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} is {value!r}, expected a number, 0 or more")
