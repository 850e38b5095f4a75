"""Training of the codec's codebooks (residual vector quantisation) by exponential moving averages.

Vector v of codebook q is the moving average of those residuals of codebooks 0..q-1 whose nearest vector it is. No
gradient moves it. The encoder gets the decoder's gradient through a straight-through estimator, and the commitment loss
pulls its output towards the codebooks. Dead codes, which few vectors use, are replaced by vectors of the batch.

All products are float32 with precision "highest": in lower precision a vector near the border of two codes would get
either of them.

Source: van den Oord et al., Neural Discrete Representation Learning, https://arxiv.org/abs/1711.00937, appendix A.1
(moving averages); Zeghidour et al., SoundStream, https://arxiv.org/abs/2107.03312, III.C (residual quantisation,
k-means initialisation, dead codes, quantiser dropout).
"""

import dataclasses

import jax
import jax.numpy as jnp

from bark_jax.networks.codec.quantizer import nearest

# An old step's share halves in 69 steps: 0.99**69 = 0.5.
DECAY = 0.99  # of the moving averages, per step
KMEANS_ROUNDS = 10
# Both are shares of the even count, vectors / V. A code whose count is below DEAD_SHARE is dead: it becomes a vector of
# the batch with count REVIVED_SHARE, and so stays alive without vectors for ln(0.02 / 0.2) / ln(0.99) = 230 steps.
DEAD_SHARE, REVIVED_SHARE = 0.02, 0.2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebooks:
    """Moving averages over the vectors of each code, float32. table_QVC = sum_QVC / count_QV, up to rounding."""

    table_QVC: jax.Array  # the vector of each code
    sum_QVC: jax.Array  # sum of a step's vectors with this code
    count_QV: jax.Array  # number of a step's vectors with this code


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantized:
    """Quantised encoder output, for each codebook."""

    residual_QBTC: jax.Array  # the input of each codebook: x minus the vectors of the codebooks before it
    vector_QBTC: jax.Array  # the nearest vector of each codebook; has no gradient
    codes_QBT: jax.Array  # int32

    def up_to(self, n_codebooks_B: jax.Array) -> jax.Array:
        """x_BTC, the sum of the first n_codebooks_B vectors of each row, by a straight-through estimator.

        The value is quantised; the gradient goes to the encoder's output as if there were no quantisation.
        """
        weight_QB = _is_used(len(self.vector_QBTC), n_codebooks_B)
        x_BTC = jnp.einsum("QB,QBTC->BTC", weight_QB, self.vector_QBTC, precision="highest")
        before_BTC = self.residual_QBTC[0]
        # The value is x_BTC only up to rounding: before + (x - before) rounds twice.
        return before_BTC + jax.lax.stop_gradient(x_BTC - before_BTC)

    def commitment(self, n_codebooks_B: jax.Array) -> jax.Array:
        """The commitment loss [B]: squared distance of residuals to their vectors, averaged over a row's codebooks."""
        distance_QB = jnp.square(self.residual_QBTC - self.vector_QBTC).mean(axis=(2, 3))
        weight_QB = _is_used(len(distance_QB), n_codebooks_B)
        return (weight_QB * distance_QB).sum(axis=0) / n_codebooks_B


def _is_used(n_codebooks: int, n_codebooks_B: jax.Array) -> jax.Array:
    """1.0 where a row uses a codebook, else 0.0: float32 [Q, B]."""
    return (jnp.arange(n_codebooks)[:, None] < n_codebooks_B[None]).astype(jnp.float32)


def begin(table_QVC: jax.Array, n_vectors: int) -> Codebooks:
    """Codebooks with these vectors, as if a step's n_vectors were spread evenly over the codes."""
    table_QVC = jnp.asarray(table_QVC, jnp.float32)
    # At the default settings 16 rows of 72 frames are 1,152 vectors, 1.125 for each of 1,024 codes.
    count_QV = jnp.full(table_QVC.shape[:2], n_vectors / table_QVC.shape[1], jnp.float32)
    return Codebooks(table_QVC, table_QVC * count_QV[..., None], count_QV)


