"""Manifest of a batch: JSON Lines, an object for each row that is done or has failed, in the order of completion.

    {"id": "a1", "file": "audio/a1.wav", "seconds": 2.4, "sample_rate": 24000, "seed": 7, "voice": null, ...}
    {"id": "a2", "error": "text is '', in which there is nothing to speak", ...}

A line is written and fsynced after the file that it names. A kill can leave half a line at the end, which
`Manifest.open` truncates. A row that was spoken again has several lines, of which the last one is valid.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from bark_jax._system.json_lines import read_lines, read_object
from bark_jax.batch.ids import digest
from bark_jax.batch.rows import MAX_LINE_BYTES as MAX_ROW_BYTES
from bark_jax.errors import InputError
from bark_jax.files import open_regular, read_regular

MANIFEST_FILE = "manifest.jsonl"

# An entry repeats the row's fields. JSON writes a byte as at most six, as in `\u0001`; two more are for what is added.
MAX_LINE_BYTES = 8 * MAX_ROW_BYTES

Entry = dict[str, Any]

_BLOCK = 2**16


class Manifest:
    """A manifest that is being written. Once `append` returns, the entries are on the disk."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._lock = threading.Lock()  # KeyboardInterrupt closes the file while the writer's thread may append

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Opens or creates the file and truncates half a line at its end.

        Raises:
          InputError: it is a link, a folder, a pipe or a device.
          OSError: the file cannot be opened or truncated.
        """
        descriptor = open_regular(Path(path), os.O_RDWR | os.O_CREAT)
        try:
            os.ftruncate(descriptor, _end_of_lines(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1

    def append(self, entries: Iterable[Entry]) -> None:
        """Appends lines and fsyncs them, all or none. Raises OSError if the disk is full or fails."""
        data = b"".join(to_line(entry) for entry in entries)
        if data:
            with self._lock:
                self._append(data)

    def _append(self, data: bytes) -> None:
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            view = memoryview(data)
            while view:
                # A write may take a part alone, such as on a disk that is nearly full.
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except BaseException:
            # Half a line may be at the file's end only: the next append would be glued to it, and both rows lost.
            with contextlib.suppress(OSError):  # if this fails too, the next `open` truncates
                os.ftruncate(self._descriptor, end)
            raise


def to_line(entry: Entry) -> bytes:
    """Encodes an entry as a line of JSON in UTF-8; lone surrogates, which UTF-8 cannot encode, become escapes."""
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def read_entries(path: str | os.PathLike) -> Iterator[Entry]:
    """Yields the entries of a manifest in the file's order; none if there is no file.

    Skips a line that is no entry: half a line at the end, a damaged one, or one of more than MAX_LINE_BYTES. Its row
    counts as not done and is spoken again.
    """
    with contextlib.suppress(FileNotFoundError), read_regular(Path(path)) as file:
        for _, line in read_lines(file, MAX_LINE_BYTES):
            entry: Entry = {}
            # Not a last line without its end either: `Manifest.open` truncates it, so its row must not count as done.
            if line is not None and line.endswith(b"\n"):
                with contextlib.suppress(InputError):
                    entry = read_object(line, MAX_LINE_BYTES)
            if isinstance(entry.get("id"), str):
                yield entry


class Done(NamedTuple):
    """State of a finished row in the manifest."""

    has_failed: bool
    is_same: bool  # its text, voice, seed and settings are those of the row that is looked up


class DoneRows:
    """Table of the rows that are done, sorted by digest of the id: 33 bytes a row, 33 MB for a million rows.

    Args:
      entries: of the manifest, in its order.
      has_audio: whether the audio of an entry without error exists; if it does not, the row counts as not done.
    """

    def __init__(self, entries: Iterable[Entry], has_audio: Callable[[Entry], bool]):
        records = bytearray()
        for entry in entries:
            has_failed = "error" in entry
            state = b"f" if has_failed else b"d" if has_audio(entry) else b"n"  # failed, done, not done
            records += digest(entry["id"]) + _content(entry) + state
        table = np.frombuffer(bytes(records), _RECORD) if records else np.zeros(0, _RECORD)
        # The last of equal ids is kept: the sort is stable, and the last is the one before another id.
        table = table[np.argsort(table["id"], kind="stable")]
        is_last = np.append(table["id"][1:] != table["id"][:-1], True)[: len(table)]
        self._table = table[is_last]

    def __len__(self) -> int:
        return int((self._table["state"] != b"n").sum())

    def find(self, row_id: str, content: bytes) -> Done | None:
        """Looks up a row by id. Returns None for a row that is not done.

        Args:
          content: the row's `TextRow.content`, 16 bytes, to compare.
        """
        key = np.frombuffer(digest(row_id), "S16")[0]
        index = int(np.searchsorted(self._table["id"], key))
        if index == len(self._table) or self._table["id"][index] != key:
            return None
        record = self._table[index]
        if record["state"] == b"n":
            return None
        return Done(bool(record["state"] == b"f"), bool(record["content"] == np.frombuffer(content, "S16")[0]))


# numpy's "S16" drops zero bytes at the end. Digests that differ in these alone would have to agree in all other bits.
_RECORD = np.dtype([("id", "S16"), ("content", "S16"), ("state", "S1")])


def _content(entry: Entry) -> bytes:
    """Returns an entry's digest of its row, 16 bytes; zeros if it has none, which differ from every row's."""
    try:
        content = bytes.fromhex(entry["row_digest"])
    except (KeyError, TypeError, ValueError):  # a line that was edited, or that another program wrote
        content = b""
    return content if len(content) == 16 else bytes(16)


def _end_of_lines(descriptor: int) -> int:
    """Returns the offset at which the last complete line ends, read in blocks from the file's end."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
