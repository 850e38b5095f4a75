"""Signal handling of commands: SIGINT, SIGTERM and SIGHUP end the process within seconds and leave no partial files.

Python runs its signal handlers between two bytecode instructions, so none runs while XLA compiles, and an exception
from a handler is lost in code that a C library calls back. A normal exit while XLA's threads compile can crash. So a
command has a watcher thread: the signal wakes it through a pipe (`signal.set_wakeup_fd`), and it removes partial files
and calls `os._exit`.

Programs that import the package keep their own handlers; only commands call `install`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# Maximum wait of an exit for a disk, a pipe that nobody reads, or a lock.
LEAVE_WITHIN_S = 5.0

_is_installed = False
_first: Callable[[int], None] | None = None  # receives the next signal, which then does not end the process
# Not reentrant: a block of `cleaned_up` must not begin or end within `uninterrupted`, which holds it.
_lock = threading.Lock()  # the exiting thread takes it and keeps it, so that no new partial file is begun
_clean_ups: dict[object, Callable[[], None]] = {}  # by a key of each block that is running
_last_words: list[str] = []  # lines to print on exit


def install() -> None:
    """Makes SIGINT, SIGTERM and SIGHUP end this process with exit status 128 + the signal's number.

    SIGHUP stays ignored under `nohup`. Does nothing outside the main thread, where Python sets no handlers.
    """
    global _is_installed
    if _is_installed or threading.current_thread() is not threading.main_thread():
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    try:
        woken, wakes = os.pipe()
        # Python refuses a blocking descriptor here: its C handler writes to it, and must never wait.
        os.set_blocking(wakes, False)
        threading.Thread(target=_watch, args=(woken,), name="bark-jax-stop", daemon=True).start()
    except (OSError, RuntimeError):  # out of file descriptors or threads: Python's own handlers stay
        return
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, _do_nothing)
    os.register_at_fork(after_in_child=_uninstall)
    _is_installed = True


def is_installed() -> bool:
    """Whether `install` has set the handlers of this process."""
    return _is_installed


@contextlib.contextmanager
def first_signal(receive: Callable[[int], None]) -> Iterator[None]:
    """Passes the first signal during the block to `receive`, on the watcher thread; the second ends the process.

    A batch run uses it to finish the rows it has begun.
    """
    global _first
    _first = receive
    try:
        yield
    finally:
        _first = None


@contextlib.contextmanager
def cleaned_up(clean_up: Callable[[], None]) -> Iterator[None]:
    """Calls `clean_up`, on another thread, if a signal ends the process during the block. It may be called twice."""
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
    """Prints a line on stderr if a signal ends the process, or KeyboardInterrupt is raised, during the block."""
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
    """Delays an exit by a signal until the block ends: for renames that must all happen or none."""
    with _lock:
        yield


def _watch(woken: int) -> None:
    while True:
        # Each byte is the number of a signal. The C handler has written it, whatever Python code was running.
        for number in os.read(woken, 64):
            _receive(number)


def _receive(number: int) -> None:
    global _first
    # `receive` runs on this thread, which also reads the second signal: it must return at once.
    receive, _first = _first, None
    if receive is None:
        _leave(number)
    else:
        receive(number)


def _leave(number: int) -> None:
    with contextlib.suppress(RuntimeError):  # out of threads: exits without removing partial files
        thread = threading.Thread(target=_tidy, daemon=True)
        thread.start()
        thread.join(LEAVE_WITHIN_S)
    # Not sys.exit, which would end this thread alone. Nothing else runs after it: no `finally`, no flush, no atexit.
    os._exit(128 + number)


def _tidy() -> None:
    _flush()
    _lock.acquire()  # never released: blocks that begin now wait until the process is gone
    for clean_up in [*_clean_ups.values()] * 2:  # a file that another thread was creating may appear after the first
        with contextlib.suppress(Exception):
            clean_up()


def _flush() -> None:
    def flush() -> None:
        with contextlib.suppress(Exception):
            print("".join(f"{line}\n" for line in _last_words), end="", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()

    # In a thread of its own: to write into a full pipe, or while another thread holds the stream's lock, can block.
    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    thread.join(LEAVE_WITHIN_S / 5)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handler that keeps Python's C-level handler installed, which writes to the wake-up descriptor."""


def _uninstall() -> None:
    """Restores Python's handlers in a forked child: the watcher thread is not copied, and the pipe is the parent's."""
    global _is_installed, _first, _lock
    # A new lock: a thread that the child does not have may have held the parent's.
    _is_installed, _first, _lock = False, None, threading.Lock()
    _clean_ups.clear()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
