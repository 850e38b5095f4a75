"""Every error this package raises on purpose.

All of them are BarkError, so one `except` catches them; each is also the built-in error a Python programmer would
expect. A message names the value, what was expected and what to do about it.
"""

import reprlib
from typing import Any


class _Picklable(BaseException):
    """An exception that pickles and copies with its message and attributes, whatever arguments its __init__ takes.

    Python would call the class with the message alone. Where that fails, a `multiprocessing.Pool` waits for ever.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        _, arguments, *state = super().__reduce__()
        return _rebuild, (type(self), arguments), *state


def _rebuild(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """An exception of these `args`, made without the __init__ of its own class."""
    error = kind.__new__(kind, *arguments)
    builtin = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    builtin.__init__(error, *arguments)
    return error


class BarkError(_Picklable, Exception):
    """The base of all errors raised on purpose."""


class BarkWarning(_Picklable, UserWarning):
    """The base of all warnings given on purpose."""


class ConfigError(BarkError, ValueError):
    """A config.json or generation_config.json that cannot work."""


class CheckpointError(BarkError, ValueError):
    """A weight file that is damaged, hostile, or not the network that was asked for."""


class ModelNotFoundError(BarkError, FileNotFoundError):
    """A model, or a part of one, that is neither on this machine nor to be had."""


class VoiceError(BarkError, ValueError):
    """A voice whose arrays cannot condition the stages."""


class VoiceNotFoundError(BarkError, FileNotFoundError):
    """A voice name that the model does not have."""


class InputError(BarkError, ValueError):
    """Text, tokens or settings that make no sense."""


class FaultsError(InputError):
    """Input with any number of faults, of which the message has a line each."""


class UnsupportedError(BarkError, NotImplementedError):
    """Something this machine or this package cannot do, though it was asked for by name."""


class OutputError(BarkError, OSError):
    """A place that takes no more files: a full disk, a folder without permission, a device that fails."""


class BusyError(BarkError, BlockingIOError):
    """A folder that another process is writing to."""


class DeviceError(BarkError, RuntimeError):
    """A device that fails at what it is to do."""


class DeviceMemoryError(DeviceError, MemoryError):
    """A device without memory for what it is to do."""


def quoted(value: Any, limit: int = 80) -> str:
    """A value as an error message shows it: quoted, escaped, and short however large the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        return short.repr(value)[: 4 * limit]
    except ValueError:  # Python writes no integer of more than some 4,300 digits
        return "a number too long to show"
