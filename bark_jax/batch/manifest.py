"""The manifest of a batch: a JSON object a line for each row that is done or has failed, in the order of completion.

    {"id": "a1", "file": "audio/a1.wav", "seconds": 2.4, "sample_rate": 24000, "seed": 7, "voice": null, ...}
    {"id": "a2", "error": "text is '', in which there is nothing to speak", ...}

A line is written, and its bytes are on the disk, after those of the file that it names. A kill can leave half a line at
the end, which `Manifest.open` takes off. A row that was done again has several lines, of which the last one holds.
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

# What a row says of itself comes back with at most six bytes for one, as in `\u0001`, and with what was made of it.
MAX_LINE_BYTES = 8 * MAX_ROW_BYTES

Entry = dict[str, Any]

_BLOCK = 2**16


class Manifest:
    """A manifest that is being written. What `append` returned from is on the disk."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._lock = threading.Lock()  # a run that is stopped at once closes the file under the writer's thread

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Opens or makes the file; half a line at its end is taken off."""
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
        """Adds lines, all or none of them. Raises OSError where the disk takes none."""
        data = b"".join(to_line(entry) for entry in entries)
        if data:
            with self._lock:
                self._append(data)

    def _append(self, data: bytes) -> None:
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except BaseException:
            with contextlib.suppress(OSError):  # if this fails too, the next `open` does it
                os.ftruncate(self._descriptor, end)
            raise


def to_line(entry: Entry) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def read_entries(path: str | os.PathLike) -> Iterator[Entry]:
    """The entries of a manifest one by one; none where there is no file. A line that is no entry is passed over.

    Such a line is the half of one at the end, or damage, as is one of more than MAX_LINE_BYTES; its row is done again.
    """
    with contextlib.suppress(FileNotFoundError), read_regular(Path(path)) as file:
        for _, line in read_lines(file, MAX_LINE_BYTES):
            entry: Entry = {}
            if line is not None and line.endswith(b"\n"):
                with contextlib.suppress(InputError):
                    entry = read_object(line, MAX_LINE_BYTES)
            if isinstance(entry.get("id"), str):
                yield entry


class Done(NamedTuple):
    """What a manifest says of a row."""

    has_failed: bool
    is_same: bool  # as the row that is asked about: its text, voice, seed and settings


class DoneRows:
    """Which rows are done, 33 bytes of memory for each."""

    def __init__(self, entries: Iterable[Entry], has_audio: Callable[[Entry], bool]):
        """`has_audio` says of an entry without error whether its audio is; where it is not, the row counts as new."""
        records = bytearray()
        for entry in entries:
            has_failed = "error" in entry
            state = b"f" if has_failed else b"d" if has_audio(entry) else b"n"
            records += digest(entry["id"]) + _content(entry) + state
        table = np.frombuffer(bytes(records), _RECORD) if records else np.zeros(0, _RECORD)
        # Of equal ids the last one stays: the sort is stable, and each is the last before another follows.
        table = table[np.argsort(table["id"], kind="stable")]
        is_last = np.append(table["id"][1:] != table["id"][:-1], True)[: len(table)]
        self._table = table[is_last]

    def __len__(self) -> int:
        return int((self._table["state"] != b"n").sum())

    def find(self, row_id: str, content: bytes) -> Done | None:
        """None for a row that is not done."""
        key = np.frombuffer(digest(row_id), "S16")[0]
        index = int(np.searchsorted(self._table["id"], key))
        if index == len(self._table) or self._table["id"][index] != key:
            return None
        record = self._table[index]
        if record["state"] == b"n":
            return None
        return Done(bool(record["state"] == b"f"), bool(record["content"] == np.frombuffer(content, "S16")[0]))


# "S16" drops zero bytes at the end; two digests that differ in nothing else are as rare as equal ones.
_RECORD = np.dtype([("id", "S16"), ("content", "S16"), ("state", "S1")])


def _content(entry: Entry) -> bytes:
    try:
        content = bytes.fromhex(entry["row_digest"])
    except (KeyError, TypeError, ValueError):  # somebody else's line
        content = b""
    return content if len(content) == 16 else bytes(16)


def _end_of_lines(descriptor: int) -> int:
    """Where the last whole line ends."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
