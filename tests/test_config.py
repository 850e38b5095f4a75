"""Configs: reading and writing transformers' files, and refused values."""

import json
import re

import pytest
from bad_inputs.harness import FILE_CALLS, refused

from bark_jax.config import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    EncodecConfig,
    read_json,
    save_json,
)
from bark_jax.errors import BarkError, ConfigError, ModelNotFoundError


@pytest.mark.parametrize("config", [BarkConfig.small(), BarkConfig.large(), BarkGenerationConfig.suno()])
def test_a_config_survives_its_file(config, tmp_path):
    save_json(config, tmp_path / "config.json")
    assert type(config).from_dict(read_json(tmp_path / "config.json")) == config


def test_configs_can_be_hashed_after_reading_json_lists():
    config = EncodecConfig.from_dict({"upsampling_ratios": [8, 4], "target_bandwidths": [7.5, 15]})
    assert hash(config) and config.hop_length == 32


def test_unknown_keys_are_ignored():
    assert BarkSemanticConfig.from_dict({"num_layers": 3, "torch_dtype": "float32"}).num_layers == 3


def test_old_names_are_accepted():
    old = {"num_attention_heads": 4, "num_hidden_layers": 5, "vocab_size": 600, "window_size": 700}
    config = BarkSemanticConfig.from_dict(old)
    assert (config.num_heads, config.num_layers, config.input_vocab_size, config.block_size) == (4, 5, 600, 700)


def test_the_end_token_pads_whatever_the_file_says():
    config = BarkSemanticGenerationConfig.from_dict({"eos_token_id": 10_001, "semantic_pad_token": 3})
    assert config.semantic_pad_token == 10_001


def test_the_24_khz_codec_has_32_codebooks_and_320_samples_a_frame():
    config = EncodecConfig()
    assert (config.num_quantizers, config.hop_length, config.frame_rate) == (32, 320, 75)


