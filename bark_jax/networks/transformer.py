"""The pre-LayerNorm block that all three transformers stack, and what they embed with.

    x += attention(norm(x));  x += mlp(norm(x))

Source: suno-ai/bark, bark/model.py, and transformers 5.23, models/bark/modeling_bark.py.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import BarkSubModelConfig
from bark_jax.errors import InputError
from bark_jax.networks.attention import Implementations, SelfAttention
from bark_jax.networks.linear import Linear

Layers = tuple[jax.Array, ...]  # an array a layer


class Embedding(nnx.Embed):
    """nnx.Embed that keeps XLA:CPU from hoisting a float32 copy of a half-precision table out of a decoding loop."""

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Embeds integer ids [...] as vectors [..., D]. An id outside [0, V) gives NaN."""
        # The barrier ties the table to the ids, which change at every step, so the conversion to float32 is not
        # loop-invariant and stays behind the gather: D numbers an id instead of V * D.
        table_VD, ids = jax.lax.optimization_barrier((self.embedding[...], ids))
        return jnp.take(table_VD, ids, axis=0)


def check_size(x_BTD: jax.Array, config: BarkSubModelConfig, unit: str) -> None:
    """Raises InputError for an empty batch, or for more positions than block_size; `unit` names them in the message."""
    B, T, _ = x_BTD.shape
    if not B or not T:
        raise InputError(f"{B} rows of {T} {unit} were given, expected at least one of each")
    if T > config.block_size:
        raise InputError(f"{T} {unit} were given, and the network has {config.block_size} (block_size)")


def choose_embeds(input_embeds: jax.Array | None, inputs_embeds: jax.Array | None) -> jax.Array | None:
    """Returns the embeddings [B, T, D] given as input_embeds (transformers 4) or inputs_embeds (5); None for neither.

    Raises:
      InputError: both are given.
    """
    if input_embeds is not None and inputs_embeds is not None:
        raise InputError("input_embeds and inputs_embeds are two names of one argument; give one of them")
    return inputs_embeds if input_embeds is None else input_embeds


def as_mask(attention_mask: jax.Array | None, x_BTD: jax.Array, n_heads: int) -> jax.Array | None:
    """transformers' attention_mask in a shape that broadcasts to the logits [B, N, T, T] of queries and keys.

    Args:
      attention_mask: [B, T], 0 for positions that no other attends to. Or a mask of pairs, [B or 1, N or 1, T, T]:
        bool, True where a query attends to a key, or floats, which are added to the logits. None attends to all.
      x_BTD: hidden states that it belongs to.

    Returns:
      bool, True where attended to, or float32 to add to the logits; None for None.

    Raises:
      InputError: another shape; or a mask of pairs of integers, which transformers would add to the logits.
    """
    if attention_mask is None:
        return None
    mask = jnp.asarray(attention_mask)
    B, T, _ = x_BTD.shape
    if mask.shape == (B, T):
        return (mask != 0)[:, None, None, :]
    if mask.ndim != 4 or mask.shape[0] not in (1, B) or mask.shape[1] not in (1, n_heads) or mask.shape[2:] != (T, T):
        raise InputError(
            f"attention_mask has shape {mask.shape}, expected {(B, T)}: 1 for a position that is attended to, 0 for "
            f"another; or {(B, 1, T, T)} or {(B, n_heads, T, T)}, by query and key"
        )
    if mask.dtype != bool and not jnp.issubdtype(mask.dtype, jnp.floating):
        raise InputError(
            f"attention_mask has shape {mask.shape} and dtype {mask.dtype}; by query and key expected bool, True where "
            "attended to, or floats, which are added to the logits"
        )
    return mask if mask.dtype == bool else mask.astype(jnp.float32)


