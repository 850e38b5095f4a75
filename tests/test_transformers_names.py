"""Names and arguments of transformers that bark_jax also accepts: configs, loading, voices, networks, stages."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx

import bark_jax
from bark_jax.config import BarkCoarseConfig, BarkFineConfig, BarkSemanticConfig
from bark_jax.errors import ConfigError, InputError
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.stage_models import NETWORK_CLASSES, BarkFineModel
from bark_jax.voices.library import VoiceLibrary
from bark_jax.voices.voice import PROMPT_KEYS, Voice

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


@pytest.mark.parametrize(
    "config",
    [
        BarkFineConfig(hidden_size=48),
        bark_jax.EncodecConfig(hidden_size=37),
        bark_jax.BarkConfig.small(),
        GENERATION_CONFIG,
        GENERATION_CONFIG.semantic_config,
        GENERATION_CONFIG.fine_acoustics_config,
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_config_comes_back_from_its_file(config, tmp_path):
    config.to_json_file(tmp_path / "one.json")
    assert type(config).from_json_file(tmp_path / "one.json") == config
    assert type(config).from_dict(json.loads(config.to_json_string())) == config
    config.save_pretrained(tmp_path / "folder")
    assert type(config).from_pretrained(tmp_path / "folder") == config


def test_a_config_takes_lists_as_transformers_does():
    ours = bark_jax.EncodecConfig(upsampling_ratios=[8, 4], target_bandwidths=[7.5, 15.0])
    assert ours == bark_jax.EncodecConfig(upsampling_ratios=(8, 4), target_bandwidths=(7.5, 15.0))
    assert hash(ours) and ours.hop_length == 32


def test_a_config_is_read_from_a_subfolder(tmp_path):
    config = BarkSemanticConfig(hidden_size=48)
    config.save_pretrained(tmp_path / "inner")
    assert BarkSemanticConfig.from_pretrained(tmp_path, subfolder="inner") == config
    with pytest.raises(bark_jax.ModelNotFoundError, match=r"has no other/config\.json"):
        BarkSemanticConfig.from_pretrained(tmp_path, subfolder="other")
    with pytest.raises(InputError, match="is no path below"):
        BarkSemanticConfig.from_pretrained(tmp_path / "inner", subfolder="..")


def test_the_config_of_a_network_is_read_from_the_models(toy_folder, tmp_path):
    config = bark_jax.BarkConfig.from_pretrained(toy_folder)
    assert BarkCoarseConfig.from_pretrained(toy_folder) == config.coarse_acoustics_config
    assert bark_jax.EncodecConfig.from_pretrained(toy_folder) == config.codec_config
    generation_config = bark_jax.BarkGenerationConfig.from_pretrained(pretrained_model_name_or_path=toy_folder)
    part = bark_jax.BarkSemanticGenerationConfig.from_pretrained(toy_folder)
    assert part == generation_config.semantic_config
    with pytest.raises(bark_jax.ModelNotFoundError, match=r"has no config\.json"):
        BarkCoarseConfig.from_pretrained(tmp_path)
    config.semantic_config.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="model_type is 'semantic', expected 'coarse_acoustics'"):
        BarkCoarseConfig.from_pretrained(tmp_path)


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


SIZES = dict(vocab_size=33, output_vocab_size=33, hidden_size=16, num_layers=2, num_heads=2, window_size=64)
HIDDEN = np.array([[0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])  # an attention_mask


@pytest.fixture(scope="module")
def networks(toy_model):
    """A causal and a fine network."""
    return toy_model.semantic, toy_model.fine_acoustics


@pytest.mark.parametrize(
    ("network_class", "config_class"), [(BarkCausalModel, BarkSemanticConfig), (BarkFineModel, BarkFineConfig)]
)
def test_a_network_is_made_of_its_config_alone(network_class, config_class):
    network = nnx.eval_shape(lambda: network_class(config_class(**SIZES)))
    assert network.config == config_class(**SIZES)
    assert network.get_input_embeddings() is not None


def test_a_codec_is_made_of_its_config_alone():
    config = bark_jax.EncodecConfig(num_filters=4)
    assert nnx.eval_shape(lambda: bark_jax.EncodecModel(config=config)).config == config


@jax.jit
def masked_logits(network, ids, mask):
    return network(ids, attention_mask=mask)


@functools.partial(jax.jit, static_argnums=1)
def masked_fine_logits(network, codebook, ids, mask):
    return network(codebook, ids, attention_mask=mask)


@jax.jit
def causal(network, ids, mask, embeds):
    """Logits of ids as they are, with a mask, as embeddings, and as embeddings with a mask."""
    return (
        network(ids),
        network(input_ids=ids, attention_mask=mask),
        network(input_embeds=embeds),
        network(inputs_embeds=embeds, attention_mask=mask),
    )


@functools.partial(jax.jit, static_argnums=1)
def fine(network, codebook, ids, mask, embeds):
    return (
        network(codebook, ids),
        network(codebook_idx=codebook, input_ids=ids, attention_mask=mask),
        network(codebook, input_embeds=embeds),
        network(codebook, inputs_embeds=embeds, attention_mask=mask),
    )


def test_a_causal_network_takes_a_mask_and_embeddings(networks, rng):
    network, ids = networks[0], rng.integers(0, 250, (3, 6))
    embeds = np.asarray(network.get_input_embeddings().embedding)[ids]
    plain, masked, embedded, both = causal(network, ids, HIDDEN, embeds)
    np.testing.assert_array_equal(plain, embedded)
    np.testing.assert_array_equal(masked, both)
    assert np.isfinite(masked).all() and masked.shape == (3, 6, 128)
    np.testing.assert_allclose(masked[2], plain[2], atol=1e-5)
    np.testing.assert_allclose(masked[1, :4], plain[1, :4], atol=1e-5)
    assert np.abs(masked[1, 4:] - plain[1, 4:]).max() > 1e-4


def test_the_fine_network_takes_a_mask_and_embeddings(networks, rng):
    network, ids = networks[1], rng.integers(0, 256, (3, 6, 8))
    tables = network.get_input_embeddings()
    embeds = sum(np.asarray(tables[q].embedding)[ids[:, :, q]] for q in range(4))
    plain, masked, embedded, both = fine(network, 3, ids, HIDDEN, embeds)
    np.testing.assert_allclose(plain, embedded, atol=1e-5)
    np.testing.assert_allclose(masked, both, atol=1e-5)
    np.testing.assert_allclose(masked[2], plain[2], atol=1e-5)
    assert np.abs(masked[1, 0] - plain[1, 0]).max() > 1e-4


def test_masked_logits_equal_transformers(gentle_twins, rng):
    import torch

    ids_BT, codes_BTQ = rng.integers(0, 250, (3, 6)), rng.integers(0, 256, (3, 6, 8))
    theirs, ours = gentle_twins.theirs, gentle_twins.ours
    mask = torch.from_numpy(HIDDEN)
    with torch.no_grad():
        their_semantic = theirs.semantic(torch.from_numpy(ids_BT), attention_mask=mask).logits.numpy()
        their_fine = theirs.fine_acoustics(3, torch.from_numpy(codes_BTQ), attention_mask=mask).logits.numpy()
    our_semantic = np.asarray(masked_logits(ours.semantic, ids_BT, HIDDEN))
    our_fine = masked_fine_logits(ours.fine_acoustics, 3, codes_BTQ, HIDDEN)
    sees_some = np.cumsum(HIDDEN, axis=1) > 0
    np.testing.assert_allclose(our_semantic[sees_some], their_semantic[sees_some], atol=1e-4)
    np.testing.assert_allclose(our_fine, their_fine, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "either input_ids or inputs_embeds"),
        (dict(input_ids=np.ones((1, 3), int), input_embeds=np.ones((1, 3, 16))), "either input_ids or inputs_embeds"),
        (dict(input_embeds=np.ones((1, 3, 16)), inputs_embeds=np.ones((1, 3, 16))), "two names of one argument"),
        (dict(input_embeds=np.ones((1, 3, 16)), attention_mask=np.ones((1, 4))), r"attention_mask has shape \(1, 4\)"),
    ],
)
def test_inputs_that_contradict_each_other_are_refused(arguments, message, networks):
    with pytest.raises(InputError, match=message):
        networks[0](**arguments)
    with pytest.raises(InputError, match=message):
        networks[1](1, **{name: v[..., None] if name == "input_ids" else v for name, v in arguments.items()})


MODEL, PROCESSOR = bark_jax.BarkModel.from_pretrained, bark_jax.BarkProcessor.from_pretrained


def dtype_of(model):
    return model.semantic.head.kernel.dtype


def test_models_and_processors_are_named_by_transformers_keywords(toy_folder):
    assert MODEL(pretrained_model_name_or_path=toy_folder).sample_rate == 24_000
    for keyword in ("pretrained_processor_name_or_path", "pretrained_model_name_or_path"):
        processor = PROCESSOR(**{keyword: toy_folder}, speaker_embeddings_dict_path=None)
        assert processor("hush").input_ids.shape == (1, 96)
    with pytest.raises(InputError, match="give one of pretrained_processor_name_or_path"):
        PROCESSOR()


class TorchDtype:
    """Prints as torch's dtypes do, and is found in a module of that name."""

    __module__ = "torch"

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"torch.{self.name}"


