"""Merge of the shards of a batch: their manifests are checked against each other and joined."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bark_jax._system.json_lines import list_faults
from bark_jax.batch.files import has_audio_file
from bark_jax.batch.ids import Shard
from bark_jax.batch.manifest import MANIFEST_FILE, Entry, read_entries, to_line
from bark_jax.batch.parquet import read_digests
from bark_jax.batch.run_folder import RUN_FILE, differences, locked, open_folder, read_run
from bark_jax.errors import FaultsError, InputError, quoted
from bark_jax.files import atomic_file, is_inner_path, output_errors, read_regular, sha256_of, sync, write_atomically

_SHARD_FOLDER = re.compile(r"shard-\d{1,9}-of-\d{1,9}")
_SHARD_OF_FOLDER = re.compile(r"shard-(\d+)-of-(\d+)")
MAX_LISTED_FAULTS = 50


class Merged(NamedTuple):
    """Totals over all shards."""

    manifest: str  # path of the joined manifest
    shards: int
    rows: int
    failed: int  # rows with an error
    audio_s: float


class _Part(NamedTuple):
    """A shard's folder and what it was filled with."""

    folder: Path
    shard: Shard
    run: dict[str, Any]  # its run.json


def merge_shards(out: str | os.PathLike[str], *, verify: bool = False) -> Merged:
    """Joins the manifests of OUT's shards into OUT/manifest.jsonl, which names their files relative to OUT.

    Checks that all shards are there, made with the same model and settings from the same number of rows; that each has
    all of its rows and none of another shard's; and that every audio file exists with the right size.

    Args:
      verify: also read every file and compare its SHA-256.

    Raises:
      InputError: OUT has no shards, or a damaged run.json.
      FaultsError: a check fails; the message lists all faults, at most 50. Nothing is written then.
      BusyError: a shard is still being written, or another process writes OUT.
      OutputError: OUT is not writable.
    """
    folder = Path(out)
    parts = _find_parts(folder)
    faults = _check_runs(parts)
    seen: dict[str, int] = {}
    for part in parts:
        with open_folder(part.folder):  # its lock: a shard that is still running is refused
            faults += _check_rows(part, seen, verify=verify)
    if faults:
        title = f"the shards in {folder} cannot be merged:"
        raise FaultsError(list_faults(title, faults[:MAX_LISTED_FAULTS], len(faults)))
    with output_errors(folder), locked(folder, with_audio=False):
        return _join(folder, parts)


def _find_parts(folder: Path) -> list[_Part]:
    """Finds the shards by their folders' names. Raises InputError if there are none."""
    parts = []
    for path in sorted(folder.glob("shard-*")):
        if path.is_dir() and _SHARD_FOLDER.fullmatch(path.name) and (run := read_run(path)) is not None:
            parts.append(_Part(path, _shard_of(path, run), run))
    if not parts:
        raise InputError(f"{folder} has no shards, expected folders such as {Shard(0, 8).folder}; see batch --shard")
    return parts


def _shard_of(folder: Path, run: dict[str, Any]) -> Shard:
    """Reads the shard from a folder's run.json. Raises InputError if it has none, or no number of rows."""
    for name in ("rows", "rows_of_all_shards"):
        if not isinstance(run.get(name), int) or run[name] < 0:
            raise InputError(
                f"{folder / RUN_FILE} has {quoted(run.get(name))} as its {name}, expected a number; run the shard again"
            )
    try:
        return Shard.parse(str(run.get("shard")))
    except InputError as error:
        raise InputError(
            f"{folder / RUN_FILE} has {quoted(run.get('shard'))} as its shard, expected I/N, such as "
            f"{_SHARD_OF_FOLDER.sub(_as_shard, folder.name)}; run the shard again"
        ) from error


def _as_shard(found: re.Match[str]) -> str:
    return f"{int(found[1])}/{int(found[2])}"


