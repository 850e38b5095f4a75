"""The folder that a batch fills: one writer at a time, one model and one set of settings.

OUT/run.json         what its rows are made with
OUT/manifest.jsonl   what is done (`manifest`)
OUT/audio/           the files, or Parquet shards
OUT/.lock            held while a process writes; the system lets go of it when the process ends, however it ends
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bark_jax._system.strict_json import read_strict
from bark_jax.batch.ids import Shard
from bark_jax.batch.manifest import MANIFEST_FILE
from bark_jax.errors import BusyError, FaultsError, InputError, OutputError, UnsupportedError, quoted
from bark_jax.files import as_path, open_regular, output_errors, partials_in, read_regular, sync, write_atomically

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
AUDIO_FOLDER = "audio"
MAX_RUN_BYTES = 2**24

# Said of the run, and not a reason to refuse another: they change nothing of a row.
_NOT_COMPARED = ("source", "input", "rows", "rows_of_all_shards", "version")


def choose_folder(out: str | os.PathLike, shard: Shard | None) -> Path:
    """Where a run writes: OUT, or its shard's own folder in OUT. Raises InputError for an address."""
    if "://" in str(out):
        raise InputError(
            f"OUT is {quoted(str(out))}, an address, which has no renaming and no locks; give a folder of a file "
            "system, and copy it when it is done"
        )
    folder = as_path(out, "OUT")
    return folder if shard is None else folder / shard.folder


@contextlib.contextmanager
def open_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Makes the folder, holds its lock while the block runs, and clears away what a killed process left half-written.

    Raises:
      BusyError: another process holds it.
      InputError: it is a file, or another kind of folder.
      OutputError: it cannot be made, or takes no files.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"OUT is {quoted(str(path))}, a file; give the name of a folder")
    if (folder / MANIFEST_FILE).exists() and not (folder / RUN_FILE).exists():
        raise InputError(f"OUT has a {MANIFEST_FILE} and no {RUN_FILE}, so it is no batch's; give another folder")
    if (folder / AUDIO_FOLDER).is_symlink():
        raise InputError(
            f"{folder / AUDIO_FOLDER} is a link, expected a folder or nothing; make OUT itself a link, or remove it"
        )
    with locked(folder):
        yield folder


@contextlib.contextmanager
def locked(folder: Path, *, with_audio: bool = True) -> Iterator[None]:
    """Holds a folder's lock while the block runs, and clears away what a killed process left half-written.

    Args:
      with_audio: make the folder, and that of its audio files, where they are missing.

    Raises:
      BusyError: another process holds it.
      OutputError: it cannot be made, or takes no files.
    """
    try:
        if with_audio:
            (folder / AUDIO_FOLDER).mkdir(parents=True, exist_ok=True)
        descriptor = open_regular(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be written to ({error.strerror}); give another OUT") from error
    try:
        _lock(descriptor, folder)
        _clear_partial(folder)
        yield
    finally:
        os.close(descriptor)


def _clear_partial(folder: Path) -> None:
    """Removes what killed processes were writing here. The lock is held, so nobody is writing now."""
    for path in [*partials_in(folder, {RUN_FILE, MANIFEST_FILE}), *partials_in(folder / AUDIO_FOLDER)]:
        with contextlib.suppress(OSError):
            path.unlink()


def is_case_sensitive(folder: str | os.PathLike) -> bool:
    """Whether names that differ in case alone are two files, where the folder is or will be."""
    real = Path(os.path.realpath(folder))  # Path.resolve raises RuntimeError for links in a circle
    existing = next(path for path in (real, *real.parents) if path.exists())
    other = existing.with_name(existing.name.swapcase()) if existing.name else existing
    return other == existing or not other.exists() or not other.samefile(existing)


def check_run(folder: Path, wanted: Mapping[str, Any], *, force: bool) -> None:
    """Compares what a run is made with to what the folder was filled with, and writes it down.

    Raises:
      FaultsError: they differ, and not `force`; with both sides of each difference.
      InputError: the folder has merged shards, and not `force`.
    """
    found = read_run(folder)
    if found is not None and not force and "merged_shards" in found:
        raise InputError(
            f"{folder} has the merged shards of a batch; give --shard I/{found['merged_shards']} and merge again, or "
            "another OUT"
        )
    if found is not None and not force and (lines := differences(found, wanted)):
        raise FaultsError(
            f"{folder} was filled with other settings:\n  " + "\n  ".join(lines) + "\n"
            "Give another OUT, or the settings that it has; --force goes on with these for the rows that are not done."
        )
    with output_errors(folder):
        write_atomically(folder / RUN_FILE, (json.dumps(wanted, indent=2, ensure_ascii=False) + "\n").encode())
        sync(folder)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What two runs make their rows with that differs, a line each."""
    return [f"{name}: {old} there, {new} here" for name, old, new in _differences(found, wanted)]


def read_run(folder: Path) -> dict[str, Any] | None:
    """What the folder was filled with; None for a new one."""
    try:
        with read_regular(folder / RUN_FILE) as file:
            data = file.read(MAX_RUN_BYTES)
    except FileNotFoundError:
        return None
    try:
        run = read_strict(data)
    except InputError as error:
        raise InputError(f"{folder / RUN_FILE} is {error}; put it right or give another OUT") from error
    if not isinstance(run, dict):
        raise InputError(f"{folder / RUN_FILE} is {quoted(run)}, expected an object; give another OUT")
    return run


def _lock(descriptor: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError as error:
        raise UnsupportedError("batch needs the file locks of Linux or macOS, which this system has not") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        raise BusyError(
            f"another process ({holder or 'unknown'}) is writing to {folder}; wait for it, or give another OUT or a "
            "--shard of the rows"
        ) from error
    except OSError as error:
        raise OutputError(f"{folder} has no file locks ({error.strerror}); give a folder that has") from error
    if (found := os.pread(descriptor, 200, 0)) and not found.startswith(b"process "):  # also of another name's file
        raise InputError(f"{folder / LOCK_FILE} has {quoted(found)} in it, so it is no batch's; remove it")
    with contextlib.suppress(OSError):  # for whoever finds the lock taken; a full disk is told of where it matters
        holder = f"process {os.getpid()} on {socket.gethostname()}\n".encode()
        os.ftruncate(descriptor, os.pwrite(descriptor, holder, 0))


def _differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Name, old value and new value of what differs. Named files are the same where their SHA-256 is."""
    for name in sorted({*found, *wanted}):
        if not prefix and name in _NOT_COMPARED:
            continue
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and "sha256" not in old:
            yield from _differences(old, new, f"{prefix}{name}.")
        elif _identity(old) != _identity(new):
            yield f"{prefix}{name}", _described(old), _described(new)


def _identity(value: Any) -> Any:
    return value["sha256"] if isinstance(value, dict) and "sha256" in value else value


def _described(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{quoted(value.get('name'), 200)} (SHA-256 {str(value['sha256'])[:12]}...)"
    return quoted(value, 200)
