"""Layout of Suno's own checkpoints: text.pt, coarse.pt and fine.pt (small), or text_2.pt, coarse_2.pt and fine_2.pt.

Each file is a training checkpoint: the weights (`model`), the size (`model_args`) and the optimizer's state, which is
two thirds of the file and is never read. The codec is not among them.

Source: suno-ai/bark, bark/generation.py, `_load_model`; the names: bark/model.py and model_fine.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bark_jax.checkpoints._arrays import StoredArray
from bark_jax.checkpoints._plan import NetworkSource
from bark_jax.checkpoints._rules import Rule, Use, rule
from bark_jax.checkpoints._sources import Source, check_arrays
from bark_jax.checkpoints._transforms import LINEAR
from bark_jax.checkpoints.layouts.layout import Layout, Request
from bark_jax.checkpoints.model_folder import NETWORKS, list_names
from bark_jax.checkpoints.pickle import read_torch
from bark_jax.config import CONFIG_FILE, TRANSFORMER_CONFIGS, BarkConfig, BarkGenerationConfig, parse_config
from bark_jax.errors import CheckpointError, InputError, ModelNotFoundError

FILES = {
    "small": {"semantic": "text.pt", "coarse_acoustics": "coarse.pt", "fine_acoustics": "fine.pt"},
    "large": {"semantic": "text_2.pt", "coarse_acoustics": "coarse_2.pt", "fine_acoustics": "fine_2.pt"},
}
NETWORKS_BY_FILE = {name: network for files in FILES.values() for network, name in files.items()}
FIELDS = {
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "hidden_size",
    "block_size": "block_size",
    "bias": "bias",
    "dropout": "dropout",
    "input_vocab_size": "input_vocab_size",
    "output_vocab_size": "output_vocab_size",
    "n_codes_total": "n_codes_total",
    "n_codes_given": "n_codes_given",
}
FINE_FIELDS = ("n_codes_total", "n_codes_given")
REQUIRED = ("n_layer", "n_head", "n_embd", "block_size", "bias")
COMPILED_PREFIX = "_orig_mod."  # torch.compile wraps the model it compiles
CODEC_PATTERN = "encodec_24khz-*.th"
CODEC_HINT = "give one by codec (--codec), for instance --codec facebook/encodec_24khz"

_BLOCK = (
    rule("transformer.h.{i}.ln_1.weight", "blocks.{i}.attention_norm.scale"),
    rule("transformer.h.{i}.ln_1.bias", "blocks.{i}.attention_norm.bias"),
    rule("transformer.h.{i}.attn.c_attn.weight", "blocks.{i}.attention.qkv.kernel", LINEAR),
    rule("transformer.h.{i}.attn.c_attn.bias", "blocks.{i}.attention.qkv.bias"),
    rule("transformer.h.{i}.attn.c_proj.weight", "blocks.{i}.attention.out.kernel", LINEAR),
    rule("transformer.h.{i}.attn.c_proj.bias", "blocks.{i}.attention.out.bias"),
    rule("transformer.h.{i}.ln_2.weight", "blocks.{i}.mlp_norm.scale"),
    rule("transformer.h.{i}.ln_2.bias", "blocks.{i}.mlp_norm.bias"),
    rule("transformer.h.{i}.mlp.c_fc.weight", "blocks.{i}.mlp.up.kernel", LINEAR),
    rule("transformer.h.{i}.mlp.c_fc.bias", "blocks.{i}.mlp.up.bias"),
    rule("transformer.h.{i}.mlp.c_proj.weight", "blocks.{i}.mlp.down.kernel", LINEAR),
    rule("transformer.h.{i}.mlp.c_proj.bias", "blocks.{i}.mlp.down.bias"),
    rule("transformer.ln_f.weight", "final_norm.scale"),
    rule("transformer.ln_f.bias", "final_norm.bias"),
    rule("transformer.wpe.weight", "position_embedding.embedding"),
)
_CAUSAL = (
    *_BLOCK,
    rule("transformer.wte.weight", "token_embedding.embedding"),
    rule("lm_head.weight", "head.kernel", LINEAR),
    rule("transformer.h.{i}.attn.bias", "blocks.{i}.attention", use=Use.CAUSAL_MASK),
)
# Head q predicts codebook q + 1 and is that codebook's table.
_FINE = (
    *_BLOCK,
    rule("transformer.wtes.{q}.weight", "token_embeddings.{q}.embedding"),
    rule("lm_heads.{q}.weight", "token_embeddings.{q+1}.embedding", use=Use.COPY),
)


def suno_rules(network: str) -> Sequence[Rule]:
    """The rules of Suno's names of a network's arrays."""
    return _FINE if network == "fine_acoustics" else _CAUSAL


def _is_mine(request: Request) -> bool:
    """Whether a path is a .pt file or a folder of Suno's files.

    suno/bark has both these and transformers' config.json and weights; there they are taken only if `size` is given.
    """
    if not request.path.is_dir():
        return request.path.suffix == ".pt"
    has_files = any((request.path / name).is_file() for name in NETWORKS_BY_FILE)
    return has_files and (request.size is not None or not (request.path / CONFIG_FILE).is_file())


def _open(request: Request) -> Source:
    return _open_folder(request) if request.path.is_dir() else _open_single(request.path, request.label)


def _open_folder(request: Request) -> Source:
    """Opens the three files of one size, and the codec that was asked for or is beside them."""
    folder = request.path
    codec = _open_codec(request)
    networks = {network: _open_file(folder / name, network) for network, name in _files(folder, request.size).items()}
    networks["codec_model"] = codec
    config = BarkConfig(**{NETWORKS[network].config_field: source.config for network, source in networks.items()})
    return Source(request.label, config, BarkGenerationConfig.suno(), networks, folder)


def _open_codec(request: Request) -> NetworkSource:
    """The codec that was asked for, else the one beside Suno's files."""
    codec = _find_codec(request.path) if request.codec is None else request.codec
    networks = request.open_source(codec).networks
    if "codec_model" not in networks:
        raise CheckpointError(f"{codec} holds no codec but {', '.join(networks)}; {CODEC_HINT}")
    rate, expected = networks["codec_model"].config.sampling_rate, BarkGenerationConfig.suno().sample_rate
    if rate != expected:
        raise CheckpointError(
            f"{codec} is a codec of {rate:,} Hz, and Suno's Bark has codes of {expected:,} Hz; {CODEC_HINT}"
        )
    return networks["codec_model"]


