"""Int8 weights: error bounds, independence of rows, and speech that a recogniser still understands."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import as_dtype, drawn, in_numpy, jit

import bark_jax
from bark_jax.config import BarkFineConfig, BarkSemanticConfig
from bark_jax.errors import UnsupportedError
from bark_jax.networks import int8
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.decoder import make_decoder
from bark_jax.networks.int8 import Int8Linear, quantize
from bark_jax.networks.layout import for_decoding
from bark_jax.networks.linear import Linear
from bark_jax.stage_models import BarkFineModel

SIZE = dict(input_vocab_size=70, output_vocab_size=70, num_layers=2, num_heads=2, hidden_size=64, bias=True)


def make_linear(n_in=96, n_out=40, **options):
    options = dict(use_bias=True, deviation=0.02, dtype=jnp.float32, platform="cpu") | options
    linear = drawn(lambda: Linear(n_in, n_out, rngs=nnx.Rngs(0), **options), n_in**-0.5)
    return linear, Int8Linear(linear)


def read(layer, *xs):
    """Outputs of a layer for each x. Jits again on every call, since the layer also depends on patched globals."""
    return in_numpy(jax.jit(lambda layer, *xs: [layer(x) for x in xs]))(layer, *xs)


def dequantized(layer):
    return np.asarray(layer.weight[...], np.float64).T * np.asarray(layer.scale[...], np.float64)


def make_causal():
    config = BarkSemanticConfig(block_size=48, initializer_range=0.2, **SIZE)
    return BarkCausalModel(config, attn_implementation="xla", rngs=nnx.Rngs(0))


def quantized(model):
    quantize(model)
    return model


def test_weights_are_the_nearest_multiples_of_their_scale():
    linear, layer = make_linear()
    assert layer.weight[...].dtype == jnp.int8 and np.abs(np.asarray(layer.weight[...], int)).max() == 127
    error = np.abs(np.asarray(linear.kernel[...]) - dequantized(layer))
    assert (error <= 0.501 * np.asarray(layer.scale[...])).all() and error.max() > 0


def errors_of(layer, *xs):
    """Yields the layer's error for each x, as a share of the output's standard deviation."""
    for x, found in zip(xs, read(layer, *xs), strict=True):
        exact = x.astype(np.float64) @ dequantized(layer) + np.asarray(layer.bias[...])
        assert found.shape == exact.shape and found.dtype == jnp.float32
        yield np.std(found - exact) / exact.std()


def test_activations_of_a_step_keep_15_bits(rng):
    _, layer = make_linear()
    shapes = [(1, 96), (3, 96), (16, 96), (17, 96), (300, 96), (2, 1, 96)]
    for shape, error in zip(shapes, errors_of(layer, *(numbers(rng, shape) for shape in shapes)), strict=True):
        assert error < 5e-5, shape


def numbers(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture(params=[False, True], ids=["without bfloat16", "with bfloat16"])
def has_bfloat16(request, monkeypatch):
    monkeypatch.setattr(int8, "multiplies_bfloat16", lambda: request.param)
    return request.param


def test_activations_of_a_sequence_keep_eight_bits_where_a_cpu_multiplies_bfloat16(has_bfloat16, rng):
    _, layer = make_linear()
    (error,) = errors_of(layer, numbers(rng, (2, 300, 96)))
    assert 1e-4 < error < 2**-8 if has_bfloat16 else error < 1e-6


def products(jaxpr):
    """The dtypes of the left sides of all products."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.invars[0].aval.dtype.name
        for inner in equation.params.values():
            if hasattr(inner, "jaxpr"):
                yield from products(inner.jaxpr)


def test_what_networks_multiply(has_bfloat16):
    model = nnx.eval_shape(lambda: quantized(make_causal()))
    tokens_BT = np.zeros((2, 12), np.int32)
    of_sequences = products(jax.make_jaxpr(lambda model, ids_BT: model(ids_BT))(model, tokens_BT).jaxpr)
    assert set(of_sequences) == {"bfloat16" if has_bfloat16 else "float32"}
    step = lambda model, id_B: model.decode(id_B, model.empty_cache(2, 16))  # noqa: E731
    of_steps = products(jax.make_jaxpr(step)(model, tokens_BT[:, 0]).jaxpr)
    assert set(of_steps) == {"int8", "float32"}  # the latter with keys and values


def test_what_other_devices_compute_is_the_same(rng):
    x = numbers(rng, (5, 96))
    here, elsewhere = (read(make_linear(platform=platform)[1], x) for platform in ("cpu", "gpu"))
    np.testing.assert_allclose(elsewhere, here, atol=1e-3)


def test_a_row_is_the_same_to_the_last_bit_or_two_among_any_neighbours(rng):
    _, layer = make_linear()
    x = numbers(rng, (600, 96)) * np.exp(numbers(rng, (600, 1)))
    (together,) = read(layer, x)
    read_row = jax.jit(lambda layer, x: layer(x))
    for row in (0, 255, 256, 599):
        np.testing.assert_allclose(read_row(layer, x[row : row + 1])[0], together[row], rtol=5e-7, atol=1e-7)


