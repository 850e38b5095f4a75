"""EnCodec, encoder to decoder, against transformers with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import as_dtype, in_numpy, jit
from twins import encodec_twins, random_encodec

from bark_jax.config import EncodecConfig
from bark_jax.errors import ConfigError, InputError, UnsupportedError
from bark_jax.networks.codec.encodec import Chunk
from bark_jax.stage_models import EncodecModel

BANDWIDTHS = (0.6, 1.2)  # kbit/s: 2 and 4 codebooks of 16 vectors at 75 frames a second


def tiny(**changes) -> EncodecConfig:
    sizes = {"num_filters": 4, "hidden_size": 8, "codebook_size": 16, "target_bandwidths": BANDWIDTHS}
    return EncodecConfig(**(sizes | changes))


def tiny_hop_32(**changes) -> EncodecConfig:
    return tiny(**({"upsampling_ratios": (8, 4), "sampling_rate": 2400, "num_lstm_layers": 1} | changes))


CHUNKED = tiny_hop_32(
    audio_channels=2,
    normalize=True,
    chunk_length_s=0.2,
    overlap=0.1,
    use_causal_conv=False,
    norm_type="time_group_norm",
)
CONFIGS = {
    "mono_24khz": tiny(),
    "stereo": tiny_hop_32(audio_channels=2),
    "non_causal": tiny_hop_32(use_causal_conv=False),
    "non_causal_zeros": tiny_hop_32(use_causal_conv=False, pad_mode="constant", num_residual_layers=2),
    "group_norm": tiny_hop_32(norm_type="time_group_norm"),
    "group_norm_odd_ratio": tiny_hop_32(
        norm_type="time_group_norm", use_causal_conv=False, upsampling_ratios=(5, 2), sampling_rate=750
    ),
    "no_shortcut": tiny_hop_32(use_conv_shortcut=False, compress=4),
    "two_residual_layers": tiny_hop_32(num_residual_layers=2, dilation_growth_rate=3, residual_kernel_size=5),
    "zeros": tiny_hop_32(pad_mode="constant", kernel_size=5, last_kernel_size=3),
    "trimmed_on_both_sides": tiny_hop_32(trim_right_ratio=0.5),
    "normalized": tiny_hop_32(audio_channels=2, normalize=True),
    "chunked": CHUNKED,
    "hop_2": tiny(upsampling_ratios=(2,), sampling_rate=150, num_lstm_layers=1),  # its last layer mirrors 3 frames
}
UNCHUNKED = {name: config for name, config in CONFIGS.items() if not config.normalize}

decode = in_numpy(jit(EncodecModel.decode))
decode_step = in_numpy(jit(EncodecModel.decode_step))
decode_chunks = in_numpy(jit(EncodecModel.decode_chunks))
encode = in_numpy(jit(functools.partial(EncodecModel.encode, bandwidth=1.2)))
encode_chunks = in_numpy(jit(functools.partial(EncodecModel.encode_chunks, bandwidth=1.2)))


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


@functools.cache
def twins_of(config: EncodecConfig):
    pytest.importorskip("transformers")
    return encodec_twins(config)


@functools.cache
def random_model(config: EncodecConfig) -> EncodecModel:
    return random_encodec(config)


def random_codes(config: EncodecConfig, T: int, *, B: int = 2, Q: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.codebook_size, (B, Q, T), dtype=np.int32)


def random_audio(config: EncodecConfig, A: int, *, B: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.5, (B, A, config.audio_channels)).astype(np.float32)


def loudest(audio_BAC: np.ndarray) -> float:
    return float(np.abs(audio_BAC).max())


def torch_decode(torch_model, codes_BQT: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        audio_BCA = torch_model._decode_frame(torch.from_numpy(codes_BQT).long())
    return audio_BCA.numpy().swapaxes(1, 2)


def torch_encode(torch_model, audio_BAC: np.ndarray, bandwidth: float):
    """(codes [chunks, B, Q, T], scales [chunks], padding of the last chunk)"""
    import torch

    with torch.no_grad():
        return torch_model.encode(
            torch.from_numpy(audio_BAC.swapaxes(1, 2).copy()), bandwidth=bandwidth, return_dict=False
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_decode_equals_transformers(name):
    torch_model, model = twins_of(CONFIGS[name])
    codes_BQT = random_codes(model.config, 12)
    audio_BAC = decode(model, codes_BQT)
    assert audio_BAC.shape == (2, 12 * model.config.hop_length, model.config.audio_channels)
    np.testing.assert_allclose(audio_BAC, torch_decode(torch_model, codes_BQT), atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_twins_are_audible_and_different_codes_sound_different(name):
    """Otherwise the comparisons with transformers would prove nothing."""
    _, model = twins_of(CONFIGS[name])
    one_BAC = decode(model, random_codes(model.config, 12))
    other_BAC = decode(model, random_codes(model.config, 12, seed=1))
    assert np.std(one_BAC) > 0.05
    assert np.std(one_BAC - other_BAC) > 0.05


@pytest.mark.parametrize(
    ("name", "T"),
    [("hop_2", 1), ("hop_2", 3), ("mono_24khz", 1), ("mono_24khz", 6), ("non_causal", 1), ("chunked", 2)]
    + [pytest.param("hop_2", T, marks=pytest.mark.slow) for T in (2, 4, 5, 6, 7, 8)],
)
def test_clips_too_short_to_mirror_equal_transformers(name, T):
    torch_model, model = twins_of(CONFIGS[name])
    codes_BQT = random_codes(model.config, T, B=1)
    np.testing.assert_allclose(decode(model, codes_BQT), torch_decode(torch_model, codes_BQT), atol=1e-5)


@pytest.mark.parametrize("Q", [1, 3])
def test_fewer_codebooks_than_held_equal_transformers(Q):
    torch_model, model = twins_of(CONFIGS["stereo"])
    codes_BQT = random_codes(model.config, 12, Q=Q)
    np.testing.assert_allclose(decode(model, codes_BQT), torch_decode(torch_model, codes_BQT), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "frames"),
    [(name, 9.5) for name in UNCHUNKED] + [("stereo", 9), ("mono_24khz", 0.5), ("non_causal", 0.5)],
)
def test_encode_equals_transformers(name, frames):
    torch_model, model = twins_of(CONFIGS[name])
    audio_BAC = random_audio(model.config, int(frames * model.config.hop_length))
    expected, _, _ = torch_encode(torch_model, audio_BAC, bandwidth=1.2)
    codes_BQT = encode(model, audio_BAC)
    assert codes_BQT.shape == (2, 4, int(np.ceil(frames)))
    np.testing.assert_array_equal(codes_BQT, expected[0])


@pytest.mark.parametrize("name", UNCHUNKED)
def test_encoded_codes_vary(name):
    """Otherwise equal codes would prove nothing."""
    _, model = twins_of(CONFIGS[name])
    codes_BQT = encode(model, random_audio(model.config, int(9.5 * model.config.hop_length)))
    assert all(len(np.unique(codes_BQT[:, q])) >= 4 for q in range(4))


@pytest.mark.parametrize(("n_samples", "n_chunks"), [(300, 1), (700, 2)])
def test_chunks_equal_transformers_there_and_back(torch, n_samples, n_chunks):
    torch_model, model = twins_of(CHUNKED)
    audio_BAC = random_audio(CHUNKED, n_samples)
    codes, scales, pad = torch_encode(torch_model, audio_BAC, bandwidth=1.2)
    chunks = encode_chunks(model, audio_BAC)
    assert len(chunks) == len(codes) == n_chunks
    for i, chunk in enumerate(chunks):
        np.testing.assert_array_equal(chunk.codes_BQT, codes[i][..., : chunk.codes_BQT.shape[-1]])
        np.testing.assert_allclose(chunk.scale_B, scales[i][:, 0], rtol=1e-6)
    with torch.no_grad():
        expected = torch_model.decode(codes, scales, last_frame_pad_length=pad)[0].numpy().swapaxes(1, 2)
    np.testing.assert_allclose(decode_chunks(model, chunks), expected, atol=1e-5)


def test_normalized_codec_gives_one_chunk_that_transformers_gives_too(torch):
    torch_model, model = twins_of(CONFIGS["normalized"])
    audio_BAC = random_audio(model.config, 300)
    codes, scales, _ = torch_encode(torch_model, audio_BAC, bandwidth=1.2)
    (chunk,) = encode_chunks(model, audio_BAC)
    np.testing.assert_array_equal(chunk.codes_BQT, codes[0])
    with torch.no_grad():
        expected = torch_model.decode(codes, scales)[0].numpy().swapaxes(1, 2)
    np.testing.assert_allclose(decode_chunks(model, [chunk]), expected, atol=1e-5)


@pytest.mark.slow
def test_24khz_size_equals_transformers():
    torch_model, model = twins_of(EncodecConfig())
    codes_BQT = random_codes(model.config, 20, B=1, Q=8)
    audio_BAC = decode(model, codes_BQT)
    assert audio_BAC.shape == (1, 6400, 1)
    np.testing.assert_allclose(audio_BAC, torch_decode(torch_model, codes_BQT), atol=1e-5)


@pytest.mark.parametrize("name", ["mono_24khz", "zeros"])
def test_first_frames_decode_to_the_first_samples(name):
    model = random_model(CONFIGS[name])
    codes_BQT = random_codes(model.config, 12)
    part_BAC = decode(model, codes_BQT[..., : model.min_first_frames])
    start_BAC = decode(model, codes_BQT)[:, : part_BAC.shape[1]]
    np.testing.assert_allclose(part_BAC, start_BAC, atol=1e-6 * loudest(start_BAC))


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("mono_24khz", [12, 1, 6]),
        ("two_residual_layers", [12, 6]),
        ("zeros", [12, 1]),
        ("trimmed_on_both_sides", [12, 6]),
        ("hop_2", [12, 1, 3]),
    ],
)
def test_padded_rows_equal_their_own_decode(name, lengths):
    model = random_model(CONFIGS[name])
    codes_BQT = random_codes(model.config, 12, B=len(lengths))
    audio_BAC = decode(model, codes_BQT, np.array(lengths))
    np.testing.assert_allclose(
        audio_BAC[0], decode(model, codes_BQT[:2])[0], atol=1e-6 * loudest(audio_BAC[0]), err_msg="the longest"
    )
    for row, T in list(enumerate(lengths))[1:]:
        end = T * model.config.hop_length
        alone_BAC = decode(model, codes_BQT[row : row + 1, :, :T])
        np.testing.assert_allclose(audio_BAC[row : row + 1, :end], alone_BAC, atol=1e-6 * loudest(alone_BAC))
        np.testing.assert_array_equal(audio_BAC[row, end:], 0)


def test_row_does_not_depend_on_its_slot_its_neighbours_or_what_pads_it():
    model = random_model(CONFIGS["mono_24khz"])
    codes_BQT, lengths_B = random_codes(model.config, 12, B=3), np.array([12, 1, 5])
    audio_BAC = decode(model, codes_BQT, lengths_B)
    others_BQT, order = random_codes(model.config, 12, B=3, seed=1), np.array([2, 0, 1])
    others_BQT[2, :, :5] = codes_BQT[2, :, :5]
    np.testing.assert_array_equal(decode(model, codes_BQT[order], lengths_B[order]), audio_BAC[order])
    np.testing.assert_array_equal(decode(model, others_BQT, np.array([3, 12, 5]))[2], audio_BAC[2])


def test_row_of_no_frames_is_silent_and_codes_past_the_end_are_not_read():
    model = random_model(CONFIGS["mono_24khz"])
    codes_BQT = random_codes(model.config, 12, B=3)
    codes_BQT[0], codes_BQT[1, :, 6:] = 10**6, -1
    audio_BAC = decode(model, codes_BQT, np.array([0, 6, 12]))
    assert np.isfinite(audio_BAC).all()
    np.testing.assert_array_equal(audio_BAC[0], 0)


@pytest.mark.parametrize("name", ["non_causal", "group_norm"])
def test_lengths_are_refused_where_padding_would_be_heard(name):
    model = random_model(CONFIGS[name])
    with pytest.raises(InputError, match="row by row"):
        model.decode(random_codes(model.config, 8), np.array([8, 3]))


def test_lengths_are_one_a_row():
    model = random_model(CONFIGS["hop_2"])
    with pytest.raises(InputError, match=r"lengths_B has shape \(1,\), expected \(2,\)"):
        model.decode(random_codes(model.config, 8), np.array([8], np.int32))


def test_lengths_of_a_narrow_type_do_not_overflow():
    model = random_model(CONFIGS["stereo"])
    audio_BAC = decode(model, random_codes(model.config, 12), np.asarray([12, 5], np.int8))
    assert loudest(audio_BAC[0, -32:]) > 0


def decode_in_steps(model: EncodecModel, codes_BQT: np.ndarray, cuts: list[int]) -> np.ndarray:
    state, pieces = model.init_decode_state(codes_BQT.shape[0]), []
    for piece_BQT in np.split(codes_BQT, cuts, axis=-1):
        audio_BAC, state = decode_step(model, piece_BQT, state)
        pieces.append(audio_BAC)
    return np.concatenate(pieces, axis=1)


@pytest.mark.parametrize("name", ["mono_24khz", "two_residual_layers", "no_shortcut", "zeros", "hop_2"])
def test_steps_equal_one_full_decode(name):
    model = random_model(CONFIGS[name])
    codes_BQT, first = random_codes(model.config, 12), model.min_first_frames
    audio_BAC, full_BAC = decode_in_steps(model, codes_BQT, list(range(first, 12))), decode(model, codes_BQT)
    np.testing.assert_allclose(audio_BAC, full_BAC, atol=1e-6 * loudest(full_BAC))


@pytest.mark.parametrize("cuts", [[7], [8, 9, 11], []])
def test_steps_of_any_size_equal_one_full_decode(cuts):
    model = random_model(CONFIGS["two_residual_layers"])
    codes_BQT = random_codes(model.config, 12)
    full_BAC = decode(model, codes_BQT)
    np.testing.assert_allclose(decode_in_steps(model, codes_BQT, cuts), full_BAC, atol=1e-6 * loudest(full_BAC))


def test_first_step_needs_as_many_frames_as_the_padding_mirrors():
    model = random_model(CONFIGS["mono_24khz"])
    assert model.min_first_frames == 7
    assert random_model(CONFIGS["zeros"]).min_first_frames == 1
    with pytest.raises(InputError, match="6 frames, expected 7 or more"):
        model.decode_step(random_codes(model.config, 6), model.init_decode_state(2))


@pytest.mark.parametrize("name", ["non_causal", "group_norm", "trimmed_on_both_sides"])
def test_codec_that_looks_ahead_does_not_stream(name):
    with pytest.raises(UnsupportedError, match="looks ahead"):
        random_model(CONFIGS[name]).init_decode_state(1)


def test_mono_audio_may_lack_its_channel_axis():
    model = random_model(CONFIGS["hop_2"])
    audio_BAC = random_audio(model.config, 19)
    np.testing.assert_array_equal(encode(model, audio_BAC[..., 0]), encode(model, audio_BAC))


@pytest.mark.parametrize(
    ("settings", "n_codebooks"), [({}, 2), ({"bandwidth": 0.6}, 2), ({"bandwidth": 1.2}, 4), ({"n_codebooks": 3}, 3)]
)
def test_codebooks_are_counted_by_number_or_bandwidth(settings, n_codebooks):
    model = random_model(CONFIGS["stereo"])
    codes = jax.eval_shape(lambda: model.encode(jnp.zeros((2, 64, 2)), **settings))
    assert codes.shape == (2, n_codebooks, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bandwidth": 6.0}, "bandwidth is 6.0 kbit/s, expected one of"),
        ({"n_codebooks": 5}, "n_codebooks is 5, expected 1 to 4"),
        ({"n_codebooks": 0}, "n_codebooks is 0, expected 1 to 4"),
        ({"n_codebooks": 2, "bandwidth": 0.6}, "both n_codebooks and bandwidth"),
    ],
)
def test_wrong_number_of_codebooks_is_refused(settings, message):
    model = random_model(CONFIGS["stereo"])
    with pytest.raises(InputError, match=message):
        model.encode(random_audio(model.config, 64), **settings)


@pytest.mark.parametrize("shape", [(2, 64), (2, 64, 1), (64,), (2, 0, 2)])
def test_audio_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"expected \[batch, samples, 2\]"):
        random_model(CONFIGS["stereo"]).encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(4, 9), (1, 5, 9), (1, 0, 9), (1, 4, 0)])
def test_codes_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"codes have shape .* 1 to 4 codebooks"):
        random_model(CONFIGS["stereo"]).decode(np.zeros(shape, np.int32))


def test_codes_must_be_integers():
    with pytest.raises(InputError, match="float32, expected integers"):
        random_model(CONFIGS["stereo"]).decode(np.zeros((1, 4, 9), np.float32))


def test_encode_without_scales_is_refused_where_they_are_needed():
    with pytest.raises(InputError, match="use encode_chunks"):
        random_model(CHUNKED).encode(random_audio(CHUNKED, 480))


def test_chunks_that_make_no_sense_are_refused():
    model = random_model(CONFIGS["normalized"])
    chunk = Chunk(random_codes(model.config, 2), scale_B=np.ones(2, np.float32))
    with pytest.raises(InputError, match="there are no chunks"):
        model.decode_chunks([])
    with pytest.raises(InputError, match="2 chunks, expected one"):
        model.decode_chunks([chunk, chunk])


def test_chunks_without_overlap_setting_are_refused():
    with pytest.raises(ConfigError, match="overlap is None"):
        EncodecModel(tiny_hop_32(chunk_length_s=0.2), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("dtype", "signal_to_noise_db"), [(jnp.bfloat16, 25), (jnp.float16, 45)])
def test_low_precision_stays_close(dtype, signal_to_noise_db):
    _, model = twins_of(CONFIGS["stereo"])
    low = in_dtype(model, dtype)
    codes_BQT = random_codes(model.config, 12)
    full_BAC, low_BAC = decode(model, codes_BQT), decode(low, codes_BQT)
    assert low_BAC.dtype == dtype
    noise_BAC = np.asarray(low_BAC, np.float32) - full_BAC
    assert 10 * np.log10(np.mean(np.square(full_BAC)) / np.mean(np.square(noise_BAC))) > signal_to_noise_db


def in_dtype(model: EncodecModel, dtype) -> EncodecModel:
    low = nnx.eval_shape(lambda: EncodecModel(model.config, dtype=dtype, rngs=nnx.Rngs(0)))
    nnx.update(low, jax.tree.map(lambda x: as_dtype(x, dtype), nnx.state(model)))
    return low


def test_low_precision_holds_in_every_entry():
    low = in_dtype(random_model(CONFIGS["stereo"]), jnp.bfloat16)
    codes_BQT = random_codes(low.config, 8)
    audio, state = jax.eval_shape(lambda: low.decode_step(codes_BQT, low.init_decode_state(2)))
    assert audio.dtype == jnp.bfloat16
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state.layers) == jax.tree.map(
        lambda x: (x.shape, x.dtype), low.init_decode_state(2).layers
    )
    assert jax.eval_shape(lambda: low.encode(jnp.zeros((2, 64, 2)))).dtype == jnp.int32


def test_parameters_of_the_24khz_codec_without_memory():
    model = nnx.eval_shape(lambda: EncodecModel(EncodecConfig(), dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    state = {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(model))}
    assert nnx.find_duplicates(model) == []
    assert {variable.dtype for variable in state.values()} == {jnp.dtype(jnp.bfloat16)}
    expected = {
        "encoder.layers.0.conv.kernel": (7, 1, 32),
        "encoder.layers.1.shortcut.conv.bias": (32,),
        "encoder.layers.13.lstm.1.input_kernel": (512, 2048),
        "decoder.layers.0.conv.kernel": (7, 128, 512),
        "decoder.layers.1.lstm.0.hidden_kernel": (512, 2048),
        "decoder.layers.1.lstm.0.bias": (2048,),
        "decoder.layers.3.conv.kernel": (16, 512, 256),
        "decoder.layers.4.block.1.conv.kernel": (3, 256, 128),
        "decoder.layers.4.block.3.conv.kernel": (1, 128, 256),
        "decoder.layers.15.conv.kernel": (7, 32, 1),
        "quantizer.codebooks.31.embedding": (1024, 128),
    }
    assert {name: state[name].shape for name in expected} == expected
