"""Export of a model folder to a folder that transformers loads, without missing or unexpected keys.

Folding the codec's weight norm and summing its LSTM biases cannot be undone. So a conversion keeps the codec's
original arrays beside the folded ones (`codec_model.torch.safetensors`), and an export writes them if they still fold
to the folder's codec. For a codec that was changed since, it makes new ones that fold to it: v the kernel, g its norm.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bark_jax.checkpoints._arrays import StoredArray
from bark_jax.checkpoints._extras import copy_extras
from bark_jax.checkpoints._plan import NetworkSource, Progress, make_plan, read_parameter
from bark_jax.checkpoints._rules import names_of
from bark_jax.checkpoints._sources import Source
from bark_jax.checkpoints.layouts.own import open_own
from bark_jax.checkpoints.layouts.transformers import transformers_rules
from bark_jax.checkpoints.model_folder import NETWORKS, check_shapes, write_network
from bark_jax.checkpoints.safetensors_file import read_safetensors
from bark_jax.config import CONFIG_FILE, GENERATION_CONFIG_FILE, JsonConfig, save_json
from bark_jax.errors import CheckpointError, ModelNotFoundError
from bark_jax.files import atomic_folder

WEIGHT_FILE = "model.safetensors"
ARCHITECTURES = {"bark": "BarkModel", "encodec": "EncodecModel"}
CAUSAL_NETWORKS = ("semantic", "coarse_acoustics")


@dataclasses.dataclass(frozen=True)
class Export:
    """An array of the file to write. `make` returns its values; it is called when the array is written, not earlier."""

    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]


def export_transformers(
    folder: str | os.PathLike[str], dst: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Writes the model in `folder` (this project's form) as a transformers folder `dst`, atomically.

    Args:
      overwrite: replace a model that is in `dst`.

    Returns:
      The path of the new folder.

    Raises:
      ModelNotFoundError: `folder` is no model folder, or lacks a network.
      CheckpointError, ConfigError: it is damaged.
      InputError, OutputError: `dst` exists, or cannot be written.
    """
    with atomic_folder(dst, overwrite=overwrite) as made:
        export_into(Path(folder), made)
    return Path(dst)


