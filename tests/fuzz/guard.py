"""Sandbox of a fuzzed reader: an audit hook against imports, files, processes and sockets; time and memory limits.

Source: Python, "Audit events table".
"""

import codecs
import contextlib
import os
import resource
import signal
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

# Bound of a case's CPU time, which does not depend on other processes. Reading a valid file takes milliseconds. A case
# that sleeps is not ended by this.
LIMIT_S = 20.0
BOUND_BYTES = 64 * 2**20
# More address space than at the start: threads and libraries take some too, so the precise bound is tracemalloc's.
ADDRESS_SPACE_BYTES = 2 * 2**30

FORBIDDEN = (
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "ctypes.",
    "pickle.",
    "marshal.",
    "exec",
    "urllib.",
    "tempfile.",
)
HARMLESS = ("os.listdir", "os.scandir", "os.walk")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# json looks at the first bytes of a text, and Python imports a codec when it is first used.
INSTALLED = os.path.dirname(os.path.dirname(numpy.__file__))
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1")


class ForbiddenError(BaseException):
    """A reader did something forbidden. A BaseException, so that no reader's `except Exception` catches it."""


class SlowError(BaseException):
    """A case took too long."""


_allowed: Path | None = None  # the folder that may be read while a case runs
_may_import = (
    False  # what is installed on this machine: a library that reads the file, and imports parts of itself late
)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event == "open":
        _check_open(*arguments)
    elif _may_import and event in ("import", "exec", "marshal.loads"):
        return
    elif event == "import":
        if arguments[0] not in sys.modules:  # one that is there as None is refused by Python itself
            raise ForbiddenError(f"import of {arguments[0]}")
    elif event.startswith(FORBIDDEN) and event not in HARMLESS:
        raise ForbiddenError(f"{event}{arguments!r:.200}")


def _check_open(path: Any, mode: str | None, flags: int | None) -> None:
    if isinstance(path, int):  # a descriptor, whose opening was checked
        return
    path = Path(os.path.abspath(os.fsdecode(path)))
    is_inside = path.is_relative_to(_allowed) or (_may_import and path.is_relative_to(INSTALLED))
    if not is_inside or (flags or 0) & WRITING or set(mode or "r") & set("wax+"):
        raise ForbiddenError(f"opening {path!r} with mode {mode!r}")


def install() -> None:
    """Adds the audit hook, which cannot be removed; it is inactive between cases."""
    for name in ENCODINGS:
        codecs.lookup(name)
    sys.addaudithook(_audit)
    signal.signal(signal.SIGPROF, _too_slow)


def _too_slow(*_: Any) -> None:
    raise SlowError(f"more than {LIMIT_S} s of computing")


@contextlib.contextmanager
def watched(folder: Path, *, may_import: bool = False) -> Iterator[None]:
    """Allows the block only to open files below `folder` for reading."""
    global _allowed, _may_import
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    _allowed, _may_import = folder, may_import
    try:
        yield
    finally:
        _allowed = None
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Limits the process's address space during the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ADDRESS_SPACE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def measured_memory(n_bytes: int) -> Iterator[None]:
    """Fails if the block's peak memory exceeds the bound plus the file's size. Slow, so used for some cases only."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > BOUND_BYTES + n_bytes:
        raise ForbiddenError(f"{peak:,} bytes of memory for a file of {n_bytes:,}")
