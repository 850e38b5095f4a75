"""Products in bfloat16 on a CPU: what they compute, and that no copies in float32 are made for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bark_jax.config import BarkSemanticConfig
from bark_jax.models.gpt import BarkCausalModel
from bark_jax.models.linear import TransposedLinear, make_linear, multiplies_bfloat16, multiply
from bark_jax.models.transformer import MLP, make_embedding

CONFIG = BarkSemanticConfig(
    block_size=64, input_vocab_size=50_000, output_vocab_size=70, num_layers=2, num_heads=2, hidden_size=64
)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 48), (3, 48), (9, 48), (1, 1, 48), (2, 5, 48)])
def test_products_are_rounded_once(shape, dtype, rng):
    x, weight_KN = (jnp.asarray(rng.normal(size=shape), dtype) for shape in (shape, (48, 20)))
    exact = np.asarray(x, np.float64) @ np.asarray(weight_KN, np.float64)
    scale = np.abs(np.asarray(x, np.float64)) @ np.abs(np.asarray(weight_KN, np.float64))
    for axis, weight in enumerate((weight_KN, weight_KN.T)):
        for wanted in (dtype, jnp.float32):
            found = multiply(x, weight, axis, wanted)
            assert found.shape == exact.shape and found.dtype == wanted
            error = np.abs(np.asarray(found, np.float64) - exact)
            assert (error <= jnp.finfo(wanted).eps * np.abs(exact) / 2 + 1e-6 * scale).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 64), (2, 3, 64)])
def test_a_transposed_linear_is_the_linear(shape, dtype, rng):
    linear = make_linear(CONFIG, 64, 40, dtype, nnx.Rngs(0))
    linear.bias[...] = jnp.asarray(rng.normal(size=40), dtype)
    x = jnp.asarray(rng.normal(size=shape), dtype)
    found, expected = TransposedLinear(linear)(x), linear(x)
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=4 * float(jnp.finfo(dtype).eps)
    )


def test_a_row_of_bfloat16_is_the_same_in_any_company(rng):
    linear = make_linear(CONFIG, 64, 40, jnp.bfloat16, nnx.Rngs(0))
    x = jnp.asarray(rng.normal(size=(40, 64)), jnp.bfloat16)
    together = linear(x)
    for row in (0, 17, 39):
        np.testing.assert_array_equal(linear(x[row : row + 1])[0], together[row])


def temporary_bytes(function, *args) -> int:
    return jax.jit(function).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_loop_makes_no_copy_of_a_table(dtype):
    table = make_embedding(CONFIG, 50_000, dtype, nnx.Rngs(0))

    def walk(table, id_B):
        return jax.lax.fori_loop(0, 9, lambda i, x_BD: x_BD + table(id_B + i), jnp.zeros((2, 64), dtype))

    assert temporary_bytes(walk, table, jnp.zeros(2, jnp.int32)) < 0.1 * table.embedding[...].nbytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_embedding_reads_its_rows_and_gives_nan_past_them(dtype):
    table = make_embedding(CONFIG, 8, dtype, nnx.Rngs(0))
    found = table(jnp.asarray([[3, 0], [7, 8]]))
    np.testing.assert_array_equal(found[0], table.embedding[...][jnp.asarray([3, 0])])
    assert found.dtype == dtype and jnp.isnan(found[1, 1]).all() and not jnp.isnan(found[1, 0]).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_gelu_is_rounded_once(dtype):
    mlp = MLP(CONFIG, dtype=dtype, rngs=nnx.Rngs(0))
    x_BTD = jnp.linspace(-6, 6, 64, dtype=dtype)[None, None]
    mlp.up.kernel[...] = jnp.tile(jnp.eye(64, dtype=dtype), (1, 4))
    mlp.up.bias[...] = jnp.zeros(256, dtype)
    mlp.down.kernel[...] = jnp.eye(256, 64, dtype=dtype)
    mlp.down.bias[...] = jnp.zeros(64, dtype)
    expected = jax.nn.gelu(x_BTD.astype(jnp.float32), approximate=False).astype(dtype)
    np.testing.assert_array_equal(mlp(x_BTD), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_reach_tables_and_weights(dtype):
    model = BarkCausalModel(CONFIG, dtype=dtype, attn_implementation="xla", rngs=nnx.Rngs(0))
    ids_BT = jnp.asarray([[3, 4, 5, 3]])
    gradients = jax.jit(jax.grad(lambda model: jnp.sum(model(ids_BT)[..., 0] * jnp.arange(4)[None])))(model)
    of_table = np.asarray(gradients.token_embedding.embedding[...], np.float32)
    assert (np.flatnonzero(of_table.any(axis=1)) == [3, 4, 5]).all()
    assert np.asarray(gradients.blocks[0].mlp.up.kernel[...]).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_cache_of_half_precision_lies_in_float32_and_holds_its_numbers(dtype):
    model = BarkCausalModel(CONFIG, dtype=dtype, attn_implementation="xla", rngs=nnx.Rngs(0))
    ids_BT = jnp.arange(24).reshape(2, 12)
    expected_BTV = jax.jit(BarkCausalModel.__call__)(model, ids_BT)
    cache = model.prefill(model.embed(ids_BT[:, :8]), jnp.asarray([8, 8]), 16)
    decode = jax.jit(BarkCausalModel.decode)
    for position in range(8, 12):
        hidden_BD, cache = decode(model, ids_BT[:, position], cache)
        expected_BV = expected_BTV[:, position]
        np.testing.assert_allclose(model.logits(hidden_BD), expected_BV, atol=0.05 * float(jnp.std(expected_BV)))
    for slots in (*cache.keys, *cache.values):
        assert slots.dtype == jnp.float32
        np.testing.assert_array_equal(slots, slots.astype(dtype).astype(jnp.float32))


@pytest.mark.skipif(not multiplies_bfloat16(), reason="XLA has kernels for bfloat16 where the CPU has instructions")
@pytest.mark.parametrize("n_rows", [1, 5])
def test_steps_and_prompts_of_bfloat16_copy_no_weights_to_float32(n_rows):
    config = BarkSemanticConfig(
        block_size=64, input_vocab_size=100, output_vocab_size=4000, num_layers=2, num_heads=4, hidden_size=512
    )
    model = BarkCausalModel(config, dtype=jnp.bfloat16, attn_implementation="xla", rngs=nnx.Rngs(0))
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    cache = model.empty_cache(n_rows, 16)

    def steps(model, token_B, cache):
        head = model.head_of(0, 3000)

        def step(_, carry):
            hidden_BD, cache = model.decode(*carry)
            return jnp.argmax(head(hidden_BD), axis=-1).astype(jnp.int32) % 100, cache

        return jax.lax.fori_loop(0, 4, step, (token_B, cache))

    # The head is cut: a third of the weights or so.
    assert temporary_bytes(steps, model, jnp.zeros(n_rows, jnp.int32), cache) < 0.5 * n_bytes
    prompt = jnp.zeros((n_rows, 8), jnp.int32)
    assert temporary_bytes(lambda model, ids_BT: model(ids_BT), model, prompt) < 0.3 * n_bytes
