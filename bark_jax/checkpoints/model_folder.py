"""Model folder, this project's own layout: one safetensors file a network, and a manifest with their checksums.

    config.json  generation_config.json     sizes and settings, in transformers' form
    semantic.safetensors  coarse_acoustics.safetensors  fine_acoustics.safetensors  codec_model.safetensors
    bark_jax.json                           the manifest: source, and SHA-256, bytes and number of arrays of each file

An array is named by its path in the Flax module, `blocks.0.attention.qkv.kernel`, and has its shape there: [in, out].
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import Sharding

from bark_jax.checkpoints._arrays import StoredArray, read_to_device
from bark_jax.checkpoints.safetensors_file import CODES, read_safetensors, safetensors_chunks
from bark_jax.config import read_json
from bark_jax.errors import CheckpointError, ConfigError, InputError, ModelNotFoundError, quoted
from bark_jax.files import sha256_of
from bark_jax.networks.causal import CoarseNetwork, SemanticNetwork
from bark_jax.networks.codec.encodec import Codec
from bark_jax.networks.fine import FineNetwork
from bark_jax.networks.tensor_parallel import ChooseSharding, check_choice

MANIFEST_FILE = "bark_jax.json"
FORMAT = "bark_jax"
VERSION = 1

LEAST_ARRAYS_A_LAYER = 6  # of a transformer without biases: two norms' scales and four kernels
SOON_TRACED_LAYERS = 32  # traced soon enough to leave the check to `check_shapes`
MAX_NAME_CHARACTERS = 300
FLOAT_DTYPES = tuple(np.dtype(dtype) for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16))

Shapes = Mapping[str, jax.ShapeDtypeStruct]


class Network(NamedTuple):
    """Class of a network, and the field of BarkConfig with its config."""

    module_class: type[nnx.Module]
    config_field: str


NETWORKS = {
    "semantic": Network(SemanticNetwork, "semantic_config"),
    "coarse_acoustics": Network(CoarseNetwork, "coarse_acoustics_config"),
    "fine_acoustics": Network(FineNetwork, "fine_acoustics_config"),
    "codec_model": Network(Codec, "codec_config"),
}


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """The manifest's entry of one file: its checksum in hexadecimal, its size, and its number of arrays."""

    sha256: str
    bytes: int
    arrays: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of bark_jax.json.

    Networks compute in the dtype that the caller names, else in `dtype`, else in that of their files. A small model can
    be stored as float16 and still compute in float32, which is faster on CPUs.
    """

    source: str  # a label: a Hub id or a file name, never a path, which could hold a user's name
    files: Mapping[str, FileRecord]
    dtype: str | None = None


def weight_file(network: str) -> str:
    """The name of a network's file: `semantic.safetensors`. Raises InputError for a name that is not in NETWORKS."""
    if network not in NETWORKS:
        raise InputError(f"network is {network!r}, expected one of {', '.join(NETWORKS)}")
    return f"{network}.safetensors"


def is_model_folder(folder: str | os.PathLike) -> bool:
    """Whether `folder` is a model folder: whether it has a manifest."""
    return Path(folder, MANIFEST_FILE).is_file()


def one_key() -> SimpleNamespace:
    """The `rngs` of a module that is only traced for its shapes.

    It gives every parameter the same key: drawing a key for each would double the time of the trace.
    """
    return SimpleNamespace(params=itertools.repeat(jax.random.key(0)).__next__)


# Configs are frozen and compared by value, so all folders of one size share an entry.
@functools.lru_cache(maxsize=64)
def network_shapes(module_class: type[nnx.Module], config: Any, dtype: Any = jnp.float32) -> Shapes:
    """Names, shapes and dtypes of a network's parameters. It is traced abstractly, so no memory is allocated."""
    module = nnx.eval_shape(lambda: module_class(config, dtype=dtype, rngs=one_key()))
    return MappingProxyType(parameter_shapes(module))


