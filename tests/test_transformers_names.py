"""Names and arguments that code written for transformers uses: configs, loading, voices, networks, stages."""

import json

import numpy as np
import pytest

import bark_jax
from bark_jax.config import BarkCoarseConfig, BarkFineConfig, BarkSemanticConfig
from bark_jax.errors import ConfigError
from bark_jax.voices import PROMPT_KEYS, Voice

SUB_CONFIGS = (BarkSemanticConfig, BarkCoarseConfig, BarkFineConfig)
GENERATION_CONFIG = bark_jax.BarkGenerationConfig.suno()


@pytest.mark.parametrize("config_class", SUB_CONFIGS)
def test_sizes_are_read_and_given_under_transformers_names(config_class):
    config = config_class(
        num_hidden_layers=2, num_attention_heads=4, vocab_size=33, output_vocab_size=33, window_size=64, hidden_size=16
    )
    assert config == config_class(
        num_layers=2, num_heads=4, input_vocab_size=33, output_vocab_size=33, block_size=64, hidden_size=16
    )
    names = ("num_hidden_layers", "num_attention_heads", "vocab_size", "window_size", "hidden_size")
    assert [getattr(config, name) for name in names] == [2, 4, 33, 64, 16]


def test_ids_that_no_network_reads_are_taken():
    assert BarkSemanticConfig(bos_token_id=32, eos_token_id=32, pad_token_id=32, use_cache=True) == BarkSemanticConfig()


def test_a_size_under_two_names_that_differ_is_refused():
    with pytest.raises(ConfigError, match="num_layers is 3 and, under another of its names, 2"):
        BarkSemanticConfig(num_layers=3, num_hidden_layers=2)
    with pytest.raises(TypeError, match="num_layer"):
        BarkSemanticConfig(num_layer=3)


@pytest.mark.parametrize("part", ["semantic_config", "coarse_acoustics_config", "fine_acoustics_config"])
def test_parts_of_the_generation_config_are_read_like_dicts(part):
    config = GENERATION_CONFIG[part]
    assert config is getattr(GENERATION_CONFIG, part)
    assert config["temperature"] == config.get("temperature") == config.temperature
    assert "temperature" in config and "temprature" not in config and None not in config
    assert config.get("temprature") is None and config.get("temprature", 3) == 3
    with pytest.raises(KeyError, match="temprature"):
        config["temprature"]
    with pytest.raises(TypeError, match="assignment"):
        config["temperature"] = 1.0
    assert dict(config) == dict(config.items()) == dict(zip(config.keys(), config.values(), strict=True))
    assert type(config)(**config) == config and len(config) == len(list(config))


def test_configs_are_made_of_their_parts():
    parts = [GENERATION_CONFIG[f"{part}_config"] for part in ("semantic", "coarse_acoustics", "fine_acoustics")]
    assert bark_jax.BarkGenerationConfig.from_sub_model_configs(*parts) == GENERATION_CONFIG
    small = bark_jax.BarkConfig.small()
    sizes = (small.semantic_config, small.coarse_acoustics_config, small.fine_acoustics_config, small.codec_config)
    assert bark_jax.BarkConfig.from_sub_model_configs(*sizes) == small


def test_the_files_of_transformers_read_as_before():
    values = json.loads(json.dumps({"num_hidden_layers": 2, "vocab_size": 10, "torch_dtype": "float32"}))
    assert BarkSemanticConfig.from_dict(values) == BarkSemanticConfig(num_layers=2, input_vocab_size=10)


def test_a_voice_reads_like_transformers_history_prompt(voice):
    assert voice["semantic_prompt"] is voice.semantic and voice["fine_prompt"] is voice.fine
    assert voice.get("coarse_prompt") is voice.coarse and voice.get("other", 1) == 1
    assert "fine_prompt" in voice and "fine" not in voice and 0 not in voice
    assert list(voice) == list(voice.keys()) == list(PROMPT_KEYS) and len(voice) == 3
    for (key, array), other in zip(voice.items(), voice.values(), strict=True):
        assert array is other is voice[key] and not array.flags.writeable
    assert Voice.from_dict(dict(voice)) == Voice.from_dict({**voice}) == voice
    with pytest.raises(KeyError, match="semantic"):
        voice["semantic"]
    with pytest.raises(TypeError, match="assignment"):
        voice["semantic_prompt"] = np.zeros(3)
