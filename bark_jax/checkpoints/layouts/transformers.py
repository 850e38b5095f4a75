"""Checkpoints of transformers: a Bark, one of its networks alone, or an EnCodec alone."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from bark_jax.checkpoints.arrays import StoredArray
from bark_jax.checkpoints.model_folder import NETWORKS, list_names
from bark_jax.checkpoints.names import transformers_rules
from bark_jax.checkpoints.pickle import read_torch
from bark_jax.checkpoints.plan import NetworkSource
from bark_jax.checkpoints.safetensors_file import read_safetensors, read_sharded
from bark_jax.checkpoints.sources import Source, check_arrays
from bark_jax.config import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    TRANSFORMER_CONFIGS,
    BarkConfig,
    BarkGenerationConfig,
    EncodecConfig,
    parse_config,
    read_config,
    read_json,
)
from bark_jax.errors import CheckpointError, ConfigError, ModelNotFoundError

# The first that is there is taken: safetensors before pickles, as transformers does.
WEIGHT_FILES = {
    "model.safetensors": read_safetensors,
    "model.safetensors.index.json": lambda path: read_sharded(path, read_safetensors),
    "pytorch_model.bin": read_torch,
    "pytorch_model.bin.index.json": lambda path: read_sharded(path, read_torch),
}


def open_transformers(folder: Path, label: str) -> Source:
    """Opens a folder with config.json and weights."""
    values = read_json(folder / CONFIG_FILE)
    model_type = values.get("model_type") if isinstance(values, Mapping) else None
    if model_type == EncodecConfig.model_type:
        return _open_encodec(folder, label, values)
    if isinstance(model_type, str) and model_type in TRANSFORMER_CONFIGS:
        return _open_transformer(folder, label, model_type, values)
    config = parse_config(folder / CONFIG_FILE, BarkConfig, values)
    generation = _read_generation(folder)
    path, arrays = _read_weights(folder)
    networks = {
        network: NetworkSource(
            network,
            str(path),
            getattr(config, NETWORKS[network].config_field),
            held,
            transformers_rules(network, getattr(config, NETWORKS[network].config_field)),
            prefix=network + ".",
        )
        for network, held in _by_network(path, arrays).items()
    }
    return Source(label, config, generation, networks, folder)


def _open_encodec(folder: Path, label: str, values: Mapping) -> Source:
    config = parse_config(folder / CONFIG_FILE, EncodecConfig, values)
    path, arrays = _read_weights(folder)
    rules = transformers_rules("codec_model", config)
    return Source(label, config, None, {"codec_model": NetworkSource("codec_model", str(path), config, arrays, rules)})


def _open_transformer(folder: Path, label: str, network: str, values: Mapping) -> Source:
    """One of a Bark's transformers, as its class saves it alone: without the network's prefix to its arrays."""
    config = parse_config(folder / CONFIG_FILE, TRANSFORMER_CONFIGS[network], values)
    path, arrays = _read_weights(folder)
    source = NetworkSource(network, str(path), config, arrays, transformers_rules(network, config))
    return Source(label, BarkConfig(**{NETWORKS[network].config_field: config}), None, {network: source})


def _read_generation(folder: Path) -> BarkGenerationConfig:
    path = folder / GENERATION_CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            f"{folder} has no {GENERATION_CONFIG_FILE}, which says what the tokens mean and how the stages sample. "
            "Copy that of suno/bark (or suno/bark-small), or write the defaults: "
            f"bark_jax.config.save_json(bark_jax.config.BarkGenerationConfig(), {str(path)!r})."
        )
    return read_config(path, BarkGenerationConfig)


def _read_weights(folder: Path) -> tuple[Path, Mapping[str, StoredArray]]:
    for name, read in WEIGHT_FILES.items():
        path = folder / name
        if path.is_file():
            return path, check_arrays(path, read(path))
    raise ModelNotFoundError(f"{folder} has a {CONFIG_FILE} but no weights; expected one of {', '.join(WEIGHT_FILES)}")


def _by_network(path: Path, arrays: Mapping[str, StoredArray]) -> dict[str, dict[str, StoredArray]]:
    """Arrays by network, without the network's prefix. Raises CheckpointError for arrays that belong to none."""
    held: dict[str, dict[str, StoredArray]] = defaultdict(dict)
    loose = []
    for name, array in arrays.items():
        network, _, rest = name.partition(".")
        if network in NETWORKS and rest:
            held[network][rest] = array
        else:
            loose.append(name)
    absent = [network for network in NETWORKS if network not in held]
    if loose or absent:
        raise CheckpointError(
            f"{path} does not hold a Bark. Networks without arrays: {list_names(absent) or 'none'}; "
            f"arrays of no network: {list_names(loose) or 'none'}; expected names like semantic.lm_head.weight"
        )
    return {network: held[network] for network in NETWORKS}
