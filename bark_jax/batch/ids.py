"""Ids of rows: checks that they can be file names, and what is derived from them: default seed and shard."""

import hashlib
import re
import unicodedata
from typing import Any, NamedTuple, Self

from bark_jax.errors import InputError, quoted

# File systems allow names of 255 bytes; 55 are left for the ending and for what a temporary file's name adds.
MAX_ID_BYTES = 200  # the longest name is .ID.flac.1a2b3c4d.partial, 223 bytes
# Path separators, characters that Windows forbids, control characters, and surrogates, which UTF-8 cannot encode.
_UNSAFE = re.compile(r"""[/\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff]""")
# Windows' device names, with any ending: con.wav is the console there.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_id(value: Any) -> str:
    """Returns the id as text; an int is taken too. Raises InputError if it cannot be a file name on every system."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise InputError(f"id is {quoted(value)}, expected a name or a whole number")
    if found := _UNSAFE.search(value):
        raise InputError(f"id {quoted(value)} has the character {found[0]!r}, which no file's name may have")
    if len(value.encode()) > MAX_ID_BYTES:
        raise InputError(f"id {quoted(value)} has {len(value.encode())} bytes, expected at most {MAX_ID_BYTES}")
    if value[0] == "." or value[-1] == "." or value != value.strip() or _DEVICES.fullmatch(value):
        raise InputError(
            f"id {quoted(value)} cannot be a file name, expected no dot or space at either end, and none of Windows' "
            "device names, such as con or nul"
        )
    return value


def comparable(row_id: str, *, is_case_sensitive: bool = True) -> str:
    """Returns the key by which a file system compares ids: equal keys are the same file.

    macOS normalises Unicode, so "é" as one character and as "e" with an accent are one file. macOS and Windows ignore
    the case.
    """
    normal = unicodedata.normalize("NFC", row_id)
    return normal if is_case_sensitive else normal.casefold()


def digest(text: str) -> bytes:
    """Returns 16 bytes that identify a text, BLAKE2b: equal by chance for two of 10**9 texts with odds of 1e-21."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def derive_seed(row_id: str) -> int:
    """Returns the default seed of a row, below 2**64: the first 8 bytes of its id's SHA-256, big-endian."""
    return int.from_bytes(hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[:8])


class Shard(NamedTuple):
    """Shard `index` of `count`, a share of the rows. A row's id alone decides its shard, so other rows may change."""

    index: int  # 0 to count - 1
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses "I/N", 0 <= I < N. Raises InputError for any other text."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not int(found[1]) < int(found[2]):
            raise InputError(f"--shard is {text!r}, expected I/N with I from 0 to N - 1, such as 0/8")
        return cls(int(found[1]), int(found[2]))

    def has(self, row_id: str) -> bool:
        """Whether a row belongs to this shard: the last 8 bytes of its id's SHA-256, modulo `count`, are `index`.

        The default seed is made of the first bytes, so seed and shard are independent.
        """
        tail = hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[-8:]
        return int.from_bytes(tail) % self.count == self.index

    @property
    def folder(self) -> str:
        """Name of the shard's folder in OUT."""
        return f"shard-{self.index:05d}-of-{self.count:05d}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
