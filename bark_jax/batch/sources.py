"""Input of a batch: a file, stdin, or an address such as s3://bucket/rows.jsonl.

The rows are read more than once, as their ids are checked before anything starts. So stdin, pipes and addresses are
copied to a temporary file first.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bark_jax.errors import BarkError, InputError, UnsupportedError, quoted
from bark_jax.files import sha256_of, temporary_folder

STDIN = "-"


@contextlib.contextmanager
def local_copy(source: str) -> Iterator[Path]:
    """Yields a file with the source's bytes: the file itself, or a copy that is deleted when the block ends.

    Args:
      source: a file's path, "-" for stdin, or an address that fsspec opens, such as s3://bucket/rows.jsonl.

    Raises:
      InputError: the source does not exist, or is a folder.
      BarkError: an address cannot be read to its end.
      UnsupportedError: an address, and fsspec or its package for such addresses (s3fs, gcsfs) is not installed.
    """
    path = Path(source)
    if path.is_file():
        yield path
        return
    with temporary_folder() as folder:
        copy = folder / "rows"
        with _open(source) as stream, open(copy, "wb") as file:
            shutil.copyfileobj(stream, file)
        yield copy


class Input:
    """State of the input file when a run began, and a check that it has not changed since.

    Args:
      source: the name that the user gave, for messages.
      path: a local file with its bytes.

    Raises:
      BarkError: the file changes while its SHA-256 is computed.
    """

    def __init__(self, source: str, path: Path):
        self.source, self.path = source, path
        # The state first: a write while the file is hashed changes it, and `check` below finds that.
        self._state, self.sha256 = _state(path), sha256_of(path)
        self.n_bytes = self._state[0]
        self.check()

    def check(self) -> None:
        """Raises BarkError if the file has other bytes now. Costs one stat while size, times and inode are the same."""
        try:
            state = _state(self.path)
            is_same = state == self._state or sha256_of(self.path) == self.sha256
        except OSError as error:
            raise BarkError(
                f"{self._before()} and cannot be read now ({error.strerror}); re-run the command to resume"
            ) from error
        if not is_same:
            raise BarkError(f"{self._before()} and has changed to {state[0]:,}; re-run the command to resume")
        self._state = state

    def _before(self) -> str:
        return f"the rows {quoted(self.source, 200)} had {self.n_bytes:,} bytes when the run began"


def _state(path: Path) -> tuple[int, int, int, int]:
    """Returns size, modification and change time in ns, and inode: they differ after any write or replacement."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _open(source: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if source == STDIN:
        return contextlib.nullcontext(sys.stdin.buffer)
    if "://" in source:
        return _open_address(source)
    path = Path(source)
    if path.is_dir():
        raise InputError(f"the rows are {quoted(source, 200)}, which is a folder; give a file of rows")
    if not path.exists():
        raise InputError(f"the rows are {quoted(source, 200)}, which does not exist; give a file, an address or -")
    return open(path, "rb")  # a named pipe, or /dev/fd of a shell's process substitution


@contextlib.contextmanager
def _open_address(address: str) -> Iterator[Any]:
    try:
        import fsspec
    except ImportError as error:
        raise UnsupportedError(
            f"{quoted(address, 200)} is an address, which fsspec opens, and fsspec is not installed: pip install fsspec"
        ) from error
    try:
        with fsspec.open(address, "rb") as stream:
            yield stream
    except ImportError as error:
        raise UnsupportedError(f"{quoted(address, 200)} cannot be opened: {error}") from error
    except Exception as error:  # each kind of address raises types of its own
        kind = InputError if isinstance(error, FileNotFoundError) else BarkError
        raise kind(f"{quoted(address, 200)} cannot be read ({type(error).__name__}: {error})") from error
