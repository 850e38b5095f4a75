"""Writing an opened checkpoint as a model folder of this project, or as a transformers folder."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from bark_jax.checkpoints._extras import copy_extras
from bark_jax.checkpoints._plan import NetworkSource, Progress, write_converted
from bark_jax.checkpoints._rules import find_rule, names_of
from bark_jax.checkpoints._sources import Source
from bark_jax.checkpoints.export import export_into
from bark_jax.checkpoints.layouts.own import ORIGINAL_CODEC_FILE, own_rules
from bark_jax.checkpoints.layouts.transformers import transformers_rules
from bark_jax.checkpoints.model_folder import (
    FileRecord,
    Manifest,
    weight_file,
    write_manifest,
    write_network,
)
from bark_jax.checkpoints.safetensors_file import read_safetensors
from bark_jax.config import CONFIG_FILE, GENERATION_CONFIG_FILE, save_json
from bark_jax.files import atomic_folder, sha256_of


def write_model(
    source: Source,
    dst: str | os.PathLike,
    *,
    to: str = "bark_jax",
    dtype: np.dtype | None = None,
    allow_non_finite: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes an opened checkpoint as the folder `dst`, atomically. Arguments as for `convert`.

    Raises:
      ConfigError: the config and the generation config do not fit each other.
      CheckpointError: the weights are not those of the config, or damaged.
      InputError, OutputError: `dst` exists, or cannot be written.
    """
    source.check()
    with atomic_folder(dst, overwrite=overwrite) as folder:
        if to == "bark_jax":
            _write_own(source, folder, dtype, allow_non_finite, progress)
        else:
            # Inside `folder`: on the disk that needs room for the result, and removed with it if the conversion fails.
            with tempfile.TemporaryDirectory(dir=folder) as own:
                _write_own(source, Path(own), dtype, allow_non_finite, progress)
                export_into(Path(own), folder, progress=progress)


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
    # A dtype that was asked for is that of the files, and a model computes in that unless the manifest says otherwise.
    write_manifest(folder, Manifest(source.label, records, source.dtype if dtype is None else None))


def _write_original_codec(source: Source, path: Path) -> FileRecord | None:
    """Writes the codec's arrays before folding, under transformers' names, for a later export.

    Returns None, and writes nothing, for a source of this project's own form that was converted without them.
    """
    if source.original_codec is not None:
        shutil.copyfile(source.original_codec, path)
        return FileRecord(sha256_of(path), path.stat().st_size, len(read_safetensors(path)))
    codec = source.networks["codec_model"]
    # These arrays are folded already, and what they were before cannot be computed from them.
    if codec.rules == own_rules():
        return None
    names = _transformers_names(codec)
    # The widest dtype first, so that each array's offset in the file is a multiple of its item size.
    ordered = sorted(names, key=lambda name: (-codec.arrays[name].dtype.itemsize, name))
    shapes = {names[name]: codec.arrays[name] for name in ordered}
    return write_network(path, shapes, ((names[name], codec.arrays[name].read()) for name in ordered))


def _transformers_names(codec: NetworkSource) -> dict[str, str]:
    """Maps the name of each of a codec's arrays in the checkpoint to its name in transformers."""
    theirs = transformers_rules("codec_model", codec.config)
    names = {}
    for name in codec.arrays:
        match = find_rule(codec.rules, name)
        names[name] = names_of(theirs, match.parameter)[1][match.index]
    return names
