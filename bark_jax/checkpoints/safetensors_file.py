"""Safetensors files, read and written array by array, and shards of any kind with their `*.index.json`.

    8 bytes            N, the length of the header, little-endian
    N bytes            JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {}}
    the rest           the arrays' bytes, one after another without gaps

The format has no checksum: a flipped bit among the values goes unnoticed here. Compare the file's SHA-256 with that of
the Hub or of a model folder's manifest.

Source: huggingface/safetensors, README.md ("Format") and safetensors/src/tensor.rs, `Metadata::validate`.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from bark_jax.checkpoints._arrays import (
    DOWNLOAD_AGAIN,
    MAX_DIRECTORY_BYTES,
    FileRegion,
    StoredArray,
    brief,
    first_misshapen,
    looks_like,
    open_file,
    parse_json,
    refuse,
    refuse_pointers,
    size_of,
    version_of,
)
from bark_jax.errors import CheckpointError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
# The format has more, such as float8 and complex numbers, which no Bark has: `_array` refuses them by name.
CODES = {dtype: code for code, dtype in DTYPES.items()}
ALIGNMENT = 64  # bytes; the data section of a file that is written here starts at a multiple, for readers that map it


def read_safetensors(path: str | os.PathLike) -> dict[str, StoredArray]:
    """Opens a safetensors file: its arrays by name, of any shape and of a dtype in DTYPES, none of them read yet.

    Raises:
      ModelNotFoundError: there is no such file.
      CheckpointError: it is damaged. Damage to the values goes unnoticed, as the format has no checksum.
    """
    return read_with_metadata(path)[0]


def read_with_metadata(path: str | os.PathLike) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Opens a safetensors file. Returns its arrays, of any shape, as `read_safetensors` does, and its `__metadata__`.

    Raises ModelNotFoundError or CheckpointError as `read_safetensors` does.
    """
    path = Path(path)
    with open_file(path) as file:
        entries, metadata, data_start = _read_header(file, path)
        version = version_of(file)
        _check_shapes(path, entries)
        arrays = {name: _array(version, path, name, entry, data_start) for name, entry in entries.items()}
        _check_extent(path, size_of(file) - data_start, entries)
        _check_by_library(path)
    return arrays, metadata


def _read_header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """Parses the header. Returns its entries, its metadata, and the offset in the file of the arrays' bytes."""
    size = size_of(file)
    head = file.read(512)
    refuse_pointers(path, head)
    header_bytes = int.from_bytes(head[:8], "little")
    # Checked before the length: the format demands "{" here, so another kind of file is called by its kind and not a
    # header of 10**18 bytes.
    if head[8:9] != b"{":
        refuse(path, f"is no safetensors file, as no header begins at byte 8, but {looks_like(head)}. {DOWNLOAD_AGAIN}")
    if header_bytes > MAX_DIRECTORY_BYTES:
        refuse(path, f"claims a header of {header_bytes} bytes, more than the {MAX_DIRECTORY_BYTES} of any Bark's")
    if 8 + header_bytes > size:
        refuse(path, f"is cut short: its header has {header_bytes} bytes, the whole file {size}. {DOWNLOAD_AGAIN}")
    file.seek(8)
    entries = parse_json(path, file.read(header_bytes), "header")
    metadata = entries.pop("__metadata__", None)
    if metadata is not None and not (isinstance(metadata, dict) and all(type(v) is str for v in metadata.values())):
        refuse(path, f"has a header whose __metadata__ is not of strings alone. {DOWNLOAD_AGAIN}")
    return entries, metadata or {}, 8 + header_bytes


def _check_shapes(path: Path, entries: Mapping[str, Any]) -> None:
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            refuse(
                path,
                f"has a header that describes {brief(name)} as {brief(entry)}; expected dtype, shape and data_offsets",
            )
        if not isinstance(entry["shape"], list):
            shape = brief(entry["shape"])
            refuse(path, f"holds {brief(name)} in shape {shape}, expected a list of sizes. {DOWNLOAD_AGAIN}")
    if found := first_misshapen([entry["shape"] for entry in entries.values()]):
        name, entry = list(entries.items())[found[0]]
        refuse(path, f"holds {brief(name)} in shape {brief(entry['shape'])}, which has {found[1]}. {DOWNLOAD_AGAIN}")


def _array(version: tuple[int, ...], path: Path, name: str, entry: dict[str, Any], data_start: int) -> StoredArray:
    """Makes the array of a header's entry whose shape `_check_shapes` has checked."""
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        refuse(path, f"holds {brief(name)} in dtype {brief(entry['dtype'])}, expected one of {', '.join(DTYPES)}")
    dtype = DTYPES[entry["dtype"]]
    are_two = isinstance(offsets, list) and [type(offset) for offset in offsets] == [int, int]
    if not are_two or not 0 <= offsets[0] <= offsets[1] < 2**63:
        refuse(path, f"holds {brief(name)} at offsets {brief(offsets)}, expected its begin and end. {DOWNLOAD_AGAIN}")
    nbytes = offsets[1] - offsets[0]
    if math.prod(shape) * dtype.itemsize != nbytes:
        refuse(
            path,
            f"holds {brief(name)} in {nbytes} bytes, which shape {shape} of {dtype} does not fit. {DOWNLOAD_AGAIN}",
        )
    region = FileRegion(path, version, f"array {name[:80]!r}", data_start + offsets[0], nbytes)
    return StoredArray(tuple(shape), dtype, functools.partial(region.read, tuple(shape), dtype))