def _check_runs(parts: list[_Part]) -> list[str]:
    """Lists the faults of the shards' run.json: shards that are missing, or of another batch."""
    faults, first = [], parts[0]
    count = first.shard.count
    missing = sorted(set(range(count)) - {part.shard.index for part in parts if part.shard.count == count})
    if missing:
        faults.append(f"shards {', '.join(map(str, missing[:20]))} of {count} are missing")
    for part in parts[1:]:
        if part.shard.count != count:
            faults.append(f"{part.folder.name} is one of {part.shard.count} shards, {first.folder.name} of {count}")
        without = {"shard": None}  # the one field that has to differ
        faults += [
            f"{part.folder.name} has another {line.replace(' here', f' in {first.folder.name}')}"
            for line in differences(part.run | without, first.run | without)
        ]
        if part.run.get("rows_of_all_shards") != first.run.get("rows_of_all_shards"):
            faults.append(
                f"{part.folder.name} is of {part.run.get('rows_of_all_shards')} rows, {first.folder.name} of "
                f"{first.run.get('rows_of_all_shards')}: they were given other inputs"
            )
    total = sum(part.run.get("rows", 0) for part in parts)
    if not faults and total != first.run.get("rows_of_all_shards"):
        faults.append(f"the shards have {total} rows together and the input {first.run.get('rows_of_all_shards')}")
    return faults


def _check_rows(part: _Part, seen: dict[str, int], *, verify: bool) -> list[str]:
    """Lists the faults of a shard's rows; adds its ids to `seen`, {id: index of the shard}."""
    faults, name, n_rows = [], part.folder.name, 0
    digests: dict[str, dict[str, str]] = {}
    for entry in _latest(part.folder):
        n_rows += 1
        row_id = entry["id"]
        if seen.setdefault(row_id, part.shard.index) != part.shard.index:
            faults.append(f"{name}: id {quoted(row_id)} is in shard {seen[row_id]} too")
        if not part.shard.has(row_id):
            faults.append(f"{name}: id {quoted(row_id)} belongs to another shard")
        if "error" not in entry and not _has_audio(part, entry, digests, verify=verify):
            faults.append(f"{name}: the file {quoted(entry.get('file'))} of id {quoted(row_id)} is missing or another")
    if n_rows != part.run.get("rows"):
        faults.append(f"{name}: {n_rows} of {part.run.get('rows')} rows are done; run it again")
    return faults


def _has_audio(part: _Part, entry: Entry, digests: dict[str, dict[str, str]], *, verify: bool) -> bool:
    """Whether an entry's audio exists and, with `verify`, has its SHA-256.

    Args:
      digests: {part: {id: SHA-256}}, a cache of the last Parquet part read, filled here.
    """
    if not is_inner_path(entry.get("file")):
        return False
    if part.run.get("format") == "parquet":
        file = str(entry.get("file"))
        if file not in digests:
            digests.clear()  # a part's rows are neighbours in the manifest, so one part in memory is enough
            digests[file] = read_digests(part.folder / file, of_audio=verify)
        return digests[file].get(entry["id"]) == entry.get("sha256", "")
    if not has_audio_file(part.folder, entry):
        return False
    if not verify:
        return True
    with read_regular(part.folder / entry["file"]) as file:
        return sha256_of(file) == entry.get("sha256")


def _latest(folder: Path) -> Iterator[Entry]:
    """Yields the last entry of each id. Reads the file twice, to hold ids and line numbers instead of entries."""
    path = folder / MANIFEST_FILE
    last = {entry["id"]: number for number, entry in enumerate(read_entries(path))}
    for number, entry in enumerate(read_entries(path)):
        if last[entry["id"]] == number:
            yield entry


def _join(folder: Path, parts: list[_Part]) -> Merged:
    """Writes the joined manifest atomically, then run.json, whose "merged_shards" keeps a run out of the folder."""
    n_rows = n_failed = 0
    audio_s = 0.0
    with atomic_file(folder / MANIFEST_FILE) as file:
        for part in parts:
            for entry in _latest(part.folder):
                n_rows += 1
                n_failed += "error" in entry
                seconds = entry.get("seconds")
                audio_s += seconds if isinstance(seconds, (int, float)) else 0.0
                if entry.get("file"):
                    entry["file"] = f"{part.folder.name}/{entry['file']}"
                file.write(to_line(entry))
    run = parts[0].run | {"shard": None, "merged_shards": len(parts), "rows": n_rows}
    write_atomically(folder / RUN_FILE, (json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode())
    sync(folder)
    return Merged(str(folder / MANIFEST_FILE), len(parts), n_rows, n_failed, round(audio_s, 3))
