"""Converters: every layout of the same weights gives the same files, other files are refused by name, and export."""

import errno
import json
import os
import shutil
import subprocess
import sys

import checkpoints
import jax.numpy as jnp
import jitted
import ml_dtypes
import numpy as np
import pytest
from bad_inputs.harness import ALL_NETWORKS_CALLS, FOLDER_CALLS, NETWORK_CALLS, refused
from flax import nnx
from safetensors.numpy import load_file

import bark_jax
from bark_jax.checkpoints import _plan, convert, export_transformers, snapshots
from bark_jax.checkpoints._arrays import StoredArray
from bark_jax.checkpoints._rules import Rule, Use, rule
from bark_jax.checkpoints._transforms import CONV, LINEAR, TRANSPOSED_CONV, UNCHANGED, SummedBiases, WeightNorm
from bark_jax.checkpoints.layouts.own import own_rules
from bark_jax.checkpoints.model_folder import NETWORKS, load_network, read_manifest, weight_file
from bark_jax.checkpoints.open import open_source
from bark_jax.config import BarkConfig, BarkGenerationConfig, EncodecConfig, read_json
from bark_jax.errors import BarkError, CheckpointError, ConfigError, InputError, ModelNotFoundError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(scope="session")
def torch():
    pytest.importorskip("transformers")
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def bark(torch, tmp_path_factory):
    """A transformers folder; tests must not write to it."""
    return checkpoints.make_bark(tmp_path_factory.mktemp("bark") / "tiny-bark")


@pytest.fixture(scope="session")
def converted(bark, tmp_path_factory):
    """The converted model folder of `bark`; tests must not write to it."""
    return convert(bark, tmp_path_factory.mktemp("converted") / "model")


@pytest.fixture(scope="session")
def suno(bark, tmp_path_factory):
    """The same weights in Suno's layout, with the codec as the original EnCodec has it."""
    folder = checkpoints.make_suno(tmp_path_factory.mktemp("suno"), bark)
    checkpoints.make_encodec_th(folder / "codec" / "encodec_24khz-d7cc33bc.th", bark)
    return folder


@pytest.fixture
def copy(bark, tmp_path):
    """A copy of the transformers folder that a test may spoil."""
    return shutil.copytree(bark, tmp_path / "src")


def weights_of(folder):
    return {network: load_file(folder / weight_file(network)) for network in NETWORKS}


def assert_same_weights(left, right, networks=tuple(NETWORKS)):
    for network in networks:
        ours, theirs = (load_file(folder / weight_file(network)) for folder in (left, right))
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype, name
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def load(folder, network):
    config = getattr(BarkConfig.from_dict(read_json(folder / "config.json")), NETWORKS[network].config_field)
    return load_network(
        folder, network, lambda dtype: NETWORKS[network].module_class(config, dtype=dtype, rngs=nnx.Rngs(0))
    )


def edit_json(path, edit):
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


# The networks compute what torch's do


@pytest.fixture(scope="session")
def torch_bark(torch, bark):
    from transformers import BarkModel

    return BarkModel.from_pretrained(bark).eval()


@pytest.mark.parametrize("network", ["semantic", "coarse_acoustics"])
def test_causal_logits_are_those_of_torch(torch, torch_bark, converted, network):
    tokens_BT = np.random.default_rng(0).integers(0, 10_000, (2, 12))
    with torch.no_grad():
        expected = getattr(torch_bark, network)(torch.tensor(tokens_BT)).logits.numpy()
    np.testing.assert_allclose(jitted.logits(load(converted, network), jnp.asarray(tokens_BT)), expected, atol=1e-5)


@pytest.mark.parametrize("codebook", [1, 4, 7])
def test_fine_logits_are_those_of_torch(torch, torch_bark, converted, codebook):
    codes_BTQ = np.random.default_rng(0).integers(0, 1024, (1, 10, 8))
    with torch.no_grad():
        expected = torch_bark.fine_acoustics(codebook, torch.tensor(codes_BTQ)).logits.numpy()
    found = jitted.fine_logits(load(converted, "fine_acoustics"), jnp.asarray(codes_BTQ), codebook)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def decode_with_torch(torch, codec, codes_BQT):
    with torch.no_grad():
        return codec.decode(torch.tensor(codes_BQT)[None], [None]).audio_values.numpy().swapaxes(1, 2)


def test_audio_is_that_of_torch(torch, torch_bark, converted):
    codes_BQT = np.random.default_rng(0).integers(0, 1024, (1, 8, 6))
    expected = decode_with_torch(torch, torch_bark.codec_model, codes_BQT)
    assert expected.std() > 1e-3
    found = jitted.decode(load(converted, "codec_model"), jnp.asarray(codes_BQT))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_codes_are_those_of_torch(torch, torch_bark, converted):
    audio_BA = np.random.default_rng(0).normal(size=(1, 3200)).astype(np.float32)
    with torch.no_grad():
        expected = torch_bark.codec_model.encode(torch.tensor(audio_BA)[None], bandwidth=6.0).audio_codes[0]
    found = jitted.encode(load(converted, "codec_model"), jnp.asarray(audio_BA), 6.0)
    np.testing.assert_array_equal(found, expected.numpy())


# Every layout gives the same files


def as_pickle(folder):
    checkpoints.write_pickle(folder, checkpoints.read_arrays(folder))


def as_old_pickle(folder):
    """As transformers 4 saved: old weight norm, heads beside the tables they repeat."""
    arrays = checkpoints.with_heads(checkpoints.with_old_weight_norm(checkpoints.read_arrays(folder)))
    checkpoints.write_pickle(folder, arrays)


def as_safetensors_shards(folder):
    checkpoints.write_shards(folder, checkpoints.read_arrays(folder), "safetensors")


def as_pickle_shards(folder):
    checkpoints.write_shards(folder, checkpoints.read_arrays(folder), "bin")


def with_heads(folder):
    checkpoints.write_arrays(folder, checkpoints.with_heads(checkpoints.read_arrays(folder)))


def with_heads_instead_of_tables(folder):
    arrays = checkpoints.with_heads(checkpoints.read_arrays(folder))
    for q in range(1, 8):
        del arrays[f"fine_acoustics.input_embeds_layers.{q}.weight"]
    checkpoints.write_arrays(folder, arrays)


def with_old_weight_norm(folder):
    checkpoints.write_arrays(folder, checkpoints.with_old_weight_norm(checkpoints.read_arrays(folder)))


def without_masks(folder):
    arrays = checkpoints.read_arrays(folder)
    checkpoints.write_arrays(folder, {name: array for name, array in arrays.items() if array.dtype != np.bool_})


def without_statistics(folder):
    statistics = ("embed_avg", "cluster_size", "inited")
    arrays = checkpoints.read_arrays(folder)
    checkpoints.write_arrays(folder, {name: array for name, array in arrays.items() if not name.endswith(statistics)})


def as_float64(folder):
    arrays = checkpoints.read_arrays(folder)
    checkpoints.write_arrays(
        folder,
        {name: array if array.dtype == np.bool_ else array.astype(np.float64) for name, array in arrays.items()},
    )


@pytest.mark.parametrize(
    "change",
    [
        as_pickle,
        as_old_pickle,
        as_safetensors_shards,
        as_pickle_shards,
        with_heads,
        with_heads_instead_of_tables,
        with_old_weight_norm,
        without_masks,
        without_statistics,
        as_float64,
    ],
)
def test_every_form_of_a_transformers_folder_gives_the_same_weights(copy, converted, tmp_path, change):
    change(copy)
    convert(copy, tmp_path / "dst")
    assert_same_weights(tmp_path / "dst", converted)