def _check_extent(path: Path, data_bytes: int, entries: Mapping[str, Any]) -> None:
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if end > data_bytes:
        refuse(path, f"is cut short: its arrays take {end} bytes, it has {data_bytes} of them. {DOWNLOAD_AGAIN}")
    if end < data_bytes:
        refuse(path, f"has {data_bytes - end} bytes behind its last array that belong to none. {DOWNLOAD_AGAIN}")


def _check_by_library(path: Path) -> None:
    """Checks what is left with the safetensors library: arrays have no gaps between them and do not overlap.

    After our checks, as the library's messages name neither the array nor a remedy.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no sound safetensors file: {error}. {DOWNLOAD_AGAIN}") from error


def read_sharded(
    index_path: str | os.PathLike, read_one: Callable[[Path], Mapping[str, StoredArray]]
) -> dict[str, StoredArray]:
    """Opens all shards that an index lists; `read_one` opens a shard. Returns their arrays by name, of any shape.

    Works for `model.safetensors.index.json` (read_safetensors) and `pytorch_model.bin.index.json` (read_torch). Shards
    are in the index's folder.

    Raises:
      ModelNotFoundError: the index or a shard is missing.
      CheckpointError: one is damaged, or a shard does not hold exactly the arrays that the index lists for it.

    Source: transformers, modeling_utils.py, `load_sharded_checkpoint`.
    """
    index_path = Path(index_path)
    with open_file(index_path) as file:
        if size_of(file) > MAX_DIRECTORY_BYTES:
            refuse(index_path, f"has {size_of(file)} bytes, more than the {MAX_DIRECTORY_BYTES} of any Bark's")
        text = file.read()
    refuse_pointers(index_path, text)
    weight_map = parse_json(index_path, text, "content").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        refuse(index_path, "has no weight_map that says which shard holds which array")
    names_by_shard: dict[str, set[str]] = {}
    for name, shard in weight_map.items():
        _check_shard_name(index_path, shard)
        names_by_shard.setdefault(shard, set()).add(name)
    arrays: dict[str, StoredArray] = {}
    for shard, names in sorted(names_by_shard.items()):
        held = read_one(index_path.parent / shard)
        _check_shard(index_path, shard, held, names)
        arrays |= held
    return arrays


def _check_shard_name(index_path: Path, shard: Any) -> None:
    # By its name, not its resolved path: in the Hub's cache every file is a link into a folder of blobs.
    if not isinstance(shard, str) or shard in ("", ".", "..") or any(mark in shard for mark in "/\\:\0"):
        refuse(index_path, f"names the shard {brief(shard)}, expected a file beside it. Do not use this file")


def _check_shard(index_path: Path, shard: str, held: Any, listed: set[str]) -> None:
    if not isinstance(held, Mapping) or not all(isinstance(array, StoredArray) for array in held.values()):
        refuse(index_path.parent / shard, "holds something else than arrays by name")
    if missing := listed - set(held):
        refuse(
            index_path, f"lists {brief(min(missing))} in {shard}, which does not hold it ({len(missing)} such arrays)"
        )
    if loose := set(held) - listed:
        name = min(loose, key=str)
        refuse(index_path, f"does not list {brief(name)}, which {shard} holds ({len(loose)} such arrays)")


def safetensors_chunks(
    shapes: Mapping[str, Any], arrays: Iterable[tuple[str, np.ndarray]], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yields the bytes of a safetensors file: the header, then array by array, so that only one is in memory.

    The library's own writer holds all arrays in memory, twice, and writes metadata in no fixed order.

    Args:
      shapes: anything with the attributes `shape` and `dtype`, by the name of each array.
      arrays: names and arrays, in the order of `shapes` and of its shapes and dtypes.
      metadata: the header's `__metadata__`.

    Raises ValueError for an array of another name, shape or dtype than `shapes` says.
    """
    yield _header(shapes, metadata)
    for (name, expected), (given_name, array) in zip(shapes.items(), arrays, strict=True):
        given = (given_name, tuple(array.shape), array.dtype)
        if given != (name, tuple(expected.shape), expected.dtype):
            raise ValueError(f"got array {given}, announced was {(name, tuple(expected.shape), expected.dtype)}")
        # As uint8: memoryview does not support bfloat16.
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _header(shapes: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name, expected in shapes.items():
        dtype = np.dtype(expected.dtype)
        stop = start + math.prod(expected.shape) * dtype.itemsize
        entries[name] = {"dtype": CODES[dtype], "shape": list(expected.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The format allows spaces after the JSON, and the library pads with them too, to 8 bytes.
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
