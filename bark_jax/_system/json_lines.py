"""Files of JSON objects, one a line: read line by line, whatever is in them and however long they are."""

import codecs
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from bark_jax._system.strict_json import read_strict
from bark_jax.errors import InputError, quoted


class Fault(NamedTuple):
    """What is wrong with a line, or with another unit of a file; the first is 1."""

    line: int
    what: str
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.unit} {self.line}: {self.what}"


def list_faults(title: str, faults: Sequence[Any], n_faults: int) -> str:
    """A title, a line for each of `faults`, and how many more of n_faults there are."""
    rest = [f"and {n_faults - len(faults):,} more"] if n_faults > len(faults) else []
    return "\n  ".join([title, *map(str, faults), *rest])


def read_lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Number, from 1, and bytes of each line that is not blank; None for the bytes of one longer than max_bytes.

    The bytes have the line's end, which the last line may lack. A byte order mark in front of the first is left out.
    """
    number = 0
    while line := file.readline(max_bytes):
        number += 1
        if len(line) == max_bytes and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(max_bytes)
            yield number, None
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line


def read_object(data: bytes | None, max_bytes: int) -> dict[str, Any]:
    """The JSON object that a line of `read_lines` holds, by the rules of `read_strict`.

    Raises:
      InputError: it holds none. The message says what it is: "longer than 16 bytes", "not JSON (...)".
    """
    if data is None:
        raise InputError(f"longer than {max_bytes:,} bytes")
    value = read_strict(data)
    if not isinstance(value, dict):
        raise InputError(f"{quoted(value)}, expected a JSON object")
    return value
