"""Loading the networks of a model folder into memory, and saving them to one."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax.numpy as jnp
from flax import nnx

from bark_jax._system.forks import check_process
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.checkpoints.lora import base_of, load_lora, merge
from bark_jax.checkpoints.model_folder import (
    NETWORKS,
    Manifest,
    find_weights,
    load_network,
    one_key,
    read_manifest,
    save_network,
    weight_file,
    write_manifest,
)
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
from bark_jax.errors import InputError, ModelNotFoundError, UnsupportedError, quoted
from bark_jax.files import atomic_folder
from bark_jax.generation.tokens import check_fit
from bark_jax.networks.attention import known_implementation
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.codec.encodec import Codec
from bark_jax.networks.int8 import is_quantized, quantize
from bark_jax.networks.platform import pinned_device, resolve_platform
from bark_jax.networks.probes import with_working_attention
from bark_jax.networks.tensor_parallel import ChooseSharding

DTYPES = ("float32", "bfloat16", "float16", "int8")


def read_configs(folder: Path) -> tuple[BarkConfig, BarkGenerationConfig]:
    """Reads config.json and generation_config.json. Raises ConfigError or ModelNotFoundError with the path."""
    config = read_config(folder / CONFIG_FILE, BarkConfig)
    return config, read_config(folder / GENERATION_CONFIG_FILE, BarkGenerationConfig)


class FoundModel(NamedTuple):
    """A model folder and its configs, which fit each other. The weights are not read yet."""

    folder: Path
    config: BarkConfig
    generation_config: BarkGenerationConfig

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the folder's configs. Raises ConfigError or ModelNotFoundError where they are damaged or missing."""
        config, generation_config = read_configs(folder)
        check_fit(config, generation_config)
        return cls(folder, config, generation_config)


@under_own_config
def load_networks(
    folder: Path,
    classes: Mapping[str, type[nnx.Module]],
    *,
    dtype: Any = None,
    attn_implementation: str = "auto",
    platform: str | None = None,
    config: BarkConfig | None = None,
    lora: str | os.PathLike | None = None,
    decoding_copy: bool = True,
    sharding: ChooseSharding | None = None,
) -> dict[str, nnx.Module]:
    """Loads all four networks of a model folder.

    Args:
      classes: the class of each network, by its name in NETWORKS.
      dtype: "float32", "bfloat16", "float16", "int8" or None, which takes the manifest's, else the files'.
      config: the folder's config, if it has been read.
      lora: a LoRA file to merge into the networks.
      decoding_copy: `keeps_copy` of the causal networks.
      sharding: chooses the sharding of each parameter; see `tensor_parallel`.

    The other arguments are those of `BarkModel.from_pretrained`.

    Raises:
      InputError: an argument cannot be.
      ModelNotFoundError: a network's file, or the LoRA's, is missing.
      CheckpointError, ConfigError: a file is damaged, or of another model.
      UnsupportedError: this process was forked after JAX had run.
    """
    check_process()
    if config is None:
        config, _ = read_configs(folder)
    attn_implementation, platform = known_implementation(attn_implementation), resolve_platform(platform)
    if sharding is not None:
        attn_implementation = _check_sharding(sharding, attn_implementation)
    dtype = parse_dtype(dtype)
    manifest = read_manifest(folder)
    dtype = parse_dtype(manifest.dtype) if dtype is None else dtype
    # int8 weights are made last: loaded as floats, merged with the LoRA, then rounded. A LoRA's change is too small to
    # be added to a weight of eight bits.
    is_int8 = dtype == jnp.int8
    if is_int8 and sharding is not None:
        raise InputError("sharding divides no weights of eight bits; leave out dtype='int8'")
    if is_int8:
        dtype = jnp.dtype("float32" if platform == "cpu" else "bfloat16")
    changes = {} if lora is None else load_lora(lora, base=base_of(folder))
    for name in NETWORKS:  # a missing file is reported before the first is read, which takes seconds
        find_weights(folder, weight_file(name), check_sha256=False, manifest=manifest)
    prepare = functools.partial(with_working_attention, requires_cudnn=attn_implementation == "cudnn")
    networks = {}
    for name, (_, field) in NETWORKS.items():
        size = getattr(config, field)
        make_module = module_maker(classes[name], size, attn_implementation, platform)
        network = load_network(
            folder,
            name,
            make_module,
            dtype,
            config=size,
            manifest=manifest,
            prepare=prepare,
            device=pinned_device(platform),
            sharding=sharding,
        )
        if name in changes:
            network = merge(network, changes[name], where=f"{lora}, for {name},")
        if is_int8 and not isinstance(network, Codec):
            quantize(network)
        if isinstance(network, BarkCausalModel):
            network.keeps_copy = decoding_copy
        networks[name] = network
    return networks


