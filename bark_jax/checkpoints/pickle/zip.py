"""Reading the zip archive of a torch checkpoint: its records, and the offsets of their bytes in the file.

    <root>/data.pkl      a pickle of everything but the tensors' values
    <root>/data/<key>    one storage: the values of one tensor or of several that share them
    <root>/byteorder     "little" (since torch 2.1)

torch stores records uncompressed, so a storage can be memory-mapped in the file. Other records are not read. A record's
CRC-32 is checked when it is read, unless the file was written without checksums.

Source: PyTorch, caffe2/serialize/inline_container.cc and torch/serialization.py, `_save`; the zip format's APPNOTE.TXT.
"""

import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bark_jax.checkpoints._arrays import (
    DOWNLOAD_AGAIN,
    MAX_DIRECTORY_BYTES,
    MAX_PICKLE_BYTES,
    FileRegion,
    brief,
    refuse,
    size_of,
    version_of,
)

STORAGE_KEY = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)

END_RECORD = struct.Struct("<4s4H2LH")
END_RECORD_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
ENCRYPTED = 0x1 | 0x40
HAS_DESCRIPTOR = 0x8  # the CRC-32 is in a descriptor after the member's bytes, not in the header before them
DESCRIPTOR = b"PK\x07\x08"


class TorchZip:
    """The directory of an open torch checkpoint. Raises CheckpointError where it is damaged, or is not torch's."""

    def __init__(self, file: BinaryIO, path: Path):
        self.path = path
        self._file = file
        self._directory_start = _check_end_record(file, path)
        self._members = _members(file, path)
        self._ends = self._check_extents()
        self._root = self._find_root()
        if self._root + "byteorder" in self._members and self._content("byteorder", 16) != b"little":
            refuse(path, "holds big-endian numbers. Save it again on a little-endian machine")

    def pickle(self) -> bytes:
        """Reads data.pkl. Raises CheckpointError where it is missing, too large, or has another CRC-32."""
        return self._content("data.pkl", MAX_PICKLE_BYTES)

    def storage(self, key: str, nbytes: int, itemsize: int) -> FileRegion:
        """Finds the region of the storage that the pickle calls `key`.

        Raises CheckpointError where it is missing, or of another size than the `nbytes` that the pickle claims;
        `itemsize` is for the message.
        """
        if not STORAGE_KEY.fullmatch(key):
            refuse(self.path, f"asks for the storage {brief(key)}; torch numbers them. Do not use this file")
        region = self._region(f"data/{key}")
        if nbytes != region.nbytes:
            refuse(
                self.path,
                f"is damaged: {region.label} has {region.nbytes} bytes, "
                f"its pickle claims {nbytes // itemsize} elements of {itemsize}. {DOWNLOAD_AGAIN}",
            )
        return region

    def _content(self, name: str, max_bytes: int) -> bytes:
        region = self._region(name)
        if region.nbytes > max_bytes:
            refuse(self.path, f"claims {region.nbytes} bytes for {name}, more than the {max_bytes} of any Bark's")
        return region.read((region.nbytes,), np.dtype(np.uint8)).tobytes()

    def _region(self, name: str) -> FileRegion:
        member = self._members.get(self._root + name)
        if member is None:
            refuse(self.path, f"has no record {name}, which its pickle needs. {DOWNLOAD_AGAIN}")
        label = f"record {name}"
        # Nothing is ever inflated, so there is no zip bomb to guard against.
        if member.compress_type != zipfile.ZIP_STORED:
            refuse(self.path, f"has a compressed {label}; torch stores them as they are. Save it again with torch.save")
        start = self._data_start(member)
        if member.file_size != member.compress_size or start + member.file_size > self._ends[member.filename]:
            refuse(self.path, f"is damaged: its {label} reaches beyond its place in the file. {DOWNLOAD_AGAIN}")
        crc32 = member.CRC or self._own_crc(member, start)
        return FileRegion(self.path, version_of(self._file), label, start, member.file_size, crc32)

    def _own_crc(self, member: zipfile.ZipInfo, start: int) -> int | None:
        """Reads the CRC-32 beside the bytes of a member that has 0 in the directory; None where that is 0 too.

        torch writes 0 into both where it makes no checksum (`torch.serialization.set_crc32_options(False)`,
        `skip_data`). Where only the directory has 0, the directory is damaged, and the other CRC-32 still holds.
        """
        header = self._local_header(member)
        if not member.flag_bits & HAS_DESCRIPTOR:
            return header[6] or None
        self._file.seek(start + member.file_size)
        descriptor = self._file.read(8).removeprefix(DESCRIPTOR)  # its signature may be left out
        return int.from_bytes(descriptor[:4], "little") or None

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        """The offset of the member's bytes, after its local header, whose length the directory does not have.

        Raises CheckpointError where the local header has another name than the directory.
        """
        *_, name_bytes, extra_bytes = self._local_header(member)
        name = self._file.read(name_bytes)
        # Readers differ in which of the two names they take: where these disagree, one archive means two things. Bit 11
        # (0x800) says that a name is UTF-8.
        if name != member.orig_filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437"):
            refuse(
                self.path,
                f"is damaged: {brief(member.filename)} is called {brief(name)} in its own header. {DOWNLOAD_AGAIN}",
            )
        return member.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes

    def _local_header(self, member: zipfile.ZipInfo) -> tuple:
        """Reads the fields of a member's local header; leaves the file's position at the name that follows them."""
        self._file.seek(member.header_offset)
        header = self._file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or not header.startswith(zipfile.stringFileHeader):
            refuse(self.path, f"is damaged: no record begins where {brief(member.filename)} should. {DOWNLOAD_AGAIN}")
        return LOCAL_HEADER.unpack(header)

    def _check_extents(self) -> dict[str, int]:
        """Maps each member to the offset it must end at, the start of the next. Raises CheckpointError for overlaps."""
        ends = {}
        end = self._directory_start
        for member in sorted(self._members.values(), key=lambda member: member.header_offset, reverse=True):
            # Without the extra field, by which torch aligns a record's bytes to 64: its length is in the local header
            # alone. `_region` checks the end again once it has read that.
            header_bytes = LOCAL_HEADER.size + len(member.orig_filename)
            if member.header_offset < 0 or member.header_offset + header_bytes + member.compress_size > end:
                refuse(
                    self.path, f"is damaged: its member {brief(member.filename)} overlaps the next. {DOWNLOAD_AGAIN}"
                )
            ends[member.filename] = end
            end = member.header_offset
        return ends

    def _find_root(self) -> str:
        roots = {name.partition("/")[0] + "/" for name in self._members}
        pickles = [name for name in self._members if name.rpartition("/")[2] == "data.pkl"]
        if not pickles:
            refuse(self.path, "is a zip archive, but none that torch.save wrote: it has no data.pkl")
        if len(roots) > 1 or pickles != [f"{min(roots)}data.pkl"]:
            refuse(
                self.path,
                f"holds more than one checkpoint, or members beside it: {brief(sorted(roots))}, {brief(pickles)}",
            )
        return min(roots)