@pytest.mark.parametrize("dtype", ["float16", "torch.float16", "half", TorchDtype("float16"), np.float16])
def test_a_dtype_goes_under_transformers_names_too(dtype, toy_folder):
    assert dtype_of(MODEL(toy_folder, torch_dtype=dtype)) == np.float16


def test_torchs_own_dtypes_are_taken(toy_folder):
    torch = pytest.importorskip("torch")
    assert dtype_of(MODEL(toy_folder, torch_dtype=torch.bfloat16)) == "bfloat16"
    assert dtype_of(MODEL(toy_folder, dtype=torch.float16, torch_dtype="float16")) == np.float16
    with pytest.raises(InputError, match="dtype is 'float64'"):
        MODEL(toy_folder, torch_dtype=torch.float64)


def test_auto_keeps_the_checkpoints_dtype_and_two_dtypes_are_refused(toy_folder):
    assert dtype_of(MODEL(toy_folder, torch_dtype="auto")) == np.float32
    with pytest.raises(InputError, match="dtype is 'float32' and torch_dtype 'float16'; give one"):
        MODEL(toy_folder, dtype="float32", torch_dtype="float16")


@pytest.mark.parametrize("name", ["eager", "sdpa", "flash_attention_2"])
def test_attention_of_transformers_is_one_warning_a_model(name, toy_folder):
    with pytest.warns(bark_jax.AttentionNameWarning) as warnings:
        MODEL(toy_folder, attn_implementation=name)
    (warning,) = warnings
    assert warning.filename == __file__


