"""Output folder of a batch: one writer at a time, one model and one set of settings.

OUT/run.json         model, settings and input that its rows are made with
OUT/manifest.jsonl   rows that are done or have failed (`manifest`)
OUT/audio/           audio files, or Parquet parts
OUT/.lock            flock of the process that writes; the system releases it when the process ends, even by a kill
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

# Fields of run.json in which a run may differ from the one that it resumes: they change no row's audio.
_NOT_COMPARED = ("source", "input", "rows", "rows_of_all_shards", "version")


def choose_folder(out: str | os.PathLike, shard: Shard | None) -> Path:
    """Returns the folder that a run writes: OUT, or the shard's own folder in OUT. Raises InputError for an address."""
    if "://" in str(out):
        raise InputError(
            f"OUT is {quoted(str(out))}, an address, which has no atomic renames and no locks; give a folder of a file "
            "system, and copy it when it is done"
        )
    folder = as_path(out, "OUT")
    return folder if shard is None else folder / shard.folder


@contextlib.contextmanager
def open_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Creates the folder and holds its lock while the block runs; removes partial files of killed processes.

    Raises:
      BusyError: another process holds the lock.
      InputError: the path is a file, or a folder that no batch has filled but that has a manifest.
      OutputError: the folder cannot be created or written to.
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
    """Holds a folder's lock while the block runs; removes partial files of killed processes.

    Args:
      with_audio: create the folder and its audio folder if they are missing.

    Raises:
      BusyError: another process holds the lock.
      InputError: the lock file has other content, so the folder is no batch's.
      OutputError: the folder cannot be created or written to, or its file system has no locks.
      UnsupportedError: a system without flock, such as Windows.
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
        os.close(descriptor)  # releases the lock; the file stays, as removing it would let two processes lock two files


def _clear_partial(folder: Path) -> None:
    """Removes partial files of killed processes. The lock is held, so no process is writing them now."""
    for path in [*partials_in(folder, {RUN_FILE, MANIFEST_FILE}), *partials_in(folder / AUDIO_FOLDER)]:
        with contextlib.suppress(OSError):
            path.unlink()


def is_case_sensitive(folder: str | os.PathLike) -> bool:
    """Whether the folder's file system has names that differ in case alone as two files.

    Looks up the folder, or its nearest parent that exists, under its name with the case swapped. A name without letters
    proves nothing and counts as case-sensitive.
    """
    real = Path(os.path.realpath(folder))  # Path.resolve raises RuntimeError for links in a circle
    existing = next(path for path in (real, *real.parents) if path.exists())
    other = existing.with_name(existing.name.swapcase()) if existing.name else existing
    return other == existing or not other.exists() or not other.samefile(existing)


def check_run(folder: Path, wanted: Mapping[str, Any], *, force: bool) -> None:
    """Compares a run's model and settings with the folder's run.json, then writes its own to run.json.

    Args:
      wanted: what this run makes its rows with, as JSON.
      force: resume although they differ: rows that are done stay as they are.

    Raises:
      FaultsError: they differ, without `force`; the message has both sides of each difference.
      InputError: the folder has merged shards, without `force`; or its run.json is damaged.
      OutputError: run.json cannot be written.
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
            "Give another OUT, or the settings that it has; --force uses these for the rows that are not done."
        )
    with output_errors(folder):
        write_atomically(folder / RUN_FILE, (json.dumps(wanted, indent=2, ensure_ascii=False) + "\n").encode())
        sync(folder)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Lists the differences between two run.json that change the audio, a line each: "name: old there, new here"."""
    return [f"{name}: {old} there, {new} here" for name, old, new in _differences(found, wanted)]


def read_run(folder: Path) -> dict[str, Any] | None:
    """Reads a folder's run.json; None if there is none. Raises InputError if it is damaged."""
    try:
        with read_regular(folder / RUN_FILE) as file:
            data = file.read(MAX_RUN_BYTES)
    except FileNotFoundError:
        return None
    try:
        run = read_strict(data)
    except InputError as error:
        raise InputError(f"{folder / RUN_FILE} is {error}; correct it or give another OUT") from error
    if not isinstance(run, dict):
        raise InputError(f"{folder / RUN_FILE} is {quoted(run)}, expected an object; give another OUT")
    return run


def _lock(descriptor: int, folder: Path) -> None:
    """Takes the flock of an open lock file and writes this process's id and host into it, for other processes."""
    try:
        import fcntl
    except ImportError as error:
        raise UnsupportedError("batch needs flock of Linux or macOS, which this system does not have") from error
    try:
        # flock, not lockf: a POSIX lock is lost as soon as this process closes any descriptor of the file.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        raise BusyError(
            f"another process ({holder or 'unknown'}) is writing to {folder}; wait for it, or give another OUT or a "
            "--shard of the rows"
        ) from error
    except OSError as error:
        raise OutputError(f"{folder} has no file locks ({error.strerror}); give a folder that has") from error
    # A hard link can make .lock any file of the user's; one with other content is not overwritten.
    if (found := os.pread(descriptor, 200, 0)) and not found.startswith(b"process "):
        raise InputError(f"{folder / LOCK_FILE} has {quoted(found)} in it, so it is no batch's; remove it")
    with contextlib.suppress(OSError):  # the id is information alone; a full disk fails at the first audio file
        holder = f"process {os.getpid()} on {socket.gethostname()}\n".encode()
        os.ftruncate(descriptor, os.pwrite(descriptor, holder, 0))


def _differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yields name, old and new value of each difference. Files, {"name", "sha256"}, are compared by SHA-256 alone."""
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
