"""JAX's config options as this package needs them, whatever the calling program has set.

A program may run JAX with 64-bit types, strict dtype promotion, another random generator or a transfer guard. Tokens
have to be the same there, and the loops index with 32-bit integers. So functions that run networks set these options
for themselves and restore the caller's when they return. Matmul precision, the default device and rank promotion stay
the caller's.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def own_config() -> Iterator[None]:
    """Sets every option of JAX that could change tokens or stop a loop, in this thread, until the block ends."""
    import jax

    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.threefry_partitionable(True),  # changes which numbers a key draws
        jax.debug_nans(False),  # garbage past a row's end may be NaN
        jax.debug_infs(False),  # tokens that may not be drawn have logits of -inf
        jax.transfer_guard("allow"),  # prompts come from the host, tokens go back there
    ):
        yield


def under_own_config(function: Function) -> Function:
    """Decorator that runs a function, or each step of a generator, under `own_config`."""
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
        # A caller may abandon this generator: closing the inner one runs its `finally` blocks at once.
        with contextlib.closing(function(*args, **kwargs)) as steps:
            while True:
                # Not around the yield: the caller's code runs there, and must see its own options.
                with own_config():
                    try:
                        value = next(steps)
                    except StopIteration as stop:
                        return stop.value
                yield value

    return iterate
