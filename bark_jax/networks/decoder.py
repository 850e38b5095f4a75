"""A causal network's decoding step through the kernels of `pallas_decode.py`, for one or two rows on a GPU.

The plain step (`BarkCausalModel.decode`) defines the result; this one equals it to rounding.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bark_jax.networks.attention import KVCache
from bark_jax.networks.causal import BarkCausalModel


def make_decoder(model: BarkCausalModel) -> "BarkCausalModel | KernelDecoder":
    """Returns the object whose `decode` and `head_of` a decoding loop calls: a KernelDecoder, or the model itself.

    The kernels need weights as [out, in], from `layout.for_decoding`, and "pallas" steps. Without both the model is its
    own decoder. It may be called under `jax.jit`: the choice depends on the model's structure, not on its values.
    """
    # Int8Linear has no such attribute: int8 networks are always their own decoder.
    is_laid_out = getattr(model.head, "transposed", None) is not None
    has_kernels = model.blocks[0].attention.implementations.step == "pallas"
    return KernelDecoder(model) if is_laid_out and has_kernels else model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KernelDecoder:
    """A causal network whose decoding steps run in the Pallas kernels, from weights [out, in].

    Its hidden states are those before the final LayerNorm, which the head's kernel applies; so `head_of` of one decoder
    takes hidden states of the same decoder only.
    """

    model: BarkCausalModel

    def decode(self, tokens_B: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Reads one token a row: tokens [B], each in [0, input_vocab_size), at position `cache.length_B`.

        Returns:
          The hidden state [B, D] before the final LayerNorm, as `head_of` takes it, and the cache with the token.
        """
        from bark_jax.networks.pallas_decode import attend, linear

        # No padding to 8 rows as in the plain step: these kernels multiply row by row, without tensor cores.
        x_BD = self.model.embed(tokens_B) + self.model.position_embedding(cache.length_B)
        keys, values = [], []
        for block, layer_keys, layer_values in zip(self.model.blocks, cache.keys, cache.values, strict=True):
            attention, mlp = block.attention, block.mlp
            qkv = linear(x_BD, attention.qkv.transposed[...], norm_K=block.attention_norm.scale[...])
            # y are 8 parts of the attention [8, B, D] at the one or two rows that come here (`pallas_decode.attend`);
            # the next kernel joins them, as joining in a kernel of its own would cost one more launch a layer.
            y, lse, layer_keys, layer_values = attend(qkv, layer_keys, layer_values, cache.length_B, attention.n_heads)
            x_BD = linear(y, attention.out.transposed[...], lse_PRK=lse, residual_RN=x_BD)
            wide = linear(x_BD, mlp.up.transposed[...], norm_K=block.mlp_norm.scale[...], gelu=True)
            x_BD = linear(wide, mlp.down.transposed[...], residual_RN=x_BD)
            keys.append(layer_keys)
            values.append(layer_values)
        return x_BD, KVCache(tuple(keys), tuple(values), cache.length_B + 1)

    def logits(self, hidden_BD: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """Logits, float32 [B, size], of ids `start` to `start + size`, for the hidden state [B, D] from `decode`."""
        return self.head_of(start, size)(hidden_BD)

    def head_of(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """Returns a function from hidden states [B, D] to float32 logits [B, size]; see `BarkCausalModel.head_of`."""
        size = self.model.head.out_features - start if size is None else size
        return functools.partial(self._logits, start=start, size=size)

    def _logits(self, hidden_BD: jax.Array, start: int, size: int) -> jax.Array:
        from bark_jax.networks.pallas_decode import linear

        norm_D, weight_VD = self.model.final_norm.scale[...], self.model.head.transposed[...]
        logits_BV = linear(hidden_BD, weight_VD, norm_K=norm_D, start=start, size=size, out_dtype=jnp.float32)
        return logits_BV[:, :size]  # `linear` computes whole programs of features, so it may return a few more
