"""Lazy arrays that are still in their file, and checks that the readers of weight files share.

A weight file is not trusted. Whatever it claims is checked against its real size before memory is allocated, and an
error names the file, what is wrong and what to do about it.
"""

import contextlib
import dataclasses
import json
import math
import mmap
import os
import reprlib
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import jax
import numpy as np
from jax.sharding import Sharding

from bark_jax.config import without_duplicates
from bark_jax.errors import BarkError, CheckpointError, ModelNotFoundError

# The directory of a weight file (names, shapes, offsets). A Bark's has 0.1 MB; parsed, it takes up to 20 times that.
MAX_DIRECTORY_BYTES = 4 * 2**20
# The pickle of a torch checkpoint, without the values. A Bark's has 0.3 MB with its optimizer state.
MAX_PICKLE_BYTES = 16 * 2**20
MAX_DIMENSIONS = 32  # numpy 1's limit; numpy 2 allows 64
MAX_ELEMENTS = 2**40  # 4 TiB of float32; times an item size it stays far below the 2**63 at which numpy overflows
CRC_CHUNK_BYTES = 2**20
DOWNLOAD_AGAIN = "Download or make it again."

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
TORCH_STREAM = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
# First bytes (magic numbers) of other kinds of files, to name the kind in an error.
# The first that matches names the kind: torch's stream begins as any pickle of protocol 2 does, so it is listed before
# b"\x80".
BEGINNINGS = {
    TORCH_STREAM: "a checkpoint that torch before 1.6 wrote",
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"PK\x05\x06": "an empty zip archive",
    b"\x80": "a bare pickle, which can run code when it is opened",
    b"<": "a web page",
    b"\x1f\x8b": "compressed by gzip",
    b"\x93NUMPY": "an array of numpy.save",
    b"\x89HDF": "an HDF5 file",
    b"ggml": "a ggml file",
    b"lmgg": "a ggml file",
    b"GGUF": "a GGUF file",
    b"{": "JSON text",
}


@dataclasses.dataclass(frozen=True, eq=False)
class StoredArray:
    """An array whose values are still in its file; only shape and dtype are known.

    dtype is numpy's, or `ml_dtypes.bfloat16`. `load` returns the values as a new array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray] = dataclasses.field(repr=False)

    @classmethod
    def of(cls, array: np.ndarray) -> "StoredArray":
        """Wraps an array [...] that is in memory already; `read` returns copies of it."""
        return cls(array.shape, array.dtype, array.copy)

    @property
    def nbytes(self) -> int:
        """Size of the array in memory, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Reads the values: an array of `shape` and `dtype`, C-contiguous and writable.

        Raises CheckpointError where the file is damaged or was changed since it was opened.
        """
        return self.load()


@dataclasses.dataclass(eq=False)
class FileRegion:
    """A part of a file: `nbytes` bytes from offset `start`, called `label` in messages.

    The first read checks the region's CRC-32, where the file has one.
    """

    path: Path
    version: tuple[int, ...]  # of the file when its directory was read, see `version_of`
    label: str
    start: int
    nbytes: int
    crc32: int | None = None

    def read(
        self, shape: tuple[int, ...], dtype: np.dtype, offset: int = 0, strides: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """Copies an array of this shape and dtype out of the region; it is C-contiguous.

        `offset` and `strides` are in bytes, strides None for a contiguous array. Callers have checked that they stay
        inside the region.

        Raises:
          ModelNotFoundError: the file is gone.
          CheckpointError: the file was changed since its directory was read, is cut short, or has another CRC-32.
        """
        with open_file(self.path) as file:
            # The offsets come from an earlier opening: in a file that was replaced since, they point to other values.
            if version_of(file) != self.version:
                refuse(self.path, "was changed while it was being read. Read it again")
            self._check_crc(file)
            array = np.empty(shape, dtype)
            if array.size and strides in (None, array.strides):
                self._read_into(array, file, offset)
            elif array.size:
                self._copy_view(array, file, offset, strides)
        return _with_clean_bools(array)

    def _read_into(self, array: np.ndarray, file: BinaryIO, offset: int) -> None:
        file.seek(self.start + offset)
        # A short count is the end of the file: Linux reads at most 2 GiB a call, and the buffered file repeats until
        # the array is full.
        if file.readinto(array.reshape(-1).view(np.uint8)) < array.nbytes:
            refuse(self.path, f"ends inside {self.label}. {DOWNLOAD_AGAIN}")

    def _copy_view(self, array: np.ndarray, file: BinaryIO, offset: int, strides: tuple[int, ...]) -> None:
        # A mapping starts at a multiple of the page size; a storage may start at any byte.
        before = self.start % mmap.ALLOCATIONGRANULARITY
        start = self.start - before
        try:
            # Mapped, not read, as a strided view may use little of a large region. The mapping is closed when the
            # last array over it is freed.
            mapped = mmap.mmap(file.fileno(), before + self.nbytes, access=mmap.ACCESS_READ, offset=start)
        except ValueError as error:
            raise CheckpointError(f"{self.path} ends inside {self.label}. {DOWNLOAD_AGAIN}") from error
        array[...] = np.ndarray(array.shape, array.dtype, mapped, before + offset, strides)

    def _check_crc(self, file: BinaryIO) -> None:
        if self.crc32 is None:
            return
        file.seek(self.start)
        crc32, left = 0, self.nbytes
        while left:
            chunk = file.read(min(left, CRC_CHUNK_BYTES))
            if not chunk:
                refuse(self.path, f"ends inside {self.label}. {DOWNLOAD_AGAIN}")
            crc32, left = zlib.crc32(chunk, crc32), left - len(chunk)
        if crc32 != self.crc32:
            refuse(
                self.path,
                f"is damaged: {self.label} has CRC-32 {crc32:08x}, expected {self.crc32:08x}. {DOWNLOAD_AGAIN}",
            )
        self.crc32 = None  # checked once; each tensor of a shared storage reads the region again


def _with_clean_bools(array: np.ndarray) -> np.ndarray:
    """Turns every non-zero byte of a bool array into 1, in place: numpy miscounts with any other byte."""
    if array.dtype == np.bool_:
        np.not_equal(array.view(np.uint8), 0, out=array)
    return array


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 120
_brief.maxlevel = 2
_brief.maxtuple = _brief.maxlist = MAX_DIMENSIONS


def brief(value: Any) -> str:
    """The `repr` of an untrusted value for a message, cut short however long, deep or often repeated its parts are."""
    return _brief.repr(value)


def refuse(path: str | os.PathLike, why: str) -> NoReturn:
    """Raises CheckpointError; the message is the file's path, then `why` it cannot be used."""
    raise CheckpointError(f"{path} {why}")


