"""Reading the stream that torch.save wrote before torch 1.6: pickles one after another, then the values.

    a pickle of MAGIC_NUMBER, one of the protocol's version, one of the machine's sizes
    a pickle of everything but the tensors' values, as in the zip archive
    a pickle of the storages' keys
    of each storage, in this order: its number of elements in 8 bytes, and the values, all little-endian

Source: PyTorch, torch/serialization.py, `_legacy_save` and `_legacy_load`.
"""

from pathlib import Path
from typing import Any, BinaryIO

from bark_jax.checkpoints._arrays import (
    DOWNLOAD_AGAIN,
    MAX_PICKLE_BYTES,
    FileRegion,
    brief,
    refuse,
    size_of,
    version_of,
)
from bark_jax.checkpoints.pickle.unpickler import WeightsUnpickler

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
COUNT_BYTES = 8


def is_torch_stream(head: bytes) -> bool:
    """Whether a file with these first bytes is such a stream, in any protocol of pickle from 2 on."""
    return head[:1] == b"\x80" and MAGIC_NUMBER.to_bytes(10, "little") in head[:32]


class TorchStream:
    """A reader of an open stream. The offsets of its storages are known only once all of its pickles are read."""

    def __init__(self, file: BinaryIO, path: Path):
        self._file = file
        self._path = path
        self._regions: dict[str, FileRegion] = {}
        self._itemsizes: dict[str, int] = {}
        self._position = 0
        file.seek(0)
        self._pickles = file.read(min(MAX_PICKLE_BYTES, size_of(file)))  # `read` allocates all that it is asked for

    def load(self) -> Any:
        """Reads the saved object, with StoredArrays for tensors.

        Raises CheckpointError for a damaged or hostile file, or one of another protocol.
        """
        if self._unpickle() != MAGIC_NUMBER:
            refuse(self._path, f"is no stream of torch.save: it does not begin with its number. {DOWNLOAD_AGAIN}")
        if (version := self._unpickle()) != PROTOCOL_VERSION:
            refuse(
                self._path, f"is of protocol {brief(version)}, expected {PROTOCOL_VERSION}. Save it with a newer torch"
            )
        self._unpickle()  # sizes of C's types on the machine that saved it; the values do not depend on them
        value = self._unpickle()
        self._find_storages(self._unpickle())
        return value

    def _unpickle(self) -> Any:
        unpickler = WeightsUnpickler(self._pickles, self._path, self._storage, self._position)
        value = unpickler.load()
        self._position = unpickler.position
        return value

    def _storage(self, key: str, nbytes: int, itemsize: int) -> FileRegion:
        """Makes the region of a storage. Its start is 0 until `_find_storages` sets it."""
        self._itemsizes[key] = itemsize
        self._regions[key] = FileRegion(self._path, version_of(self._file), f"storage {brief(key)}", 0, nbytes)
        return self._regions[key]

    def _find_storages(self, keys: Any) -> None:
        """Sets the start of each storage's region.

        Raises CheckpointError unless the file has exactly the storages of the tensors, complete.
        """
        # Sorted lists, not sets: a key that comes twice would shift all values behind it.
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(self._regions):
            refuse(
                self._path,
                f"is damaged: it lists the storages {brief(keys)}, and its tensors need {brief(list(self._regions))}. "
                f"{DOWNLOAD_AGAIN}",
            )
        # Values follow in the order of `keys`, which torch sorts; the tensors name their storages in another order.
        position, end = self._position, size_of(self._file)
        for key in keys:
            region, itemsize = self._regions[key], self._itemsizes[key]
            self._file.seek(position)
            numel = int.from_bytes(self._file.read(COUNT_BYTES), "little")
            region.start = position + COUNT_BYTES
            position = region.start + region.nbytes
            if position > end:
                refuse(self._path, f"is cut short: it ends inside {region.label}. {DOWNLOAD_AGAIN}")
            if numel * itemsize != region.nbytes:
                refuse(
                    self._path,
                    f"is damaged: {region.label} has {numel} elements, its pickle claims {region.nbytes // itemsize}. "
                    f"{DOWNLOAD_AGAIN}",
                )
