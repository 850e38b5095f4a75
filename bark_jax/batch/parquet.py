"""Storage of a batch's audio in Parquet files, `audio/part-00000.parquet`, as Hugging Face `datasets` reads them.

A part is written atomically, and its rows go into the manifest after it. Until a part is full its rows are in memory,
at most 256 MiB of encoded audio. A kill loses the rows in memory, and the next run speaks them again.
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
# 10 s of 16-bit WAV are 0.48 MB, so this limit comes first there, at 560 rows.
MAX_PART_BYTES = 2**28  # of encoded audio in memory, after which a part is written though it has fewer rows

_PART = re.compile(r"part-(\d+)\.parquet$")

# Columns beside the audio: Arrow type, and whether the value is written as a JSON string.
_COLUMNS = {
    "id": ("string", False),
    "text": ("string", False),
    "voice": ("string", False),
    "seed": ("uint64", False),  # a seed may be 2**64 - 1, and int64 is what Arrow would infer
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
    """Imports pyarrow. Raises UnsupportedError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnsupportedError("--format parquet needs pyarrow: pip install 'bark-jax[parquet]'") from error
    return pyarrow


class Parts:
    """A `writer.Store` that collects rows into Parquet parts.

    Args:
      folder: the run's folder, OUT.
      ending: of the audio's format, without the dot.
      rows_per_part: maximum number of rows of a part.

    Raises:
      UnsupportedError: pyarrow is not installed.
    """

    def __init__(self, folder: Path, ending: str, rows_per_part: int = DEFAULT_ROWS_PER_PART):
        self._pyarrow = require_pyarrow()
        self._folder, self._ending, self._rows_per_part = folder / AUDIO_FOLDER, ending, rows_per_part
        self._number = _next_number(folder)
        self._rows: list[tuple[Entry, bytes]] = []
        self._n_bytes = 0

    def store(self, entry: Entry, audio: bytes) -> None:
        """Does nothing: `commit` collects the rows."""

    def commit(self, rows: Iterable[tuple[Entry, bytes | None]]) -> list[Entry]:
        """Collects rows; returns the entries of failed rows and of the parts that became full and were written."""
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
        """Writes the collected rows as a part and fsyncs it; returns their entries."""
        if not self._rows:
            return []
        name = f"part-{self._number:05d}.parquet"
        with atomic_file(self._folder / name) as file:
            self._pyarrow.parquet.write_table(self._table(), file, compression="none")  # audio is compressed
        # The rename reaches the disk before the manifest names the part.
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
    """Returns a part number that was never used: above those of the files and of the manifest, if one was deleted."""
    listed = {entry["file"] for entry in read_entries(folder / MANIFEST_FILE) if entry.get("file")}
    names = {*listed, *(path.name for path in list_parts(folder))}
    return 1 + max((int(number[1]) for name in names if (number := _PART.search(name))), default=-1)


def list_parts(folder: Path) -> list[Path]:
    """Returns the paths of a run's parts, sorted."""
    return sorted((folder / AUDIO_FOLDER).glob("part-*.parquet"))


def find_unlisted(folder: Path) -> list[Entry]:
    """Returns entries of rows that are in a part and not in the manifest: a run was killed after writing the part.

    Rows are counted first, and a part is read only if its count differs from the manifest's.

    Raises:
      CheckpointError: a part cannot be read.
      UnsupportedError: pyarrow is not installed.
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
            # Without the audio, which is nearly all of a part: Parquet reads the named columns alone.
            table = read_table(part, columns=list(_COLUMNS))
        found += [_entry(values) | {"file": file} for values in table.to_pylist() if values["id"] not in listed]
    return found


def read_digests(path: Path, *, of_audio: bool) -> dict[str, str]:
    """Returns the SHA-256 of each row of a part, {id: digest}; empty if the part cannot be read.

    Args:
      of_audio: compute the digests from the audio bytes, instead of reading the column sha256.

    Raises:
      UnsupportedError: pyarrow is not installed.
    """
    columns = ["id", "audio" if of_audio else "sha256"]
    try:
        read_table = require_pyarrow().parquet.read_table
        with read_regular(path) as part:
            rows = read_table(part, columns=columns).to_pylist()
    except UnsupportedError:
        raise
    except Exception:  # pyarrow raises types of its own
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
    except Exception as error:  # pyarrow raises types of its own
        raise CheckpointError(
            f"{path} cannot be read ({error}); delete it, and its rows are generated again"
        ) from error


def _entry(values: dict[str, Any]) -> Entry:
    """Turns a table's row back into the entry that it was made from: JSON is decoded and absent fields are left out."""
    nullable = ("voice",)
    return {
        name: json.loads(value) if value is not None and _COLUMNS[name][1] else value
        for name, value in values.items()
        if value is not None or name in nullable
    }


def _features() -> dict[str, Any]:
    """Describes the columns' types to `datasets`, which reads them from the schema's metadata under "huggingface"."""
    kinds = {name: {"dtype": kind, "_type": "Value"} for name, (kind, _) in _COLUMNS.items()}
    return {"info": {"features": {"audio": {"_type": "Audio"}, **kinds}}}
