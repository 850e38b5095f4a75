"""Conversion of a checkpoint of any known layout to a model folder of this project, or of transformers."""

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bark_jax import tiny
from bark_jax.checkpoints._plan import Progress
from bark_jax.checkpoints._sources import Source
from bark_jax.checkpoints._with_lora import open_with_lora
from bark_jax.checkpoints._write import write_model
from bark_jax.checkpoints.open import open_source
from bark_jax.errors import InputError, quoted
from bark_jax.files import check_destination

TARGETS = ("bark_jax", "transformers")
DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str = "bark_jax",
    size: str | None = None,
    codec: str | os.PathLike[str] | None = None,
    dtype: Any = None,
    revision: str | None = None,
    allow_non_finite: bool = False,
    overwrite: bool = False,
    lora: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Converts a checkpoint into the folder `dst`, which is written atomically.

    Args:
      src: a folder or file of any known layout, a Hub id, or "tiny"; see `open.open_source`, also for `size`, `codec`
        and `revision`.
      dst: the folder to make.
      to: "bark_jax", or "transformers" for a folder that `BarkModel.from_pretrained` of transformers loads.
      dtype: "float32", "float16" or "bfloat16"; None keeps these as they are and makes float32 of float64.
      allow_non_finite: accept weights that are NaN or infinite.
      overwrite: replace a model that is in `dst`.
      lora: a LoRA file to merge into the networks; `src` is then what `BarkModel.from_pretrained` takes.
      progress: called with the network, the bytes written of its file, and the file's bytes in all.

    Returns:
      The path of the new folder.

    Raises:
      InputError: an argument cannot be, or `dst` exists or holds `src`.
      ModelNotFoundError: there is no such checkpoint, or a part of it is missing.
      CheckpointError, ConfigError: the checkpoint cannot be used: damaged, or no Bark.
      OutputError: the disk is full, or `dst` is not writable.
    """
    if to not in TARGETS:
        raise InputError(f"to is {quoted(to)}, expected {' or '.join(TARGETS)}")
    dtype = None if dtype is None else _parse_dtype(dtype)
    # Before the source is opened, which may download gigabytes.
    check_destination(dst, overwrite=overwrite)
    src = tiny.folder_of(src)
    source = _open(src, size, codec, revision, lora)
    _check_not_inside(src, dst)
    write_model(
        source,
        dst,
        to=to,
        dtype=dtype,
        allow_non_finite=allow_non_finite,
        overwrite=overwrite,
        progress=progress,
    )
    return Path(dst)


def _open(
    src: str | os.PathLike[str],
    size: str | None,
    codec: str | os.PathLike[str] | None,
    revision: str | None,
    lora: str | os.PathLike[str] | None,
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
        raise InputError(f"dtype is {quoted(name)}, expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _check_not_inside(src: str | os.PathLike[str], dst: str | os.PathLike[str]) -> None:
    """Raises InputError where `dst` is or contains `src`: overwriting it would destroy the original checkpoint."""
    source, target = Path(os.path.realpath(src)), Path(os.path.realpath(dst))
    if source.exists() and source.is_relative_to(target):
        raise InputError(f"{dst} holds what is being converted, {src}; give another folder")
