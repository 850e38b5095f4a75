"""Checks that every refusal of bad input must pass: error class, message, bounded work and memory."""

import contextlib
import dataclasses
import gc
import importlib._bootstrap
import os
import re
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import jax
import pytest
from compilations import COMPILED

from bark_jax.errors import BarkError

# Bounds of a refusal's work, in calls of Python functions and of C functions called from Python. Seconds would depend
# on how busy the machine is; the number of calls depends on the input alone. Each bound is two to five times the
# maximum that was counted (Python 3.11), and less than the refused work itself would take.
#
# A bad argument or voice: 530 calls for an argument, 950 for a file. A clip of the toy model with compiled programs
# takes 12,700.
ARGUMENT_CALLS = 4_000
# A misspelt setting: 4,400, as it is compared with all names; 12,700 more if a clip were generated first.
MISSPELT_CALLS = 10_000
# A checkpoint file or config, refused by its reader: 2,900.
FILE_CALLS = 10_000
# A model folder, refused before any network is read: 14,700 to load, 24,300 to convert. Reading the toy's smallest
# network takes 65,000 more.
FOLDER_CALLS = 50_000
# A folder refused for one of its networks: 453,000 for the third, 80,000 and more for the first. All take 810,000.
NETWORK_CALLS = 700_000
# A folder refused for its last network, or when it is written: 940,000. This only catches endless loops.
ALL_NETWORKS_CALLS = 3_000_000
# Memory that a reader may take beyond the size of its file.
FILE_BYTES = 2**20
LONGEST_MESSAGE = 2000
BUILT_IN_ERRORS = (ValueError, OSError, NotImplementedError)

_IMPORT = importlib._bootstrap._find_and_load.__code__


class TooMuchWorkError(BaseException):
    """A block exceeded its bound of work. A BaseException, so that no `except Exception` catches it."""


@dataclasses.dataclass
class Work:
    """Work that a block did: calls of functions, compiled programs, peak memory (0 unless memory was traced)."""

    calls: int = 0
    programs: int = 0
    peak_bytes: int = 0


_programs = 0


def _count_program(event: str, _: float, **__: object) -> None:
    global _programs
    _programs += event == COMPILED


jax.monitoring.register_event_duration_secs_listener(_count_program)


@contextlib.contextmanager
def counted(max_calls: int, *, traces_memory: bool = False) -> Iterator[Work]:
    """Counts this thread's function calls in the block, and ends the block as soon as they exceed the bound.

    So a block without an end fails too. JAX forgets its programs first, so that one that is compiled counts whichever
    test ran before. Imports are not counted, as they are the first caller's alone, and the garbage collector rests, as
    the garbage may be others'.
    """
    work, importing, before = Work(), 0, _programs

    def on_event(frame: FrameType, event: str, _: object) -> None:
        nonlocal importing
        if event == "return":
            importing -= frame.f_code is _IMPORT
        elif event == "call" or event == "c_call":
            importing += event == "call" and frame.f_code is _IMPORT
            if not importing:
                work.calls += 1
                if work.calls > max_calls:
                    raise TooMuchWorkError(f"more than {max_calls:,} calls")

    jax.clear_caches()
    collects, profile = gc.isenabled(), sys.getprofile()
    gc.disable()
    if traces_memory:
        tracemalloc.start()
    sys.setprofile(on_event)
    try:
        yield work
    finally:
        sys.setprofile(profile)
        if traces_memory:
            work.peak_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        if collects:
            gc.enable()
        work.programs = _programs - before
        if work.calls > max_calls:  # raised where Python ignores errors too, as in a generator that is thrown away
            raise TooMuchWorkError(f"more than {max_calls:,} calls")


def listing(folder: Path | None) -> list[tuple]:
    """Lists all files below a folder with sizes and times: equal lists mean that nothing was written."""
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
    calls: int = ARGUMENT_CALLS,
    memory: int | None = None,
    folder: Path | None = None,
) -> Iterator[pytest.ExceptionInfo]:
    """The block raises `error` before any work, with a message that has all patterns, and leaves `folder` as it was.

    A canary that hostile input would make belongs below `folder` too.

    Args:
      calls: most calls of functions; none of the bounds above leaves room for a compiled program.
      memory: most bytes in use at a time beside what was in use before. To trace it is slow, so only where a small file
        can claim a large size.
    """
    before = listing(folder)
    with pytest.raises(BarkError) as caught, counted(calls, traces_memory=memory is not None) as work:
        yield caught
    check_message(caught.value, error, patterns)
    assert work.calls <= calls and not work.programs, work
    assert memory is None or work.peak_bytes <= memory, work
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
