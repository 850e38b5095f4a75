"""Training of codebooks: what codes stand for follows, slowly, the vectors that are given these codes.

Codebook q is the running mean of what codebooks 0..q-1 left over, by code. No gradient moves it; the encoder gets the
gradient of what it put out, as if it had not been quantised, and is pulled towards its codes by a loss.

All of this is in float32 with full products: vectors near the border of two codes would fall to either side of it.

Source: van den Oord et al., Neural Discrete Representation Learning, https://arxiv.org/abs/1711.00937, appendix A.1
(running means); Zeghidour et al., SoundStream, https://arxiv.org/abs/2107.03312, III.C (residuals, k-means, codes that
die, fewer codebooks for some rows).
"""

import dataclasses

import jax
import jax.numpy as jnp

from bark_jax.networks.codec.quantizer import nearest

DECAY = 0.99  # of the running means, a step
KMEANS_ROUNDS = 10
# A code that gets less than this share of the vectors that it would get if all codes got as many is dead: it is given a
# vector of the batch, and so much weight that it lives through 230 steps in which it gets none.
DEAD_SHARE, REVIVED_SHARE = 0.02, 0.2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebooks:
    """Running sums over the vectors of each code. table_QVC = sum_QVC / count_QV, but for rounding."""

    table_QVC: jax.Array  # float32, what codes stand for
    sum_QVC: jax.Array
    count_QV: jax.Array  # vectors a step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """Vectors, codebook by codebook; the residual is what is left over before the codebook."""

    residual_QBTC: jax.Array
    vector_QBTC: jax.Array  # no gradient goes through it
    codes_QBT: jax.Array

    def up_to(self, n_codebooks_B: jax.Array) -> jax.Array:
        """x_BTC by the first codebooks of each row, with the gradient of the vectors that were quantised."""
        weight_QB = _is_used(len(self.vector_QBTC), n_codebooks_B)
        x_BTC = jnp.einsum("QB,QBTC->BTC", weight_QB, self.vector_QBTC, precision="highest")
        before_BTC = self.residual_QBTC[0]
        return before_BTC + jax.lax.stop_gradient(x_BTC - before_BTC)

    def commitment(self, n_codebooks_B: jax.Array) -> jax.Array:
        """[B]: the mean squared distance to the codes, over the codebooks that a row uses."""
        distance_QB = jnp.square(self.residual_QBTC - self.vector_QBTC).mean(axis=(2, 3))
        weight_QB = _is_used(len(distance_QB), n_codebooks_B)
        return (weight_QB * distance_QB).sum(axis=0) / n_codebooks_B


def _is_used(n_codebooks: int, n_codebooks_B: jax.Array) -> jax.Array:
    return (jnp.arange(n_codebooks)[:, None] < n_codebooks_B[None]).astype(jnp.float32)


def begin(table_QVC: jax.Array, n_vectors: int) -> Codebooks:
    """Codebooks as if each code had got as many of the n_vectors of a step."""
    table_QVC = jnp.asarray(table_QVC, jnp.float32)
    count_QV = jnp.full(table_QVC.shape[:2], n_vectors / table_QVC.shape[1], jnp.float32)
    return Codebooks(table_QVC, table_QVC * count_QV[..., None], count_QV)


def quantize(x_BTC: jax.Array, table_QVC: jax.Array) -> Quantized:
    """Vectors to codes, with the gradients that training wants."""
    residual_BTC, stages = x_BTC, []
    with jax.default_matmul_precision("highest"):
        for table_VC in jax.lax.stop_gradient(table_QVC):
            codes_BT = nearest(jax.lax.stop_gradient(residual_BTC), table_VC)
            stages.append(Quantized(residual_BTC, table_VC[codes_BT], codes_BT))
            residual_BTC = residual_BTC - table_VC[codes_BT]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages)


def share_used(quantized: Quantized, codebook_size: int) -> jax.Array:
    """The share of all codes that some vector got."""
    n_codebooks = len(quantized.codes_QBT)
    is_used_QV = jnp.zeros((n_codebooks, codebook_size), bool)
    is_used_QV = is_used_QV.at[jnp.arange(n_codebooks)[:, None], quantized.codes_QBT.reshape(n_codebooks, -1)].set(True)
    return is_used_QV.mean(dtype=jnp.float32)


def update(codebooks: Codebooks, quantized: Quantized, key: jax.Array) -> Codebooks:
    """Codebooks after a step, whose dead codes have become vectors of the step. All of its vectors count."""
    Q, V, C = codebooks.table_QVC.shape
    residual_QNC = jax.lax.stop_gradient(quantized.residual_QBTC).reshape(Q, -1, C)
    count_QV, sum_QVC = jax.vmap(_sum_by_code, (0, 0, None))(residual_QNC, quantized.codes_QBT.reshape(Q, -1), V)
    count_QV = DECAY * codebooks.count_QV + (1 - DECAY) * count_QV
    sum_QVC = DECAY * codebooks.sum_QVC + (1 - DECAY) * sum_QVC
    even_share = residual_QNC.shape[1] / V
    is_dead_QV = count_QV < DEAD_SHARE * even_share
    drawn_QV = jax.random.randint(key, (Q, V), 0, residual_QNC.shape[1])
    drawn_QVC = jnp.take_along_axis(residual_QNC, drawn_QV[..., None], axis=1)
    count_QV = jnp.where(is_dead_QV, REVIVED_SHARE * even_share, count_QV)
    sum_QVC = jnp.where(is_dead_QV[..., None], count_QV[..., None] * drawn_QVC, sum_QVC)
    return Codebooks(sum_QVC / count_QV[..., None], sum_QVC, count_QV)


def find_codebooks(x_NC: jax.Array, n_codebooks: int, codebook_size: int, key: jax.Array) -> Codebooks:
    """Codebooks of vectors by k-means, one after the other, each of what the ones before left over."""

    def refine(residual_NC: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        table_VC = _kmeans(residual_NC, codebook_size, key)
        return residual_NC - table_VC[_nearest(residual_NC, table_VC)], table_VC

    _, table_QVC = jax.lax.scan(refine, x_NC, jax.random.split(key, n_codebooks))
    return begin(table_QVC, len(x_NC))


def _kmeans(x_NC: jax.Array, n_means: int, key: jax.Array) -> jax.Array:
    """[n_means, C]. A mean that no vector is nearest to becomes one of the vectors."""
    drawn = jax.random.permutation(key, len(x_NC))[jnp.arange(n_means) % len(x_NC)]

    def improve(mean_VC: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        count_V, sum_VC = _sum_by_code(x_NC, _nearest(x_NC, mean_VC), n_means)
        other_VC = x_NC[jax.random.randint(key, (n_means,), 0, len(x_NC))]
        return jnp.where(count_V[:, None] > 0, sum_VC / jnp.maximum(count_V, 1)[:, None], other_VC), None

    return jax.lax.scan(improve, x_NC[drawn], jax.random.split(jax.random.fold_in(key, 1), KMEANS_ROUNDS))[0]


def _nearest(x_NC: jax.Array, table_VC: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        return nearest(x_NC[None], table_VC)[0]


def _sum_by_code(x_NC: jax.Array, codes_N: jax.Array, codebook_size: int) -> tuple[jax.Array, jax.Array]:
    """How many vectors each code got, and their sum. A product: sums by index come in any order on accelerators."""
    is_of_NV = jax.nn.one_hot(codes_N, codebook_size)
    return is_of_NV.sum(axis=0), jnp.matmul(is_of_NV.T, x_NC, precision="highest")