def test_features_of_a_range_are_those_of_all():
    _, layer = make_linear(use_bias=False)
    x = np.linspace(-1, 1, 96, dtype=np.float32)[None]
    found, all_features = jax.jit(lambda layer, x: (layer.features(8, 13)(x), layer(x)))(layer, x)
    np.testing.assert_array_equal(found, np.asarray(all_features)[:, 8:21])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_activations_of_half_precision_stay_so(dtype):
    _, layer = make_linear(dtype=dtype)
    x = jax.ShapeDtypeStruct((2, 96), dtype)
    assert jax.eval_shape(layer, x).dtype == dtype and layer.param_dtype == dtype


def test_zeros_give_zeros():
    linear, _ = make_linear(use_bias=False)
    kernel = np.array(linear.kernel[...])
    kernel[:, 3] = 0
    linear.kernel[...] = as_dtype(kernel, jnp.float32)
    of_ones, of_zeros = read(Int8Linear(linear), np.ones((1, 96), np.float32), np.zeros((2, 96), np.float32))
    assert not of_ones[0, 3] and of_ones.any()
    np.testing.assert_array_equal(of_zeros, np.zeros((2, 40)))


def test_numbers_that_are_not_finite_are_not_hidden():
    _, layer = make_linear()
    xs = np.ones((2, 2, 96), np.float32)
    xs[:, 0, 5] = np.nan, np.inf
    for found in read(layer, *xs):
        assert not np.isfinite(found[0]).any() and np.isfinite(found[1]).all()


def test_networks_stay_close_and_steps_equal_one_full_pass(has_bfloat16):
    exact, model = drawn(make_causal, seed=4), quantized(drawn(make_causal, seed=4))
    tokens_BT = np.random.default_rng(1).integers(0, 70, (2, 12))
    assert for_decoding(model, 1) is model and make_decoder(model) is model

    def step(model, cache, token_B):
        hidden_BD, cache = model.decode(token_B, cache)
        return cache, model.logits(hidden_BD)

    @in_numpy
    @jit
    def read(exact, model, tokens_BT):
        cache = model.prefill(model.embed(tokens_BT[:, :8]), jnp.asarray([8, 8]), 16)
        _, of_steps_TBV = jax.lax.scan(functools.partial(step, model), cache, tokens_BT[:, 8:].T)
        return exact(tokens_BT), model(tokens_BT), of_steps_TBV

    exact_BTV, logits_BTV, of_steps_TBV = read(exact, model, tokens_BT)
    assert 0 < np.std(logits_BTV - exact_BTV) < 0.05 * np.std(exact_BTV)
    tolerance = (2e-2 if has_bfloat16 else 2e-3) * float(np.std(exact_BTV))
    np.testing.assert_allclose(of_steps_TBV, logits_BTV[:, 8:].swapaxes(0, 1), atol=tolerance)


def test_the_fine_network_stays_close():
    config = BarkFineConfig(block_size=32, n_codes_total=3, **SIZE)
    make = functools.partial(BarkFineModel, config, attn_implementation="xla")
    networks = [drawn(lambda: make(rngs=nnx.Rngs(0)), 0.02) for _ in range(2)]
    quantize(networks[1])
    codes = np.random.default_rng(1).integers(0, 70, (1, 20, 3))
    exact, found = in_numpy(jit(lambda networks, codes: [network(2, codes) for network in networks]))(networks, codes)
    assert 0 < np.std(found - exact) < 0.05 * np.std(exact)


@pytest.mark.slow
def test_the_built_in_voice_is_understood(built_in):
    pytest.importorskip("pocketsphinx")
    from bark_jax.training.recipes.tiny_voice.listen import listen

    texts = ["The weather is beautiful today.", "Thank you very much, my good friend."]
    bark = bark_jax.Bark.from_pretrained(built_in, dtype="int8")
    clips = bark.generate(texts, seed=0)
    assert listen("sentences", texts, [clip.samples for clip in clips], bark.sample_rate).word_error <= 0.4


@pytest.fixture(scope="module")
def toy(toy_folder):
    return bark_jax.Bark.from_pretrained(toy_folder, dtype="int8")


@pytest.mark.slow
def test_a_batch_is_its_single_rows(toy):
    texts = ["Good morning.", "The weather is beautiful today."]
    for text, clip in zip(texts, toy.generate(texts, seed=3), strict=True):
        (alone,) = toy.generate([text], seed=3)
        np.testing.assert_array_equal(alone.semantic, clip.semantic)
        np.testing.assert_array_equal(alone.fine, clip.fine)


def test_the_layers_of_three_networks_are_smaller(toy, toy_folder):
    def n_bytes(network):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(network.blocks))

    exact = bark_jax.BarkModel.from_pretrained(toy_folder, dtype="float32")
    for name in ("semantic", "coarse_acoustics", "fine_acoustics"):
        assert n_bytes(getattr(toy.model, name)) < 0.4 * n_bytes(getattr(exact, name))


def test_saving_is_refused(toy, tmp_path):
    with pytest.raises(UnsupportedError, match=r"semantic has weights of eight bits.*without dtype='int8'"):
        toy.model.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_few_rows_and_many_take_both_orders(rng, monkeypatch):
    _, layer = make_linear()
    x = numbers(rng, (int8.MAX_ROWS_WEIGHTS_FIRST, 96))
    first = read(layer, x)
    monkeypatch.setattr(int8, "MAX_ROWS_WEIGHTS_FIRST", 0)
    np.testing.assert_array_equal(read(layer, x), first)