@pytest.mark.parametrize("suffix", ["", "_2"], ids=["small", "large"])
@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "not compiled"])
def test_sunos_files_give_the_same_weights(bark, converted, tmp_path, suffix, is_compiled):
    folder = checkpoints.make_suno(tmp_path / "src", bark, suffix=suffix, is_compiled=is_compiled)
    convert(folder, tmp_path / "dst", codec=bark)
    assert_same_weights(tmp_path / "dst", converted)


def test_sunos_files_get_sunos_settings_and_their_own_sizes(suno, bark, converted, tmp_path):
    convert(suno, tmp_path / "dst", codec=bark)
    generation = BarkGenerationConfig.from_dict(read_json(tmp_path / "dst" / "generation_config.json"))
    assert generation == BarkGenerationConfig.suno()
    ours, theirs = (BarkConfig.from_dict(read_json(f / "config.json")) for f in (tmp_path / "dst", converted))
    assert ours.fine_acoustics_config.num_layers == theirs.fine_acoustics_config.num_layers == 2
    assert ours.codec_config == theirs.codec_config


def test_sunos_files_may_have_one_vocabulary_for_both_sides(suno, bark, converted, tmp_path):
    folder = shutil.copytree(suno, tmp_path / "src")

    def shorten(args):
        args["vocab_size"] = args.pop("input_vocab_size")
        del args["output_vocab_size"]

    edit_suno(folder / "coarse.pt", lambda checkpoint: shorten(checkpoint["model_args"]))
    convert(folder, tmp_path / "dst", codec=bark)
    assert_same_weights(tmp_path / "dst", converted)


def test_the_original_encodec_gives_the_same_codec(suno, converted, tmp_path):
    convert(suno / "codec" / "encodec_24khz-d7cc33bc.th", tmp_path / "dst")
    assert_same_weights(tmp_path / "dst", converted, ["codec_model"])


def test_an_encodec_beside_sunos_files_is_taken(bark, suno, converted, tmp_path):
    folder = checkpoints.make_suno(tmp_path / "src", bark)
    for name in os.listdir(suno / "codec"):
        shutil.copy(suno / "codec" / name, folder)
    (folder / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="wrong shape"):  # without a config it is the published one
        convert(folder, tmp_path / "dst")
    (tmp_path / "config.json").rename(folder / "config.json")
    convert(folder, tmp_path / "dst", size="small")
    assert_same_weights(tmp_path / "dst", converted)


def test_an_encodec_of_transformers_converts_alone(torch, tmp_path):
    folder = checkpoints.make_encodec(tmp_path / "src")
    convert(folder, tmp_path / "dst")
    assert EncodecConfig.from_dict(read_json(tmp_path / "dst" / "config.json")).num_filters == 4
    assert list(read_manifest(tmp_path / "dst").files) == ["codec_model.safetensors", "codec_model.torch.safetensors"]


def assert_holds(codec, folder, dtype="float32"):
    """Whether a codec is that of a model folder."""
    expected = load_file(folder / "codec_model.safetensors")
    found = {".".join(map(str, path)): each.get_value() for path, each in nnx.to_flat_state(nnx.state(codec))}
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, expected[name].astype(jnp.dtype(dtype)), err_msg=name)