def _find_codec(folder: Path) -> Path:
    beside = sorted(folder.glob(CODEC_PATTERN))
    if not beside:
        raise ModelNotFoundError(f"Suno's files bring no codec, and no {CODEC_PATTERN} lies in {folder}; {CODEC_HINT}")
    return beside[0]


def _files(folder: Path, size: str | None) -> Mapping[str, str]:
    present = {name: [file for file in files.values() if (folder / file).is_file()] for name, files in FILES.items()}
    sizes = [name for name, files in present.items() if files] if size is None else [size]
    if len(sizes) > 1:
        raise InputError(f"{folder} holds small (text.pt, ...) and large (text_2.pt, ...): choose by size (--size)")
    (size,) = sizes
    missing = [file for file in FILES[size].values() if file not in present[size]]
    if missing:
        raise ModelNotFoundError(
            f"{folder} lacks {', '.join(missing)} of Suno's {size} checkpoint; put all three files into one folder, "
            "or convert a single file by its own name"
        )
    return FILES[size]


def _open_single(path: Path, label: str) -> Source:
    """Opens one of Suno's files alone."""
    source = _open_file(path, None)
    config = BarkConfig(**{NETWORKS[source.network].config_field: source.config})
    return Source(label, config, None, {source.network: source})


def _open_file(path: Path, network: str | None) -> NetworkSource:
    """Opens one file as `network`; None takes the network of its name, or guesses it. Raises CheckpointError."""
    checkpoint = read_torch(path)
    _check_keys(path, checkpoint)
    sizes = _read_sizes(path, checkpoint["model_args"])
    network = network or NETWORKS_BY_FILE.get(path.name) or _guess_network(sizes)
    _check_kind(path, network, sizes)
    config = parse_config(path, TRANSFORMER_CONFIGS[network], {FIELDS[name]: value for name, value in sizes.items()})
    arrays = _without_prefix(path, check_arrays(path, checkpoint["model"]))
    return NetworkSource(network, str(path), config, arrays, suno_rules(network))


