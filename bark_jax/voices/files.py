"""Arrays of whole numbers in .npy and .npz files that may be damaged or hostile.

Nothing is unpickled, and no more than MAX_BYTES of one array are ever held, whatever a header or an archive claims.
"""

import io
import math
import os
import re
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from bark_jax.errors import VoiceError, VoiceNotFoundError, quoted
from bark_jax.files import output_errors, write_atomically

# All codes of a quarter of an hour as int64. The published voices have under 0.1 MB for up to 15 s.
MAX_BYTES = 4 * 2**20

# Kinds of numpy's dtypes. Whether floats are whole numbers is for the caller to see.
INTEGERS, NUMBERS = "iu", "iuf"

_NPY_START = b"\x93NUMPY"
# Absolute paths and ".." on any system: nobody's notes, but an attack on whoever unpacks the archive.
_LEADS_OUT = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(^|[/\\])\.\.([/\\]|$)")


def read_npy(path: str | os.PathLike, kinds: str = INTEGERS) -> np.ndarray:
    """The array in a .npy file, of one of `kinds`. Raises VoiceError or VoiceNotFoundError with the path."""
    return _parse_npy(_read_bytes(path), str(path), kinds)


def read_npz(path: str | os.PathLike, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays `names` of a .npz file, stored or deflated, of NUMBERS. Its other members are not read.

    Raises:
      VoiceError: the file is damaged, is something else, or holds what a voice does not.
      VoiceNotFoundError: there is no such file.
    """
    data = _read_bytes(path)
    if not data.startswith(b"PK"):
        raise VoiceError(f"{path} is no .npz archive: {_what_it_is(data)}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive, names, path)
            return {name: _read_member(archive, members, name, path) for name in names}
    except VoiceError:
        raise
    except Exception as error:  # zipfile raises eight kinds for damaged, encrypted and exotic archives
        raise VoiceError(f"{path} is a damaged .npz archive ({error}); fetch or save it again") from error


def write_npz(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .npz file, whole or not at all."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    with output_errors(path):
        write_atomically(path, stream.getvalue())


def write_npy(path: str | os.PathLike, array: np.ndarray) -> None:
    """Writes a .npy file, whole or not at all."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    with output_errors(path):
        write_atomically(path, stream.getvalue())


def _read_bytes(path: str | os.PathLike) -> bytes:
    try:
        if not Path(path).is_file():  # nor a pipe or a device, which might never end
            is_there = Path(path).exists()
            raise VoiceNotFoundError(f"{quoted(str(path))} {'is no regular file' if is_there else 'does not exist'}")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except VoiceNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the name
        raise VoiceNotFoundError(f"{quoted(str(path))} cannot be read: {quoted(str(error), 200)}") from error
    if len(data) > MAX_BYTES:
        raise VoiceError(f"{path} has more than the {MAX_BYTES:,} bytes that any voice takes")
    return data


def _members(archive: zipfile.ZipFile, names: Collection[str], path: str | os.PathLike) -> dict[str, zipfile.ZipInfo]:
    """The members that hold `names`, by name. Others may be called and hold what they like, short of an attack."""
    members = {}
    for info in archive.infolist():
        member = info.orig_filename  # zipfile cuts its own name short at a NUL
        if _LEADS_OUT.search(member):
            raise VoiceError(f"{path} holds {quoted(member)}, which leads out of its folder; do not trust the file")
        name = member.removesuffix(".npy")
        if name == member or name not in names:
            continue
        if name in members:
            raise VoiceError(f"{path} holds {member!r} twice; do not trust the file")
        members[name] = info
    return members


def _read_member(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str, path: str | os.PathLike
) -> np.ndarray:
    info = members.get(name)
    if info is None:
        has = ", ".join(sorted(member.removesuffix(".npy") for member in archive.namelist())) or "nothing"
        raise VoiceError(f"{path} has no {name!r}: it holds {quoted(has, 200)}")
    if info.file_size > MAX_BYTES:
        raise VoiceError(f"{path}: {name} claims {info.file_size:,} bytes, more than the {MAX_BYTES:,} of any voice")
    with archive.open(info) as file:
        return _parse_npy(file.read(), f"{path}: {name}", NUMBERS)  # zipfile stops at file_size and checks the CRC


def _parse_npy(data: bytes, what: str, kinds: str) -> np.ndarray:
    if not data.startswith(_NPY_START):
        raise VoiceError(f"{what} is no .npy array: {_what_it_is(data)}")
    stream = io.BytesIO(data)
    try:
        shape, is_fortran, dtype = _read_header(stream)
    except Exception as error:  # numpy's header parser lets tokenizer and parser errors through
        raise VoiceError(
            f"{what} has a damaged header, {quoted(_header_text(data), 200)}, expected a dict of descr, fortran_order "
            "and shape; fetch or save it again"
        ) from error
    if dtype.kind not in kinds:
        raise VoiceError(f"{what} holds {quoted(str(dtype))}, expected integers")
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
    """The header of a .npy file of any version as it stands there."""
    start = 10 if data[6:7] == b"\1" else 12
    size = int.from_bytes(data[8:start], "little")
    return data[start : start + size].decode("latin-1").strip()


def _read_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the format is for structured arrays")


def _what_it_is(data: bytes) -> str:
    """What a file that is not what it should be is instead, and what to do."""
    if not data:
        return "it is empty; fetch or save it again"
    if data.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; run `git lfs pull` to get the file itself"
    if data[:1] == b"\x80":
        return "it looks like a pickle, which may run code and is never opened; save the arrays with numpy.savez"
    return f"it begins with {data[:8]!r}; fetch or save it again"
