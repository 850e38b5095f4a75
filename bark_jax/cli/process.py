"""Repairs and settings of the process that a command starts in: closed streams, locales without UTF-8, collection."""

import gc
import os
import sys
from collections.abc import Sequence


def open_closed_streams() -> list[int]:
    """Opens the null device for each of stdin, stdout and stderr that is closed; returns their numbers (0, 1, 2).

    Otherwise the next file that is opened gets the number of a closed stream, and with it what libraries print.
    """
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.append(number)
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `number`
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115, open while the process lives
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115, open while the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115, open while the process lives
    return closed


def use_utf8() -> None:
    """Restarts the process in Python's UTF-8 mode if the locale is ASCII: texts and file names are UTF-8.

    The mode cannot be changed in a running process. PYTHONUTF8=1 in the environment ends the recursion.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1" and sys.orig_argv:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def collect_rarely() -> None:
    """Makes garbage collection rare: it took 7 % of `bark-jax say` with the built-in voice on two CPU cores.

    Modules and traced programs are hundreds of thousands of objects that stay. With Python's own thresholds they are
    scanned again and again while they are made. Reference counts free nearly everything else, also arrays.
    """
    gc.set_threshold(50_000, 20, 20)


def decoded(arguments: Sequence[str]) -> list[str]:
    """Decodes arguments as UTF-8 if Python has decoded them in another encoding, that of the locale."""
    if sys.getfilesystemencoding() != "utf-8":
        return list(arguments)
    return [os.fsencode(each).decode("utf-8", "surrogateescape") for each in arguments]


def flush_stdout() -> None:
    """Flushes stdout, or drops its buffer if it cannot be written: Python would print the same error at exit again."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
