"""A causal network laid out for reading one token at a time.

A step of one row does little but read the weights, and how they lie decides how fast: as [out, in], where the features
that make one output are neighbours. On a GPU few rows also run the kernels of `decode_kernels.py`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.models.attention import KVCache, step_xla
from bark_jax.models.gpt import BarkCausalModel
from bark_jax.models.int8 import is_quantized
from bark_jax.models.transformer import Block

MOST_KERNEL_ROWS = 2  # that the kernels multiply faster than XLA does


def make_decoder(model: BarkCausalModel, n_rows: int) -> "BarkCausalModel | Decoder":
    """The network as a loop over `n_rows` rows should read it: with `decode` and `head_of`, equal to rounding.

    It may hold a copy of all weights, so make it inside the compiled function that runs the loop, before it.
    """
    if is_quantized(model):  # its weights lie as they should
        return model
    step = model.blocks[0].attention.implementations.step
    if step == "pallas":
        fits = n_rows <= MOST_KERNEL_ROWS and not model.config.bias and model.config.hidden_size % 8 == 0
        return Decoder.of(model, uses_kernels=True) if fits else model
    # Two to eight rows take a third longer so: XLA hands them to a library that wants [in, out].
    fits = step == "xla" and n_rows == 1 and jax.default_backend() == "cpu"
    return Decoder.of(model, uses_kernels=False) if fits else model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """A Linear layer whose weight is [out, in]."""

    weight_NK: jax.Array
    bias_N: jax.Array | None

    @classmethod
    def of(cls, layer: nnx.Linear) -> "Linear":
        # The barrier keeps XLA from folding the transpose into the product, which would undo it.
        return cls(jax.lax.optimization_barrier(layer.kernel[...].T), None if layer.bias is None else layer.bias[...])

    def __call__(self, x_BK: jax.Array) -> jax.Array:
        y_BN = jax.lax.dot_general(x_BK, self.weight_NK, (((1,), (1,)), ((), ())))
        return y_BN if self.bias_N is None else y_BN + self.bias_N[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderLayer:
    """One block."""

    attention_norm: nnx.LayerNorm
    qkv: Linear
    out: Linear
    mlp_norm: nnx.LayerNorm
    up: Linear
    down: Linear

    @classmethod
    def of(cls, block: Block) -> "DecoderLayer":
        attention, mlp = block.attention, block.mlp
        return cls(
            block.attention_norm,
            Linear.of(attention.qkv),
            Linear.of(attention.out),
            block.mlp_norm,
            Linear.of(mlp.up),
            Linear.of(mlp.down),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoder:
    """`BarkCausalModel.decode` and `logits`, to rounding."""

    layers: tuple[DecoderLayer, ...]
    model: BarkCausalModel  # for what is read as it lies
    head: Linear
    uses_kernels: bool = dataclasses.field(metadata=dict(static=True))

    @classmethod
    def of(cls, model: BarkCausalModel, uses_kernels: bool) -> "Decoder":
        layers = tuple(DecoderLayer.of(block) for block in model.blocks)
        return cls(layers, model, Linear.of(model.head), uses_kernels)

    def decode(self, tokens_B: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Reads one token a row. Returns what `logits` takes, and the cache with the token."""
        x_BD = self.model.embed(tokens_B) + self.model.position_embedding(cache.length_B)
        step = _kernel_step if self.uses_kernels else _step
        keys, values = [], []
        for layer, layer_keys, layer_values in zip(self.layers, cache.keys, cache.values, strict=True):
            x_BD, layer_keys, layer_values = step(
                layer, x_BD, layer_keys, layer_values, cache.length_B, self.model.config.num_heads
            )
            keys.append(layer_keys)
            values.append(layer_values)
        hidden_BD = x_BD if self.uses_kernels else self.model.final_norm(x_BD)
        return hidden_BD, KVCache(tuple(keys), tuple(values), cache.length_B + 1)

    def logits(self, hidden_BD: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """float32 logits of `size` ids from `start` on, for what `decode` gave."""
        return self.head_of(start, size)(hidden_BD)

    def head_of(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """`BarkCausalModel.head_of`, to rounding."""
        size = self.model.head.out_features - start if size is None else size
        if self.uses_kernels:
            return functools.partial(_kernel_head, self, start=start, size=size)
        weight_VD = self.head.weight_NK[start : start + size]
        return lambda hidden_BD: jax.lax.dot_general(
            hidden_BD, weight_VD, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )


def _step(
    layer: DecoderLayer, x_BD: jax.Array, keys: jax.Array, values: jax.Array, length_B: jax.Array, n_heads: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    y_BNH, keys, values = step_xla(layer.qkv(layer.attention_norm(x_BD)), keys, values, length_B, n_heads)
    x_BD = x_BD + layer.out(y_BNH.reshape(x_BD.shape))
    return x_BD + layer.down(jax.nn.gelu(layer.up(layer.mlp_norm(x_BD)), approximate=False)), keys, values


def _kernel_head(decoder: Decoder, hidden_BD: jax.Array, start: int, size: int) -> jax.Array:
    from bark_jax.models import decode_kernels

    norm_D, weight_VD = decoder.model.final_norm.scale[...], decoder.head.weight_NK
    logits_BV = decode_kernels.linear(
        hidden_BD, weight_VD, norm_K=norm_D, start=start, size=size, out_dtype=jnp.float32
    )
    return logits_BV[:, :size]  # `linear` rounds up


def _kernel_step(
    layer: DecoderLayer, x_BD: jax.Array, keys: jax.Array, values: jax.Array, length_B: jax.Array, n_heads: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    from bark_jax.models import decode_kernels

    linear = decode_kernels.linear
    qkv = linear(x_BD, layer.qkv.weight_NK, norm_K=layer.attention_norm.scale[...])
    y, lse, keys, values = decode_kernels.attend(qkv, keys, values, length_B, n_heads)
    x_BD = linear(y, layer.out.weight_NK, lse_PRK=lse, residual_RN=x_BD)
    wide = linear(x_BD, layer.up.weight_NK, norm_K=layer.mlp_norm.scale[...], gelu=True)
    return linear(wide, layer.down.weight_NK, residual_RN=x_BD), keys, values