def parameter_shapes(module: nnx.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Names, shapes and dtypes of a module's parameters, whether its arrays are real or abstract."""
    return {
        name: jax.ShapeDtypeStruct(variable.get_value().shape, variable.get_value().dtype)
        for name, variable in _named_variables(nnx.state(module))
    }


def _named_variables(state: nnx.State) -> list[tuple[str, nnx.Variable]]:
    return [(".".join(map(str, path)), variable) for path, variable in nnx.to_flat_state(state)]


def load_network(
    folder: str | os.PathLike,
    network: str,
    make_module: Callable[[Any], nnx.Module],
    dtype: Any = None,
    *,
    check_sha256: bool = True,
    config: Any = None,
    manifest: Manifest | None = None,
    prepare: Callable[[nnx.Module], nnx.Module] = lambda module: module,
    device: jax.Device | None = None,
    sharding: ChooseSharding | None = None,
) -> nnx.Module:
    """Loads one network of a model folder.

    Only the network and one array more are in memory at a time; no random weights are made first.

    Args:
      network: one of NETWORKS.
      make_module: builds the module for a dtype. It is only traced: `lambda dtype: FineNetwork(config, dtype=dtype,
        rngs=one_key())`.
      dtype: of the module; None for that of the file.
      check_sha256: compare the file with the manifest's SHA-256, which reads it once more. Its size is always compared.
      config: the module's, to refuse one of absurd depth before it is traced.
      manifest: the folder's, if it has been read.
      prepare: changes the traced module, not its parameters, before any array is read.
      device: the device to pin the arrays to; None for JAX's default device.
      sharding: chooses the sharding of each array instead, by its name in `BarkModel` and its shape.

    Raises:
      InputError: `sharding` gives what no array can have.
      ModelNotFoundError: there is no such folder, or it has no such network.
      CheckpointError: the file is not the one in the manifest, or not this network.
    """
    path = find_weights(folder, weight_file(network), check_sha256=check_sha256, manifest=manifest)
    arrays = _read_floats(path)
    check_depth(path, config, len(arrays))
    dtype = _common_dtype(arrays) if dtype is None else dtype
    graphdef, state = nnx.split(prepare(nnx.eval_shape(lambda: make_module(dtype))))
    expected = {name: variable.get_value() for name, variable in _named_variables(state)}
    check_shapes(
        path,
        {name: array.shape for name, array in expected.items()},
        {name: array.shape for name, array in arrays.items()},
    )
    destinations: dict[str, jax.Device | Sharding | None] = dict.fromkeys(expected, device)
    if sharding is not None:  # all are checked before the first is read
        for name, array in expected.items():
            full_name = f"{network}.{name}"
            destinations[name] = check_choice(full_name, array.shape, sharding(full_name, array.shape))
    # In the order of the flat state, with which `zip` pairs them below.
    values = list(read_to_device((arrays[name], array.dtype, destinations[name]) for name, array in expected.items()))
    loaded = [
        (key, variable.replace(value)) for (key, variable), value in zip(nnx.to_flat_state(state), values, strict=True)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(loaded))


def _read_floats(path: Path) -> dict[str, StoredArray]:
    arrays = read_safetensors(path)
    if unknown := {CODES[array.dtype] for array in arrays.values() if array.dtype not in FLOAT_DTYPES}:
        raise CheckpointError(f"{path} holds arrays of {', '.join(sorted(unknown))}, expected floats")
    return arrays


def _common_dtype(arrays: Mapping[str, StoredArray]) -> np.dtype:
    """The dtype that all arrays promote to; float32 for a file without arrays, which `check_shapes` then refuses."""
    dtypes = sorted({array.dtype for array in arrays.values()}, key=lambda dtype: dtype.name)
    return functools.reduce(jnp.promote_types, dtypes, dtypes[0]) if dtypes else np.dtype(np.float32)


def check_depth(where: Any, config: Any, n_arrays: int) -> None:
    """Raises CheckpointError where a config has more layers than a file of `n_arrays` arrays can hold.

    `check_shapes` would find the arrays missing too, but only after tracing, which takes seconds for 100 layers.
    """
    n_layers = getattr(config, "num_layers", 0)
    if n_layers > SOON_TRACED_LAYERS and n_arrays < LEAST_ARRAYS_A_LAYER * n_layers:
        raise CheckpointError(f"{where} has {n_arrays} arrays, too few for the {n_layers} layers that its config says")


def check_shapes(where: Any, expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> None:
    """Raises CheckpointError, listing all names that are missing, unexpected or of another shape, if there are any."""
    faults = []
    if missing := [name for name in expected if name not in found]:
        faults.append(f"missing: {list_names(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        faults.append(f"unexpected: {list_names(unexpected)}")
    misshapen = [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if misshapen:
        faults.append(f"wrong shape: {list_names(misshapen)}")
    if faults:
        raise CheckpointError(f"{where} does not hold this network. " + "; ".join(faults))


def list_names(names: Iterable[str], limit: int = 4) -> str:
    """Formats names for a message, cut after `limit`: `a, b, c, d and 7 more (11)`."""
    names = list(names)
    rest = len(names) - limit
    return ", ".join(map(_legible, names[:limit])) + (f" and {rest} more ({len(names)})" if rest > 0 else "")


def _legible(name: Any) -> str:
    """A name from an untrusted file, safe to print on a terminal: quoted where it is long or not printable."""
    is_plain = isinstance(name, str) and len(name) <= MAX_NAME_CHARACTERS and name.isprintable()
    return name if is_plain else quoted(name, MAX_NAME_CHARACTERS)


def save_network(module: nnx.Module, path: str | os.PathLike) -> FileRecord:
    """Writes a module's parameters to one safetensors file. Returns its entry for the manifest."""
    variables = _named_variables(nnx.state(module))
    arrays = ((name, np.asarray(variable.get_value())) for name, variable in variables)
    return write_network(path, parameter_shapes(module), arrays)


def write_network(
    path: str | os.PathLike, shapes: Mapping[str, Any], arrays: Iterable[tuple[str, np.ndarray]]
) -> FileRecord:
    """Writes a safetensors file array by array, so that only one is in memory. Returns its entry for the manifest.

    The library's own `save_file` holds all of them in memory, twice.

    Args:
      shapes: anything with the attributes `shape` and `dtype`, by the name of each array.
      arrays: names and arrays, in the order of `shapes` and of its shapes and dtypes.
    """
    # Computed on the way: reading the file again for it would cost as much as writing it.
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for chunk in safetensors_chunks(shapes, arrays, {"format": "pt"}):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        return FileRecord(digest.hexdigest(), file.tell(), len(shapes))


def write_manifest(folder: str | os.PathLike, manifest: Manifest) -> None:
    """Writes the folder's bark_jax.json."""
    content = {"format": FORMAT, "version": VERSION} | dataclasses.asdict(manifest)
    Path(folder, MANIFEST_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: str | os.PathLike) -> Manifest:
    """Reads the folder's bark_jax.json. Raises ModelNotFoundError if it is missing, CheckpointError if damaged."""
    path = Path(folder, MANIFEST_FILE)
    if not path.is_file():
        raise ModelNotFoundError(
            f"{folder} is not a model folder: it has no {MANIFEST_FILE}. "
            "A PyTorch checkpoint becomes one by `bark-jax convert SRC DST`."
        )
    try:
        return _parse_manifest(read_json(path))
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a manifest of this project: {error!r}") from error


def _parse_manifest(content: Any) -> Manifest:
    if content["format"] != FORMAT or content["version"] != VERSION:
        raise ConfigError(f"format {content['format']!r} version {content['version']!r}, expected {FORMAT} {VERSION}")
    files = {name: FileRecord(**record) for name, record in content["files"].items()}
    for name, record in files.items():
        if (type(record.sha256), type(record.bytes), type(record.arrays)) != (str, int, int):
            raise ConfigError(f"the entry of {name} is {record}")
    dtype = content.get("dtype")
    if not isinstance(dtype, (str, type(None))):
        raise ConfigError(f"dtype is {dtype!r}")
    return Manifest(str(content["source"]), files, dtype)


def find_weights(
    folder: str | os.PathLike, name: str, *, check_sha256: bool = True, manifest: Manifest | None = None
) -> Path:
    """Checks a file against its entry in the manifest and returns its path.

    Args:
      check_sha256: compare the SHA-256 too, which reads the file; the size is always compared.
      manifest: the folder's, if it has been read.

    Raises:
      ModelNotFoundError: there is no such file, or the manifest does not list it.
      CheckpointError: its size or SHA-256 is not the manifest's.
    """
    manifest = read_manifest(folder) if manifest is None else manifest
    path, record = Path(folder, name), manifest.files.get(name)
    if record is None or not path.is_file():
        raise ModelNotFoundError(f"{folder} has no {name}; the model lacks this network or was copied in part")
    # The size first: a download that was cut is found without hashing gigabytes.
    size = path.stat().st_size
    if size != record.bytes:
        raise CheckpointError(f"{path} has {size} bytes, expected {record.bytes}; convert or download it again")
    if check_sha256 and (found := sha256_of(path)) != record.sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {found}, expected {record.sha256}")
    return path
