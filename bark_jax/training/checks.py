"""Checks of training settings, and the error for a device that is out of memory."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax

from bark_jax.errors import DeviceMemoryError, InputError
from bark_jax.networks.platform import describe_failure


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


@contextlib.contextmanager
def memory_errors(what: str, remedy: str) -> Iterator[None]:
    """Raises DeviceMemoryError, with what was done and the remedy, where the block runs out of the device's memory.

    It goes around a whole run, since JAX reports a failed step where its result is read, some steps later. Other
    failures of the device pass unchanged.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        message, is_memory = describe_failure(error)
        if not is_memory:
            raise
        raise DeviceMemoryError(f"the device is out of memory when {what}: {message}. {remedy}") from error
