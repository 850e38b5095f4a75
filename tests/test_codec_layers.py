"""EnCodec's layers one by one, against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import jit

from bark_jax.networks.codec.conv import convolve, convolve_transposed, group_norm, pad_time
from bark_jax.networks.codec.encodec import overlap_add
from bark_jax.networks.codec.layer import zero_beyond
from bark_jax.networks.codec.lstm import lstm, zero_state
from bark_jax.networks.codec.quantizer import embed_codes, nearest, quantize


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def channels_first(torch, x_BTC: np.ndarray):
    return torch.from_numpy(x_BTC.swapaxes(1, 2).copy())


def channels_last(tensor) -> np.ndarray:
    return tensor.detach().numpy().swapaxes(1, 2)


@pytest.mark.parametrize(("k", "stride", "dilation"), [(7, 1, 1), (1, 1, 1), (3, 1, 4), (16, 8, 1), (5, 2, 3)])
def test_convolve_equals_torch(torch, k, stride, dilation):
    x_BTC, kernel = normal(2, 40, 3), normal(k, 3, 5, seed=1)
    weight = torch.from_numpy(kernel.transpose(2, 1, 0).copy())
    expected = torch.nn.functional.conv1d(channels_first(torch, x_BTC), weight, stride=stride, dilation=dilation)
    y_BTC = jit(functools.partial(convolve, stride=stride, dilation=dilation))(x_BTC, kernel)
    np.testing.assert_allclose(y_BTC, channels_last(expected), atol=1e-5)


@pytest.mark.parametrize(("k", "stride"), [(16, 8), (10, 5), (4, 2), (7, 3), (3, 1), (2, 3), (1, 1)])
def test_convolve_transposed_equals_torch(torch, k, stride):
    xs_BTC, kernel = [normal(2, T, 3) for T in (1, 2, 9)], normal(k, 3, 5, seed=1)
    weight = torch.from_numpy(kernel.transpose(1, 2, 0).copy())
    found = jit(lambda xs_BTC: [convolve_transposed(x_BTC, kernel, stride=stride) for x_BTC in xs_BTC])(xs_BTC)
    for x_BTC, y_BTC in zip(xs_BTC, found, strict=True):
        expected = torch.nn.functional.conv_transpose1d(channels_first(torch, x_BTC), weight, stride=stride)
        np.testing.assert_allclose(y_BTC, channels_last(expected), atol=1e-5)


def test_transposed_kernel_is_laid_out_sample_by_sample():
    x_BTC, kernel = np.reshape([1.0, 10], (1, 2, 1)), np.reshape([1.0, 2, 3, 4], (4, 1, 1))
    y_BTC = jit(functools.partial(convolve_transposed, stride=2))(x_BTC, kernel)
    np.testing.assert_array_equal(np.ravel(y_BTC), [1, 2, 13, 24, 30, 40])


@pytest.mark.parametrize(("left", "right"), [(6, 0), (3, 3), (2, 5), (0, 4)])
def test_reflect_padding_equals_transformers_on_short_signals_too(torch, left, right):
    encodec = pytest.importorskip("transformers.models.encodec.modeling_encodec")
    xs_BTC = [normal(1, T, 2) for T in range(1, 9)]
    found = jit(lambda xs_BTC: [pad_time(x_BTC, left, right, "reflect") for x_BTC in xs_BTC])(xs_BTC)
    for x_BTC, padded_BTC in zip(xs_BTC, found, strict=True):
        expected = encodec.EncodecConv1d._pad1d(channels_first(torch, x_BTC), (left, right), mode="reflect")
        np.testing.assert_array_equal(padded_BTC, channels_last(expected))


def pad(signal, *padding):
    return np.ravel(jit(lambda x_BTC: pad_time(x_BTC, *padding))(np.array(signal, np.float32).reshape(1, -1, 1)))


def test_short_signal_is_extended_with_zeros_before_it_is_mirrored():
    np.testing.assert_array_equal(pad([1, 2], 3, 0, "reflect"), [0, 0, 2, 1, 2])


def test_constant_padding_is_zeros():
    np.testing.assert_array_equal(pad([1], 2, 1, "constant"), [0, 0, 1, 0])


@pytest.mark.parametrize("mean", [0, 100])
def test_group_norm_equals_torch(torch, mean):
    x_BTC, scale, bias = np.float32(mean) + normal(2, 9, 6), normal(6, seed=1), normal(6, seed=2)
    expected = torch.nn.functional.group_norm(
        channels_first(torch, x_BTC), 1, torch.from_numpy(scale), torch.from_numpy(bias)
    )
    np.testing.assert_allclose(
        jit(group_norm)(x_BTC, scale, bias), channels_last(expected), atol=2e-4 if mean else 1e-5
    )


def run_lstms(torch_lstm, x_BTC, states=None):
    """Our layers with the weights of a torch.nn.LSTM."""
    weights = {name: parameter.detach().numpy() for name, parameter in torch_lstm.named_parameters()}
    n_layers, channels = torch_lstm.num_layers, x_BTC.shape[2]
    states = states or [zero_state(x_BTC.shape[0], channels)] * n_layers
    last = []
    for n in range(n_layers):
        bias = weights[f"bias_ih_l{n}"] + weights[f"bias_hh_l{n}"]
        x_BTC, state = lstm(x_BTC, weights[f"weight_ih_l{n}"].T, weights[f"weight_hh_l{n}"].T, bias, states[n])
        last.append(state)
    return x_BTC, last


def test_two_lstm_layers_equal_torch_and_so_does_their_state(torch):
    torch.manual_seed(0)
    torch_lstm, x_BTC = torch.nn.LSTM(8, 8, num_layers=2, batch_first=True), 3 * normal(2, 50, 8)
    expected, (hidden, cell) = torch_lstm(torch.from_numpy(x_BTC))
    y_BTC, states = jit(functools.partial(run_lstms, torch_lstm))(x_BTC)
    np.testing.assert_allclose(y_BTC, expected.detach().numpy(), atol=1e-6)
    for n, expected in enumerate((hidden, cell)):
        np.testing.assert_allclose([np.asarray(state[n]) for state in states], expected.detach().numpy(), atol=1e-6)


def test_lstm_goes_on_from_its_state(torch):
    torch.manual_seed(0)
    torch_lstm = torch.nn.LSTM(4, 4, num_layers=2, batch_first=True)

    @jit
    def read(x_BTC):
        first_BTC, states = run_lstms(torch_lstm, x_BTC[:, :7])
        second_BTC, _ = run_lstms(torch_lstm, x_BTC[:, 7:], states)
        return jnp.concatenate([first_BTC, second_BTC], axis=1), run_lstms(torch_lstm, x_BTC)[0]

    parts_BTC, full_BTC = read(normal(2, 20, 4))
    np.testing.assert_allclose(parts_BTC, full_BTC, atol=1e-6)


def test_low_precision_lstm_keeps_its_state_in_float32():
    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((1, 3, 4), (4, 16), (4, 16), (16,))]
    y_BTC, state = jax.eval_shape(lambda *arrays: lstm(*arrays, zero_state(1, 4)), *shapes)
    assert (y_BTC.dtype, state[0].dtype, state[1].dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)


def test_positions_beyond_a_rows_length_become_zero_even_if_nan():
    x_BTC = np.full((3, 4, 1), np.nan, np.float32)
    x_BTC[:, :2] = 1
    found_BTC = np.asarray(jit(zero_beyond)(x_BTC, np.array([2, 1, 0])))
    np.testing.assert_array_equal(found_BTC[..., 0], [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


def test_nearest_takes_the_first_of_equal_distances():
    table_VC = np.array([[5], [1], [3], [1]], np.float32)
    np.testing.assert_array_equal(jit(nearest)(np.array([[[2], [1]]], np.float32), table_VC), [[1, 1]])


def test_each_codebook_refines_what_the_last_left():
    tables = [np.array(table, np.float32)[:, None] for table in ([0, 10], [-1, 2], [0, 0.5])]
    codes_BQT = jit(quantize)(np.array([[[9.5], [2.1]]], np.float32), tables)
    np.testing.assert_array_equal(codes_BQT, [[[1, 0], [0, 1], [1, 0]]])
    np.testing.assert_array_equal(jit(embed_codes)(codes_BQT, tables), [[[9.5], [2.0]]])


@pytest.mark.parametrize("code", [-1, 4, 2**30])
def test_code_out_of_range_gives_nan_in_its_frame_only(code):
    x_BTC = jit(embed_codes)(np.array([[[0, code]]], np.int32), [np.ones((4, 2), np.float32)])
    np.testing.assert_array_equal(np.isnan(np.asarray(x_BTC)), [[[False, False], [True, True]]])


overlap = jit(overlap_add, static_argnums=1)


@pytest.mark.parametrize("lengths", [(10,), (10, 10), (10, 10, 10, 4), (10, 7)])
def test_overlap_add_equals_transformers(torch, lengths):
    encodec = pytest.importorskip("transformers.models.encodec.modeling_encodec")
    pieces = [normal(2, length, 2, seed=i) for i, length in enumerate(lengths)]
    expected = encodec.EncodecModel._linear_overlap_add([channels_first(torch, piece) for piece in pieces], 6)
    np.testing.assert_allclose(overlap(pieces, 6), channels_last(expected), atol=1e-6)


def test_overlap_add_fades_linearly():
    blended_BAC = overlap([np.zeros((1, 8, 1), np.float32), np.ones((1, 8, 1), np.float32)], 5)
    np.testing.assert_allclose(np.ravel(blended_BAC), [0] * 5 + [0.25, 0.5, 0.75] + [1] * 5, atol=1e-6)
