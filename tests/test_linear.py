"""bfloat16 products on a CPU: their values, and that no float32 copies of weights are made."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import as_dtype, drawn, in_numpy, jit, normal

from bark_jax.config import BarkSemanticConfig
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.layout import with_transposed_weights
from bark_jax.networks.linear import Linear, TransposedWeight, multiplies_bfloat16, multiply
from bark_jax.networks.transformer import MLP, make_embedding

CONFIG = BarkSemanticConfig(
    block_size=64, input_vocab_size=50_000, output_vocab_size=70, num_layers=2, num_heads=2, hidden_size=64
)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


SHAPES = [(1, 48), (3, 48), (9, 48), (1, 1, 48), (2, 5, 48)]


@functools.partial(jax.jit, static_argnames="wanted")
def products_of(xs, weights, wanted):
    """Products of every x with the weights in both layouts, as stored and transposed, in each dtype."""
    return [
        [multiply(x, weight, axis, "cpu", dtype) for axis, weight in enumerate(weights) for dtype in wanted] for x in xs
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_rounded_once(dtype, rng):
    *xs, weight_KN = (normal(rng, shape, dtype) for shape in (*SHAPES, (48, 20)))
    wanted = (dtype, jnp.float32)
    weight_KN = np.asarray(weight_KN)
    for x, products in zip(xs, products_of(xs, (weight_KN, weight_KN.T), wanted), strict=True):
        x, weight = np.asarray(x, np.float64), weight_KN.astype(np.float64)
        exact, scale = x @ weight, np.abs(x) @ np.abs(weight)
        for found, found_dtype in zip(products, 2 * wanted, strict=True):
            assert found.shape == exact.shape and found.dtype == found_dtype
            error = np.abs(np.asarray(found, np.float64) - exact)
            assert (error <= jnp.finfo(found_dtype).eps * np.abs(exact) / 2 + 1e-6 * scale).all()


def draw_linear(dtype):
    options = dict(use_bias=True, deviation=0.02, dtype=dtype, platform="cpu")
    return drawn(lambda: Linear(64, 40, **options, rngs=nnx.Rngs(0)), CONFIG.initializer_range)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_transposed_linear_is_the_linear(dtype, rng):
    xs = [normal(rng, shape, dtype) for shape in ((1, 64), (3, 64), (2, 3, 64))]
    plain, laid_out = draw_linear(dtype), draw_linear(dtype)
    laid_out.transposed = TransposedWeight(laid_out.kernel[...].T)
    read = jax.jit(lambda *layers: [[layer(x) for x in xs] for layer in layers])
    for found, expected in zip(*read(laid_out, plain), strict=True):
        assert found.dtype == expected.dtype == dtype
        found, expected = (np.asarray(y, np.float32) for y in (found, expected))
        np.testing.assert_allclose(found, expected, atol=4 * float(jnp.finfo(dtype).eps))


def test_a_row_of_bfloat16_is_the_same_in_any_company(rng):
    linear, x = draw_linear(jnp.bfloat16), np.asarray(normal(rng, (40, 64), jnp.bfloat16))
    read = in_numpy(jax.jit(lambda linear, x: linear(x)))
    together = read(linear, x)
    for row in (0, 17, 39):
        np.testing.assert_array_equal(read(linear, x[row : row + 1])[0], together[row])


def n_bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def temporary_bytes(function, *args) -> int:
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_loop_makes_no_copy_of_a_table(dtype):
    table = nnx.eval_shape(lambda: make_embedding(CONFIG, 50_000, dtype, nnx.Rngs(0)))

    def walk(table, id_B):
        return jax.lax.fori_loop(0, 9, lambda i, x_BD: x_BD + table(id_B + i), jnp.zeros((2, 64), dtype))

    assert temporary_bytes(walk, table, np.zeros(2, np.int32)) < 0.1 * n_bytes(table)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_reads_its_rows_and_gives_nan_past_them(dtype):
    table = drawn(lambda: make_embedding(CONFIG, 8, dtype, nnx.Rngs(0)))
    found = in_numpy(jit(lambda table, ids: table(ids)))(table, np.array([[3, 0], [7, 8]]))
    np.testing.assert_array_equal(found[0], np.asarray(table.embedding[...])[[3, 0]])
    is_nan = np.isnan(found.astype(np.float32))
    assert found.dtype == dtype and is_nan[1, 1].all() and not is_nan[1, 0].any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_gelu_is_rounded_once(dtype):
    mlp = drawn(lambda: MLP(CONFIG, dtype=dtype, platform="cpu", rngs=nnx.Rngs(0)))
    values = {"up": (np.tile(np.eye(64), (1, 4)), np.zeros(256)), "down": (np.eye(256, 64), np.zeros(64))}
    for name, (kernel, bias) in values.items():
        layer = getattr(mlp, name)
        layer.kernel[...], layer.bias[...] = as_dtype(kernel, dtype), as_dtype(bias, dtype)
    x_BTD = as_dtype(np.linspace(-6, 6, 64)[None, None], dtype)
    expected = jit(lambda x: jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(dtype))(x_BTD)
    np.testing.assert_array_equal(jax.jit(lambda mlp, x: mlp(x))(mlp, x_BTD), expected)


def draw_model(dtype, config=CONFIG):
    make = functools.partial(BarkCausalModel, config, dtype=dtype, attn_implementation="xla")
    return drawn(lambda: make(rngs=nnx.Rngs(0)), config.initializer_range)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_reach_tables_and_weights(dtype):
    model = draw_model(dtype, dataclasses.replace(CONFIG, num_layers=1))
    ids_BT = np.array([[3, 4, 5, 3]])
    gradients = jit(jax.grad(lambda model: jnp.sum(model(ids_BT)[..., 0] * jnp.arange(4)[None])))(model)
    of_table = np.asarray(gradients.token_embedding.embedding[...], np.float32)
    assert (np.flatnonzero(of_table.any(axis=1)) == [3, 4, 5]).all()
    assert np.asarray(gradients.blocks[0].mlp.up.kernel[...]).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_cache_of_half_precision_lies_in_float32_and_holds_its_numbers(dtype):
    def step(model, cache, id_B):
        hidden_BD, cache = model.decode(id_B, cache)
        return cache, model.logits(hidden_BD)

    @in_numpy
    @jit
    def read(model, ids_BT):
        cache = model.prefill(model.embed(ids_BT[:, :8]), jnp.asarray([8, 8]), 16)
        return model(ids_BT), *jax.lax.scan(functools.partial(step, model), cache, ids_BT[:, 8:].T)

    expected_BTV, cache, logits_TBV = read(draw_model(dtype), np.arange(24).reshape(2, 12))
    for logits_BV, expected_BV in zip(logits_TBV, expected_BTV[:, 8:].swapaxes(0, 1), strict=True):
        np.testing.assert_allclose(logits_BV, expected_BV, atol=0.05 * float(np.std(expected_BV)))
    for slots in (*cache.keys, *cache.values):
        assert slots.dtype == jnp.float32
        np.testing.assert_array_equal(slots, slots.astype(dtype).astype(np.float32))


in_bfloat16 = functools.partial(
    pytest.param,
    marks=pytest.mark.skipif(
        not multiplies_bfloat16(), reason="XLA has kernels for bfloat16 where the CPU has instructions"
    ),
)


@pytest.mark.parametrize(
    ("dtype", "n_rows", "lay_out"),
    [
        (jnp.float32, 1, with_transposed_weights),
        in_bfloat16(jnp.bfloat16, 1, with_transposed_weights),
        in_bfloat16(jnp.bfloat16, 1, lambda model: model),
        in_bfloat16(jnp.bfloat16, 5, lambda model: model),
    ],
)
def test_steps_and_prompts_copy_no_weights(dtype, n_rows, lay_out):
    config = BarkSemanticConfig(
        block_size=64, input_vocab_size=100, output_vocab_size=4000, num_layers=2, num_heads=4, hidden_size=512
    )
    make = functools.partial(BarkCausalModel, config, dtype=dtype, attn_implementation="xla")
    plain = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    model = nnx.eval_shape(lambda: lay_out(make(rngs=nnx.Rngs(0))))
    cache = jax.eval_shape(lambda model: model.empty_cache(n_rows, 16), model)

    def steps(model, token_B, cache):
        head = model.head_of(0, 3000)

        def step(_, carry):
            hidden_BD, cache = model.decode(*carry)
            return jnp.argmax(head(hidden_BD), axis=-1).astype(jnp.int32) % 100, cache

        return jax.lax.fori_loop(0, 4, step, (token_B, cache))

    # The head is cut: a third of the weights or so.
    assert temporary_bytes(steps, model, np.zeros(n_rows, np.int32), cache) < 0.5 * n_bytes(plain)
    prompt = np.zeros((n_rows, 8), np.int32)
    assert temporary_bytes(lambda model, ids_BT: model(ids_BT), model, prompt) < 0.3 * n_bytes(plain)