def quantize(x_BTC: jax.Array, table_QVC: jax.Array) -> Quantized:
    """Quantises x_BTC codebook by codebook. Residuals have gradients with respect to x_BTC, the tables have none."""
    residual_BTC, stages = x_BTC, []
    with jax.default_matmul_precision("highest"):
        for table_VC in jax.lax.stop_gradient(table_QVC):
            # The tables are constants to the gradient: the commitment loss moves the encoder towards them alone.
            codes_BT = nearest(jax.lax.stop_gradient(residual_BTC), table_VC)
            stages.append(Quantized(residual_BTC, table_VC[codes_BT], codes_BT))
            residual_BTC = residual_BTC - table_VC[codes_BT]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *stages)


def share_used(quantized: Quantized, codebook_size: int) -> jax.Array:
    """Codebook usage: the share of all codes that occur in codes_QBT, a float32 scalar."""
    n_codebooks = len(quantized.codes_QBT)
    is_used_QV = jnp.zeros((n_codebooks, codebook_size), bool)
    is_used_QV = is_used_QV.at[jnp.arange(n_codebooks)[:, None], quantized.codes_QBT.reshape(n_codebooks, -1)].set(True)
    return is_used_QV.mean(dtype=jnp.float32)


def update(codebooks: Codebooks, quantized: Quantized, key: jax.Array) -> Codebooks:
    """Moves the codebooks table_QVC by one step's vectors, and replaces dead codes by random vectors of the step.

    Every row counts in every codebook, also where quantiser dropout kept it from the decoder.
    """
    Q, V, C = codebooks.table_QVC.shape
    residual_QNC = jax.lax.stop_gradient(quantized.residual_QBTC).reshape(Q, -1, C)
    count_QV, sum_QVC = jax.vmap(_sum_by_code, (0, 0, None))(residual_QNC, quantized.codes_QBT.reshape(Q, -1), V)
    # Two averages and their ratio, not an average of means: a code that no vector has in a step keeps its vector.
    count_QV = DECAY * codebooks.count_QV + (1 - DECAY) * count_QV
    sum_QVC = DECAY * codebooks.sum_QVC + (1 - DECAY) * sum_QVC
    even_share = residual_QNC.shape[1] / V
    is_dead_QV = count_QV < DEAD_SHARE * even_share
    drawn_QV = jax.random.randint(key, (Q, V), 0, residual_QNC.shape[1])
    drawn_QVC = jnp.take_along_axis(residual_QNC, drawn_QV[..., None], axis=1)
    count_QV = jnp.where(is_dead_QV, REVIVED_SHARE * even_share, count_QV)
    sum_QVC = jnp.where(is_dead_QV[..., None], count_QV[..., None] * drawn_QVC, sum_QVC)
    # Never divided by 0: a count below 2 % of the even share has just been raised to 20 % of it.
    return Codebooks(sum_QVC / count_QV[..., None], sum_QVC, count_QV)


def find_codebooks(x_NC: jax.Array, n_codebooks: int, codebook_size: int, key: jax.Array) -> Codebooks:
    """Initialises codebooks by k-means on x_NC: codebook q on the residuals of codebooks 0..q-1."""

    def refine(residual_NC: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        table_VC = _kmeans(residual_NC, codebook_size, key)
        return residual_NC - table_VC[_nearest(residual_NC, table_VC)], table_VC

    # A rough start: one batch has hardly more vectors than a codebook has codes. The moving averages refine it.
    _, table_QVC = jax.lax.scan(refine, x_NC, jax.random.split(key, n_codebooks))
    return begin(table_QVC, len(x_NC))


def _kmeans(x_NC: jax.Array, n_means: int, key: jax.Array) -> jax.Array:
    """k-means with KMEANS_ROUNDS rounds, [n_means, C]. A mean that no vector is nearest to becomes a random vector."""
    # With fewer vectors than means, some means start equal. Ties go to the first of them; the others are redrawn.
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
    """Count [V] and sum [V, C] of the vectors of each code.

    A product with a one-hot matrix: a scatter-add would sum in a different order from run to run on accelerators.
    """
    is_of_NV = jax.nn.one_hot(codes_N, codebook_size)
    return is_of_NV.sum(axis=0), jnp.matmul(is_of_NV.T, x_NC, precision="highest")
