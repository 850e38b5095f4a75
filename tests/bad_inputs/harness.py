"""What holds whenever bad input is refused."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bark_jax.errors import BarkError

# Ten times what is promised, as the machines that run tests are busy.
ARGUMENT_S = 1.0
FILE_S = 10.0
LONGEST_MESSAGE = 2000
BUILT_IN_ERRORS = (ValueError, OSError, NotImplementedError)


def listing(folder: Path | None) -> list[tuple]:
    """Everything below a folder, with sizes and times: equal lists mean that nothing was written."""
    if folder is None:
        return []
    found = []
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            status = os.lstat(os.path.join(root, name))
            found.append((os.path.relpath(os.path.join(root, name), folder), status.st_size, status.st_mtime_ns))
    return sorted(found)


@contextlib.contextmanager
def refused(
    error: type[Exception] | tuple[type[Exception], ...],
    *patterns: str,
    within_s: float = ARGUMENT_S,
    folder: Path | None = None,
) -> Iterator[pytest.ExceptionInfo]:
    """The block raises `error`, soon, with a message that has all patterns, and leaves `folder` as it was.

    A canary that hostile input would make belongs below `folder` too.
    """
    before, start = listing(folder), time.perf_counter()
    with pytest.raises(BarkError) as caught:
        yield caught
    elapsed_s = time.perf_counter() - start
    check_message(caught.value, error, patterns)
    assert elapsed_s < within_s, f"{elapsed_s:.2f} s"
    assert listing(folder) == before


def check_message(caught: BarkError, error: type | tuple[type, ...], patterns: tuple[str, ...]) -> None:
    assert isinstance(caught, error), f"{type(caught).__name__}: {caught}"
    assert isinstance(caught, BUILT_IN_ERRORS), f"{type(caught).__name__} is none of Python's own"
    message = str(caught)
    assert len(message) < LONGEST_MESSAGE and "Traceback" not in message
    for pattern in patterns:
        assert re.search(pattern, message, re.DOTALL), f"{pattern!r} is not in {message!r}"


def by_id(cases: dict) -> dict:
    """Arguments of `pytest.mark.parametrize` for a table: one argument a case, called as the table calls it."""
    return {"argvalues": list(cases.values()), "ids": list(cases)}
