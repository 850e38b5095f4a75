"""Weights of eight bits: how far they are off, that rows stay alone, and a voice that is still understood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bark_jax
from bark_jax.config import BarkFineConfig, BarkSemanticConfig
from bark_jax.errors import UnsupportedError
from bark_jax.models import int8
from bark_jax.models.decoder import make_decoder
from bark_jax.models.fine_gpt import BarkFineModel
from bark_jax.models.gpt import BarkCausalModel
from bark_jax.models.int8 import Int8Linear, quantize

SIZE = dict(input_vocab_size=70, output_vocab_size=70, num_layers=2, num_heads=2, hidden_size=64, bias=True)


def make_linear(n_in=96, n_out=40, **options):
    linear = nnx.Linear(n_in, n_out, rngs=nnx.Rngs(0), **options)
    return linear, Int8Linear(linear)


def dequantized(layer):
    return np.asarray(layer.weight[...], np.float64).T * np.asarray(layer.scale[...], np.float64)


def make_causal():
    config = BarkSemanticConfig(block_size=48, initializer_range=0.2, **SIZE)
    return BarkCausalModel(config, attn_implementation="xla", rngs=nnx.Rngs(0))


def test_weights_are_the_nearest_multiples_of_their_scale():
    linear, layer = make_linear()
    assert layer.weight[...].dtype == jnp.int8 and int(jnp.max(jnp.abs(layer.weight[...]))) == 127
    error = np.abs(np.asarray(linear.kernel[...]) - dequantized(layer))
    assert (error <= 0.501 * np.asarray(layer.scale[...])).all() and error.max() > 0


def error_of(layer, x):
    """How far a layer is off, as a part of what it gives."""
    exact = np.asarray(x, np.float64) @ dequantized(layer) + np.asarray(layer.bias[...])
    found = layer(x)
    assert found.shape == exact.shape and found.dtype == jnp.float32
    return np.std(found - exact) / exact.std()


@pytest.mark.parametrize("shape", [(1, 96), (3, 96), (16, 96), (17, 96), (300, 96), (2, 1, 96)])
def test_activations_of_a_step_keep_15_bits(shape, rng):
    _, layer = make_linear()
    assert error_of(layer, jnp.asarray(rng.normal(size=shape), jnp.float32)) < 5e-5


@pytest.fixture(params=[False, True], ids=["without bfloat16", "with bfloat16"])
def has_bfloat16(request, monkeypatch):
    monkeypatch.setattr(int8, "multiplies_bfloat16", lambda: request.param)
    return request.param


def test_activations_of_a_sequence_keep_eight_bits_where_a_cpu_multiplies_bfloat16(has_bfloat16, rng):
    _, layer = make_linear()
    error = error_of(layer, jnp.asarray(rng.normal(size=(2, 300, 96)), jnp.float32))
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
    model = make_causal()
    quantize(model)
    tokens_BT = jnp.zeros((2, 12), jnp.int32)
    of_sequences = products(jax.make_jaxpr(model)(tokens_BT).jaxpr)
    assert set(of_sequences) == {"bfloat16" if has_bfloat16 else "float32"}
    of_steps = products(jax.make_jaxpr(model.decode)(tokens_BT[:, 0], model.empty_cache(2, 16)).jaxpr)
    assert set(of_steps) == {"int8", "float32"}  # the latter with keys and values


def test_what_other_devices_compute_is_the_same(monkeypatch, rng):
    _, layer = make_linear()
    x = jnp.asarray(rng.normal(size=(5, 96)), jnp.float32)
    here = layer(x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(layer(x), here, atol=1e-3)


def test_a_row_is_the_same_to_the_last_bit_or_two_among_any_neighbours(rng):
    _, layer = make_linear()
    x = jnp.asarray(rng.normal(size=(600, 96)) * np.exp(rng.normal(size=(600, 1))), jnp.float32)
    together = layer(x)
    for row in (0, 255, 256, 599):
        np.testing.assert_allclose(layer(x[row : row + 1])[0], together[row], rtol=5e-7, atol=1e-7)


def test_features_of_a_range_are_those_of_all():
    _, layer = make_linear(use_bias=False)
    x = jnp.linspace(-1, 1, 96)[None]
    np.testing.assert_array_equal(layer.features(8, 13)(x), layer(x)[:, 8:21])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_activations_of_half_precision_stay_so(dtype):
    _, layer = make_linear(dtype=dtype, param_dtype=dtype)
    assert layer(jnp.ones((2, 96), dtype)).dtype == dtype and layer.param_dtype == dtype


def test_zeros_give_zeros():
    linear, _ = make_linear(use_bias=False)
    linear.kernel[...] = linear.kernel[...].at[:, 3].set(0)
    layer = Int8Linear(linear)
    assert not np.asarray(layer(jnp.ones((1, 96))))[0, 3]
    np.testing.assert_array_equal(layer(jnp.zeros((2, 96))), np.zeros((2, 40)))


def test_numbers_that_are_not_finite_are_not_hidden():
    _, layer = make_linear()
    for bad in (jnp.nan, jnp.inf):
        found = layer(jnp.ones((2, 96)).at[0, 5].set(bad))
        assert not np.isfinite(found[0]).any() and np.isfinite(found[1]).all()


def test_networks_stay_close_and_steps_read_as_the_whole(has_bfloat16):
    model = make_causal()
    tokens_BT = jax.random.randint(jax.random.key(1), (2, 12), 0, 70)
    exact = jax.jit(BarkCausalModel.__call__)(model, tokens_BT)
    quantize(model)
    logits = jax.jit(BarkCausalModel.__call__)(model, tokens_BT)
    assert 0 < jnp.std(logits - exact) < 0.05 * jnp.std(exact)
    cache = model.prefill(model.embed(tokens_BT[:, :8]), jnp.asarray([8, 8]), 16)
    reader = make_decoder(model, 2)
    assert reader is model
    tolerance = (2e-2 if has_bfloat16 else 2e-3) * float(jnp.std(exact))
    decode = jax.jit(BarkCausalModel.decode)
    for position in range(8, 12):
        hidden_BD, cache = decode(reader, tokens_BT[:, position], cache)
        np.testing.assert_allclose(reader.logits(hidden_BD), logits[:, position], atol=tolerance)


def test_the_fine_network_stays_close():
    config = BarkFineConfig(block_size=32, n_codes_total=3, **SIZE)
    model = BarkFineModel(config, attn_implementation="xla", rngs=nnx.Rngs(0))
    codes = jax.random.randint(jax.random.key(1), (1, 20, 3), 0, 70)
    exact = model(2, codes)
    quantize(model)
    assert 0 < jnp.std(model(2, codes) - exact) < 0.05 * jnp.std(exact)


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

    whole = bark_jax.BarkModel.from_pretrained(toy_folder, dtype="float32")
    for name in ("semantic", "coarse_acoustics", "fine_acoustics"):
        assert n_bytes(getattr(toy.model, name)) < 0.4 * n_bytes(getattr(whole, name))


def test_saving_is_refused(toy, tmp_path):
    with pytest.raises(UnsupportedError, match=r"semantic has weights of eight bits.*without dtype='int8'"):
        toy.model.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_few_rows_and_many_take_both_orders(rng, monkeypatch):
    _, layer = make_linear()
    x = jnp.asarray(rng.normal(size=(int8.MOST_ROWS_LAST, 96)), jnp.float32)
    first = layer(x)
    monkeypatch.setattr(int8, "MOST_ROWS_LAST", 0)
    np.testing.assert_array_equal(layer(x), first)
