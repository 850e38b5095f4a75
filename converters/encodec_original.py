"""The original EnCodec: a flat state dict, `encodec_24khz-d7cc33bc.th`.

The file does not say its sizes. They are those of the 24 kHz codec, unless a config.json of an EnCodec lies beside it.

Source: facebookresearch/encodec, encodec/model.py, `EncodecModel.encodec_model_24khz`.
"""

from pathlib import Path

from bark_jax.config import CONFIG_FILE, EncodecConfig, parse_config, read_json
from converters.engine import NetworkSource
from converters.schemes import encodec_rules
from converters.sources import Source, check_arrays
from converters.torch_pickle import read_torch


def open_encodec_file(path: Path, label: str) -> Source:
    config = _read_config(path.parent / CONFIG_FILE)
    arrays = check_arrays(path, read_torch(path))
    network = NetworkSource("codec_model", str(path), config, arrays, encodec_rules(config))
    return Source(label, config, None, {"codec_model": network})


def _read_config(path: Path) -> EncodecConfig:
    values = read_json(path) if path.is_file() else {}
    is_codec = isinstance(values, dict) and values.get("model_type") == EncodecConfig.model_type
    return parse_config(path, EncodecConfig, values) if is_codec else EncodecConfig()
