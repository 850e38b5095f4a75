"""Layout of transformers' checkpoints: a Bark, one of its networks alone, or an EnCodec alone.

Source of the names: transformers 5.23, models/{bark,encodec}/modeling_*.py.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bark_jax.checkpoints._arrays import StoredArray
from bark_jax.checkpoints._plan import NetworkSource
from bark_jax.checkpoints._rules import Rule, Use, kernel_rules, rule
from bark_jax.checkpoints._sources import Source, check_arrays
from bark_jax.checkpoints._transforms import CONV, LINEAR, TRANSPOSED_CONV, SummedBiases
from bark_jax.checkpoints.layouts.layout import Layout, Request
from bark_jax.checkpoints.model_folder import NETWORKS, list_names
from bark_jax.checkpoints.pickle import read_torch
from bark_jax.checkpoints.safetensors_file import read_safetensors, read_sharded
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

# The first file that exists is read: safetensors before pickles, as transformers does.
WEIGHT_FILES = {
    "model.safetensors": read_safetensors,
    "model.safetensors.index.json": lambda path: read_sharded(path, read_safetensors),
    "pytorch_model.bin": read_torch,
    "pytorch_model.bin.index.json": lambda path: read_sharded(path, read_torch),
}

_BLOCK = (
    rule("layers.{i}.layernorm_1.weight", "blocks.{i}.attention_norm.scale"),
    rule("layers.{i}.layernorm_1.bias", "blocks.{i}.attention_norm.bias"),
    rule("layers.{i}.attn.att_proj.weight", "blocks.{i}.attention.qkv.kernel", LINEAR),
    rule("layers.{i}.attn.att_proj.bias", "blocks.{i}.attention.qkv.bias"),
    rule("layers.{i}.attn.out_proj.weight", "blocks.{i}.attention.out.kernel", LINEAR),
    rule("layers.{i}.attn.out_proj.bias", "blocks.{i}.attention.out.bias"),
    rule("layers.{i}.layernorm_2.weight", "blocks.{i}.mlp_norm.scale"),
    rule("layers.{i}.layernorm_2.bias", "blocks.{i}.mlp_norm.bias"),
    rule("layers.{i}.mlp.in_proj.weight", "blocks.{i}.mlp.up.kernel", LINEAR),
    rule("layers.{i}.mlp.in_proj.bias", "blocks.{i}.mlp.up.bias"),
    rule("layers.{i}.mlp.out_proj.weight", "blocks.{i}.mlp.down.kernel", LINEAR),
    rule("layers.{i}.mlp.out_proj.bias", "blocks.{i}.mlp.down.bias"),
    rule("layernorm_final.weight", "final_norm.scale"),
    rule("layernorm_final.bias", "final_norm.bias"),
    rule("position_embeds_layer.weight", "position_embedding.embedding"),
)
_CAUSAL = (
    *_BLOCK,
    rule("input_embeds_layer.weight", "token_embedding.embedding"),
    rule("lm_head.weight", "head.kernel", LINEAR),
    rule("layers.{i}.attn.bias", "blocks.{i}.attention", use=Use.CAUSAL_MASK),  # no bias, whatever its name says
)

# Head q predicts codebook q + 1 and is that codebook's table. transformers 5 leaves it out when it saves.
_FINE = (
    *_BLOCK,
    rule("input_embeds_layers.{q}.weight", "token_embeddings.{q}.embedding"),
    rule("lm_heads.{q}.weight", "token_embeddings.{q+1}.embedding", use=Use.COPY),
)

_CODEC = (
    rule("{at}.conv.bias", "{at}.conv.bias"),
    rule("{at}.lstm.weight_ih_l{n}", "{at}.lstm.{n}.input_kernel", LINEAR),
    rule("{at}.lstm.weight_hh_l{n}", "{at}.lstm.{n}.hidden_kernel", LINEAR),
    Rule(("{at}.lstm.bias_ih_l{n}", "{at}.lstm.bias_hh_l{n}"), "{at}.lstm.{n}.bias", SummedBiases()),
    rule("{at}.norm.weight", "{at}.norm.scale"),
    rule("{at}.norm.bias", "{at}.norm.bias"),
    rule("quantizer.layers.{q}.codebook.embed", "quantizer.codebooks.{q}.embedding"),
    rule("quantizer.layers.{q}.codebook.embed_avg", "quantizer.codebooks.{q}.embed_avg", use=Use.STATISTIC),
    rule("quantizer.layers.{q}.codebook.cluster_size", "quantizer.codebooks.{q}.cluster_size", use=Use.STATISTIC),
    rule("quantizer.layers.{q}.codebook.inited", "quantizer.codebooks.{q}.inited", use=Use.STATISTIC),
)


def transformers_rules(network: str, config: EncodecConfig | object) -> Sequence[Rule]:
    """The rules of transformers' names of a network's arrays, without the network's prefix ("semantic.")."""
    if network == "codec_model":
        return _codec_rules(config)
    return _FINE if network == "fine_acoustics" else _CAUSAL


def _codec_rules(config: EncodecConfig) -> Sequence[Rule]:
    # Names do not distinguish transposed convolutions from plain ones; the layer's index does. Their rules come first,
    # as {at} would match them too.
    paths = [f"decoder.layers.{i}.conv" for i in _transposed_layers(config)]
    transposed = [kernel for path in paths for kernel in kernel_rules(path, path, TRANSPOSED_CONV, config)]
    return (*transposed, *kernel_rules("{at}.conv", "{at}.conv", CONV, config), *_CODEC)


def _transposed_layers(config: EncodecConfig) -> range:
    """Indices in `decoder.layers` of the transposed convolutions: 3, 6, 9 and 12 in the 24 kHz codec.

    The first is 3, after a convolution, the LSTM and an ELU. Residual blocks and an ELU are between two of them.
    """
    step = 2 + config.num_residual_layers
    return range(3, 3 + step * len(config.upsampling_ratios), step)


def _is_mine(request: Request) -> bool:
    return (request.path / CONFIG_FILE).is_file()


def _open(request: Request) -> Source:
    folder, label = request.path, request.label
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
    """Opens one of a Bark's networks that its class saved alone: names of its arrays have no prefix."""
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
    """Groups arrays by network and strips the network's prefix from their names.

    Raises CheckpointError for arrays of no network, or a network without arrays.
    """
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


LAYOUT = Layout(
    kind="a transformers folder (config.json and weights) of a Bark or of one of its networks",
    signs=(CONFIG_FILE,),
    is_mine=_is_mine,
    open=_open,
    weights=(
        ("model.safetensors",),
        ("model.safetensors.index.json", "model-*.safetensors"),
        ("pytorch_model.bin",),
        ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    ),
)
