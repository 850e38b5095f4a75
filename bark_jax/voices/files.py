"""Reads and writes arrays of numbers in .npy and .npz files. Files may be untrusted, damaged or hostile.

Nothing is unpickled, and never more than MAX_BYTES of one array are in memory, whatever a header or an archive claims:
a zip bomb costs no more than a voice.
"""

import io
import itertools
import math
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from bark_jax.errors import VoiceError, VoiceNotFoundError, quoted
from bark_jax.files import output_errors, write_atomically

# 8 codebooks of about a quarter of an hour as int64. The published voices, of up to 15 s, have less than 0.1 MB.
MAX_BYTES = 4 * 2**20

# Of the arrays name_0, name_1 ... of one file: a file of a few bytes could claim thousands of MAX_BYTES each.
MAX_NUMBERED = 32

# Kinds of numpy dtypes. With NUMBERS the caller checks that floats are whole numbers.
INTEGERS, NUMBERS, ANY_NUMBERS = "iu", "iuf", "biuf"

_NPY_START = b"\x93NUMPY"
# Path traversal, on any system: absolute paths and "..". Only an attack on programs that unpack the archive has them.
_LEADS_OUT = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(^|[/\\])\.\.([/\\]|$)")


def read_npy(path: str | os.PathLike, kinds: str = INTEGERS) -> np.ndarray:
    """Reads the array of a .npy file, of any shape.

    Args:
      path: the file.
      kinds: accepted kinds of dtypes, INTEGERS or NUMBERS.

    Raises:
      VoiceError: the file is damaged, has more than MAX_BYTES, is no .npy file, or its dtype is of another kind.
      VoiceNotFoundError: there is no such file, or it cannot be read.
    """
    return _parse_npy(_read_bytes(path), str(path), kinds)


def read_npz(
    path: str | os.PathLike, names: Collection[str], numbered: Collection[str] = (), kinds: str = NUMBERS
) -> dict[str, np.ndarray]:
    """Reads arrays of any shape from a .npz file, compressed or not. Other members are not read.

    Args:
      path: the file.
      names: names of the arrays to read, each of which must be there.
      numbered: names of which the file has `name_0`, `name_1` and so on; all of these are read too, up to the first
        that is missing and at most MAX_NUMBERED.
      kinds: accepted kinds of dtypes.

    Returns:
      The arrays by name.

    Raises:
      VoiceError: the file is damaged, has more than MAX_BYTES, is no .npz file, lacks an array, or has one twice or
        with a dtype of another kind.
      VoiceNotFoundError: there is no such file, or it cannot be read.
    """
    return parse_npz(_read_bytes(path), str(path), names, numbered, kinds)