def test_arguments_without_an_effect_are_ignored(toy_folder):
    nothing = dict(local_files_only=True, token="hf_secret", cache_dir="nowhere", force_download=True)
    nothing |= dict(trust_remote_code=True, resume_download=None, subfolder="", proxies=None)
    MODEL(toy_folder, low_cpu_mem_usage=True, use_safetensors=False, device_map="auto", load_in_8bit=False, **nothing)
    PROCESSOR(toy_folder, use_fast=True, padding_side="right", model_max_length=512, **nothing)


@pytest.mark.parametrize(
    ("load", "arguments", "message"),
    [
        (MODEL, dict(device_map="cuda:1"), "takes no device_map \\('cuda:1'\\) here: .*jax.default_device"),
        (MODEL, dict(load_in_8bit=True), "use dtype='int8'"),
        (MODEL, dict(config=bark_jax.BarkConfig.small()), "takes no config"),
        (MODEL, dict(output_loading_info=True), "is an error here"),
        (MODEL, dict(proxies={"https": "localhost"}), "HTTPS_PROXY"),
        (MODEL, dict(atn_implementation="xla"), "did you mean attn_implementation"),
        (PROCESSOR, dict(padding_side="left"), "padded on the right"),
        (PROCESSOR, dict(do_lower_case=True), "it is read from tokenizer_config.json"),
        (PROCESSOR, dict(bos_tokn="(BOS)"), "did you mean bos_token"),
        (PROCESSOR, dict(bos_token=3), "bos_token is 3, expected the text of a token"),
    ],
)
def test_arguments_that_would_be_missed_are_refused_by_name(load, arguments, message, toy_folder):
    with pytest.raises(InputError, match=message):
        load(toy_folder, **arguments)


