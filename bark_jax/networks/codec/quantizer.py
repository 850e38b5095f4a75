"""Residual vector quantisation: a vector as the sum of one vector of each codebook.

Codebook q is a table [V, C] of V = 1,024 vectors and refines the residual of codebooks 0 to q - 1. With the tables
{0, 10} and {-1, 1}, of one dimension, 8.7 becomes the codes (1, 0): 10 - 1 = 9.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import EncodecConfig


def embed_codes(codes_BQT: jax.Array, tables: Sequence[jax.Array]) -> jax.Array:
    """Sums the vectors of each frame's codes: codes [B, Q, T] to x [B, T, C], summed in float32, in the tables' dtype.

    Codebook q is tables[q], [V, C]. A code outside [0, V) gives NaN: JAX's plain indexing would clamp it to V - 1, or
    count a negative one from the end, and go unnoticed.
    """
    x_BTC = jnp.zeros((), jnp.float32)
    for q in range(codes_BQT.shape[1]):
        vectors_BTC = tables[q].at[codes_BQT[:, q]].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        x_BTC = x_BTC + vectors_BTC.astype(jnp.float32)
    return x_BTC.astype(tables[0].dtype)


def quantize(x_BTC: jax.Array, tables: Sequence[jax.Array]) -> jax.Array:
    """Quantises x [B, T, C] greedily, codebook by codebook: codes_BQT, int32, with Q the number of tables [V, C].

    Residuals and distances are float32 whatever the dtype: in half precision near codes would tie.
    """
    residual_BTC = x_BTC.astype(jnp.float32)
    codes = []
    for table_VC in tables:
        table_VC = table_VC.astype(jnp.float32)
        codes_BT = nearest(residual_BTC, table_VC)
        residual_BTC = residual_BTC - table_VC[codes_BT]
        codes.append(codes_BT)
    return jnp.stack(codes, axis=1)


def nearest(x_BTC: jax.Array, table_VC: jax.Array) -> jax.Array:
    """The nearest code of each vector x [B, T, C] by Euclidean distance, int32 [B, T]; the smallest of equal ones.

    |x - v|^2 = |x|^2 - 2 x v + |v|^2, so that one matrix product gives all distances [B, T, V].
    """
    # |x|^2 does not change the order of exact distances, but their rounding: with it, ties fall as in the reference.
    squares_BT1 = jnp.square(x_BTC).sum(axis=-1, keepdims=True)
    products_BTV = jnp.matmul(x_BTC, table_VC.T)
    distances_BTV = squares_BT1 - 2 * products_BTV + jnp.square(table_VC).sum(axis=-1)[None, None]
    return jnp.argmin(distances_BTV, axis=-1).astype(jnp.int32)


class Codebook(nnx.Module):
    """A codebook: embedding [V, C], the vector of each code."""

    def __init__(self, config: EncodecConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        shape = (config.codebook_size, config.hidden_size)
        self.embedding = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), shape, dtype))


class Quantizer(nnx.Module):
    """The residual vector quantiser: all codebooks of the checkpoint, coarse first. The first Q may be used alone.

    EnCodec's 24 kHz checkpoint has 32 codebooks (24 kbit/s); Bark uses 8 of them (6 kbit/s).
    """

    def __init__(self, config: EncodecConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.codebooks = nnx.List([Codebook(config, dtype=dtype, rngs=rngs) for _ in range(config.num_quantizers)])

    def embed(self, codes_BQT: jax.Array) -> jax.Array:
        """Sums the vectors of codes [B, Q, T] in the first Q codebooks: x [B, T, C]."""
        return embed_codes(codes_BQT, self._tables(codes_BQT.shape[1]))

    def quantize(self, x_BTC: jax.Array, n_codebooks: int) -> jax.Array:
        """Quantises x [B, T, C] with the first n_codebooks: codes_BQT, int32."""
        return quantize(x_BTC, self._tables(n_codebooks))

    def _tables(self, n_codebooks: int) -> list[jax.Array]:
        return [codebook.embedding[...] for codebook in list(self.codebooks)[:n_codebooks]]