@pytest.fixture(scope="module")
def encodec(torch, tmp_path_factory):
    """An EnCodec of transformers, and what it converts to; never written to."""
    folder = tmp_path_factory.mktemp("encodec")
    return checkpoints.make_encodec(folder / "theirs"), convert(folder / "theirs", folder / "ours")


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16", jnp.float16])
def test_a_codec_is_loaded_alone(encodec, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    for folder in encodec:
        codec = bark_jax.EncodecModel.from_pretrained(str(folder), dtype=dtype)
        assert codec.config.num_filters == 4 and codec.dtype == jnp.dtype(dtype or "float32")
        assert_holds(codec, encodec[1], codec.dtype)


def test_a_codec_is_loaded_out_of_a_bark(converted):
    codec = bark_jax.EncodecModel.from_pretrained(converted)
    assert codec.config.num_filters == 4
    assert_holds(codec, converted)


def test_a_codec_keeps_the_dtype_that_it_was_converted_to(encodec, tmp_path):
    convert(encodec[0], tmp_path / "half", dtype="bfloat16")
    assert bark_jax.EncodecModel.from_pretrained(tmp_path / "half").dtype == jnp.bfloat16


def test_what_is_no_codec_is_not_loaded_as_one(suno, encodec, tmp_path):
    load_codec = bark_jax.EncodecModel.from_pretrained
    convert(suno / "text.pt", tmp_path / "text")
    with pytest.raises(ModelNotFoundError, match=r"holds semantic\.safetensors, and no codec"):
        load_codec(tmp_path / "text")
    with pytest.raises(ModelNotFoundError, match="there is no model 'nowhere'"):
        load_codec("nowhere")
    for dtype in ("int8", "float64", 5):
        with pytest.raises(InputError, match="dtype is"):
            load_codec(encodec[1], dtype=dtype)
    with pytest.raises(InputError, match="a revision is for Hub ids"):
        load_codec(encodec[1], revision="main")
    broken = shutil.copytree(encodec[1], tmp_path / "broken")
    with open(broken / "codec_model.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="bytes, expected"):
        load_codec(broken)
    edit_json(broken / "config.json", lambda values: values.update(num_filters=0))
    with pytest.raises(ConfigError, match="num_filters is 0"):
        load_codec(broken)


def test_a_codec_in_the_cache_of_the_hub_is_complete(encodec):
    assert snapshots.is_complete(encodec[1])


@pytest.mark.parametrize(
    ("file", "network"), [("text", "semantic"), ("coarse", "coarse_acoustics"), ("fine", "fine_acoustics")]
)
def test_one_of_sunos_files_converts_alone(suno, converted, tmp_path, file, network):
    convert(suno / f"{file}.pt", tmp_path / "dst")
    assert list(read_manifest(tmp_path / "dst").files) == [weight_file(network)]
    assert_same_weights(tmp_path / "dst", converted, [network])
    load(tmp_path / "dst", network)


SUNO_NETWORKS = {"text": "semantic", "coarse": "coarse_acoustics", "fine": "fine_acoustics"}


@pytest.mark.parametrize(("file", "network"), SUNO_NETWORKS.items())
def test_a_network_of_transformers_converts_alone_like_sunos_file(torch_bark, suno, tmp_path, file, network):
    getattr(torch_bark, network).save_pretrained(tmp_path / "src")
    assert read_json(tmp_path / "src" / "config.json")["model_type"] == network
    convert(tmp_path / "src", tmp_path / "dst")
    convert(suno / f"{file}.pt", tmp_path / "expected")
    assert list(read_manifest(tmp_path / "dst").files) == [weight_file(network)]
    assert_same_weights(tmp_path / "dst", tmp_path / "expected", [network])
    ours, expected = (read_json(tmp_path / folder / "config.json") for folder in ("dst", "expected"))
    ours[f"{network}_config"].pop("initializer_range"), expected[f"{network}_config"].pop("initializer_range")
    assert ours == expected  # apart from what Suno's file does not say
    assert not (tmp_path / "dst" / "generation_config.json").exists()
    load(tmp_path / "dst", network)


def test_a_network_of_an_older_transformers_converts_alone(torch, torch_bark, converted, bark, tmp_path):
    """With the masks and the tied heads that it kept, in a pickle."""
    torch_bark.fine_acoustics.save_pretrained(tmp_path / "src")
    arrays = checkpoints.with_heads(checkpoints.read_arrays(bark))
    held = {name.removeprefix("fine_acoustics."): each for name, each in arrays.items() if name.startswith("fine_")}
    assert "lm_heads.0.weight" in held
    checkpoints.write_pickle(tmp_path / "src", held)
    convert(tmp_path / "src", tmp_path / "dst")
    assert_same_weights(tmp_path / "dst", converted, ["fine_acoustics"])


def test_a_network_under_the_model_type_of_another_is_refused(torch_bark, tmp_path):
    torch_bark.coarse_acoustics.save_pretrained(tmp_path / "src")
    edit_json(tmp_path / "src" / "config.json", lambda values: values.update(model_type="fine_acoustics"))
    with pytest.raises(CheckpointError, match="does not hold the fine_acoustics network"):
        convert(tmp_path / "src", tmp_path / "dst")
    edit_json(tmp_path / "src" / "config.json", lambda values: values.update(model_type="semantics"))
    with pytest.raises(ConfigError, match="model_type is 'semantics', expected 'bark'"):
        convert(tmp_path / "src", tmp_path / "dst")


@pytest.mark.parametrize("file", ["text", "coarse", "fine"])
def test_a_renamed_file_is_known_by_its_sizes(suno, tmp_path, file):
    shutil.copy(suno / f"{file}.pt", tmp_path / "mine.pt")
    convert(tmp_path / "mine.pt", tmp_path / "dst")
    assert_same_weights(tmp_path / "dst", convert(suno / f"{file}.pt", tmp_path / "other"), read_networks(tmp_path))


def read_networks(tmp_path):
    return [name.removesuffix(".safetensors") for name in read_manifest(tmp_path / "dst").files]


def test_our_own_folder_converts_to_itself(converted, tmp_path):
    convert(converted, tmp_path / "dst")
    assert_same_weights(tmp_path / "dst", converted)
    files, expected = read_manifest(tmp_path / "dst").files, read_manifest(converted).files
    assert files == expected


def test_bfloat16_is_kept(copy, tmp_path):
    arrays = checkpoints.read_arrays(copy)
    halves = {n: a if a.dtype == np.bool_ else a.astype(ml_dtypes.bfloat16) for n, a in arrays.items()}
    checkpoints.write_arrays(copy, halves)
    found = weights_of(convert(copy, tmp_path / "dst"))
    assert {array.dtype.name for arrays in found.values() for array in arrays.values()} == {"bfloat16"}
    np.testing.assert_array_equal(found["semantic"]["head.kernel"], halves["semantic.lm_head.weight"].T)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", jnp.bfloat16])
def test_dtype_rounds_each_weight_once(bark, converted, tmp_path, dtype):
    found, expected = weights_of(convert(bark, tmp_path / "dst", dtype=dtype)), weights_of(converted)
    for network in NETWORKS:
        for name, array in found[network].items():
            np.testing.assert_array_equal(array, expected[network][name].astype(jnp.dtype(dtype)), err_msg=name)


def test_biases_everywhere_are_converted(torch, tmp_path):
    from transformers import BarkModel

    folder = checkpoints.make_bark(tmp_path / "src", bias=True)
    convert(folder, tmp_path / "dst")
    tokens_BT = np.arange(9)[None]
    with torch.no_grad():
        expected = BarkModel.from_pretrained(folder).eval().semantic(torch.tensor(tokens_BT)).logits.numpy()
    np.testing.assert_allclose(
        jitted.logits(load(tmp_path / "dst", "semantic"), jnp.asarray(tokens_BT)), expected, atol=1e-5
    )


def test_a_codec_with_group_norm_is_converted(torch, tmp_path):
    sizes = dict(norm_type="time_group_norm", use_causal_conv=False, audio_channels=2, num_residual_layers=2)
    folder = checkpoints.make_encodec(tmp_path / "src", **sizes)
    convert(folder, tmp_path / "dst")
    theirs, ours = checkpoints.read_arrays(folder), load_file(tmp_path / "dst" / "codec_model.safetensors")
    for i in (3, 7, 11, 15):
        prefix = f"decoder.layers.{i}.conv"
        np.testing.assert_array_equal(ours[f"{prefix}.kernel"], theirs[f"{prefix}.weight"].transpose(2, 0, 1))
    np.testing.assert_array_equal(ours["encoder.layers.0.norm.scale"], theirs["encoder.layers.0.norm.weight"])


def test_the_original_codec_with_group_norm_gives_the_same(torch, tmp_path):
    sizes = dict(norm_type="time_group_norm", use_causal_conv=False, num_residual_layers=2)
    folder = checkpoints.make_encodec(tmp_path / "src", **sizes)
    path = checkpoints.make_encodec_th(tmp_path / "th" / "codec.th", folder, transposed=(3, 7, 11, 15))
    convert(folder, tmp_path / "a")
    convert(path, tmp_path / "b")
    assert_same_weights(tmp_path / "a", tmp_path / "b", ["codec_model"])


@pytest.fixture(scope="session")
def encodec_48khz(torch, tmp_path_factory):
    """The codec of facebook/encodec_48khz, with random weights: transformers' folder, and the original's file.

    The sizes are those of transformers' conversion script.
    """
    folder = tmp_path_factory.mktemp("encodec_48khz")
    sizes = dict(audio_channels=2, norm_type="time_group_norm", use_causal_conv=False, sampling_rate=48_000)
    sizes |= dict(target_bandwidths=[3.0, 6.0, 12.0, 24.0], normalize=True, chunk_length_s=1.0, overlap=0.01)
    theirs = checkpoints.make_encodec(folder / "theirs", num_filters=32, hidden_size=128, codebook_dim=128, **sizes)
    path = checkpoints.make_encodec_th(folder / "th" / "encodec_48khz-7e698e3e.th", theirs)
    (path.parent / "config.json").unlink()
    return theirs, path


@pytest.mark.parametrize(
    "name",
    [
        "mine.th",
        *(pytest.param(f"encodec_{name}.th", marks=pytest.mark.slow) for name in ("48khz-7e698e3e", "24khz-d7cc33bc")),
    ],
)
def test_the_original_48_khz_codec_is_known_without_a_config(encodec_48khz, tmp_path, name):
    theirs, path = encodec_48khz
    (tmp_path / "src").mkdir()
    os.link(path, tmp_path / "src" / name)
    convert(theirs, tmp_path / "a")
    convert(tmp_path / "src" / name, tmp_path / "b")
    convert(tmp_path / "src", tmp_path / "c")
    for folder in ("b", "c"):
        assert_same_weights(tmp_path / "a", tmp_path / folder, ["codec_model"])
        assert read_json(tmp_path / "a" / "config.json") == read_json(tmp_path / folder / "config.json")
    config = bark_jax.EncodecModel.from_pretrained(tmp_path / "b").config
    assert (config.sampling_rate, config.audio_channels, config.num_quantizers) == (48_000, 2, 16)


def test_the_original_24_khz_codec_is_known_under_any_name(torch, tmp_path):
    theirs = checkpoints.make_encodec(
        tmp_path / "theirs",
        num_filters=32,
        hidden_size=128,
        codebook_dim=128,
        target_bandwidths=[1.5, 3.0, 6.0, 12.0, 24.0],
    )
    path = checkpoints.make_encodec_th(tmp_path / "th" / "encodec_48khz.th", theirs)
    (path.parent / "config.json").unlink()
    convert(theirs, tmp_path / "a")
    convert(path, tmp_path / "b")
    assert_same_weights(tmp_path / "a", tmp_path / "b", ["codec_model"])


def test_the_name_tells_the_size_where_the_arrays_do_not(torch, tmp_path):
    for name, codebooks in (("encodec_48khz-7e698e3e.th", 16), ("encodec_24khz-d7cc33bc.th", 32)):
        torch.save({"x": torch.ones(1)}, tmp_path / name)
        with pytest.raises(CheckpointError, match=rf"{name} does not hold the codec_model network .* missing"):
            convert(tmp_path / name, tmp_path / "dst")
        config = open_source(tmp_path / name).config
        assert config.num_quantizers == codebooks


def test_a_folder_of_two_codecs_names_them(torch, tmp_path):
    for name in ("encodec_48khz-7e698e3e.th", "encodec_24khz-d7cc33bc.th"):
        torch.save({"x": torch.ones(1)}, tmp_path / name)
    with pytest.raises(ModelNotFoundError, match=r"several codecs, encodec_24khz-d7cc33bc\.th, encodec_48khz"):
        convert(tmp_path, tmp_path / "dst")


def test_a_48_khz_codec_is_not_taken_for_suno_s_files(suno, encodec_48khz, tmp_path):
    with pytest.raises(CheckpointError, match="a codec of 48,000 Hz, and Suno's Bark has codes of 24,000 Hz"):
        convert(suno, tmp_path / "dst", codec=encodec_48khz[1])


# Files that are no Bark are refused with what they are


def drop(*names):
    return lambda arrays: [arrays.pop(name) for name in list(arrays) if name.startswith(names)]


def put(name, make):
    return lambda arrays: arrays.__setitem__(name, make(arrays.get(name)))


def put_all(make):
    return lambda arrays: arrays.update({name: make(array) for name, array in arrays.items()})


def spoil(array, value):
    array = array.copy()
    array.reshape(-1)[3] = value
    return array


def prefix_all(arrays):
    for name in list(arrays):
        arrays["module." + name] = arrays.pop(name)


SPOILED = {
    "K01": (drop("semantic.layers.0.layernorm_1.weight"), r"missing: semantic\.layers\.0\.layernorm_1\.weight \(for "
            r"blocks\.0\.attention_norm\.scale\)"),
    "K02": (drop("coarse_acoustics."), "Networks without arrays: coarse_acoustics"),
    "K03": (put("semantic.surplus.weight", lambda _: np.zeros(3)), r"unexpected: semantic\.surplus\.weight"),
    "K05": (put("semantic.input_embeds_layer.weight", lambda array: array[:-1]),
            r"semantic\.input_embeds_layer\.weight is \(129599, 16\), expected \(129600, 16\)"),
    "K07": (put_all(lambda array: array.astype(np.int8)), "is int8, expected float32"),
    "K10": (put("semantic.layers.1.mlp.in_proj.weight", lambda array: spoil(array, np.nan)),
            r"semantic\.layers\.1\.mlp\.in_proj\.weight has nan"),
    "K11": (put("coarse_acoustics.layers.0.attn.out_proj.weight", lambda array: spoil(array, np.inf)),
            r"coarse_acoustics\.layers\.0\.attn\.out_proj\.weight has inf"),
    "K13": (put("codec_model.decoder.layers.3.conv.parametrizations.weight.original1",
                lambda array: spoil(array, np.nan)),
            r"codec_model\.decoder\.layers\.3\.conv\.parametrizations\.weight\.original1 has nan"),
    "K14": (put_all(lambda array: array if array.dtype == np.bool_ else np.zeros_like(array)),
            "every weight of the semantic network is zero"),
    "K17": (prefix_all, r"arrays of no network: module\."),
    "K18": (put("semantic.layers.0.attn.bias", np.ones_like), r"semantic\.layers\.0\.attn\.bias is not the causal"),
    "K19": (put("semantic.layers.1.mlp.out_proj.weight", lambda array: array[:8, :32]),
            r"is \(8, 32\), expected \(16, 64\)"),
    "half a weight norm": (drop("codec_model.decoder.layers.0.conv.parametrizations.weight.original0"),
                           r"missing: codec_model\.decoder\S+original0 \(for decoder\.layers\.0\.conv\.kernel\)"),
    "untied heads": (put("fine_acoustics.lm_heads.2.weight", lambda _: np.ones((1056, 16), np.float32)),
                     r"lm_heads\.2\.weight differs from fine_acoustics\.input_embeds_layers\.3\.weight"),
    "both spellings": (lambda arrays: arrays.update(checkpoints.with_old_weight_norm(arrays)), "given twice"),
    "a mask that is not square": (put("semantic.layers.0.attn.bias", lambda array: array[:, :, :5]), "causal mask"),
    "an empty mask": (put("semantic.layers.0.attn.bias", lambda _: np.zeros((1, 1, 2, 0), bool)), "causal mask"),
}  # fmt: skip


# The codec is converted last.
OF_THE_CODEC = {"K13", "half a weight norm", "both spellings"}


@pytest.mark.parametrize("case", SPOILED)
def test_weights_of_something_else_are_refused(copy, tmp_path, case):
    change, message = SPOILED[case]
    arrays = checkpoints.read_arrays(copy)
    change(arrays)
    checkpoints.write_arrays(copy, arrays)
    calls = ALL_NETWORKS_CALLS if case in OF_THE_CODEC else NETWORK_CALLS
    with refused(CheckpointError, message, calls=calls, folder=tmp_path):
        convert(copy, tmp_path / "dst")


def test_k15_a_complex_tensor_is_refused(copy, tmp_path):
    arrays = checkpoints.read_arrays(copy)
    arrays["semantic.lm_head.weight"] = arrays["semantic.lm_head.weight"].astype(np.complex64)
    checkpoints.write_pickle(copy, arrays)
    with pytest.raises(CheckpointError, match=r"(?i)complex"):
        convert(copy, tmp_path / "dst")


def test_overflow_in_the_wanted_dtype_is_refused(copy, tmp_path):
    arrays = checkpoints.read_arrays(copy)
    arrays["semantic.lm_head.weight"][0, 0] = 1e6
    checkpoints.write_arrays(copy, arrays)
    with pytest.raises(CheckpointError, match=r"semantic\.lm_head\.weight has inf among its values, as float16"):
        convert(copy, tmp_path / "dst", dtype="float16")


def test_non_finite_weights_can_be_allowed(copy, tmp_path):
    arrays = checkpoints.read_arrays(copy)
    arrays["semantic.lm_head.weight"][0, 0] = np.nan
    checkpoints.write_arrays(copy, arrays)
    convert(copy, tmp_path / "dst", allow_non_finite=True)
    assert np.isnan(load_file(tmp_path / "dst" / "semantic.safetensors")["head.kernel"][0, 0])


def set_in(part, field, value):
    return lambda config: config[part].__setitem__(field, value)


CONFIGS = {
    "C05": (set_in("semantic_config", "num_layers", 1), CheckpointError, r"unexpected: semantic\.layers\.1\."),
    "C06": (set_in("semantic_config", "input_vocab_size", 1000), BarkError, "1000"),
    "C07": (set_in("semantic_config", "block_size", 128), ConfigError, "block_size is 128"),
    "C10": (lambda config: config.update(model_type="gpt2"), ConfigError, r"config\.json: .*'gpt2', expected 'bark'"),
    "C25": (lambda config: config.update(auto_map={"AutoModel": "evil.Model"}), ConfigError, "code of its own"),
    "more layers than weights": (set_in("fine_acoustics_config", "num_layers", 3), CheckpointError,
                                 r"missing: fine_acoustics\.layers\.2\."),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_of_something_else_is_refused(copy, tmp_path, change, error, message):
    edit_json(copy / "config.json", change)
    calls = NETWORK_CALLS if error is CheckpointError else FOLDER_CALLS  # the weights or the sizes are another model's
    with refused(error, message, calls=calls, folder=tmp_path):
        convert(copy, tmp_path / "dst")


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", r"config\.json: .*expected a JSON object, got list"), ("no", "is not JSON"), ("{", "is not JSON")],
    ids=["C26", "C09", "cut"],
)
def test_a_config_that_is_no_object_is_refused(copy, tmp_path, content, message):
    (copy / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        convert(copy, tmp_path / "dst")


def test_c15_a_missing_generation_config_is_refused_with_the_way_out(copy, tmp_path):
    (copy / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match=r"no generation_config\.json.*Copy that of suno/bark"):
        convert(copy, tmp_path / "dst")


def test_c27_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere/at/all' does not exist"):
        convert(tmp_path / "nowhere/at/all", tmp_path / "dst")


def test_a_folder_without_weights_names_the_files_it_could_have(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no weights; expected one of model\.safetensors"):
        convert(copy, tmp_path / "dst")


def test_a_folder_of_nothing_known_is_refused(tmp_path):
    (tmp_path / "src").mkdir()
    with pytest.raises(ModelNotFoundError, match="holds no model that is known here"):
        convert(tmp_path / "src", tmp_path / "dst")


def test_a_pickle_that_is_a_list_is_refused(torch, copy, tmp_path):
    (copy / "model.safetensors").unlink()
    torch.save([torch.zeros(3)], copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds a list, expected arrays by name"):
        convert(copy, tmp_path / "dst")


INDICES = {
    "S21": (lambda index: index["weight_map"].update({"semantic.lm_head.weight": "/etc/passwd"}), "/etc/passwd"),
    "S21 relative": (lambda index: index["weight_map"].update({"semantic.lm_head.weight": "../x.bin"}), r"\.\./x\.bin"),
    "S22": (lambda index: index["weight_map"].update({"semantic.lm_head.weight": "absent.safetensors"}), "absent"),
}


@pytest.mark.parametrize(("change", "message"), INDICES.values(), ids=INDICES)
def test_an_index_that_points_elsewhere_is_refused(copy, tmp_path, change, message):
    as_safetensors_shards(copy)
    edit_json(copy / "model.safetensors.index.json", change)
    with refused(BarkError, message, calls=FOLDER_CALLS, folder=tmp_path):
        convert(copy, tmp_path / "dst")


def test_s23_an_index_that_is_not_json_is_refused(copy, tmp_path):
    as_safetensors_shards(copy)
    (copy / "model.safetensors.index.json").write_text("nonsense")
    with pytest.raises(CheckpointError, match="not JSON"):
        convert(copy, tmp_path / "dst")


# Suno's files


def edit_suno(path, edit):
    import torch

    checkpoint = torch.load(path, weights_only=False)
    edit(checkpoint)
    torch.save(checkpoint, path)


def set_arg(name, value):
    return lambda checkpoint: checkpoint["model_args"].__setitem__(name, value)


def set_model(name, make):
    name = "_orig_mod." + name
    return lambda checkpoint: checkpoint["model"].__setitem__(name, make(checkpoint["model"].get(name)))


def with_nan(tensor):
    tensor[3, 3] = float("nan")
    return tensor


SUNO = {
    "L33": (set_arg("n_layer", 3), CheckpointError, r"text\.pt .*missing: transformer\.h\.2\."),
    "L34": (set_arg("n_head", 3), ConfigError, r"text\.pt: .*num_heads is 3, expected a divisor of hidden_size 16"),
    "L35": (set_arg("n_experts", 3), CheckpointError, r"text\.pt: model_args has n_experts, expected only n_layer"),
    "L37": (set_model("transformer.ln_f.weight", lambda tensor: tensor[None]), CheckpointError,
            r"transformer\.ln_f\.weight is \(1, 16\), expected \(16,\)"),
    "L38": (set_model("transformer.wte.weight", with_nan), CheckpointError, r"transformer\.wte\.weight has nan"),
    "no model": (lambda checkpoint: checkpoint.pop("model"), CheckpointError, "has no model but optimizer, model_args"),
    "no model_args": (lambda checkpoint: checkpoint.pop("model_args"), CheckpointError, "has no model_args but model"),
    "model_args lacks a key": (lambda checkpoint: checkpoint["model_args"].pop("bias"), CheckpointError, "lacks bias"),
    "model_args is a list": (lambda checkpoint: checkpoint.update(model_args=[1]), CheckpointError, "is a list"),
    "a string for a number": (set_arg("n_layer", "2"), ConfigError, "num_layers is '2', expected int"),
    "model is a list": (lambda checkpoint: checkpoint.update(model=[1]), CheckpointError, "expected arrays by name"),
    "with and without prefix": (
        lambda checkpoint: checkpoint["model"].update(
            {"lm_head.weight": checkpoint["model"]["_orig_mod.lm_head.weight"]}),
        CheckpointError, "both with and without"),
    "a mask of ones": (
        set_model("transformer.h.0.attn.bias", lambda _: __import__("torch").ones(1, 1, 8, 8)),
        CheckpointError, r"transformer\.h\.0\.attn\.bias is not the causal mask"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), SUNO.values(), ids=SUNO)
def test_a_suno_file_of_something_else_is_refused(suno, bark, tmp_path, change, error, message):
    folder = shutil.copytree(suno, tmp_path / "src")
    edit_suno(folder / "text.pt", change)
    calls = NETWORK_CALLS if r"transformer\." in message else FOLDER_CALLS  # or refused earlier
    with refused(error, message, calls=calls, folder=tmp_path):
        convert(folder, tmp_path / "dst", codec=bark)


def test_l39_the_fine_network_as_text_is_refused(suno, bark, tmp_path):
    folder = shutil.copytree(suno, tmp_path / "src")
    shutil.copy(folder / "fine.pt", folder / "text.pt")
    with pytest.raises(CheckpointError, match=r"text\.pt holds the fine_acoustics network"):
        convert(folder, tmp_path / "dst", codec=bark)


def test_the_coarse_network_as_text_is_refused(suno, bark, tmp_path):
    folder = shutil.copytree(suno, tmp_path / "src")
    shutil.copy(folder / "coarse.pt", folder / "text.pt")
    with pytest.raises(ConfigError, match="input_vocab_size 12096"):
        convert(folder, tmp_path / "dst", codec=bark)


def test_causal_masks_in_sunos_files_are_dropped(torch, suno, bark, converted, tmp_path):
    folder = shutil.copytree(suno, tmp_path / "src")
    mask = torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64)
    edit_suno(folder / "text.pt", set_model("transformer.h.0.attn.bias", lambda _: mask))
    convert(folder, tmp_path / "dst", codec=bark)
    assert_same_weights(tmp_path / "dst", converted)


def test_two_sizes_need_a_choice(suno, bark, tmp_path):
    folder = shutil.copytree(suno, tmp_path / "src")
    checkpoints.make_suno(folder, bark, suffix="_2")
    with pytest.raises(InputError, match="choose by size"):
        convert(folder, tmp_path / "dst", codec=bark)
    convert(folder, tmp_path / "dst", codec=bark, size="large")


def test_an_incomplete_set_names_what_is_missing(suno, bark, tmp_path):
    folder = shutil.copytree(suno, tmp_path / "src")
    (folder / "fine.pt").unlink()
    with pytest.raises(ModelNotFoundError, match=r"lacks fine\.pt"):
        convert(folder, tmp_path / "dst", codec=bark)


def test_sunos_files_without_a_codec_say_where_to_get_one(suno, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"bring no codec.*facebook/encodec_24khz"):
        convert(suno, tmp_path / "dst")


def test_a_codec_that_is_none_is_refused(suno, tmp_path):
    with pytest.raises(CheckpointError, match="holds no codec but semantic"):
        convert(suno, tmp_path / "dst", codec=suno / "text.pt")


@pytest.mark.parametrize("options", [dict(size="small"), dict(codec="x"), dict(revision="main")])
def test_options_that_mean_nothing_here_are_refused(bark, tmp_path, options):
    with pytest.raises(InputError):
        convert(bark, tmp_path / "dst", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(to="onnx"), "'onnx', expected bark_jax or transformers"),
        (dict(dtype="int8"), "'int8', expected one of float32"),
        (dict(size="medium"), "'medium', expected small or large"),
    ],
)
def test_unknown_choices_are_refused(bark, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        convert(bark, tmp_path / "dst", **options)


# The engine


def make_source(arrays, rules):
    stored = {name: StoredArray.of(np.asarray(array)) for name, array in arrays.items()}
    return _plan.NetworkSource("semantic", "here", None, stored, rules, prefix="net.")


def shapes(**sizes):
    return {name: np.empty(shape, np.float32) for name, shape in sizes.items()}


def test_an_array_that_no_rule_takes_is_named():
    source = make_source({"a": [1.0], "b": [1.0]}, [rule("a", "x")])
    with pytest.raises(CheckpointError, match=r"unexpected: net\.b"):
        _plan.make_plan(source, shapes(x=(1,)))


def test_a_parameter_that_nothing_fills_is_named_on_both_sides():
    source = make_source({"a": [1.0]}, [rule("a", "x"), rule("b", "y")])
    with pytest.raises(CheckpointError, match=r"missing: net\.b \(for y\)"):
        _plan.make_plan(source, shapes(x=(1,), y=(1,)))


def test_a_parameter_that_two_arrays_fill_is_named_on_both_sides():
    source = make_source({"a": [1.0], "b": [1.0]}, [rule("a", "x"), rule("b", "x")])
    with pytest.raises(CheckpointError, match=r"given twice: x \(by net\.a and net\.b\)"):
        _plan.make_plan(source, shapes(x=(1,)))


def test_all_faults_are_reported_at_once():
    source = make_source({"a": np.zeros((2, 3)), "b": [1]}, [rule("a", "x", LINEAR), rule("c", "y"), rule("d", "z")])
    with pytest.raises(CheckpointError) as error:
        _plan.make_plan(source, shapes(x=(2, 3), y=(1,)))
    for fault in ("missing: net.c (for y)", "unexpected: net.b", "net.a is (2, 3), expected (3, 2) (for x)"):
        assert fault in str(error.value)


def test_an_array_of_an_unknown_dtype_is_named():
    source = make_source({"a": np.array([1])}, [rule("a", "x")])
    with pytest.raises(CheckpointError, match=r"net\.a is int64, expected float32"):
        _plan.make_plan(source, shapes(x=(1,)))


def test_nothing_is_read_before_the_names_are_checked():
    def fail():
        pytest.fail("read")

    stored = {"a": StoredArray((1,), np.dtype(np.float32), fail)}
    source = _plan.NetworkSource("semantic", "here", None, stored, [rule("a", "x")])
    with pytest.raises(CheckpointError, match=r"missing: an array \(for y\)"):
        _plan.make_plan(source, shapes(x=(1,), y=(1,)))


def test_templates_take_numbers_and_not_words():
    source = make_source({"h.01.w": [1.0], "h.x.w": [1.0]}, [rule("h.{i}.w", "blocks.{i}.x")])
    with pytest.raises(CheckpointError, match=r"unexpected: net\.h\.01\.w, net\.h\.x\.w"):
        _plan.make_plan(source, {})


def test_statistics_fill_nothing():
    source = make_source({"a": [1.0], "b": [1]}, [rule("a", "x"), rule("b", "count", use=Use.STATISTIC)])
    assert list(_plan.make_plan(source, shapes(x=(1,))).fills) == ["x"]


@pytest.mark.parametrize(
    "transform", [UNCHANGED, LINEAR, CONV, TRANSPOSED_CONV, WeightNorm(CONV), SummedBiases()], ids=repr
)
def test_a_transform_undoes_itself(rng, transform):
    n_axes = 2 if transform is LINEAR else 3
    parameter = rng.normal(size=(3, 4, 5)[:n_axes]).astype(np.float32)
    arrays = transform.invert(parameter)
    assert tuple(array.shape for array in arrays) == transform.source_shapes(parameter.shape)
    np.testing.assert_allclose(transform.apply(*arrays), parameter, rtol=2e-7)


@pytest.mark.parametrize(("transform", "dim"), [(WeightNorm(CONV), 0), (WeightNorm(TRANSPOSED_CONV), 0)])
def test_weight_norm_folds_as_torch_does(torch, rng, transform, dim):
    g, v = rng.normal(size=(6, 1, 1)).astype(np.float32), rng.normal(size=(6, 4, 3)).astype(np.float32)
    expected = torch._weight_norm(torch.tensor(v), torch.tensor(g), dim).numpy()
    np.testing.assert_allclose(transform.apply(g, v), transform.axes.apply(expected), rtol=1e-6)


def test_a_rule_may_not_be_used_for_half_of_its_arrays():
    source = make_source({"g": np.ones((2, 1, 1))}, [Rule(("g", "v"), "k", WeightNorm(CONV))])
    with pytest.raises(CheckpointError, match=r"missing: net\.v \(for k\)"):
        _plan.make_plan(source, shapes(k=(3, 4, 2)))


def test_our_own_names_need_no_table():
    source = make_source({"blocks.0.x": [1.0]}, own_rules())
    assert list(_plan.make_plan(source, {"blocks.0.x": np.empty(1)}).fills) == ["blocks.0.x"]


# The way back


@pytest.fixture(scope="session")
def exported(converted, tmp_path_factory):
    return export_transformers(converted, tmp_path_factory.mktemp("exported") / "model")


def test_the_round_trip_gives_every_array_back(bark, exported):
    before, after = checkpoints.read_arrays(bark), checkpoints.read_arrays(exported)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].dtype == after[name].dtype, name
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def load_in_torch(folder):
    from transformers import BarkModel

    model, info = BarkModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def test_transformers_loads_the_export_with_no_key_missing_or_left_over(torch, exported, torch_bark):
    model = load_in_torch(exported)
    tokens_BT, codes_BTQ = torch.arange(9)[None], torch.arange(80).reshape(1, 10, 8)
    with torch.no_grad():
        assert torch.equal(model.semantic(tokens_BT).logits, torch_bark.semantic(tokens_BT).logits)
        assert torch.equal(model.coarse_acoustics(tokens_BT).logits, torch_bark.coarse_acoustics(tokens_BT).logits)
        assert torch.equal(model.fine_acoustics(3, codes_BTQ).logits, torch_bark.fine_acoustics(3, codes_BTQ).logits)
    codes_BQT = codes_BTQ.numpy().swapaxes(1, 2).copy()
    np.testing.assert_array_equal(
        decode_with_torch(torch, model.codec_model, codes_BQT),
        decode_with_torch(torch, torch_bark.codec_model, codes_BQT),
    )


def test_transformers_generates_from_the_export(torch, exported):
    model = load_in_torch(exported)
    torch.manual_seed(0)
    tokens = torch.full((1, 256), 129_595 - 10_048)
    audio = model.generate(input_ids=tokens, semantic_max_new_tokens=6)
    assert audio.shape[-1] > 0 and audio.shape[-1] % 320 == 0


def test_the_configs_come_back(bark, exported):
    for name, config_class in (("config.json", BarkConfig), ("generation_config.json", BarkGenerationConfig)):
        before, after = (config_class.from_dict(read_json(folder / name)) for folder in (bark, exported))
        assert before == after
    assert read_json(exported / "config.json")["architectures"] == ["BarkModel"]


def test_the_export_converts_to_the_same_again(converted, exported, tmp_path):
    assert_same_weights(convert(exported, tmp_path / "dst"), converted)


def change_codec(folder, change):
    """Changes the codec's file as training would, and makes the manifest agree."""
    from safetensors.numpy import save_file

    from bark_jax.checkpoints.model_folder import FileRecord, Manifest, write_manifest
    from bark_jax.files import sha256_of

    path = folder / "codec_model.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)
    manifest = read_manifest(folder)
    record = FileRecord(sha256_of(path), path.stat().st_size, len(arrays))
    write_manifest(folder, Manifest(manifest.source, {**manifest.files, path.name: record}))


def double_the_first_kernel(arrays):
    arrays["decoder.layers.0.conv.kernel"] *= 2
    arrays["decoder.layers.1.lstm.0.bias"] += 0.5


def test_a_changed_codec_is_exported_as_it_is_now(torch, converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "src")
    change_codec(folder, double_the_first_kernel)
    model = load_in_torch(export_transformers(folder, tmp_path / "dst"))
    codes_BQT = np.random.default_rng(0).integers(0, 1024, (1, 8, 6))
    expected = decode_with_torch(torch, model.codec_model, codes_BQT)
    np.testing.assert_allclose(jitted.decode(load(folder, "codec_model"), jnp.asarray(codes_BQT)), expected, atol=1e-5)


def test_a_codec_kernel_of_zeros_is_exported_without_nan(torch, converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "src")
    change_codec(folder, lambda arrays: arrays["decoder.layers.0.conv.kernel"].fill(0))
    model = load_in_torch(export_transformers(folder, tmp_path / "dst"))
    assert not model.codec_model.decoder.layers[0].conv.weight.any()


def test_a_model_without_the_original_codec_is_exported(torch, copy, tmp_path):
    without_statistics(copy)
    load_in_torch(export_transformers(convert(copy, tmp_path / "own"), tmp_path / "dst"))


def test_sunos_files_go_straight_to_transformers(suno, bark, tmp_path):
    convert(suno, tmp_path / "dst", to="transformers", codec=suno / "codec" / "encodec_24khz-d7cc33bc.th")
    before, after = checkpoints.read_arrays(bark), checkpoints.read_arrays(tmp_path / "dst")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert sorted(os.listdir(tmp_path / "dst")) == ["config.json", "generation_config.json", "model.safetensors"]


def test_half_precision_comes_back_in_half_precision(torch, converted, tmp_path):
    convert(converted, tmp_path / "dst", to="transformers", dtype="bfloat16")
    assert load_in_torch(tmp_path / "dst").dtype == torch.bfloat16


def test_the_codec_survives_a_cast_unfolded(bark, converted, tmp_path):
    convert(converted, tmp_path / "dst", to="transformers", dtype="bfloat16")
    before, after = checkpoints.read_arrays(bark), checkpoints.read_arrays(tmp_path / "dst")
    codec = [name for name in before if name.startswith("codec_model.")]
    assert all(np.array_equal(before[name], after[name]) for name in codec)


def test_an_encodec_goes_back_alone(torch, tmp_path):
    from transformers import EncodecModel

    folder = checkpoints.make_encodec(tmp_path / "src")
    convert(convert(folder, tmp_path / "own"), tmp_path / "dst", to="transformers")
    _, info = EncodecModel.from_pretrained(tmp_path / "dst", output_loading_info=True)
    assert not any(info.values()), info


def test_a_single_transformer_does_not_go_back(suno, tmp_path):
    with pytest.raises(ModelNotFoundError, match="holds semantic alone"):
        convert(suno / "text.pt", tmp_path / "dst", to="transformers")


# The folder


def test_a_failure_half_way_leaves_nothing(bark, tmp_path, monkeypatch):
    from bark_jax.checkpoints import _write

    calls = []

    def write_some(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return _plan.write_converted(*args, **options)

    monkeypatch.setattr(_write, "write_converted", write_some)
    with pytest.raises(OSError, match="No space"):
        convert(bark, tmp_path / "dst")
    assert os.listdir(tmp_path) == []


def test_a_model_is_not_overwritten_by_accident(bark, tmp_path):
    convert(bark, tmp_path / "dst")
    with pytest.raises(InputError, match="overwrite"):
        convert(bark, tmp_path / "dst")
    convert(bark, tmp_path / "dst", overwrite=True, dtype="bfloat16")
    assert load_file(tmp_path / "dst" / "semantic.safetensors")["head.kernel"].dtype == ml_dtypes.bfloat16


def test_a_checkpoint_is_not_overwritten_by_what_is_made_of_it(copy):
    with pytest.raises(InputError, match="give another folder"):
        convert(copy, copy, overwrite=True)
    assert (copy / "model.safetensors").is_file()


def test_the_manifest_names_the_source_without_a_path(converted):
    assert read_manifest(converted).source == "tiny-bark"


def test_progress_counts_the_bytes_of_each_file(bark, tmp_path):
    seen = {}
    convert(
        bark, tmp_path / "dst", progress=lambda network, done, total: seen.setdefault(network, []).append((done, total))
    )
    assert list(seen) == list(NETWORKS)
    assert all(calls[-1][0] == calls[-1][1] for calls in seen.values())


def test_tokenizer_and_voices_come_along_and_nothing_else(copy, tmp_path):
    for name in ("vocab.txt", "tokenizer.json", "speaker_embeddings_path.json", "modeling.py", "notes.txt"):
        (copy / name).write_text(name)
    voices = copy / "speaker_embeddings" / "v2"
    voices.mkdir(parents=True)
    np.save(voices / "en_speaker_1_semantic_prompt.npy", np.arange(3))
    (voices / "run.py").write_text("")
    (tmp_path / "secret.npy").write_text("secret")
    (voices / "link.npy").symlink_to(tmp_path / "secret.npy")
    dst = convert(copy, tmp_path / "dst")
    assert (dst / "vocab.txt").read_text() == "vocab.txt"
    assert os.listdir(dst / "speaker_embeddings" / "v2") == ["en_speaker_1_semantic_prompt.npy"]
    assert not {"modeling.py", "notes.txt"} & set(os.listdir(dst))


def test_what_is_linked_from_elsewhere_is_left_out_and_said(bark, tmp_path, caplog):
    src, other = tmp_path / "src", tmp_path / "other"
    shutil.copytree(bark, src)
    (other / "v2").mkdir(parents=True)
    for name in ("vocab.txt", "v2/a.npy", "v2/b.npz"):
        (other / name).write_text("elsewhere")
    voices = src / "speaker_embeddings"
    voices.mkdir()
    (src / "kept.txt").write_text("inside")
    links = {
        src / "vocab.txt": other / "vocab.txt",
        src / "tokenizer.json": tmp_path / "nowhere",
        src / "words.txt": src / "kept.txt",
        voices / "a.npy": other / "v2" / "a.npy",
        voices / "v2": other / "v2",
    }
    for link, target in links.items():
        link.symlink_to(target)
    dst = convert(src, tmp_path / "dst")
    (message,) = [record.getMessage() for record in caplog.records if record.name == "bark_jax.checkpoints._extras"]
    assert message.startswith(
        "left out speaker_embeddings/v2, tokenizer.json, vocab.txt, speaker_embeddings/a.npy: links"
    )
    assert str(src) in message
    assert (dst / "words.txt").read_text() == "inside"
    assert not {"vocab.txt", "tokenizer.json", "speaker_embeddings"} & set(os.listdir(dst))
    caplog.clear()
    convert(bark, tmp_path / "other-dst")
    assert not caplog.records


def test_a_folder_of_voices_that_is_a_link_is_said(copy, tmp_path, caplog):
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "a.npz").write_text("elsewhere")
    (copy / "speaker_embeddings").symlink_to(tmp_path / "voices")
    convert(copy, tmp_path / "dst")
    assert "left out speaker_embeddings/a.npz: links that lead out of" in caplog.text


# The Hub's cache


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def fill_cache(cache, repository, folder):
    """Lays a folder out as the Hub's client does: files are links to blobs named by their SHA-256."""
    from bark_jax.files import sha256_of

    commit = "0123456789" * 4
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    for name in os.listdir(folder):
        blob = home / "blobs" / sha256_of(folder / name)
        shutil.copy(folder / name, blob)
        (snapshot / name).symlink_to(blob)
    return snapshot


def test_a_model_in_the_cache_converts_without_a_network(bark, converted, hub_cache, tmp_path):
    (bark / "vocab.txt").write_text("[PAD]")
    try:
        fill_cache(hub_cache, "suno/bark-tiny", bark)
    finally:
        (bark / "vocab.txt").unlink()
    dst = convert("suno/bark-tiny", tmp_path / "dst")
    assert_same_weights(dst, converted)
    assert read_manifest(dst).source == "suno/bark-tiny@" + "0123456789" * 4
    assert (dst / "vocab.txt").read_text() == "[PAD]"


def test_a_damaged_file_in_the_cache_is_refused(bark, hub_cache, tmp_path):
    snapshot = fill_cache(hub_cache, "suno/bark-tiny", bark)
    path = (snapshot / "model.safetensors").resolve()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: its SHA-256 is"):
        convert("suno/bark-tiny", tmp_path / "dst")


def test_a_model_that_is_nowhere_says_how_to_get_it(hub_cache, tmp_path):
    with pytest.raises(ModelNotFoundError) as error:
        convert("suno/bark-small", tmp_path / "dst")
    for part in ("suno/bark-small", str(hub_cache), "With a connection to the Hub"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("names", "size", "expected"),
    [
        ("config.json model.safetensors pytorch_model.bin x.py", None, "config.json model.safetensors"),
        ("config.json pytorch_model.bin text.pt", None, "config.json pytorch_model.bin"),
        ("config.json text.pt text_2.pt coarse_2.pt fine_2.pt", "large", "text_2.pt coarse_2.pt fine_2.pt"),
        ("bark_jax.json semantic.safetensors x.bin", None, "bark_jax.json semantic.safetensors"),
        ("speaker_embeddings/v2/a.npy speaker_embeddings/x.py", None, "speaker_embeddings/v2/a.npy"),
    ],
)
def test_only_what_makes_the_model_is_fetched(names, size, expected):
    from bark_jax.checkpoints.snapshots import wanted_files

    assert wanted_files(names.split(), size) == expected.split()


# The command


def run(*arguments):
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "converters", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_command_converts(bark, converted, tmp_path):
    done = run(bark, tmp_path / "dst")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(tmp_path / "dst"), "")
    assert_same_weights(tmp_path / "dst", converted)


def invoke(*arguments):
    from click.testing import CliRunner

    from bark_jax.cli import main

    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


def test_the_command_goes_back(converted, exported, tmp_path):
    assert invoke(converted, tmp_path / "dst", "--to", "transformers").exit_code == 0
    assert (tmp_path / "dst" / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()


def test_help_has_an_example():
    found = invoke("--help")
    assert found.exit_code == 0 and "bark-jax convert suno/bark-small" in found.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["only-one"], 2),
        (["a/b/c", "dst"], 3),
        (["nobody/nothing", "dst"], 3),
        (["src", "dst", "--dtype", "int8"], 2),
        (["{suno}", "dst"], 3),
        (["{broken}", "dst"], 1),
        (["{suno}", "{suno}"], 2),
    ],
)
def test_exit_codes_tell_the_kinds_of_failure_apart(suno, copy, tmp_path, hub_cache, monkeypatch, arguments, code):
    (copy / "config.json").write_text("nonsense")
    monkeypatch.chdir(tmp_path)
    found = invoke(*(argument.format(suno=suno, broken=copy) for argument in arguments))
    assert found.exit_code == code, found.output
    assert "error: " in found.stderr.lower() and "Traceback" not in found.output


