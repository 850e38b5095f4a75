"""A causal network laid out for reading one token at a time.

A step of few rows does little but read the weights, and how they lie decides how fast: as [out, in], where the features
that make one output are neighbours. On a GPU few rows also run the kernels of `pallas_decode.py`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bark_jax.networks.attention import KVCache
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.int8 import is_quantized
from bark_jax.networks.linear import transpose_weights

MOST_KERNEL_ROWS = 2  # that the kernels multiply faster than XLA does


def make_decoder(model: BarkCausalModel, n_rows: int) -> "BarkCausalModel | KernelDecoder":
    """The network as a loop over `n_rows` rows should read it: with `decode` and `head_of`, equal to rounding.

    It may hold a copy of all weights, so make it inside the compiled function that runs the loop, before it.
    """
    if is_quantized(model):  # its weights lie as they should
        return model
    step = model.blocks[0].attention.implementations.step
    if step == "pallas":
        fits = n_rows <= MOST_KERNEL_ROWS and not model.config.bias and model.config.hidden_size % 8 == 0
        return KernelDecoder(transpose_weights(model)) if fits else model
    # Two to eight rows of float32 take a third longer so: XLA hands them to a library that wants [in, out].
    is_faster_so = n_rows == 1 or model.head.param_dtype == jnp.bfloat16
    fits = step == "xla" and is_faster_so and model.platform == "cpu"
    return transpose_weights(model) if fits else model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelDecoder:
    """A network whose weights are [out, in], read by the kernels."""

    model: BarkCausalModel

    def decode(self, tokens_B: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Reads one token a row. Returns what `head_of` takes, and the cache with the token."""
        from bark_jax.networks.pallas_decode import attend, linear

        x_BD = self.model.embed(tokens_B) + self.model.position_embedding(cache.length_B)
        keys, values = [], []
        for block, layer_keys, layer_values in zip(self.model.blocks, cache.keys, cache.values, strict=True):
            attention, mlp = block.attention, block.mlp
            qkv = linear(x_BD, attention.qkv.weight[...], norm_K=block.attention_norm.scale[...])
            y, lse, layer_keys, layer_values = attend(qkv, layer_keys, layer_values, cache.length_B, attention.n_heads)
            x_BD = linear(y, attention.out.weight[...], lse_PRK=lse, residual_RN=x_BD)
            wide = linear(x_BD, mlp.up.weight[...], norm_K=block.mlp_norm.scale[...], gelu=True)
            x_BD = linear(wide, mlp.down.weight[...], residual_RN=x_BD)
            keys.append(layer_keys)
            values.append(layer_values)
        return x_BD, KVCache(tuple(keys), tuple(values), cache.length_B + 1)

    def logits(self, hidden_BD: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """float32 logits of `size` ids from `start` on, for what `decode` gave."""
        return self.head_of(start, size)(hidden_BD)

    def head_of(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """`BarkCausalModel.head_of`, to rounding."""
        size = self.model.head.out_features - start if size is None else size
        return functools.partial(self._logits, start=start, size=size)

    def _logits(self, hidden_BD: jax.Array, start: int, size: int) -> jax.Array:
        from bark_jax.networks.pallas_decode import linear

        norm_D, weight_VD = self.model.final_norm.scale[...], self.model.head.weight[...]
        logits_BV = linear(hidden_BD, weight_VD, norm_K=norm_D, start=start, size=size, out_dtype=jnp.float32)
        return logits_BV[:, :size]  # `linear` rounds up
