"""The original EnCodec: a flat state dict, `encodec_24khz-d7cc33bc.th` or `encodec_48khz-7e698e3e.th`.

The file does not say its sizes. They are those of a config.json of an EnCodec beside it; else of the published codec
that its arrays are of: the 24 kHz one is mono, the 48 kHz one stereo. Where the arrays do not tell, its name does.

Source: facebookresearch/encodec, encodec/model.py, `encodec_model_24khz` and `encodec_model_48khz`; the sizes under
transformers' names: transformers 5.23, models/encodec/convert_encodec_checkpoint_to_pytorch.py.
"""

from collections.abc import Mapping
from pathlib import Path

from bark_jax.checkpoints.arrays import StoredArray
from bark_jax.checkpoints.names import encodec_rules
from bark_jax.checkpoints.pickle import read_torch
from bark_jax.checkpoints.plan import NetworkSource
from bark_jax.checkpoints.sources import Source, check_arrays
from bark_jax.config import CONFIG_FILE, EncodecConfig, parse_config, read_json

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
FIRST_KERNEL = "encoder.model.0.conv.conv."  # its array has the shape [filters, channels, kernel size]


def open_encodec_file(path: Path, label: str) -> Source:
    arrays = check_arrays(path, read_torch(path))
    config = _read_config(path.parent / CONFIG_FILE) or _published_config(path, arrays)
    network = NetworkSource("codec_model", str(path), config, arrays, encodec_rules(config))
    return Source(label, config, None, {"codec_model": network})


def _read_config(path: Path) -> EncodecConfig | None:
    values = read_json(path) if path.is_file() else {}
    is_codec = isinstance(values, dict) and values.get("model_type") == EncodecConfig.model_type
    return parse_config(path, EncodecConfig, values) if is_codec else None


def _published_config(path: Path, arrays: Mapping[str, StoredArray]) -> EncodecConfig:
    kernels = [array.shape for name, array in arrays.items() if name.startswith(FIRST_KERNEL) and len(array.shape) == 3]
    channels = max((shape[1] for shape in kernels), default=0)  # beside a weight norm's g, which is [filters, 1, 1]
    by_name = STEREO_48_KHZ if "48khz" in path.name.lower() else MONO_24_KHZ
    return CONFIG_BY_CHANNELS.get(channels, by_name)