def test_a_codec_is_loaded_with_transformers_keywords(toy_folder):
    load_codec = bark_jax.EncodecModel.from_pretrained
    nothing = dict(token="hf_secret", cache_dir="nowhere", local_files_only=True, low_cpu_mem_usage=True)
    codec = load_codec(pretrained_model_name_or_path=toy_folder, torch_dtype="torch.float16", **nothing)
    assert codec.dtype == np.float16 and load_codec(toy_folder, dtype="auto").dtype == np.float32
    with pytest.raises(InputError, match="takes no device_map"):
        load_codec(toy_folder, device_map="cuda:1")
    with pytest.raises(InputError, match="did you mean torch_dtype"):
        load_codec(toy_folder, torch_dtyp="float16")


def test_a_model_tells_its_size(toy_model):
    n_embedding = toy_model.semantic.token_embedding.embedding.size
    assert n_embedding < toy_model.num_parameters() < toy_model.num_parameters() * 4 == toy_model.get_memory_footprint()


def test_networks_are_offloaded_from_a_device_by_its_number(toy_model):
    model = toy_model.replace()
    for wrong in (-1, len(jax.local_devices()), True, "cuda"):
        with pytest.raises(InputError, match=r"accelerator_id is .*expected an integer from 0"):
            model.enable_cpu_offload(accelerator_id=wrong)
    with pytest.raises(InputError, match="both given"):
        model.enable_cpu_offload(jax.local_devices()[0], accelerator_id=0)
    assert not model.is_offloaded
    model.enable_cpu_offload(accelerator_id=0)
    assert model.is_offloaded and model.device == jax.local_devices()[0]


def test_control_tokens_are_added_as_transformers_adds_them(toy_folder, tmp_path):
    plain = PROCESSOR(toy_folder)
    named = PROCESSOR(toy_folder, bos_token="(BOS)", eos_token="(EOS)", additional_special_tokens=["(s)"])
    n_tokens = plain.tokenizer.get_vocab_size()
    added = {"(BOS)": n_tokens, "(EOS)": n_tokens + 1, "(s)": n_tokens + 2}
    assert named.tokenizer.get_vocab() == plain.tokenizer.get_vocab() | added
    with pytest.raises(InputError, match=r"names the tokenizer's control token \(BOS\)"):
        named("hush (BOS)")
    np.testing.assert_array_equal(named("hush").input_ids, plain("hush").input_ids)
    named.save_pretrained(tmp_path)
    assert PROCESSOR(tmp_path).tokenizer.get_vocab() == named.tokenizer.get_vocab()


def test_control_tokens_get_transformers_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc", *(f"##{letter}" for letter in "abc")]
    (tmp_path / "vocab.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    (tmp_path / "config.json").write_text('{"model_type": "bark"}')
    control = dict(bos_token="(BOS)", eos_token="(EOS)", cls_token="[CLS]")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, **control)
    ours = PROCESSOR(tmp_path, **control)
    assert ours.tokenizer.get_vocab() == theirs.get_vocab()


def test_control_tokens_take_no_room_of_the_models_texts(toy_folder):
    spaces = PROCESSOR(toy_folder).spaces
    n_tokens = PROCESSOR(toy_folder).tokenizer.get_vocab_size()
    tight = dataclasses.replace(spaces, text_pad=spaces.text_offset + n_tokens)
    assert PROCESSOR(toy_folder, spaces=tight, bos_token="(BOS)")("hush").input_ids.max() < n_tokens