def _check_keys(path: Path, checkpoint: Any) -> None:
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f"{path} is not a checkpoint of Suno's Bark: it holds a {type(checkpoint).__name__}, expected a dict of "
            "model and model_args"
        )
    if missing := [key for key in ("model", "model_args") if key not in checkpoint]:
        raise CheckpointError(
            f"{path} is not a checkpoint of Suno's Bark: it has no {' and no '.join(missing)} but "
            f"{list_names(checkpoint) or 'nothing'}, expected model and model_args"
        )


def _read_sizes(path: Path, model_args: Any) -> dict[str, Any]:
    """Reads model_args, with the old vocab_size as two sizes. Raises CheckpointError for missing or unknown names."""
    if not isinstance(model_args, Mapping):
        raise CheckpointError(f"{path}: model_args is a {type(model_args).__name__}, expected names and numbers")
    sizes = dict(model_args)
    if "vocab_size" in sizes:  # the first files had one vocabulary for both sides
        vocab_size = sizes.pop("vocab_size")
        sizes = {"input_vocab_size": vocab_size, "output_vocab_size": vocab_size} | sizes
    if unknown := [str(name) for name in sizes if name not in FIELDS]:
        raise CheckpointError(f"{path}: model_args has {list_names(unknown)}, expected only {', '.join(FIELDS)}")
    required = (*REQUIRED, "input_vocab_size", "output_vocab_size")
    if missing := [name for name in required if name not in sizes]:
        raise CheckpointError(f"{path}: model_args lacks {', '.join(missing)}")
    return sizes


def _guess_network(sizes: Mapping[str, Any]) -> str:
    """Guesses the network of a renamed file by its vocabularies.

    Only the fine one counts codebooks. The semantic one has fewer output than input ids (10,048 and 129,600), the
    coarse one as many (12,096).
    """
    if any(name in sizes for name in FINE_FIELDS):
        return "fine_acoustics"
    return "coarse_acoustics" if sizes["input_vocab_size"] == sizes["output_vocab_size"] else "semantic"


def _check_kind(path: Path, network: str, sizes: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless model_args counts codebooks for the fine network, and for no other."""
    counts = [name for name in FINE_FIELDS if name in sizes]
    if counts and network != "fine_acoustics":
        raise CheckpointError(
            f"{path} holds the fine_acoustics network (model_args has {counts[0]}), expected {network}; "
            "are two files mixed up?"
        )
    if network == "fine_acoustics" and len(counts) < len(FINE_FIELDS):
        raise CheckpointError(f"{path}: model_args lacks {' or '.join(FINE_FIELDS)}, which the fine network has")


def _without_prefix(path: Path, arrays: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    plain = {name.removeprefix(COMPILED_PREFIX): array for name, array in arrays.items()}
    if len(plain) < len(arrays):
        raise CheckpointError(f"{path} holds arrays both with and without the prefix {COMPILED_PREFIX}")
    return plain


LAYOUT = Layout(
    kind="Suno's text.pt, coarse.pt and fine.pt",
    signs=("*.pt",),
    is_mine=_is_mine,
    open=_open,
    sizes={size: (*files.values(), CODEC_PATTERN) for size, files in FILES.items()},
)
