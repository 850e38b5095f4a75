"""Atomic writes of files and folders, checks of paths, and errors of paths that cannot be written.

A file or folder is filled under a temporary name beside the final one and renamed when it is complete, so a reader
never sees a partial one, whenever the process is killed.
"""

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from bark_jax._system import stopping
from bark_jax.errors import InputError, OutputError, quoted

# Files by which a folder of each kind is known. A folder without any of them is never overwritten, whatever was asked.
MARKERS = {
    "model": ("bark_jax.json", "config.json"),
    "dataset": ("dataset.json",),
    "programs": ("programs.json",),
    "report": ("report.json",),
}

# Patterns of files, one of which every folder with a checkpoint has: the `signs` of all of `checkpoints.layouts`. They
# are repeated here for code that looks at a folder without importing the layouts, and JAX with them.
MODEL_SIGNS = ("config.json", "*.pt", "*.th")

# Linux allows 255 bytes a name and 4,096 a path. The temporary name of `atomic_folder` is 18 bytes longer than `dst`'s.
MAX_NAME_BYTES = 230
MAX_PATH_CHARACTERS = 4000

# A conversion writes all the time; if it has not for a day, its process was killed.
ABANDONED_S = 86_400.0

_UNSAFE_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")

# Errors of a path that cannot be written, which become OutputError. Others, such as ENOENT, are faults of the caller.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: ulimit -f, or the file system's limit
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO)


def as_path(path: Any, what: str) -> Path:
    """Converts a string or path-like object to a Path.

    Raises:
      InputError: it is no path, or longer than Linux allows. The message begins with `what`, such as "--out".
    """
    path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(path, str) or not path:
        raise InputError(f"{what} is {quoted(path)}, expected a path")
    try:
        longest = max(len(os.fsencode(part)) for part in path.split("/"))
    except UnicodeEncodeError:  # a lone surrogate
        longest = -1
    if "\0" in path or longest < 0:
        raise InputError(f"{what} is {quoted(path)}, which no path can be")
    if longest > MAX_NAME_BYTES or len(path) > MAX_PATH_CHARACTERS:
        raise InputError(
            f"{what} is {quoted(path)}, which is too long: {len(path):,} characters, its longest name {longest:,} bytes"
        )
    return Path(path)


def is_inner_path(path: Any) -> bool:
    """Whether `path` is a safe relative path: "/" between its parts, no "..", no drive, on Windows too.

    Paths from the Hub, archives and manifests are checked with it: joined to a folder, they stay inside.
    """
    if not isinstance(path, str) or not path or len(path) > 512 or _UNSAFE_CHARACTER.search(path):
        return False
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts


