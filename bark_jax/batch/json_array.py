"""The elements of a JSON array one by one, whatever their number: memory is that of the longest, up to a bound."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from bark_jax.errors import InputError

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_MARK = re.compile(_STRING + rb'|["\[\]{},]', re.DOTALL)
_BRACKET = re.compile(_STRING + rb'|["\[\]{}]', re.DOTALL)
_END_OF_STRING = re.compile(rb'["\\]')
_QUOTE = ord('"')
_WHITE = b" \t\r\n"
_BLOCK = 2**16


def read_elements(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Each element's place, the first is 1, and its bytes, not yet parsed; None for one of more than `max_bytes`.

    Raises:
      InputError: the file holds no array, ends within it, or goes on behind it.
    """
    with open(path, "rb") as file:
        scan = _Scan(max_bytes)
        while block := file.read(_BLOCK):
            yield from scan.feed(block)
    scan.check_end()


class _Scan:
    """What has been read of an array: how deep the place is, and the element that it is in."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._depth = self._index = 0
        self._has_begun = self._in_string = self._is_closed = False
        self._is_escaped = False  # the next block's first byte follows a backslash
        self._element, self._is_long = bytearray(), False

    def feed(self, block: bytes) -> Iterator[tuple[int, bytes | None]]:
        is_first, self._has_begun = not self._has_begun, True
        start = at = block.startswith(codecs.BOM_UTF8) * 3 if is_first else 0
        if self._is_escaped:
            at, self._is_escaped = at + 1, False
        while found := self._next_mark.search(block, at):
            mark, at = found[0], found.end()
            if mark[0] == _QUOTE:
                self._in_string ^= len(mark) == 1  # others are whole strings
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
        if self._in_string:
            return _END_OF_STRING
        return _BRACKET if self._depth > 1 else _MARK

    def _keep(self, data: bytes) -> None:
        if self._depth == 0:
            if data.strip(_WHITE):
                raise InputError("there is something beside the array")
            return
        self._is_long = self._is_long or len(self._element) + len(data) > self._max_bytes
        if not self._is_long:
            self._element += data

    def _take(self, *, is_last: bool) -> tuple[int, bytes | None] | None:
        """The element that ends here; None between the brackets of an empty array."""
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
        if not self._is_closed:
            raise InputError(f"it ends within row {self._index + 1:,}, so it is cut off")