def parse_npz(
    data: bytes, what: str, names: Collection[str], numbered: Collection[str] = (), kinds: str = NUMBERS
) -> dict[str, np.ndarray]:
    """Returns the arrays, of any shape, of a .npz file's bytes. Raises VoiceError as `read_npz` does, about `what`."""
    if len(data) > MAX_BYTES:
        raise VoiceError(f"{what} has more than {MAX_BYTES:,} bytes, the limit of a voice's file")
    if not data.startswith(b"PK"):
        raise VoiceError(f"{what} is no .npz archive: {_what_it_is(data)}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [*names, *(each for name in numbered for each in _numbered(archive, name))]
            members = _members(archive, names, what)
            return {name: _read_member(archive, members, name, what, kinds) for name in names}
    except VoiceError:
        raise
    except Exception as error:  # zipfile raises eight kinds for damaged, encrypted and exotic archives
        raise VoiceError(f"{what} is a damaged .npz archive ({error}); fetch or save it again") from error


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays of any shape, by name, to a .npz file, atomically. Raises OutputError if it cannot be written."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    with output_errors(path):
        write_atomically(path, stream.getvalue())


def write_npy(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes an array of any shape to a .npy file, atomically. Raises OutputError if it cannot be written."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    with output_errors(path):
        write_atomically(path, stream.getvalue())


def _read_bytes(path: str | os.PathLike) -> bytes:
    """Reads a file. Raises VoiceError if it has more than MAX_BYTES, VoiceNotFoundError if it is not readable."""
    try:
        if not Path(path).is_file():  # a pipe or a device might never end
            is_there = Path(path).exists()
            raise VoiceNotFoundError(f"{quoted(str(path))} {'is no regular file' if is_there else 'does not exist'}")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except VoiceNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the path
        raise VoiceNotFoundError(f"{quoted(str(path))} cannot be read: {quoted(str(error), 200)}") from error
    if len(data) > MAX_BYTES:
        raise VoiceError(f"{path} has more than {MAX_BYTES:,} bytes, the limit of such a file")
    return data


def _numbered(archive: zipfile.ZipFile, name: str) -> Iterator[str]:
    """Yields name_0, name_1 and so on, up to the first that the archive does not have, and at most MAX_NUMBERED."""
    has = set(archive.namelist())
    return itertools.takewhile(lambda each: f"{each}.npy" in has, (f"{name}_{n}" for n in range(MAX_NUMBERED)))


def _members(archive: zipfile.ZipFile, names: Collection[str], what: str) -> dict[str, zipfile.ZipInfo]:
    """Returns the archive's members that hold the arrays `names`, by name; other members are ignored.

    Raises:
      VoiceError: a member's path leads out of the archive, or an array is there twice.
    """
    members = {}
    for info in archive.infolist():
        member = info.orig_filename  # unlike info.filename, not truncated at a NUL
        if _LEADS_OUT.search(member):
            raise VoiceError(
                f"{what} holds {quoted(member)}, a path that leads out of its folder; do not trust the file"
            )
        name = member.removesuffix(".npy")
        if name == member or name not in names:
            continue
        if name in members:
            raise VoiceError(f"{what} holds {member!r} twice; do not trust the file")
        members[name] = info
    return members


def _read_member(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str, what: str, kinds: str
) -> np.ndarray:
    """Reads one array of an archive. Raises VoiceError if it is missing, damaged or larger than MAX_BYTES."""
    info = members.get(name)
    if info is None:
        has = ", ".join(sorted(member.removesuffix(".npy") for member in archive.namelist())) or "nothing"
        raise VoiceError(f"{what} has no {name!r}: it holds {quoted(has, 200)}")
    if info.file_size > MAX_BYTES:
        raise VoiceError(f"{what}: {name} claims {info.file_size:,} bytes, expected at most {MAX_BYTES:,}")
    with archive.open(info) as file:
        return _parse_npy(file.read(), f"{what}: {name}", kinds)  # zipfile stops at file_size and checks the CRC


def _parse_npy(data: bytes, what: str, kinds: str) -> np.ndarray:
    """Returns the array of a .npy file's bytes, read-only, of any shape. Raises VoiceError, beginning with `what`."""
    # Not numpy.load: it allocates what the header claims before it finds the data too short.
    if not data.startswith(_NPY_START):
        raise VoiceError(f"{what} is no .npy array: {_what_it_is(data)}")
    stream = io.BytesIO(data)
    try:
        shape, is_fortran, dtype = _read_header(stream)
    except Exception as error:  # numpy also raises tokenize and ast errors for a damaged header
        raise VoiceError(
            f"{what} has a damaged header, {quoted(_header_text(data), 200)}, expected a dict of descr, fortran_order "
            "and shape; fetch or save it again"
        ) from error
    if dtype.kind not in kinds:
        expected = "numbers" if kinds == ANY_NUMBERS else "integers"
        raise VoiceError(f"{what} holds {quoted(str(dtype))}, expected {expected}")
    # max(size, 1): a shape with an empty axis agrees with 0 bytes, however large it claims the other axes to be.
    is_possible = (
        all(type(size) is int and size >= 0 for size in shape)
        and math.prod(max(size, 1) for size in shape) <= MAX_BYTES
    )
    if not is_possible or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise VoiceError(
            f"{what} claims shape {quoted(shape)} of {dtype}, but {len(data) - stream.tell():,} bytes follow its "
            "header; fetch or save it again"
        )
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _header_text(data: bytes) -> str:
    """Returns the header of a .npy file, of any format version, as text for messages."""
    start = 10 if data[6:7] == b"\1" else 12
    size = int.from_bytes(data[8:start], "little")
    return data[start : start + size].decode("latin-1").strip()


def _read_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, whether the order is Fortran's, and dtype. Raises ValueError for another format version."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the format is for structured arrays")


def _what_it_is(data: bytes) -> str:
    """Guesses from its first bytes what a file of another type is; returns it with the remedy, for messages."""
    if not data:
        return "it is empty; fetch or save it again"
    if data.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; run `git lfs pull` to get the file itself"
    if data[:1] == b"\x80":
        return "it looks like a pickle, which may run code and is never opened; save the arrays with numpy.savez"
    return f"it begins with {data[:8]!r}; fetch or save it again"