def _check_sharding(sharding: Any, attn_implementation: Any) -> Any:
    """Returns the attention of a network whose parameters are divided. Raises InputError where `sharding` is none."""
    if not callable(sharding):
        raise InputError(
            f"sharding is {quoted(sharding)}, expected a function of a parameter's name and shape that gives its "
            "sharding, such as bark_jax.tensor_parallel(mesh)"
        )
    # XLA divides its own attention among devices; it cannot look into the Pallas kernels that "auto" may choose.
    return "xla" if attn_implementation == "auto" else attn_implementation


def load_codec(folder: Path, codec_class: type[Codec], *, dtype: Any = None, platform: str | None = None) -> Codec:
    """Loads the codec of a model folder, which may hold only a codec. Arguments as for `EncodecModel.from_pretrained`.

    Raises:
      InputError: the dtype is not one of DTYPES, or "int8".
      ModelNotFoundError: the folder has no codec, or is no model folder.
      CheckpointError, ConfigError: a file is damaged.
    """
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
    platform = resolve_platform(platform)
    make_module = module_maker(codec_class, config, platform=platform)
    return load_network(folder, "codec_model", make_module, dtype, config=config, device=pinned_device(platform))


def module_maker(
    module_class: type[nnx.Module], config: Any, attn_implementation: str = "auto", platform: str | None = None
) -> Callable[[Any], nnx.Module]:
    """Returns a function from a dtype to a module to trace, the `make_module` of `load_network`."""
    options = {"platform": platform}
    if not issubclass(module_class, Codec):
        options["attn_implementation"] = attn_implementation
    return lambda dtype: module_class(config, dtype=dtype, rngs=one_key(), **options)


def choose_dtype(dtype: Any, torch_dtype: Any) -> jnp.dtype | None:
    """Returns the dtype given under either of transformers' two names. Raises InputError if they differ.

    None if neither was given.
    """
    given, other = parse_dtype(dtype), parse_dtype(torch_dtype)
    if given is not None and other is not None and given != other:
        raise InputError(f"dtype is {quoted(given.name)} and torch_dtype {quoted(other.name)}; give one of them")
    return other if given is None else given


def parse_dtype(dtype: Any) -> jnp.dtype | None:
    """Converts a dtype's name, or a dtype of JAX, numpy or torch, to a dtype; None and "auto" to None.

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
        raise InputError(f"dtype is {quoted(name)}, expected one of {', '.join(DTYPES)}")
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
    """Writes a model folder atomically.

    Args:
      networks: by name in NETWORKS.
      source, dtype: as in `model_folder.Manifest`.
      overwrite: replace a model that is in `folder`.

    Raises:
      UnsupportedError: a network has int8 weights.
      InputError, OutputError: `folder` exists, or cannot be written.
    """
    for name, network in networks.items():
        if is_quantized(network):
            raise UnsupportedError(
                f"{name} has weights of eight bits, which lack what a model folder holds: load the model without "
                "dtype='int8' and save that"
            )
    with atomic_folder(folder, overwrite=overwrite) as partial:
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
