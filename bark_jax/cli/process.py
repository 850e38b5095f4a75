"""What a command finds when its process starts: streams that are closed, arguments in no encoding."""

import os
import sys
from collections.abc import Sequence


def open_closed_streams() -> list[int]:
    """Gives stdin, stdout and stderr that are closed the null device; returns which of 0, 1, 2 these were.

    A file that is opened later would take the number of one, and get what libraries print.
    """
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            closed.append(number)
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115, of the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115, of the process
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115, of the process
    return closed


def use_utf8() -> None:
    """Starts the process anew in Python's UTF-8 mode where the locale has ASCII alone: text and names are UTF-8."""
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1" and sys.orig_argv:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def decoded(arguments: Sequence[str]) -> list[str]:
    """Arguments as UTF-8, where Python has kept their bytes as halves of characters."""
    if sys.getfilesystemencoding() != "utf-8":
        return list(arguments)
    return [os.fsencode(each).decode("utf-8", "surrogateescape") for each in arguments]


def flush_stdout() -> None:
    """Writes what stdout still holds, or drops it where it takes nothing, which Python tells of at exit once more."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
