"""Layout of the original EnCodec: a flat state dict, `encodec_24khz-d7cc33bc.th` or `encodec_48khz-7e698e3e.th`.

The file does not hold the network's sizes. They come from a config.json of an EnCodec beside it; else they are those of
the published codec with as many audio channels: the 24 kHz one is mono, the 48 kHz one stereo. Where the arrays have
neither, the file's name decides.

Source: facebookresearch/encodec, encodec/model.py, `encodec_model_24khz` and `encodec_model_48khz`; the sizes under
transformers' names: transformers 5.23, models/encodec/convert_encodec_checkpoint_to_pytorch.py; the names of arrays:
encodec/modules/.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bark_jax.checkpoints._arrays import StoredArray
from bark_jax.checkpoints._plan import NetworkSource
from bark_jax.checkpoints._rules import Rule, Use, kernel_rules, rule
from bark_jax.checkpoints._sources import Source, check_arrays
from bark_jax.checkpoints._transforms import CONV, LINEAR, TRANSPOSED_CONV, Axes, SummedBiases
from bark_jax.checkpoints.layouts.layout import Layout, Request
from bark_jax.checkpoints.model_folder import list_names
from bark_jax.checkpoints.pickle import read_torch
from bark_jax.config import CONFIG_FILE, EncodecConfig, parse_config, read_json
from bark_jax.errors import ModelNotFoundError

MONO_24_KHZ = EncodecConfig()
STEREO_48_KHZ = EncodecConfig(
    target_bandwidths=(3.0, 6.0, 12.0, 24.0),
    sampling_rate=48_000,
    audio_channels=2,
    normalize=True,
    chunk_length_s=1.0,
    overlap=0.01,
    norm_type="time_group_norm",
    use_causal_conv=False,
)
CONFIG_BY_CHANNELS = {config.audio_channels: config for config in (MONO_24_KHZ, STEREO_48_KHZ)}
FIRST_KERNEL = "encoder.model.0.conv.conv."  # prefix of the array [filters, audio channels, kernel size]

_QUANTIZER = (
    rule("quantizer.vq.layers.{q}._codebook.embed", "quantizer.codebooks.{q}.embedding"),
    rule("quantizer.vq.layers.{q}._codebook.embed_avg", "quantizer.codebooks.{q}.embed_avg", use=Use.STATISTIC),
    rule("quantizer.vq.layers.{q}._codebook.cluster_size", "quantizer.codebooks.{q}.cluster_size", use=Use.STATISTIC),
    rule("quantizer.vq.layers.{q}._codebook.inited", "quantizer.codebooks.{q}.inited", use=Use.STATISTIC),
)


def _rules(config: EncodecConfig) -> Sequence[Rule]:
    """The rules of the original EnCodec's names.

    It wraps each convolution twice (conv.conv), and calls transposed ones convtr, which transformers does not.
    """
    rules = list(_QUANTIZER)
    for part in ("encoder", "decoder"):
        theirs, ours = part + ".model.{i}", part + ".layers.{i}"
        for within in ("", ".block.{j}", ".shortcut"):
            rules += _conv_rules(theirs + within + ".conv", ours + within, CONV, config)
        rules += _conv_rules(theirs + ".convtr", ours, TRANSPOSED_CONV, config)
        rules += _lstm_rules(theirs, ours)
    return rules


def _conv_rules(theirs: str, ours: str, axes: Axes, config: EncodecConfig) -> Sequence[Rule]:
    inner = theirs + theirs[theirs.rindex(".") :]  # x.conv.conv, x.convtr.convtr
    return (
        *kernel_rules(inner, ours + ".conv", axes, config),
        rule(inner + ".bias", ours + ".conv.bias"),
        rule(theirs + ".norm.weight", ours + ".norm.scale"),
        rule(theirs + ".norm.bias", ours + ".norm.bias"),
    )


def _lstm_rules(theirs: str, ours: str) -> Sequence[Rule]:
    return (
        rule(theirs + ".lstm.weight_ih_l{n}", ours + ".lstm.{n}.input_kernel", LINEAR),
        rule(theirs + ".lstm.weight_hh_l{n}", ours + ".lstm.{n}.hidden_kernel", LINEAR),
        Rule((theirs + ".lstm.bias_ih_l{n}", theirs + ".lstm.bias_hh_l{n}"), ours + ".lstm.{n}.bias", SummedBiases()),
    )


def _is_mine(request: Request) -> bool:
    return any(request.path.glob("*.th")) if request.path.is_dir() else request.path.suffix == ".th"


def _open(request: Request) -> Source:
    path = _find_file(request.path) if request.path.is_dir() else request.path
    arrays = check_arrays(path, read_torch(path))
    config = _read_config(path.parent / CONFIG_FILE) or _published_config(path, arrays)
    network = NetworkSource("codec_model", str(path), config, arrays, _rules(config))
    return Source(request.label, config, None, {"codec_model": network})


def _find_file(folder: Path) -> Path:
    path, *others = sorted(folder.glob("*.th"))
    if others:
        names = list_names(each.name for each in (path, *others))
        raise ModelNotFoundError(f"{folder} holds several codecs, {names}; give the path of one of them")
    return path


def _read_config(path: Path) -> EncodecConfig | None:
    values = read_json(path) if path.is_file() else {}
    is_codec = isinstance(values, dict) and values.get("model_type") == EncodecConfig.model_type
    return parse_config(path, EncodecConfig, values) if is_codec else None


def _published_config(path: Path, arrays: Mapping[str, StoredArray]) -> EncodecConfig:
    kernels = [array.shape for name, array in arrays.items() if name.startswith(FIRST_KERNEL) and len(array.shape) == 3]
    channels = max((shape[1] for shape in kernels), default=0)  # `max` skips weight norm's g, [filters, 1, 1]
    by_name = STEREO_48_KHZ if "48khz" in path.name.lower() else MONO_24_KHZ
    return CONFIG_BY_CHANNELS.get(channels, by_name)


LAYOUT = Layout(
    kind="an EnCodec's .th file",
    signs=("*.th",),
    is_mine=_is_mine,
    open=_open,
    weights=(("encodec_24khz-*.th",), ("encodec_48khz-*.th",)),
)