def export_into(folder: Path, made: Path, *, progress: Progress | None = None) -> None:
    """Writes what `export_transformers` writes into `made`, a folder that exists.

    `progress` is called with the file's name, the bytes written and the bytes in all.
    """
    source = open_own(folder, folder.name)
    exports = _exports(source)
    # The widest dtype first, bool masks last, so that each array's offset is a multiple of its item size.
    ordered = dict(sorted(exports.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    write_network(made / WEIGHT_FILE, ordered, _made(ordered, progress))
    _write_config(source.config, _main_dtype(exports), made / CONFIG_FILE)
    if source.generation is not None:
        save_json(source.generation, made / GENERATION_CONFIG_FILE)
    copy_extras(folder, made)


def _made(exports: Mapping[str, Export], progress: Progress | None) -> Iterator[tuple[str, np.ndarray]]:
    done, total = 0, sum(math.prod(export.shape) * export.dtype.itemsize for export in exports.values())
    for name, export in exports.items():
        array = export.make()
        yield name, array
        done += array.nbytes
        if progress is not None:
            progress(WEIGHT_FILE, done, total)


def _exports(source: Source) -> dict[str, Export]:
    if source.is_complete:
        return {
            f"{network}.{name}": export
            for network, network_source in source.networks.items()
            for name, export in _network_exports(network_source, source).items()
        }
    if set(source.networks) == {"codec_model"} and source.config.model_type == "encodec":
        return _network_exports(source.networks["codec_model"], source)
    raise ModelNotFoundError(
        f"{source.label} holds {', '.join(source.networks)} alone; transformers' Bark has {', '.join(NETWORKS)}"
    )


def _network_exports(network: NetworkSource, source: Source) -> dict[str, Export]:
    shapes = network.shapes()
    check_shapes(
        network.where,
        {name: shape.shape for name, shape in shapes.items()},
        {name: tuple(array.shape) for name, array in network.arrays.items()},
    )
    if network.network == "codec_model":
        return _original_codec(network, source) or _new_codec(network)
    exports = _inverted(network)
    if network.network in CAUSAL_NETWORKS:
        exports |= _causal_masks(network.config.num_layers, network.config.block_size)
    return exports


def _inverted(network: NetworkSource) -> dict[str, Export]:
    """Exports each parameter under its names in transformers, with its transform inverted."""
    rules = transformers_rules(network.network, network.config)
    exports = {}
    for parameter, array in network.arrays.items():
        rule, names = names_of(rules, parameter)
        shapes = rule.transform.source_shapes(tuple(array.shape))
        is_many = len(names) > 1  # g and v, or two biases, which are float32
        for index, (name, shape) in enumerate(zip(names, shapes, strict=True)):
            dtype = np.dtype(np.float32) if is_many else array.dtype
            exports[name] = Export(shape, dtype, _inverter(array, rule.transform, index, dtype))
    return exports


def _inverter(array: StoredArray, transform: Any, index: int, dtype: np.dtype) -> Callable[[], np.ndarray]:
    return lambda: transform.invert(array.read())[index].astype(dtype, copy=False)


def _causal_masks(n_layers: int, size: int) -> dict[str, Export]:
    """The causal masks, bool [1, 1, size, size], which transformers saves with each layer under the name of a bias."""
    # One array, 1 MiB at 1,024 positions, which every layer's export shares; the file has it once a layer.
    mask = np.tri(size, dtype=np.bool_)[None, None]
    return {f"layers.{i}.attn.bias": Export(mask.shape, mask.dtype, lambda: mask) for i in range(n_layers)}


def _original_codec(network: NetworkSource, source: Source) -> dict[str, Export] | None:
    """The codec's original arrays that the conversion kept; None if there are none, or the codec was changed since."""
    if source.original_codec is None:
        return None
    originals = read_safetensors(source.original_codec)
    rules = transformers_rules("codec_model", network.config)
    before = NetworkSource("codec_model", str(source.original_codec), network.config, originals, rules)
    try:
        fills = make_plan(before, network.shapes()).fills
    except CheckpointError:
        return None
    for parameter, array in network.arrays.items():
        # Bit for bit: originals that fold to anything else belong to the codec before it was trained or edited.
        if not np.array_equal(read_parameter(before, fills[parameter], array.dtype), array.read(), equal_nan=True):
            return None
    if not _statistics(network).keys() <= originals.keys():
        return None
    return {name: Export(tuple(array.shape), array.dtype, array.read) for name, array in originals.items()}


def _new_codec(network: NetworkSource) -> dict[str, Export]:
    return _inverted(network) | _statistics(network)


def _statistics(network: NetworkSource) -> dict[str, Export]:
    """The statistics of training that transformers' codebooks have, as if each vector had been used once.

    cluster_size is 1 everywhere and embed_avg the table itself, as embed = embed_avg / cluster_size.
    """
    rules = transformers_rules("codec_model", network.config)
    exports = {}
    for q in range(network.config.num_quantizers):
        table = network.arrays[f"quantizer.codebooks.{q}.embedding"]
        ones = {"cluster_size": table.shape[:1], "inited": (1,)}
        for name, shape in ones.items():
            (full_name,) = names_of(rules, f"quantizer.codebooks.{q}.{name}")[1]
            exports[full_name] = Export(tuple(shape), table.dtype, _ones_maker(shape, table.dtype))
        (full_name,) = names_of(rules, f"quantizer.codebooks.{q}.embed_avg")[1]
        exports[full_name] = Export(tuple(table.shape), table.dtype, table.read)
    return exports


def _ones_maker(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
    return lambda: np.ones(shape, dtype)


def _main_dtype(exports: Mapping[str, Export]) -> str:
    """The dtype of most values, for `dtype` in config.json: transformers loads the model in it."""
    sizes: dict[str, int] = {}
    for export in exports.values():
        if export.dtype != np.bool_:
            sizes[export.dtype.name] = sizes.get(export.dtype.name, 0) + math.prod(export.shape)
    return max(sizes, key=lambda name: sizes[name])


def _write_config(config: JsonConfig, dtype: str, path: Path) -> None:
    values = {"architectures": [ARCHITECTURES[config.model_type]], "dtype": dtype} | config.to_dict()
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
