"""Checks of training settings, and the error for a device that is out of memory."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax

from bark_jax.errors import DeviceMemoryError, InputError


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

    Around a whole run, since JAX reports a failed step where its result is read, some steps later.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        # XLA's message starts with its status code, which the cut keeps; any other failure is not ours to explain.
        message = " ".join(str(error).split())[:300]
        if "RESOURCE_EXHAUSTED" not in message:
            raise
        raise DeviceMemoryError(f"the device is out of memory when {what}: {message}. {remedy}") from error
