"""Layout of this project's own model folders, opened to change their dtype or to export them to transformers."""

from collections.abc import Sequence
from pathlib import Path

from bark_jax.checkpoints._plan import NetworkSource
from bark_jax.checkpoints._rules import Rule, rule
from bark_jax.checkpoints._sources import Source
from bark_jax.checkpoints.layouts.layout import Layout, Request
from bark_jax.checkpoints.model_folder import (
    MANIFEST_FILE,
    NETWORKS,
    find_weights,
    is_model_folder,
    read_manifest,
    weight_file,
)
from bark_jax.checkpoints.safetensors_file import read_safetensors
from bark_jax.config import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    BarkConfig,
    BarkGenerationConfig,
    EncodecConfig,
    parse_config,
    read_config,
    read_json,
)

# The codec's arrays before weight norm was folded, under transformers' names, for an export.
ORIGINAL_CODEC_FILE = "codec_model.torch.safetensors"


def own_rules() -> Sequence[Rule]:
    """The rule of this project's own files: an array has the parameter's name and layout."""
    return (rule("{at}", "{at}"),)


def _is_mine(request: Request) -> bool:
    return is_model_folder(request.path)


def _open(request: Request) -> Source:
    return open_own(request.path, request.label)


def open_own(folder: Path, label: str) -> Source:
    """Opens a model folder, after comparing its files with the manifest's checksums.

    Raises:
      ModelNotFoundError: it is no model folder, or a file is missing.
      CheckpointError, ConfigError: a file is damaged.
    """
    manifest = read_manifest(folder)
    files = manifest.files
    config_values = read_json(folder / CONFIG_FILE)
    is_codec = isinstance(config_values, dict) and config_values.get("model_type") == EncodecConfig.model_type
    config = parse_config(folder / CONFIG_FILE, EncodecConfig if is_codec else BarkConfig, config_values)
    networks = {}
    for network in NETWORKS:
        if weight_file(network) in files:
            path = find_weights(folder, weight_file(network))
            sub_config = config if is_codec else getattr(config, NETWORKS[network].config_field)
            networks[network] = NetworkSource(network, str(path), sub_config, read_safetensors(path), own_rules())
    generation_path = folder / GENERATION_CONFIG_FILE
    generation = read_config(generation_path, BarkGenerationConfig) if generation_path.is_file() else None
    original = find_weights(folder, ORIGINAL_CODEC_FILE) if ORIGINAL_CODEC_FILE in files else None
    return Source(label, config, generation, networks, folder, original, manifest.dtype)


LAYOUT = Layout(
    kind="a folder that this program wrote",
    signs=(CONFIG_FILE,),
    is_mine=_is_mine,
    open=_open,
    weights=((MANIFEST_FILE, "*.safetensors"),),
)
