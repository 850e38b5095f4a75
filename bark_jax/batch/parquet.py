"""Parquet files of many rows, `audio/part-00000.parquet`, which Hugging Face `datasets` reads with an Audio column.

A part appears whole or not at all, and its rows go into the manifest after it. What is held in memory until a part is
full is at most its rows, or 256 MiB of encoded audio; a kill loses, and the next run repeats, so much.
"""

import collections
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bark_jax.batch.manifest import MANIFEST_FILE, Entry, read_entries
from bark_jax.batch.run_folder import AUDIO_FOLDER
from bark_jax.errors import CheckpointError, InputError, UnsupportedError
from bark_jax.files import atomic_file, read_regular, sync

DEFAULT_ROWS_PER_PART = 1000
MAX_PART_BYTES = 2**28

_PART = re.compile(r"part-(\d+)\.parquet$")

# Columns beside the audio: Arrow's type, and whether the value is written as JSON.
_COLUMNS = {
    "id": ("string", False),
    "text": ("string", False),
    "voice": ("string", False),
    "seed": ("uint64", False),
    "seconds": ("float64", False),
    "sample_rate": ("int32", False),
    "model": ("string", False),
    "version": ("string", False),
    "sha256": ("string", False),
    "bytes": ("int64", False),
    "row_digest": ("string", False),
    "timings": ("string", True),
    "warnings": ("string", True),
    "metadata": ("string", True),
}


def require_pyarrow() -> Any:
    """pyarrow. Raises UnsupportedError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnsupportedError("--format parquet needs pyarrow: pip install 'bark-jax[parquet]'") from error
    return pyarrow


class Parts:
    """Where the writer puts encoded audio: see `writer.Store`."""

    def __init__(self, folder: Path, ending: str, rows_per_part: int = DEFAULT_ROWS_PER_PART):
        self._pyarrow = require_pyarrow()
        self._folder, self._ending, self._rows_per_part = folder / AUDIO_FOLDER, ending, rows_per_part
        self._number = _next_number(folder)
        self._rows: list[tuple[Entry, bytes]] = []
        self._n_bytes = 0

    def store(self, entry: Entry, audio: bytes) -> None:
        """A row is held until its part is full."""

    def commit(self, rows: Iterable[tuple[Entry, bytes | None]]) -> list[Entry]:
        """The entries of rows that have failed, and those of the parts that have become full."""
        committed = []
        for entry, audio in rows:
            if audio is None:
                committed.append(entry)
                continue
            self._rows.append((entry, audio))
            self._n_bytes += len(audio)
            if len(self._rows) >= self._rows_per_part or self._n_bytes >= MAX_PART_BYTES:
                committed += self.finish()
        return committed

    def finish(self) -> list[Entry]:
        """Writes what is held as a part; returns its entries."""
        if not self._rows:
            return []
        name = f"part-{self._number:05d}.parquet"
        with atomic_file(self._folder / name) as file:
            self._pyarrow.parquet.write_table(self._table(), file, compression="none")  # audio is small already
        sync(self._folder)
        entries = [entry | {"file": f"{AUDIO_FOLDER}/{name}"} for entry, _ in self._rows]
        self._number, self._rows, self._n_bytes = self._number + 1, [], 0
        return entries

    def _table(self) -> Any:
        arrow = self._pyarrow
        entries = [entry for entry, _ in self._rows]
        audio_type = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        audio = [{"bytes": data, "path": f"{entry['id']}.{self._ending}"} for entry, data in self._rows]
        columns = {"audio": arrow.array(audio, audio_type)}
        for name, (kind, is_json) in _COLUMNS.items():
            values = [entry.get(name) for entry in entries]
            if is_json:
                values = [None if value is None else json.dumps(value) for value in values]
            columns[name] = arrow.array(values, getattr(arrow, kind)())
        return arrow.table(columns).replace_schema_metadata({"huggingface": json.dumps(_features())})


def _next_number(folder: Path) -> int:
    """One that no part has or had: of a part that was deleted the manifest still tells."""
    listed = {entry["file"] for entry in read_entries(folder / MANIFEST_FILE) if entry.get("file")}
    names = {*listed, *(path.name for path in list_parts(folder))}
    return 1 + max((int(number[1]) for name in names if (number := _PART.search(name))), default=-1)


def list_parts(folder: Path) -> list[Path]:
    return sorted((folder / AUDIO_FOLDER).glob("part-*.parquet"))


def find_unlisted(folder: Path) -> list[Entry]:
    """The entries of rows that a part holds and the manifest does not: it was killed between the two.

    Raises:
      CheckpointError: a part cannot be read.
    """
    read_table = require_pyarrow().parquet.read_table
    n_listed = collections.Counter(entry.get("file") for entry in read_entries(folder / MANIFEST_FILE))
    found = []
    for path in list_parts(folder):
        file = f"{AUDIO_FOLDER}/{path.name}"
        if n_listed[file] == _count_rows(path):
            continue
        listed = {entry["id"] for entry in read_entries(folder / MANIFEST_FILE) if entry.get("file") == file}
        with read_regular(path) as part:
            table = read_table(part, columns=list(_COLUMNS))
        found += [_entry(values) | {"file": file} for values in table.to_pylist() if values["id"] not in listed]
    return found


def read_digests(path: Path, *, of_audio: bool) -> dict[str, str]:
    """The SHA-256 of each row of a part, by id: as the part says, or of its audio. Of an unreadable part, no rows."""
    columns = ["id", "audio" if of_audio else "sha256"]
    try:
        read_table = require_pyarrow().parquet.read_table
        with read_regular(path) as part:
            rows = read_table(part, columns=columns).to_pylist()
    except UnsupportedError:
        raise
    except Exception:  # pyarrow's own kinds
        return {}
    if of_audio:
        return {row["id"]: hashlib.sha256(row["audio"]["bytes"]).hexdigest() for row in rows}
    return {row["id"]: row["sha256"] for row in rows}


def _count_rows(path: Path) -> int:
    try:
        with read_regular(path) as part:
            return require_pyarrow().parquet.read_metadata(part).num_rows
    except InputError:
        raise
    except Exception as error:  # pyarrow's own kinds
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete it, and its rows are generated again"
        ) from error


def _entry(values: dict[str, Any]) -> Entry:
    nullable = ("voice",)
    return {
        name: json.loads(value) if value is not None and _COLUMNS[name][1] else value
        for name, value in values.items()
        if value is not None or name in nullable
    }


def _features() -> dict[str, Any]:
    """What `datasets` keeps of the columns' types in a file's schema."""
    kinds = {name: {"dtype": kind, "_type": "Value"} for name, (kind, _) in _COLUMNS.items()}
    return {"info": {"features": {"audio": {"_type": "Audio"}, **kinds}}}