def _check_end_record(file: BinaryIO, path: Path) -> int:
    """Checks the end record, and returns the offset of the archive's directory.

    Done before `zipfile` opens the file: that searches for an end record, and reads a directory of any size at once.
    """
    end_start = size_of(file) - END_RECORD.size
    end = _tail(file, end_start)
    # The last two bytes are the length of the archive's comment. In a comment a second end record could be hidden, so
    # that two readers see two archives; torch writes none.
    if not end.startswith(zipfile.stringEndArchive) or not end.endswith(b"\0\0"):
        refuse(path, f"lacks the end of a zip archive: it was cut at {size_of(file)} bytes. {DOWNLOAD_AGAIN}")
    *_, nbytes, start, _ = END_RECORD.unpack(end)
    directory_end = end_start
    locator_start = end_start - LOCATOR_64.size
    if (locator := _tail(file, locator_start)).startswith(zipfile.stringEndArchive64Locator):
        directory_end = locator_start - END_RECORD_64.size
        end_64 = _tail(file, directory_end)[: END_RECORD_64.size]
        claimed_end = LOCATOR_64.unpack(locator[: LOCATOR_64.size])[2]
        # zipfile ignores a damaged zip64 record and reads the 32-bit one instead.
        if claimed_end != directory_end or not end_64.startswith(zipfile.stringEndArchive64):
            refuse(path, f"is damaged: the end of its zip archive does not hold together. {DOWNLOAD_AGAIN}")
        *_, nbytes, start = END_RECORD_64.unpack(end_64)
    if start + nbytes != directory_end:
        refuse(path, f"is damaged: its directory is not where the zip archive says. {DOWNLOAD_AGAIN}")
    if nbytes > MAX_DIRECTORY_BYTES:
        refuse(path, f"has a zip directory of {nbytes} bytes, more than the {MAX_DIRECTORY_BYTES} of any Bark's")
    return start


def _tail(file: BinaryIO, start: int) -> bytes:
    """Reads the file from `start` on; empty where `start` is negative."""
    if start < 0:
        return b""
    file.seek(start)
    return file.read()


def _members(file: BinaryIO, path: Path) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        refuse(path, f"is a damaged zip archive: {error}. {DOWNLOAD_AGAIN}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        _check_member(info, path)
        if info.filename in members:
            refuse(path, f"has the zip member {brief(info.filename)} twice. Do not use this file")
        members[info.filename] = info
    return members


def _check_member(info: zipfile.ZipInfo, path: Path) -> None:
    # Not `filename`, which zipfile cuts at a NUL byte: the check would see another name than other programs do.
    name = info.orig_filename
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or (":" in parts[0]):
        refuse(path, f"has the zip member {brief(name)}, which points out of the archive. Do not use this file")
    # The upper 16 bits are the mode that Unix's stat has for the file.
    if stat.S_ISLNK(info.external_attr >> 16):
        refuse(path, f"has the zip member {brief(name)}, which is a symbolic link. Do not use this file")
    if info.flag_bits & ENCRYPTED:
        refuse(path, f"has the zip member {brief(name)}, which is encrypted. Save it again with torch.save")
