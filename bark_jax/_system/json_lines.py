"""JSON Lines (one JSON object a line), read from untrusted files of any size in bounded memory."""

import codecs
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from bark_jax._system.strict_json import read_strict
from bark_jax.errors import InputError, quoted


class Fault(NamedTuple):
    """A fault of one line of a file, or of another `unit` such as a row; `line` counts from 1."""

    line: int
    what: str
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.unit} {self.line}: {self.what}"


def list_faults(title: str, faults: Sequence[Any], n_faults: int) -> str:
    """Formats an error message: a title, an indented line for each of `faults`, and how many of n_faults are left out.

    rows.jsonl has 3 faults
      line 1: longer than 16 bytes
      and 2 more
    """
    rest = [f"and {n_faults - len(faults):,} more"] if n_faults > len(faults) else []
    return "\n  ".join([title, *map(str, faults), *rest])


def read_lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yields the number, from 1, and the bytes of each line that is not blank.

    The bytes are None for a line of more than max_bytes, which is skipped in pieces and never held in memory. They
    include the line's end, which the last line may lack. A byte order mark before the first line is dropped.
    """
    number = 0
    while line := file.readline(max_bytes):
        number += 1
        # `readline(n)` stops after n bytes. Without a line's end there, the line is longer, or it ends the file with
        # exactly n bytes, which counts as too long as well.
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
    """Parses one line of `read_lines` as a JSON object, by the rules of `read_strict`.

    Raises:
      InputError: the line holds no JSON object. The message says what it is: "longer than 16 bytes", "not JSON (...)".
    """
    if data is None:
        raise InputError(f"longer than {max_bytes:,} bytes")
    value = read_strict(data)
    if not isinstance(value, dict):
        raise InputError(f"{quoted(value)}, expected a JSON object")
    return value