VALUES = [
    (BarkSemanticConfig, {"num_heads": 3, "hidden_size": 16}, "num_heads is 3"),
    (BarkSemanticConfig, {"num_heads": 0}, "num_heads is 0"),
    (BarkSemanticConfig, {"hidden_size": 0}, "hidden_size is 0"),
    (BarkSemanticConfig, {"num_layers": -1}, "num_layers is -1"),
    (BarkSemanticConfig, {"num_layers": 10**7}, "num_layers is 10000000"),
    (BarkSemanticConfig, {"input_vocab_size": 2**40}, "input_vocab_size"),
    (BarkSemanticConfig, {"dropout": "abc"}, "dropout is 'abc', expected float"),
    (BarkSemanticConfig, {"dropout": 1.0}, "dropout is 1.0"),
    (BarkSemanticConfig, {"num_heads": "2"}, "num_heads is '2', expected int"),
    (BarkSemanticConfig, {"num_layers": True}, "num_layers is True"),
    (BarkSemanticConfig, {"initializer_range": float("nan")}, "initializer_range is nan"),
    (BarkSemanticConfig, {"model_type": "gpt2"}, "model_type is 'gpt2'"),
    (BarkConfig, {"model_type": "gpt2"}, "model_type is 'gpt2'"),
    (BarkConfig, [1], "expected a JSON object, got list"),
    (BarkConfig, {"semantic_config": "small"}, "expected a JSON object, got str"),
    (BarkConfig, {"codec_config": {"model_type": "dac"}}, "model_type is 'dac'"),
    (BarkFineConfig, {"n_codes_given": 2}, "n_codes_given is 2"),
    (BarkFineConfig, {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
    (EncodecConfig, {"upsampling_ratios": [8, 0]}, "upsampling_ratios is (8, 0)"),
    (EncodecConfig, {"codebook_size": 1000}, "codebook_size is 1000"),
    (EncodecConfig, {"norm_type": "batch"}, "norm_type is 'batch'"),
    (EncodecConfig, {"audio_channels": 6}, "audio_channels is 6"),
    (BarkSemanticGenerationConfig, {"semantic_rate_hz": 0}, "semantic_rate_hz is 0"),
    (BarkSemanticGenerationConfig, {"temperature": 0}, "temperature is 0"),
    (BarkSemanticGenerationConfig, {"min_eos_p": 2.0}, "min_eos_p is 2.0"),
    (BarkCoarseGenerationConfig, {"sliding_window_len": 0}, "sliding_window_len is 0"),
    (BarkCoarseGenerationConfig, {"sliding_window_len": 61}, "sliding_window_len is 61"),
    (BarkFineGenerationConfig, {"max_fine_history_length": 2000}, "max_fine_history_length is 2000"),
    (BarkGenerationConfig, {"transformers_version": "5.0"}, "no semantic_config"),
    (BarkGenerationConfig, [], "expected a JSON object, got list"),
    (BarkSemanticConfig, {"num_layers": 10**5000}, "num_layers is a number too long to show"),
    (BarkSemanticConfig, {"num_layers": "9" * 10**6}, "num_layers is '999"),
    (BarkSemanticConfig, {"num_layers": 2.0}, "num_layers is 2.0, expected int"),
    (BarkSemanticConfig, {"num_layers": None}, "num_layers is None"),
    (BarkSemanticConfig, {"num_layers": [2]}, "num_layers is (2,)"),
    (BarkSemanticConfig, {"num_layers": 2, "num_hidden_layers": 3}, "under another of its names, 3"),
    (BarkSemanticConfig, {"hidden_size": 2**20, "num_heads": 1}, "hidden_size is 1048576"),
    (BarkSemanticConfig, {"hidden_size": -16}, "hidden_size is -16"),
    (BarkSemanticConfig, {"block_size": 0}, "block_size is 0"),
    (BarkSemanticConfig, {"block_size": 131_072}, "block_size is 131072, expected a number from 1 to 4729: attention"),
    (BarkFineConfig, {"block_size": 4097, "num_heads": 16}, "block_size is 4097, expected a number from 1 to 4096"),
    (BarkCoarseConfig, {"block_size": 8193, "num_heads": 1}, "block_size is 8193, expected a number from 1 to 8192"),
    (BarkCoarseConfig, {"num_heads": 768}, "num_heads is 768, expected a number from 1 to 256"),
    (EncodecConfig, {"dilation_growth_rate": 2**20, "num_residual_layers": 64}, "dilation_growth_rate is 1048576"),
    (EncodecConfig, {"residual_kernel_size": 2**20}, "residual_kernel_size is 1048576, expected a number from 1"),
    (BarkSemanticConfig, {"num_heads": -12}, "num_heads is -12"),
    (BarkSemanticConfig, {"output_vocab_size": 0}, "output_vocab_size is 0"),
    (BarkSemanticConfig, {"bias": "no"}, "bias is 'no', expected bool"),
    (BarkSemanticConfig, {"bias": 0}, "bias is 0"),
    (BarkSemanticConfig, {"dropout": -0.5}, "dropout is -0.5"),
    (BarkSemanticConfig, {"dropout": 10**400}, "dropout is 1000"),
    (BarkSemanticConfig, {"initializer_range": -1}, "initializer_range is -1"),
    (BarkSemanticConfig, {"initializer_range": float("inf")}, "initializer_range is inf"),
    (BarkFineConfig, {"n_codes_total": 9 * 10**9}, "n_codes_total is 9000000000"),
    (BarkFineConfig, {"n_codes_total": 1}, "n_codes_total is 1"),
    (BarkFineConfig, {"output_vocab_size": 9}, "output_vocab_size is 9"),
    (EncodecConfig, {"target_bandwidths": []}, "target_bandwidths is ()"),
    (EncodecConfig, {"target_bandwidths": [-1.5]}, "target_bandwidths is (-1.5,)"),
    (EncodecConfig, {"target_bandwidths": [1e308]}, "target_bandwidths is (1e+308,)"),
    (EncodecConfig, {"target_bandwidths": [float("inf")]}, "target_bandwidths is (inf,)"),
    (EncodecConfig, {"target_bandwidths": ["6"]}, "target_bandwidths is ('6',)"),
    (EncodecConfig, {"target_bandwidths": 6}, "target_bandwidths is 6"),
    (EncodecConfig, {"upsampling_ratios": []}, "upsampling_ratios is ()"),
    (EncodecConfig, {"upsampling_ratios": [1024] * 16}, "at most sampling_rate 24000"),
    (EncodecConfig, {"upsampling_ratios": [2] * 40}, "1 to 16 strides"),
    (EncodecConfig, {"upsampling_ratios": [8.0, 5]}, "upsampling_ratios is (8.0, 5)"),
    (EncodecConfig, {"chunk_length_s": 1e308, "overlap": 0.1}, "chunk_length_s is 1e+308"),
    (EncodecConfig, {"chunk_length_s": 1e-320}, "chunk_length_s is 1e-320"),
    (EncodecConfig, {"overlap": 1.0}, "overlap is 1.0"),
    (EncodecConfig, {"sampling_rate": 0}, "sampling_rate is 0"),
    (EncodecConfig, {"num_filters": 2**40}, "num_filters is 1099511627776"),
    (EncodecConfig, {"num_lstm_layers": 10**6}, "num_lstm_layers is 1000000"),
    (EncodecConfig, {"pad_mode": "circular"}, "pad_mode is 'circular'"),
    (EncodecConfig, {"codebook_dim": 5}, "codebook_dim is 5"),
    (EncodecConfig, {"trim_right_ratio": float("nan")}, "trim_right_ratio is nan"),
    (BarkSemanticGenerationConfig, {"semantic_rate_hz": 10**400}, "semantic_rate_hz is 1000"),
    (BarkSemanticGenerationConfig, {"semantic_rate_hz": 1e-320}, "semantic_rate_hz is 1e-320"),
    (BarkSemanticGenerationConfig, {"semantic_rate_hz": "49.9"}, "semantic_rate_hz is '49.9'"),
    (BarkSemanticGenerationConfig, {"top_k": 2**40}, "top_k is 1099511627776"),
    (BarkSemanticGenerationConfig, {"top_k": -1}, "top_k is -1"),
    (BarkSemanticGenerationConfig, {"top_p": 0}, "top_p is 0"),
    (BarkSemanticGenerationConfig, {"max_new_tokens": 0}, "max_new_tokens is 0"),
    (BarkSemanticGenerationConfig, {"eos_token_id": -1}, "eos_token_id is -1"),
    (BarkSemanticGenerationConfig, {"eos_token_id": [1, 2]}, "eos_token_id is (1, 2)"),
    (BarkSemanticGenerationConfig, {"do_sample": "true"}, "do_sample is 'true'"),
    (BarkCoarseGenerationConfig, {"n_coarse_codebooks": 0}, "n_coarse_codebooks is 0"),
    (BarkCoarseGenerationConfig, {"coarse_rate_hz": -75}, "coarse_rate_hz is -75"),
    (BarkCoarseGenerationConfig, {"max_coarse_history": -1}, "max_coarse_history is -1"),
    (BarkFineGenerationConfig, {"temperature": float("nan")}, "temperature is nan"),
    (BarkFineGenerationConfig, {"max_fine_input_length": 0}, "max_fine_input_length is 0"),
    (BarkGenerationConfig, {"semantic_config": {}, "sample_rate": 0}, "sample_rate is 0"),
    (BarkGenerationConfig, {"semantic_config": {}, "codebook_size": 1}, "codebook_size is 1"),
    (BarkGenerationConfig, {"semantic_config": 5}, "expected a JSON object, got int"),
]


@pytest.mark.parametrize(("config_class", "values", "named"), VALUES)
def test_a_value_that_cannot_work_is_named(config_class, values, named):
    with refused(ConfigError, re.escape(named), calls=FILE_CALLS):
        config_class.from_dict(values)


def test_a_missing_file_says_what_a_folder_holds(tmp_path):
    with pytest.raises(ModelNotFoundError, match="does not exist; a model folder holds"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"", b"9" * 5000, b'{"a": 1, "a": 2}'])
def test_a_file_that_is_no_json_says_so(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match="is not JSON"):
        read_json(tmp_path / "config.json")


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(ConfigError, match="bytes, more than"):
        read_json(path)


def test_every_error_is_a_bark_error_and_a_built_in_one():
    assert issubclass(ConfigError, (BarkError, ValueError)) and issubclass(ModelNotFoundError, FileNotFoundError)


def test_files_of_transformers_are_read_as_they_are(tmp_path):
    transformers = pytest.importorskip("transformers")
    from transformers.models.bark import generation_configuration_bark as theirs

    transformers.BarkConfig(semantic_config={"num_layers": 3, "bias": False}).save_pretrained(tmp_path)
    generation = theirs.BarkGenerationConfig(semantic_config={"do_sample": True, "top_k": 50, "min_eos_p": 0.1})
    (tmp_path / "generation_config.json").write_text(json.dumps(generation.to_dict()))
    config = BarkConfig.from_dict(read_json(tmp_path / "config.json"))
    assert (config.semantic_config.num_layers, config.semantic_config.bias) == (3, False)
    assert config.codec_config == EncodecConfig()
    read = BarkGenerationConfig.from_dict(read_json(tmp_path / "generation_config.json"))
    assert (read.semantic_config.do_sample, read.semantic_config.top_k, read.semantic_config.min_eos_p) == (
        True,
        50,
        0.1,
    )
