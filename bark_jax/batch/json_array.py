"""Streams the elements of a JSON array one by one: the memory needed is that of one element, up to a bound.

The scanner finds brackets, commas and strings alone, so that commas in strings do not count. It parses no element.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from bark_jax.errors import InputError

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'  # a complete string; a lone quote matches where the block cuts a string off
_MARK = re.compile(_STRING + rb'|["\[\]{},]', re.DOTALL)
_BRACKET = re.compile(_STRING + rb'|["\[\]{}]', re.DOTALL)
_END_OF_STRING = re.compile(rb'["\\]')
_QUOTE = ord('"')
_WHITE = b" \t\r\n"
_BLOCK = 2**16


def read_elements(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yields each element's number, from 1, and its bytes, not parsed; None for an element over `max_bytes`.

    Raises:
      InputError: the file is no array, is cut off within it, or has more after it.
    """
    with open(path, "rb") as file:
        scan = _Scan(max_bytes)
        while block := file.read(_BLOCK):
            yield from scan.feed(block)
    scan.check_end()


class _Scan:
    """State of the scan between two blocks: depth of brackets, whether within a string, and the element so far.

    Depth is 0 outside the array, 1 between its elements and more within one.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._depth = self._index = 0  # index: number of elements that have ended
        self._has_begun = self._in_string = self._is_closed = False
        self._is_escaped = False  # the next block's first byte follows a backslash
        self._element, self._is_long = bytearray(), False

    def feed(self, block: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Scans the next block of the file and yields the elements that end in it. Raises InputError for no array."""
        is_first, self._has_begun = not self._has_begun, True
        start = at = block.startswith(codecs.BOM_UTF8) * 3 if is_first else 0
        if self._is_escaped:
            # The block's first byte is escaped by the last of the block before: a quote there ends no string.
            at, self._is_escaped = at + 1, False
        while found := self._next_mark.search(block, at):
            mark, at = found[0], found.end()
            if mark[0] == _QUOTE:
                self._in_string ^= len(mark) == 1  # a longer mark is a complete string
            elif mark == b"\\":
                self._is_escaped = at == len(block)
                at += 1
            else:
                is_end = self._depth == 1 and mark in b",]"
                if is_end or self._depth == 0:
                    self._keep(block[start : found.start()])
                    start = at
                if is_end and (element := self._take(is_last=mark == b"]")) is not None:
                    yield element
                self._step(mark)
        self._keep(block[start:])

    @property
    def _next_mark(self) -> re.Pattern[bytes]:
        """Pattern of the next character that matters here. Commas matter at depth 1 alone, which saves time."""
        if self._in_string:
            return _END_OF_STRING
        return _BRACKET if self._depth > 1 else _MARK

    def _keep(self, data: bytes) -> None:
        """Adds bytes to the current element, or drops it where it becomes too long."""
        if self._depth == 0:
            if data.strip(_WHITE):
                raise InputError("there is something beside the array")
            return
        self._is_long = self._is_long or len(self._element) + len(data) > self._max_bytes
        if not self._is_long:
            self._element += data

    def _take(self, *, is_last: bool) -> tuple[int, bytes | None] | None:
        """Returns the element that ends here; None for an empty array, which has none."""
        data = bytes(self._element).strip(_WHITE)
        is_long, self._is_long = self._is_long, False
        self._element.clear()
        if is_last and not self._index and not data and not is_long:
            return None
        self._index += 1
        return self._index, None if is_long else data

    def _step(self, mark: bytes) -> None:
        if self._depth == 0 and (mark != b"[" or self._is_closed):
            raise InputError("there is something beside the array")
        self._depth += (mark in b"[{") - (mark in b"]}")
        self._is_closed = self._depth == 0

    def check_end(self) -> None:
        """Raises InputError if the array is not closed at the end of the file."""
        if not self._is_closed:
            raise InputError(f"it ends within row {self._index + 1:,}, so it is cut off")
