"""Ending a command that is told to stop: soon, whatever runs, and with nothing left half-written.

Python runs its own signal handlers between two of its instructions, so not while XLA compiles, and what they raise is
lost in code that is called back. And a process that ends as usual while XLA's threads compile can crash. So a command
has a thread that the system's signal wakes, which clears away what is unfinished and leaves at once.

Programs that import the package keep their own handlers; only commands call `install`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# Longest that leaving waits for a disk, a pipe that nobody reads, or a lock.
LEAVE_WITHIN_S = 5.0

_is_installed = False
_first: Callable[[int], None] | None = None  # takes the next signal, in place of leaving
_lock = threading.Lock()  # whoever leaves keeps it, so that nothing new is begun
_clean_ups: dict[object, Callable[[], None]] = {}
_last_words: list[str] = []


def install() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP end this process, with 128 and the signal's number as its exit status."""
    global _is_installed
    if _is_installed or threading.current_thread() is not threading.main_thread():
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    try:
        woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        threading.Thread(target=_watch, args=(woken,), name="bark-jax-stop", daemon=True).start()
    except (OSError, RuntimeError):  # no descriptor or thread is to be had: Python's own handlers stay
        return
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _do_nothing)
    os.register_at_fork(after_in_child=_uninstall)
    _is_installed = True


def is_installed() -> bool:
    return _is_installed


@contextlib.contextmanager
def first_signal(receive: Callable[[int], None]) -> Iterator[None]:
    """While the block runs the first signal is only handed over, on another thread; the second ends the process."""
    global _first
    _first = receive
    try:
        yield
    finally:
        _first = None


@contextlib.contextmanager
def cleaned_up(clean_up: Callable[[], None]) -> Iterator[None]:
    """Calls `clean_up`, on another thread, where the process is ended while the block runs. It may be called twice."""
    key = object()
    with _lock:
        _clean_ups[key] = clean_up
    try:
        yield
    finally:
        with _lock:
            del _clean_ups[key]


@contextlib.contextmanager
def last_words(line: str) -> Iterator[None]:
    """Says a line on stderr where the process is ended, or KeyboardInterrupt raised, while the block runs."""
    _last_words.append(line)
    try:
        yield
    except KeyboardInterrupt:
        print(line, file=sys.stderr)
        raise
    finally:
        _last_words.remove(line)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """For a block of some renames that belong together: leaving waits for its end."""
    with _lock:
        yield


def _watch(woken: int) -> None:
    while True:
        for number in os.read(woken, 64):
            _receive(number)


def _receive(number: int) -> None:
    global _first
    receive, _first = _first, None
    if receive is None:
        _leave(number)
    else:
        receive(number)


def _leave(number: int) -> None:
    with contextlib.suppress(RuntimeError):  # a machine that has no more threads: without cleaning up
        thread = threading.Thread(target=_tidy, daemon=True)
        thread.start()
        thread.join(LEAVE_WITHIN_S)
    os._exit(128 + number)


def _tidy() -> None:
    _flush()
    _lock.acquire()  # and never let go of
    for clean_up in [*_clean_ups.values()] * 2:  # what was just being made may not have been there yet
        with contextlib.suppress(Exception):
            clean_up()


def _flush() -> None:
    def flush() -> None:
        with contextlib.suppress(Exception):
            print("".join(f"{line}\n" for line in _last_words), end="", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()

    thread = threading.Thread(target=flush, daemon=True)  # a full pipe, or a thread that is writing, may never end
    thread.start()
    thread.join(LEAVE_WITHIN_S / 5)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """A handler of Python's, without which the system's handler wakes nobody."""


def _uninstall() -> None:
    """In a forked child: the parent's thread is not there, and its pipe is the parent's."""
    global _is_installed, _first, _lock
    _is_installed, _first, _lock = False, None, threading.Lock()
    _clean_ups.clear()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
