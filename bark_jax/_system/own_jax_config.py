"""JAX's options as this package needs them, whatever the program around it has set.

A program may run JAX with 64-bit types, strict promotion, another random generator or a guard on transfers. Tokens
have to be the same there, and the loops index with 32-bit integers. So what runs networks does it under options of its
own; the caller's hold again behind it. Precision, the default device and checks of ranks stay the caller's.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def own_config() -> Iterator[None]:
    """Sets, in this thread and while the block runs, every option of JAX that could change tokens or stop a loop."""
    import jax

    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.threefry_partitionable(True),  # decides what a key draws
        jax.debug_nans(False),  # what lies past a row's end may be anything
        jax.debug_infs(False),  # tokens that may not be drawn have logits of -inf
        jax.transfer_guard("allow"),  # prompts come from the host, tokens go back there
    ):
        yield


def under_own_config(function: Function) -> Function:
    """Makes a function, or each step of a generator, run under `own_config`."""
    if inspect.isgeneratorfunction(function):
        return _steps_under_own_config(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with own_config():
            return function(*args, **kwargs)

    return call


def _steps_under_own_config(function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with contextlib.closing(function(*args, **kwargs)) as steps:
            while True:
                with own_config():  # not around the yield, where the caller's code runs
                    try:
                        value = next(steps)
                    except StopIteration as stop:
                        return stop.value
                yield value

    return iterate