# Memory

# VmHWM, because ru_maxrss also counts the process before exec, a fork of this one.
MEASURED = """
import re, sys
from pathlib import Path
from bark_jax.checkpoints import convert
convert(sys.argv[1], sys.argv[2])
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux to measure memory")
def test_a_large_suno_file_is_converted_array_by_array(torch, tmp_path):
    """600 MB with the optimizer's moments become 200 MB; memory stays below those plus 0.3 GiB, most of them JAX."""
    width, vocabulary, layers = 512, 30_000, 6
    shapes = {"transformer.wte.weight": (vocabulary, width), "transformer.wpe.weight": (1024, width)}
    for i in range(layers):
        block = f"transformer.h.{i}."
        shapes |= {f"{block}ln_1.weight": (width,), f"{block}ln_2.weight": (width,)}
        shapes |= {f"{block}attn.c_attn.weight": (3 * width, width), f"{block}attn.c_proj.weight": (width, width)}
        shapes |= {f"{block}mlp.c_fc.weight": (4 * width, width), f"{block}mlp.c_proj.weight": (width, 4 * width)}
    shapes |= {"transformer.ln_f.weight": (width,), "lm_head.weight": (vocabulary, width)}
    model = {f"_orig_mod.{name}": torch.randn(shape) for name, shape in shapes.items()}
    moments = {
        i: {"exp_avg": torch.randn(t.shape), "exp_avg_sq": torch.randn(t.shape)} for i, t in enumerate(model.values())
    }
    args = dict(n_layer=layers, n_head=8, n_embd=width, block_size=1024, bias=False, vocab_size=vocabulary)
    torch.save({"model": model, "optimizer": {"state": moments}, "model_args": args}, tmp_path / "coarse.pt")
    assert (tmp_path / "coarse.pt").stat().st_size > 550e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "coarse.pt", tmp_path / "dst"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    converted_bytes = (tmp_path / "dst" / "coarse_acoustics.safetensors").stat().st_size
    print(f"{int(done.stdout) / 2**20:.0f} MiB for {converted_bytes / 2**20:.0f} MiB")
    assert int(done.stdout) < converted_bytes + 0.3 * 2**30