@pytest.fixture(scope="module")
def folder_with_voices(toy_folder, tmp_path_factory):
    """A toy with two voices of its own."""
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("voices") / "toy"
    bark = bark_jax.Bark.from_pretrained(toy_folder)
    voices = []
    for name in ("anna", "v2/ben"):
        fine = rng.integers(0, 256, (8, 60))
        voices.append(Voice(semantic=rng.integers(0, 123, 40), coarse=fine[:2], fine=fine, name=name))
    bark.processor.library = VoiceLibrary.from_voices(voices)
    bark.save_pretrained(folder)
    return folder


class Asked(Exception):
    """Raised instead of generating; carries the rows that `generate` would have run."""


@pytest.fixture
def asked(monkeypatch):
    def generate_rows(self, rows, devices):
        raise Asked(rows)

    monkeypatch.setattr(bark_jax.BarkModel, "generate_rows", generate_rows)

    def ask(model, *positional, **arguments):
        with pytest.raises(Asked) as caught:
            model.generate(np.array([[5, 6], [7, 8]]), *positional, seed=0, **arguments)
        return caught.value.args[0]

    return ask


def test_a_voice_of_the_models_folder_goes_by_its_name(folder_with_voices, asked, tmp_path):
    model, processor = MODEL(folder_with_voices), PROCESSOR(folder_with_voices)
    anna = processor("hush", voice_preset="anna")["history_prompt"]
    assert [row.voice.name for row in asked(model, history_prompt="anna")] == ["anna", "anna"]
    first, second = asked(model, history_prompt=[None, "v2/ben"])
    assert first.voice is None and second.voice.name == "v2/ben"
    anna.save(tmp_path / "anna.npz")
    for path in (tmp_path / "anna.npz", str(tmp_path / "anna.npz")):
        assert asked(model, history_prompt=[dict(anna), path])[1].voice == anna
    with pytest.raises(bark_jax.VoiceNotFoundError, match="no voice is called 'ana'; the nearest of 2 names: anna"):
        model.generate([[5, 6]], history_prompt="ana")


def test_a_voice_may_be_a_positional_argument(toy_model, toy_voice, asked):
    assert [row.voice for row in asked(toy_model, toy_voice, None)] == [toy_voice, toy_voice]


def test_a_model_without_a_folder_knows_no_names(toy_model):
    networks = {name: getattr(toy_model, name) for name in NETWORK_CLASSES}
    model = bark_jax.BarkModel(toy_model.config, toy_model.generation_config, **networks)
    with pytest.raises(bark_jax.VoiceNotFoundError, match="built from networks, without a folder of voices"):
        model.generate([[5, 6]], history_prompt="anna")
    with pytest.raises(bark_jax.VoiceNotFoundError, match="this model has no voices of its own"):
        toy_model.generate([[5, 6]], history_prompt="anna")


def test_settings_at_values_that_do_nothing_are_taken(toy_model, asked):
    nothing = dict(num_beams=1, semantic_num_beams=1, penalty_alpha=None, repetition_penalty=1.0, use_cache=True)
    nothing |= dict(cache_implementation="static")
    nothing |= dict(pad_token_id=123, semantic_pad_token_id=123, return_dict_in_generate=False, coarse_max_length=None)
    plain, with_nothing = asked(toy_model), asked(toy_model, **nothing)
    assert [row.settings for row in plain] == [row.settings for row in with_nothing]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"num_beams": 4}, "num_beams is not a setting of generate: beam search is not part of Bark"),
        ({"coarse_num_beams": 2}, "coarse_num_beams is not .*beam search"),
        ({"num_beams": [1, 1]}, "beam search"),
        ({"penalty_alpha": 0.6}, "contrastive search is not part of Bark"),
        ({"use_cache": False}, "the cache is always on"),
        ({"cache_implementation": "offloaded"}, "the cache is always static"),
        ({"pad_token_id": 0}, "no setting 'pad_token_id'"),
        ({"return_dict_in_generate": True}, "Bark.generate gives the tokens"),
        ({"logits_processor": [len]}, "one compiled program"),
    ],
)
def test_settings_that_are_not_here_are_refused_by_name(setting, reason, toy_model):
    with pytest.raises(InputError, match=reason):
        toy_model.generate([[5, 6]], **setting)
