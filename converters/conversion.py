"""The conversion itself: from any known checkpoint to this project's folder, or to transformers'."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bark_jax import tiny
from bark_jax.config import CONFIG_FILE, GENERATION_CONFIG_FILE, save_json
from bark_jax.errors import InputError
from bark_jax.folders import check_destination, whole_folder
from bark_jax.hub import shown
from bark_jax.weights import (
    FileRecord,
    Manifest,
    sha256_of,
    weight_file,
    write_manifest,
    write_network,
)
from converters.engine import NetworkSource, Progress, write_converted
from converters.export import export_into
from converters.extras import copy_extras
from converters.layouts import open_source
from converters.own_folder import ORIGINAL_CODEC_FILE
from converters.rules import find_rule, names_of
from converters.safetensors_file import read_safetensors
from converters.schemes import own_rules, transformers_rules
from converters.sources import Source
from converters.with_lora import open_with_lora

TARGETS = ("bark_jax", "transformers")
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def convert(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    to: str = "bark_jax",
    size: str | None = None,
    codec: str | os.PathLike | None = None,
    dtype: Any = None,
    revision: str | None = None,
    allow_non_finite: bool = False,
    overwrite: bool = False,
    lora: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Path:
    """Converts a checkpoint into the folder `dst`, which appears when it is complete, or not at all.

    Args:
      src: a folder or file of any known layout, or a Hub id; see `layouts.open_source`, also for `size`, `codec` and
        `revision`.
      to: "bark_jax", or "transformers" for a folder that `BarkModel.from_pretrained` of transformers loads.
      dtype: "float32", "float16" or "bfloat16"; None keeps these as they are and makes float32 of float64.
      allow_non_finite: also take weights that are infinite or not a number.
      overwrite: replace a model that is in `dst`.
      lora: a file of changes to add to the networks; `src` is then what `BarkModel.from_pretrained` takes.
      progress: called with the network, bytes written and bytes in all.

    Returns:
      The path of the new folder.
    """
    if to not in TARGETS:
        raise InputError(f"to is {shown(to)}, expected {' or '.join(TARGETS)}")
    dtype = None if dtype is None else _parse_dtype(dtype)
    check_destination(dst, overwrite=overwrite)
    src = tiny.folder_of(src)
    source = _open(src, size, codec, revision, lora)
    source.check()
    _check_not_inside(src, dst)
    with whole_folder(dst, overwrite=overwrite) as folder:
        if to == "bark_jax":
            _write_own(source, folder, dtype, allow_non_finite, progress)
        else:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                _write_own(source, Path(own), dtype, allow_non_finite, progress)
                export_into(Path(own), folder, progress=progress)
    return Path(dst)


def _open(
    src: str | os.PathLike,
    size: str | None,
    codec: str | os.PathLike | None,
    revision: str | None,
    lora: str | os.PathLike | None,
) -> Source:
    if lora is None:
        return open_source(src, size=size, codec=codec, revision=revision)
    if size is not None or codec is not None:
        raise InputError("size and codec are for Suno's files; convert these first, then what comes out with the LoRA")
    return open_with_lora(src, lora, revision=revision)


def _parse_dtype(dtype: Any) -> np.dtype:
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except TypeError:
        name = dtype
    if not isinstance(name, str) or name not in DTYPES:
        raise InputError(f"dtype is {shown(name)}, expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _check_not_inside(src: str | os.PathLike, dst: str | os.PathLike) -> None:
    """Overwriting the checkpoint with what is made from it would leave nobody a way back."""
    source, target = Path(os.path.realpath(src)), Path(os.path.realpath(dst))
    if source.exists() and source.is_relative_to(target):
        raise InputError(f"{dst} holds what is being converted, {src}; give another folder")


def _write_own(
    source: Source, folder: Path, dtype: np.dtype | None, allow_non_finite: bool, progress: Progress | None
) -> None:
    records: dict[str, FileRecord] = {}
    for network, network_source in source.networks.items():
        name = weight_file(network)
        records[name] = write_converted(
            network_source, folder / name, dtype=dtype, allow_non_finite=allow_non_finite, progress=progress
        )
    if "codec_model" in source.networks:
        record = _write_original_codec(source, folder / ORIGINAL_CODEC_FILE)
        records |= {} if record is None else {ORIGINAL_CODEC_FILE: record}
    save_json(source.config, folder / CONFIG_FILE)
    if source.generation is not None:
        save_json(source.generation, folder / GENERATION_CONFIG_FILE)
    if source.folder is not None:
        copy_extras(source.folder, folder)
    write_manifest(folder, Manifest(source.label, records, source.dtype if dtype is None else None))


def _write_original_codec(source: Source, path: Path) -> FileRecord | None:
    """Keeps the codec's arrays as they were, under transformers' names; nothing where a source has them no more."""
    if source.original_codec is not None:
        shutil.copyfile(source.original_codec, path)
        return FileRecord(sha256_of(path), path.stat().st_size, len(read_safetensors(path)))
    codec = source.networks["codec_model"]
    if codec.rules == own_rules():
        return None
    names = _transformers_names(codec)
    ordered = sorted(names, key=lambda name: (-codec.arrays[name].dtype.itemsize, name))  # keeps all of them aligned
    shapes = {names[name]: codec.arrays[name] for name in ordered}
    return write_network(path, shapes, ((names[name], codec.arrays[name].read()) for name in ordered))


def _transformers_names(codec: NetworkSource) -> dict[str, str]:
    """{name in the checkpoint: name in transformers} of all of a codec's arrays."""
    theirs = transformers_rules("codec_model", codec.config)
    names = {}
    for name in codec.arrays:
        match = find_rule(codec.rules, name)
        names[name] = names_of(theirs, match.parameter)[1][match.index]
    return names