@contextlib.contextmanager
def open_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a regular file for reading.

    Raises:
      ModelNotFoundError: there is no such file.
      CheckpointError: it cannot be opened, or a read in the block fails with OSError.
    """
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
        # Opening a named pipe would block until another process writes to it.
        file = open(path, "rb") if is_file else None  # noqa: SIM115, closed below
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CheckpointError(f"{path} cannot be opened: {error}") from error
    if file is None:
        refuse(path, "is a folder or a device, expected a weight file")
    with file:
        try:
            yield file
        # Not wrapped again: ModelNotFoundError is an OSError too, and its message is complete.
        except BarkError:
            raise
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


def version_of(file: BinaryIO) -> tuple[int, ...]:
    """Fingerprint of an open file (device, inode, size, modification time); changes if it is replaced or written to."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def size_of(file: BinaryIO) -> int:
    """Size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def refuse_pointers(path: str | os.PathLike, head: bytes) -> None:
    """Raises CheckpointError for an empty file, or a git-lfs pointer: a text file that stands in for the real one.

    `head` is the file's first bytes; a clone without git-lfs leaves pointers.
    """
    if not head:
        refuse(path, f"is empty. {DOWNLOAD_AGAIN}")
    if head.startswith(LFS_POINTER):
        refuse(path, "is a git-lfs pointer, not the file: run `git lfs pull` in its folder")


def looks_like(head: bytes) -> str:
    """Describes the kind of a file by its first 512 bytes, for a message: "a web page", "a GGUF file"."""
    # tar's magic number follows name, mode, owner, size, time, checksum, type and link, 257 bytes. torch 0.1 wrote tar.
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[8:9] == b"{":
        return "a safetensors file"
    names = (name for beginning, name in BEGINNINGS.items() if head.lstrip(b"\xef\xbb\xbf \r\n").startswith(beginning))
    return next(names, "a file of unknown kind")


def are_counts(values: Sequence[Any]) -> bool:
    """Whether all values are integers (no bool) in [0, 2**63): sizes, offsets or strides of a file."""
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def shape_fault(values: Sequence[Any]) -> str | None:
    """Describes why numpy cannot make an array of this shape, for a message; None if it can.

    A size of 0 counts as 1 here: the shape [0, 2**62, 2**62] has no elements and still overflows numpy.
    """
    if not are_counts(values):
        return "a size that is no whole number, 0 or more"
    if len(values) > MAX_DIMENSIONS:
        return f"{len(values)} sizes, more than {MAX_DIMENSIONS}"
    if math.prod(max(size, 1) for size in values) > MAX_ELEMENTS:
        return f"more than {MAX_ELEMENTS:,} elements"
    return None


def first_misshapen(shapes: Iterable[Sequence[Any]]) -> tuple[int, str] | None:
    """The index of the first shape that numpy cannot make, and its `shape_fault`; None where there is none."""
    return next(((index, fault) for index, shape in enumerate(shapes) if (fault := shape_fault(shape))), None)


def read_to_device(
    arrays: Iterable[tuple[StoredArray, np.dtype, jax.Device | Sharding | None]],
) -> Iterator[jax.Array]:
    """Reads arrays one by one and yields each, of its stored shape, in the dtype and on the device given with it.

    Only one array at a time is in host memory. A device gets its share alone of an array that is divided.
    """
    for stored, dtype, device in arrays:
        yield to_device(stored.read().astype(dtype, copy=False), device)


def to_device(array: np.ndarray, device: jax.Device | Sharding | None = None) -> jax.Array:
    """Copies an array [...] to the device, or to JAX's default one for None; same shape and dtype. Waits for the copy.

    Without the wait, host copies of arrays under way would pile up in memory. `jnp.asarray` would compile a program for
    each shape, which takes longer than reading a small network.
    """
    return jax.device_put(array, device).block_until_ready()


def parse_json(path: str | os.PathLike, text: bytes, part: str) -> dict[str, Any]:
    """Parses a JSON object in a weight file; `part` names it in messages.

    Raises CheckpointError for anything else, and for a duplicate key.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its {part} is not JSON that can be read: {error}. {DOWNLOAD_AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: its {part} is a JSON {type(value).__name__}, expected an object")
    return value
