"""All errors that this package raises on purpose.

All of them are BarkError, so one `except` catches them; each is also the built-in error a Python programmer would
expect. A message names the value, what was expected and what to do about it.
"""

import reprlib
from typing import Any


class _Picklable(BaseException):
    """An exception that pickles and copies with its message and attributes, whatever arguments its __init__ takes.

    Python's default unpickling calls the class with the message alone. If that raises TypeError, the parent of a
    `multiprocessing.Pool` worker waits for ever.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        _, arguments, *state = super().__reduce__()
        return _rebuild, (type(self), arguments), *state


def _rebuild(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """Makes an exception of the class `kind` with these `args`, without calling its own __init__."""
    error = kind.__new__(kind, *arguments)
    builtin = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    builtin.__init__(error, *arguments)
    return error


class BarkError(_Picklable, Exception):
    """Base class of all errors that this package raises on purpose."""


class BarkWarning(_Picklable, UserWarning):
    """Base class of all warnings that this package issues on purpose."""


class ConfigError(BarkError, ValueError):
    """A config.json or generation_config.json with a value that no Bark can have."""


class CheckpointError(BarkError, ValueError):
    """A weight file that is damaged, hostile, or not the network that was asked for."""


class ModelNotFoundError(BarkError, FileNotFoundError):
    """A model, or a part of one, that is neither on this machine nor can be downloaded."""


class VoiceError(BarkError, ValueError):
    """A voice whose arrays cannot condition the stages."""


class VoiceNotFoundError(BarkError, FileNotFoundError):
    """A voice name that the model does not have."""


class InputError(BarkError, ValueError):
    """Text, tokens or settings that make no sense."""


class FaultsError(InputError):
    """Input with one or more faults; the message lists each on a line of its own."""


class UnsupportedError(BarkError, NotImplementedError):
    """Something this machine or this package cannot do, though it was asked for by name."""


class OutputError(BarkError, OSError):
    """A path that cannot be written: a full disk, a folder without permission, a device that fails."""


class BusyError(BarkError, BlockingIOError):
    """A folder that is locked, because another process is writing to it."""


class DeviceError(BarkError, RuntimeError):
    """A failure of a device (GPU, TPU or CPU) while a program runs on it."""


class DeviceMemoryError(DeviceError, MemoryError):
    """A device that ran out of memory."""


def quoted(value: Any, limit: int = 80) -> str:
    """The `repr` of a value for an error message: escaped, and cut to some `limit` characters however large it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        return short.repr(value)[: 4 * limit]
    except ValueError:  # Python refuses to print integers of more than 4,300 digits (sys.set_int_max_str_digits)
        return "a number too long to show"
