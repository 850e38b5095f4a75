"""The name of a row: what it may be, and what follows from it: its seed, its shard."""

import hashlib
import re
import unicodedata
from typing import Any, NamedTuple, Self

from bark_jax.errors import InputError, quoted

# File systems take names of 255 bytes. The rest is for the ending and for the temporary name while a file is written.
MAX_ID_BYTES = 200
# Separators of paths, and what Windows takes for something else.
_UNSAFE = re.compile(r"""[/\\:*?"<>|\x00-\x1f\x7f-\x9f\ud800-\udfff]""")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_id(value: Any) -> str:
    """The id as text. Raises InputError where no file can be called so on every system."""
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
            f"id {quoted(value)} is no name for a file: no dot or space at either end, and none of con, nul ..."
        )
    return value


def comparable(row_id: str, *, is_case_sensitive: bool = True) -> str:
    """What two ids must differ in to be two files: some systems compose accents, some ignore the case."""
    normal = unicodedata.normalize("NFC", row_id)
    return normal if is_case_sensitive else normal.casefold()


def digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def derive_seed(row_id: str) -> int:
    """The seed, below 2**64, of a row that gives none: the first 8 bytes of the id's SHA-256, big end first."""
    return int.from_bytes(hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[:8])


class Shard(NamedTuple):
    """One of `count` parts of the rows. The id alone decides which, so other rows may come or go."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "I/N", 0 <= I < N."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not int(found[1]) < int(found[2]):
            raise InputError(f"--shard is {text!r}, expected I/N with I from 0 to N - 1, such as 0/8")
        return cls(int(found[1]), int(found[2]))

    def has(self, row_id: str) -> bool:
        """Whether a row belongs here: the last 8 bytes of its id's SHA-256, modulo the number of shards."""
        tail = hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[-8:]
        return int.from_bytes(tail) % self.count == self.index

    @property
    def folder(self) -> str:
        return f"shard-{self.index:05d}-of-{self.count:05d}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
