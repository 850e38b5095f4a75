"""Residual vector quantisation: a vector as the sum of one vector of each codebook.

Codebook q holds V vectors, table_VC, and refines what codebooks 0..q-1 left over.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import EncodecConfig


def embed_codes(codes_BQT: jax.Array, tables: Sequence[jax.Array]) -> jax.Array:
    """x_BTC: for each frame the sum of what its codes stand for. Codebook q is tables[q], [V, C].

    A code outside [0, V) gives NaN; indexing alone would quietly take another code.
    """
    x_BTC = jnp.zeros((), jnp.float32)
    for q in range(codes_BQT.shape[1]):
        vectors_BTC = tables[q].at[codes_BQT[:, q]].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        x_BTC = x_BTC + vectors_BTC.astype(jnp.float32)
    return x_BTC.astype(tables[0].dtype)


def quantize(x_BTC: jax.Array, tables: Sequence[jax.Array]) -> jax.Array:
    """codes_BQT, int32, that approximate x_BTC; Q is the number of tables, [V, C] each."""
    residual_BTC = x_BTC.astype(jnp.float32)
    codes = []
    for table_VC in tables:
        table_VC = table_VC.astype(jnp.float32)
        codes_BT = nearest(residual_BTC, table_VC)
        residual_BTC = residual_BTC - table_VC[codes_BT]
        codes.append(codes_BT)
    return jnp.stack(codes, axis=1)


def nearest(x_BTC: jax.Array, table_VC: jax.Array) -> jax.Array:
    """codes_BT: the row of table_VC at the least Euclidean distance from each vector; the first of equals."""
    squares_BT1 = jnp.square(x_BTC).sum(axis=-1, keepdims=True)  # alike for all rows; rounds as the reference does
    products_BTV = jnp.matmul(x_BTC, table_VC.T)
    distances_BTV = squares_BT1 - 2 * products_BTV + jnp.square(table_VC).sum(axis=-1)[None, None]
    return jnp.argmin(distances_BTV, axis=-1).astype(jnp.int32)


class Codebook(nnx.Module):
    """embedding [V, C]: the vectors that the codes stand for."""

    def __init__(self, config: EncodecConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        shape = (config.codebook_size, config.hidden_size)
        self.embedding = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), shape, dtype))


class Quantizer(nnx.Module):
    """All codebooks that the checkpoint holds, coarse first. The first few may be used alone."""

    def __init__(self, config: EncodecConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.codebooks = nnx.List([Codebook(config, dtype=dtype, rngs=rngs) for _ in range(config.num_quantizers)])

    def embed(self, codes_BQT: jax.Array) -> jax.Array:
        """x_BTC of the first Q codebooks."""
        return embed_codes(codes_BQT, self._tables(codes_BQT.shape[1]))

    def quantize(self, x_BTC: jax.Array, n_codebooks: int) -> jax.Array:
        """codes_BQT of the first n_codebooks."""
        return quantize(x_BTC, self._tables(n_codebooks))

    def _tables(self, n_codebooks: int) -> list[jax.Array]:
        return [codebook.embedding[...] for codebook in list(self.codebooks)[:n_codebooks]]