def holds_model(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a file of a checkpoint, of whichever layout; False where there is no such folder."""
    return any(any(Path(folder).glob(sign)) for sign in MODEL_SIGNS)


@contextlib.contextmanager
def output_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError of a full disk, a quota or missing permission into an OutputError that names `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno not in (*FULL, *CLOSED):
            raise
        advice = "free some space, or name another path" if error.errno in FULL else "name another path"
        raise OutputError(f"{path} cannot be written: {error.strerror}; {advice}") from error


@contextlib.contextmanager
def creation_errors(path: Path) -> Iterator[None]:
    """Turns FileNotFoundError from creating `path` in a folder that exists into an OutputError.

    /proc and other virtual file systems raise it, ENOENT, where others raise EACCES.

    Raises:
      OutputError: the folder exists, and no file can be created in it.
    """
    try:
        yield
    except FileNotFoundError as error:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if error.filename is None or Path(error.filename).absolute().parent != folder:
            raise
        raise _not_writable(path, folder, error) from error


@contextlib.contextmanager
def atomic_folder(dst: str | os.PathLike, *, overwrite: bool = False, kind: str = "model") -> Iterator[Path]:
    """Makes a folder atomically: yields a new folder beside `dst`, which becomes `dst` when the block ends.

    It is removed if the block raises. A killed process can leave it behind as `.NAME.HEX.partial`, and never a
    half-filled `dst`; see `remove_abandoned`.

    Args:
      dst: the folder to make; missing parents are made too.
      overwrite: replace a folder of this `kind` that is there.
      kind: a key of MARKERS.

    Raises:
      InputError: `dst` exists and is not empty, and `overwrite` is false or it is not a folder of this `kind`.
      OutputError: the disk is full, or the path is not writable.
    """
    dst = check_destination(dst, overwrite=overwrite, kind=kind)
    with output_errors(dst), _partial_folder(dst, overwrite) as partial:
        yield partial


@contextlib.contextmanager
def _partial_folder(dst: Path, overwrite: bool) -> Iterator[Path]:
    partial = dst.with_name(f".{dst.name}.{secrets.token_hex(4)}.partial")
    made_parents: list[Path] = []

    def clean_up() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made_parents:
            with contextlib.suppress(OSError):  # not empty: another process put a file there, or `dst` is in it
                parent.rmdir()

    with stopping.cleaned_up(clean_up):
        try:
            with creation_errors(dst):
                made_parents += _make_parents(dst)
                partial.mkdir()
            yield partial
            # Before the rename: if that reached the disk first, a power cut could leave a folder of empty files.
            _sync_tree(partial)
            _move_to_path(partial, dst, overwrite)
        except BaseException:
            clean_up()
            raise


def remove_abandoned(dst: str | os.PathLike, older_than_s: float = ABANDONED_S) -> None:
    """Removes the partial folders of `dst` that killed processes left behind.

    Those with a change in the last `older_than_s` seconds stay: a process may still be writing them.
    """
    dst = Path(dst)
    for partial in dst.parent.glob(f".{glob.escape(dst.name)}.*.partial"):
        with contextlib.suppress(OSError):
            # A folder's own time changes when an entry is made or removed, not while a file in it grows.
            if time.time() - max(path.stat().st_mtime for path in (partial, *partial.iterdir())) > older_than_s:
                shutil.rmtree(partial)


def check_destination(dst: str | os.PathLike, *, overwrite: bool = False, kind: str = "model") -> Path:
    """Returns the absolute path of `dst`, links resolved; raises InputError and OutputError as `atomic_folder` does.

    Commands call it before work that takes minutes, so that a wrong name is refused first.
    """
    path = Path(os.path.realpath(as_path(dst, "the folder to make")))
    check_can_create(path)
    if not path.exists():
        return path
    if not path.is_dir():
        raise InputError(f"{dst} is a file; give the name of a folder to make")
    names = os.listdir(path)
    if not names:
        return path
    if not overwrite:
        raise InputError(f"{dst} exists and is not empty; give another name, or overwrite (--overwrite)")
    if not any(name in names for name in MARKERS[kind]):
        raise InputError(
            f"{dst} is not a {kind} folder (it has no {' or '.join(MARKERS[kind])}), so it is not overwritten"
        )
    return path


def check_can_create(path: Path) -> None:
    """Raises OutputError where no file or folder can be created at `path`. Missing parent folders are not made.

    It creates a temporary file: permission bits say nothing of virtual file systems (/proc) and full disks.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(path, folder, error) from error


def _not_writable(path: Path, folder: Path, error: OSError) -> OutputError:
    reason = error.strerror if folder.is_dir() else "it is a file"
    return OutputError(f"{path} cannot be written: {folder} is not writable ({reason}); name another path")


def _make_parents(path: Path) -> list[Path]:
    """Makes the missing folders above `path`. Returns them, innermost first."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))


def sync(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_to_path(partial: Path, dst: Path, overwrite: bool) -> None:
    """Renames `partial` to `dst`. A folder that was there is moved aside first, and back if the renaming fails.

    Two renames are not atomic: a process killed between them leaves the old folder under its `.old` name.
    """
    with stopping.uninterrupted():
        old = _exchange(partial, dst, overwrite)
    sync(dst.parent)  # the rename itself survives a power cut
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _exchange(partial: Path, dst: Path, overwrite: bool) -> Path | None:
    """Renames `partial` to `dst`. Returns the path that an old folder at `dst` was moved to, or None."""
    old = None
    if overwrite and dst.exists() and os.listdir(dst):
        old = dst.with_name(f".{dst.name}.{secrets.token_hex(4)}.old")
        os.rename(dst, old)
    try:
        # rename(2) replaces an empty folder. If another process has filled `dst` meanwhile, it fails with ENOTEMPTY.
        os.rename(partial, dst)
    except OSError as error:
        if old is not None:
            os.rename(old, dst)
        if dst.exists():
            raise InputError(f"{dst} was made by another process in the meantime; it is left as it is") from error
        raise
    return old


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Writes a file atomically: yields a new file beside `path`, which is renamed to `path` when the block ends.

    It is removed if the block raises. A file that was at `path` is replaced.
    """
    path = Path(path)
    # Beside `path`, not in /tmp: a rename is atomic within one file system and fails with EXDEV between two.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with stopping.cleaned_up(lambda: temporary.unlink(missing_ok=True)):
        try:
            with creation_errors(path):
                # "x": a file or link that has this name already is an error, and never written through.
                file = open(temporary, "xb")  # noqa: SIM115, it is closed below
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # The rename itself is not synced here. Who needs it to survive a power cut syncs the folder, once for many
            # files.
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


# Temporary names of `atomic_file`.
_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.partial", re.DOTALL)


def partials_in(folder: Path, names: Collection[str] | None = None) -> list[Path]:
    """Partial files that killed processes left in a folder where `atomic_file` wrote; only of `names` if given."""
    return [
        path
        for path in folder.glob(".*.partial")
        if (match := _PARTIAL.fullmatch(path.name))
        and (names is None or match["name"] in names)
        and (path.is_file() or path.is_symlink())
    ]


@contextlib.contextmanager
def temporary_folder(within: str | os.PathLike | None = None) -> Iterator[Path]:
    """Yields a new folder, in `within` or the system's temporary folder. It is removed when the block ends.

    A signal that ends a command removes it too (`stopping`), which `tempfile` alone does not.
    """
    with contextlib.ExitStack() as block:
        folder = block.enter_context(tempfile.TemporaryDirectory(prefix="bark-jax-", dir=within))
        block.enter_context(stopping.cleaned_up(lambda: shutil.rmtree(folder, ignore_errors=True)))
        yield Path(folder)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Opens a regular file and returns its descriptor, without following a link or blocking on a named pipe.

    In a folder that others can write to, a link could lead a write to any file of the user.

    Raises:
      InputError: it is a link, a folder, a pipe or a device.
      OSError: the system cannot open it.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        # ELOOP is how O_NOFOLLOW refuses a link, ENXIO a pipe that is opened for writing and that nobody reads.
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        kind = {errno.ELOOP: "a link", errno.EISDIR: "a folder", errno.ENXIO: "a pipe"}[error.errno]
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        kind = "a folder, a pipe or a device"
    raise InputError(f"{path} is {kind}, expected a file; nothing is read or written through it, so remove it")


def read_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; raises as `open_regular` does."""
    return open(open_regular(path), "rb")


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a small file atomically: it appears under its name complete, or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def sha256_of(file: str | os.PathLike | BinaryIO) -> str:
    """Computes the SHA-256 of a file's content, in hexadecimal; of an open file, from its current position."""
    if not isinstance(file, (str, os.PathLike)):
        return hashlib.file_digest(file, "sha256").hexdigest()
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
