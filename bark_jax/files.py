"""Files and folders that appear whole or not at all."""

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

# By kind of folder: one without any of these is not ours to replace, whatever the caller asked for.
MARKERS = {"model": ("bark_jax.json", "config.json"), "dataset": ("dataset.json",)}

# Every layout of checkpoint has one of these in its folder: all of their `signs`, see `checkpoints.layouts`. They stand
# here for those who may not import the layouts, and JAX with them, to look at a folder.
MODEL_SIGNS = ("config.json", "*.pt", "*.th")

# Of Linux; room for the name of the file that is renamed at the end.
MAX_NAME_BYTES = 230
MAX_PATH_CHARACTERS = 4000

# A conversion writes all the time; one that has not for a day is dead.
ABANDONED_S = 86_400.0

_UNSAFE_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")

# What a place that takes no more files says. Other errors are about what the caller does.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO)


def as_path(path: Any, what: str) -> Path:
    """A path that the system can take. Raises InputError, beginning with `what`, for anything else."""
    path = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(path, str) or not path:
        raise InputError(f"{what} is {quoted(path)}, expected a path")
    try:
        longest = max(len(os.fsencode(part)) for part in path.split("/"))
    except UnicodeEncodeError:
        longest = -1
    if "\0" in path or longest < 0:
        raise InputError(f"{what} is {quoted(path)}, which no path can be")
    if longest > MAX_NAME_BYTES or len(path) > MAX_PATH_CHARACTERS:
        raise InputError(
            f"{what} is {quoted(path)}, which is too long: {len(path):,} characters, its longest name {longest:,} bytes"
        )
    return Path(path)


def is_inner_path(path: Any) -> bool:
    """Whether `path` names a file below some folder on every system: relative, "/" between, no ".." and no drive."""
    if not isinstance(path, str) or not path or len(path) > 512 or _UNSAFE_CHARACTER.search(path):
        return False
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts


def holds_model(folder: str | os.PathLike) -> bool:
    """Whether a folder seems to hold a model, of whichever layout; False where there is no such folder."""
    return any(any(Path(folder).glob(sign)) for sign in MODEL_SIGNS)


@contextlib.contextmanager
def output_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns the system's error, where a place takes no more files, into an OutputError that names `path`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if error.errno not in (*FULL, *CLOSED):
            raise
        advice = "free some space, or name another place" if error.errno in FULL else "name another place"
        raise OutputError(f"{path} cannot be written: {error.strerror}; {advice}") from error


@contextlib.contextmanager
def creation_errors(path: Path) -> Iterator[None]:
    """For a block that gives a file or folder its name: a system's own folders, /proc, say of it that it is not there.

    Raises:
      OutputError: a folder that is there takes no new names.
    """
    try:
        yield
    except FileNotFoundError as error:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if error.filename is None or Path(error.filename).absolute().parent != folder:
            raise
        raise _takes_no_files(path, folder, error) from error


@contextlib.contextmanager
def atomic_folder(dst: str | os.PathLike, *, overwrite: bool = False, kind: str = "model") -> Iterator[Path]:
    """Yields a new folder beside `dst`, which becomes `dst` when the block ends and vanishes when it raises.

    A killed process can leave the folder behind, under a name that starts with a dot and ends in `.partial`; never a
    half-filled `dst`.

    Raises:
      InputError: `dst` exists and is not empty, and `overwrite` is false or what is there is no folder of this `kind`.
      OutputError: the disk is full, or the place may not be written to.
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
            with contextlib.suppress(OSError):  # somebody else put a file there, or `dst` is in it
                parent.rmdir()

    with stopping.cleaned_up(clean_up):
        try:
            with creation_errors(dst):
                made_parents += _make_parents(dst)
                partial.mkdir()
            yield partial
            _sync_tree(partial)
            _move_to_path(partial, dst, overwrite)
        except BaseException:
            clean_up()
            raise


def remove_abandoned(dst: str | os.PathLike, older_than_s: float = ABANDONED_S) -> None:
    """Removes what killed processes have left of `dst`; what is younger may be at work still."""
    dst = Path(dst)
    for partial in dst.parent.glob(f".{glob.escape(dst.name)}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in (partial, *partial.iterdir())) > older_than_s:
                shutil.rmtree(partial)


def check_destination(dst: str | os.PathLike, *, overwrite: bool = False, kind: str = "model") -> Path:
    """The absolute path of `dst`, links resolved. Raises InputError and OutputError where `atomic_folder` would."""
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
    """Raises OutputError where no file or folder can be made at `path`, whose folders need not be there yet.

    Permissions do not tell: a system's own folders, or a full disk, take no file from whoever asks.
    """
    place = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _takes_no_files(path, place, error) from error


def _takes_no_files(path: Path, place: Path, error: OSError) -> OutputError:
    told = error.strerror if place.is_dir() else "it is a file"
    return OutputError(f"{path} cannot be written: {place} takes no files ({told}); name another place")


def _make_parents(path: Path) -> list[Path]:
    """Makes the folders above `path`; returns those that were missing, innermost first."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root, name))
        sync(Path(root))


def sync(path: Path) -> None:
    """Returns once a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_to_path(partial: Path, dst: Path, overwrite: bool) -> None:
    """Renames `partial` to `dst`. A model that was there is moved aside first, and back if the renaming fails."""
    with stopping.uninterrupted():
        old = _exchange(partial, dst, overwrite)
    sync(dst.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _exchange(partial: Path, dst: Path, overwrite: bool) -> Path | None:
    """Renames; returns where what was at `dst` is now."""
    old = None
    if overwrite and dst.exists() and os.listdir(dst):
        old = dst.with_name(f".{dst.name}.{secrets.token_hex(4)}.old")
        os.rename(dst, old)
    try:
        os.rename(partial, dst)
    except OSError as error:
        if old is not None:
            os.rename(old, dst)
        if dst.exists():
            raise InputError(f"{dst} was made by somebody else in the meantime; it is left as it is") from error
        raise
    return old


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Yields a new file beside `path`, which takes its name when the block ends and vanishes when it raises."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with stopping.cleaned_up(lambda: temporary.unlink(missing_ok=True)):
        try:
            with creation_errors(path):
                file = open(temporary, "xb")  # noqa: SIM115, it is closed below
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


# As `atomic_file` calls a file that is not yet whole.
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
    """Yields a new folder, in `within` or where temporary files go; it is gone when the block or the process ends."""
    with contextlib.ExitStack() as block:
        folder = block.enter_context(tempfile.TemporaryDirectory(prefix="bark-jax-", dir=within))
        block.enter_context(stopping.cleaned_up(lambda: shutil.rmtree(folder, ignore_errors=True)))
        yield Path(folder)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a file that is one itself: not what a link leads to, nor a pipe that waits for its other end.

    Raises:
      InputError: it is a link, a folder, a pipe or a device.
      OSError: the system does not open it.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
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
    """A file opened as `open_regular` does."""
    return open(open_regular(path), "rb")


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes a small file that appears under its name complete, or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def sha256_of(file: str | os.PathLike | BinaryIO) -> str:
    """SHA-256 of a file's content, in hexadecimal; of an open file from where it stands."""
    if not isinstance(file, (str, os.PathLike)):
        return hashlib.file_digest(file, "sha256").hexdigest()
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
