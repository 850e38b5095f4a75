"""From a name to networks: a folder, a Hub id or the built-in model, converted and cached where needed.

A PyTorch checkpoint is converted once. The result lies in the cache, `HF_HOME/bark_jax`, by repository and commit, or
by name and fingerprint of a folder, so a new revision or a changed file is converted again.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from bark_jax import tiny
from bark_jax.config import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    BarkConfig,
    BarkGenerationConfig,
    EncodecConfig,
    parse_config,
    read_config,
    read_json,
    save_json,
)
from bark_jax.devices import backend
from bark_jax.errors import InputError, ModelNotFoundError, OutputError, UnsupportedError
from bark_jax.folders import remove_abandoned, whole_folder
from bark_jax.forks import check_process
from bark_jax.hub import shown
from bark_jax.lora import base_of, load_lora, merge
from bark_jax.models.attention import known_implementation
from bark_jax.models.codec.encodec import EncodecModel
from bark_jax.models.int8 import is_quantized, quantize
from bark_jax.own_jax_config import under_own_config
from bark_jax.weights import (
    NETWORKS,
    Manifest,
    OneKey,
    find_weights,
    is_model_folder,
    load_network,
    read_manifest,
    save_network,
    weight_file,
    write_manifest,
)

DTYPES = ("float32", "bfloat16", "float16", "int8")

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where converted models lie: HF_HOME/bark_jax."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME, "bark_jax")


def find_model(
    name_or_folder: str | os.PathLike,
    *,
    revision: str | None = None,
    update: bool = False,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder, in this project's own form, of a model that is named by folder, by Hub id or as "tiny".

    Args:
      revision: of a Hub id: a branch, a tag or a commit.
      update: ask the Hub whether it has a newer one than the cache. Without it, what is in the cache opens no socket.
      token, local_files_only: as in huggingface_hub.
      cache_dir: the folder of downloads, and of what they are converted to, instead of those below HF_HOME.
      force_download: download what is in the cache once more. A commit that was converted is not converted again.

    Raises:
      ModelNotFoundError: it is neither here nor to be had; the message names the cache and the way out.
      CheckpointError, ConfigError: it is not a Bark, or is damaged.
    """
    name = tiny.folder_of(name_or_folder)
    name = os.fspath(name) if isinstance(name, (str, os.PathLike)) else name
    if not isinstance(name, str):
        raise InputError(f"a model is named by a folder or a Hub id, not by {shown(name_or_folder)}")
    if os.path.isdir(name):
        if revision is not None:
            raise InputError(f"{name} is a folder on this machine; a revision is for Hub ids")
        cache_name = f"folder--{_safe(Path(name).resolve().name)}--{_fingerprint(Path(name))}"
        return _own_form(Path(name), cache_name, cache_dir)
    from converters import hub

    if not hub.is_hub_id(name):
        raise ModelNotFoundError(
            f"there is no model {shown(name)}: no such folder, no Hub id such as suno/bark-small, and not {tiny.NAME!r}"
        )
    found = None if update or force_download else _find_cached(name, revision, cache_dir)
    if found is not None:
        return found
    snapshot = hub.fetch(
        name,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    return _own_form(snapshot, _cache_name(name, snapshot), cache_dir)


def _find_cached(repository: str, revision: str | None, cache_dir: str | os.PathLike | None) -> Path | None:
    """A model of the Hub in this project's form, if all of it is on this machine."""
    from converters import hub

    snapshot = hub.find_snapshot(repository, revision=revision, cache_dir=cache_dir)
    if snapshot is None:
        return None
    if is_model_folder(snapshot):
        return snapshot if hub.is_whole(snapshot) else None
    converted = _converted_folder(cache_dir) / _cache_name(repository, snapshot)
    return converted if is_model_folder(converted) else None


def _converted_folder(cache_dir: str | os.PathLike | None) -> Path:
    return cache_folder() if cache_dir is None else Path(cache_dir, "bark_jax")


def _cache_name(repository: str, snapshot: Path) -> str:
    """By repository and commit."""
    return f"models--{_safe(repository.replace('/', '--'))}--{snapshot.name}"


def _own_form(folder: Path, cache_name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder itself if it is of this project's form, else what it converts to."""
    if is_model_folder(folder):
        return folder

    def convert(target: Path) -> None:
        from converters import convert
        from converters.progress import BytesBar

        logger.warning("converting %s, once, into %s", folder, target)
        with BytesBar() as bar:
            convert(folder, target, progress=bar)

    return _once(_converted_folder(cache_dir) / cache_name, convert)


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """Makes a folder unless it is there. Where two processes make it at once, the second takes what the first made."""
    if is_model_folder(target):
        return target
    remove_abandoned(target)
    try:
        make(target)
    except OutputError as error:
        raise OutputError(
            f"{error}. That is the cache of converted models: set HF_HOME to a folder elsewhere, or convert the model "
            "to one of your own (bark-jax convert) and name that"
        ) from error
    except InputError:  # it exists by now
        if not is_model_folder(target):
            raise
    return target


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)


def _fingerprint(folder: Path) -> str:
    """Changes with the place of a folder and the size or time of any file in it."""
    lines = [str(folder.resolve())]
    for path in sorted(folder.iterdir()):
        if path.is_file():
            status = path.stat()
            lines.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def read_configs(folder: Path) -> tuple[BarkConfig, BarkGenerationConfig]:
    """Sizes and settings of a model folder."""
    config = read_config(folder / CONFIG_FILE, BarkConfig)
    return config, read_config(folder / GENERATION_CONFIG_FILE, BarkGenerationConfig)


@under_own_config
def load_networks(
    folder: Path,
    *,
    dtype: Any = None,
    attn_implementation: str = "auto",
    config: BarkConfig | None = None,
    lora: str | os.PathLike | None = None,
) -> dict[str, nnx.Module]:
    """All four networks of a model folder; arguments as for `BarkModel.from_pretrained`."""
    check_process()
    if config is None:
        config, _ = read_configs(folder)
    attn_implementation = known_implementation(attn_implementation)
    dtype = parse_dtype(dtype)
    dtype = parse_dtype(read_manifest(folder).dtype) if dtype is None else dtype
    is_int8 = dtype == jnp.int8
    if is_int8:
        dtype = jnp.dtype("float32" if backend() == "cpu" else "bfloat16")
    changes = {} if lora is None else load_lora(lora, base=base_of(folder))
    for name in NETWORKS:  # before the first of them is read, which takes a while
        find_weights(folder, weight_file(name), check_sha256=False)
    networks = {}
    for name, (_, field) in NETWORKS.items():
        size = getattr(config, field)
        network = load_network(folder, name, module_maker(name, size, attn_implementation), dtype, config=size)
        if name in changes:
            network = merge(network, changes[name], where=f"{lora}, for {name},")
        if is_int8 and not isinstance(network, EncodecModel):
            quantize(network)
        networks[name] = network
    return networks


def load_codec(folder: Path, *, dtype: Any = None) -> EncodecModel:
    """The codec of a model folder, which may hold nothing else; arguments as for `EncodecModel.from_pretrained`."""
    values = read_json(folder / CONFIG_FILE)
    is_alone = isinstance(values, dict) and values.get("model_type") == EncodecConfig.model_type
    config = parse_config(folder / CONFIG_FILE, EncodecConfig if is_alone else BarkConfig, values)
    config = config if is_alone else config.codec_config
    manifest = read_manifest(folder)
    if weight_file("codec_model") not in manifest.files:
        raise ModelNotFoundError(f"{folder} holds {', '.join(manifest.files)}, and no codec; name the folder of one")
    dtype = parse_dtype(manifest.dtype if dtype is None else dtype)
    if dtype == jnp.int8:
        raise InputError("dtype is 'int8', expected float32, bfloat16 or float16: a codec has no weights of eight bits")
    return load_network(folder, "codec_model", module_maker("codec_model", config), dtype, config=config)


def module_maker(network: str, config: Any, attn_implementation: str = "auto") -> Callable[[Any], nnx.Module]:
    """dtype -> a module of one of NETWORKS to trace, as `load_network` takes it."""
    module_class = NETWORKS[network].module_class
    options = {} if module_class is EncodecModel else {"attn_implementation": attn_implementation}
    return lambda dtype: module_class(config, dtype=dtype, rngs=OneKey(), **options)


def choose_dtype(dtype: Any, torch_dtype: Any) -> jnp.dtype | None:
    """What was given under either of transformers' two names. Raises InputError where the two differ."""
    given, other = parse_dtype(dtype), parse_dtype(torch_dtype)
    if given is not None and other is not None and given != other:
        raise InputError(f"dtype is {shown(given.name)} and torch_dtype {shown(other.name)}; give one of them")
    return other if given is None else given


def parse_dtype(dtype: Any) -> jnp.dtype | None:
    """A dtype from its name or itself, JAX's or torch's; None for None and "auto".

    Raises InputError for any but DTYPES.
    """
    if dtype is None or (isinstance(dtype, str) and dtype == "auto"):
        return None
    is_torchs = type(dtype).__module__ == "torch" or isinstance(dtype, str)
    dtype = str(dtype).removeprefix("torch.") if is_torchs else dtype  # torch.float16 without importing torch
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = dtype
    if name not in DTYPES:
        raise InputError(f"dtype is {shown(name)}, expected one of {', '.join(DTYPES)}")
    return jnp.dtype(name)


def save_networks(
    folder: str | os.PathLike,
    config: BarkConfig,
    generation_config: BarkGenerationConfig,
    networks: Mapping[str, nnx.Module],
    *,
    source: str = "",
    dtype: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a model folder, whole or not at all. `source` and `dtype` are those of `weights.Manifest`."""
    for name, network in networks.items():
        if is_quantized(network):
            raise UnsupportedError(
                f"{name} has weights of eight bits, which lack what a model folder holds: load the model without "
                "dtype='int8' and save that"
            )
    with whole_folder(folder, overwrite=overwrite) as partial:
        records = {}
        for name, network in networks.items():
            file = weight_file(name)
            records[file] = save_network(network, partial / file)
        _write_description(partial, config, generation_config, Manifest(source, records, dtype))


def _write_description(
    folder: Path, config: BarkConfig, generation_config: BarkGenerationConfig, manifest: Manifest
) -> None:
    save_json(config, folder / CONFIG_FILE)
    save_json(generation_config, folder / GENERATION_CONFIG_FILE)
    write_manifest(folder, manifest)