def make_embedding(config: BarkSubModelConfig, n_ids: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> Embedding:
    """An embedding table [n_ids, D], drawn from a normal distribution of deviation initializer_range."""
    return Embedding(
        n_ids,
        config.hidden_size,
        dtype=dtype,
        param_dtype=dtype,
        embedding_init=nnx.initializers.normal(config.initializer_range),
        rngs=rngs,
    )


def make_norm(config: BarkSubModelConfig, *, has_bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over D as torch computes it: epsilon 1e-5, statistics in float32, variance in two passes.

    One pass, E[x^2] - E[x]^2, cancels where the mean is large against the deviation.
    """
    # nnx's defaults are an epsilon of 1e-6 and the variance in one pass.
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=1e-5,
        use_fast_variance=False,
        use_bias=has_bias,
        dtype=dtype,
        param_dtype=dtype,
        rngs=rngs,
    )


class MLP(nnx.Module):
    """Two Linear layers, D -> F = 4 D -> D, around the exact (erf) GELU."""

    def __init__(self, config: BarkSubModelConfig, *, dtype: jnp.dtype, platform: str, rngs: nnx.Rngs):
        D = config.hidden_size
        options = dict(
            use_bias=config.bias, deviation=config.initializer_range, dtype=dtype, platform=platform, rngs=rngs
        )
        self.up = Linear(D, 4 * D, **options)
        self.down = Linear(4 * D, D, **options)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        wide_BTF = self.up(x_BTD)
        # GELU in float32, rounded once, as torch does. In half precision XLA would round after each operation of the
        # erf, and on a GPU split the GELU into two kernels with a round trip through memory.
        # approximate=False: JAX's default is the tanh form.
        activated_BTF = jax.nn.gelu(wide_BTF.astype(jnp.float32), approximate=False)
        return self.down(activated_BTF.astype(wide_BTF.dtype))


class Block(nnx.Module):
    """A pre-LayerNorm transformer layer: attention and MLP, each with a residual.

    norm_has_bias: whether its LayerNorms have a bias. Those of the fine network do even where its Linears have none.
    """

    def __init__(
        self,
        config: BarkSubModelConfig,
        *,
        is_causal: bool,
        norm_has_bias: bool,
        dtype: jnp.dtype,
        platform: str,
        implementations: Implementations,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = make_norm(config, has_bias=norm_has_bias, dtype=dtype, rngs=rngs)
        self.attention = SelfAttention(
            config,
            is_causal=is_causal,
            dtype=dtype,
            platform=platform,
            implementations=implementations,
            rngs=rngs,
        )
        self.mlp_norm = make_norm(config, has_bias=norm_has_bias, dtype=dtype, rngs=rngs)
        self.mlp = MLP(config, dtype=dtype, platform=platform, rngs=rngs)

    def __call__(self, x_BTD: jax.Array, mask_BNTS: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the output [B, T, D] and the layer's keys and values [B, T, N, H]; see `SelfAttention`."""
        y_BTD, k_BTNH, v_BTNH = self.attention(self.attention_norm(x_BTD), mask_BNTS)
        x_BTD = x_BTD + y_BTD
        # The residual stays in the network's dtype, as transformers keeps it: in half precision each layer rounds it
        # twice.
        return x_BTD + self.mlp(self.mlp_norm(x_BTD)), k_BTNH, v_BTNH

    def extend(
        self, x_RD: jax.Array, keys: jax.Array, values: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Runs a decoding step: one new position a row, x [R, D] with R >= B, against the layer's KV cache.

        Returns the output [R, D], and keys and values with the position written; see `SelfAttention.extend`.
        """
        y_RD, keys, values = self.attention.extend(self.attention_norm(x_RD), keys, values, length_B)
        x_RD = x_RD + y_RD
        return x_RD + self.mlp(self.mlp_norm(x_RD)), keys, values


def attention_weights(
    blocks: Sequence[Block], hidden: Sequence[jax.Array], mask_BNTS: jax.Array | None
) -> tuple[jax.Array, ...]:
    """Attention probabilities of each layer, float32 [B, N, T, T], from its input [B, T, D], the first of `hidden`.

    They are computed beside the layers, so a call without them has the same program as ever. XLA shares the norms and
    projections that both need.
    """
    return tuple(
        block.attention.weights(block.attention_norm(x_BTD), mask_BNTS)
        for block, x_BTD in zip(blocks, hidden, strict=False)
    )


def run_recomputed(blocks: Sequence[Block], x_BTD: jax.Array) -> jax.Array:
    """Runs layers over x [B, T, D] for a backward pass that keeps each layer's input and computes the rest again.

    Returns the last layer's output [B, T, D].
    """
    # Stacking copies the weights, but the recomputation needs a loop of its own: unrolled, XLA:CPU drops the barriers
    # of `jax.checkpoint` and merges the recomputation with the forward pass, which saves nothing.
    stacked = jax.tree.map(lambda *weights: jnp.stack(weights), *blocks)

    def run(x_BTD: jax.Array, block: Block) -> tuple[jax.Array, None]:
        return block(x_BTD)[0], None

    return jax.lax.scan(jax.checkpoint(run, prevent_cse=False), x_BTD, stacked)[0]


def check_axes(input_ids: jax.Array | None, embeds_BTD: jax.Array | None, axes: str) -> None:
    """Raises InputError unless ids have the rank of `axes`, such as "[B, T]", or embeddings that of [B, T, D]."""
    given, expected = (input_ids, axes) if embeds_BTD is None else (embeds_BTD, "[B, T, D]")
    if jnp.ndim(given) != expected.count(",") + 1:
        name = "input_ids" if embeds_BTD is None else "inputs_embeds"
        raise InputError(f"{name} has shape {jnp.shape(given)}, expected {expected}")
