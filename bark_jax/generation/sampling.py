"""Choosing a token: the most likely one (greedy), or a draw after temperature, then top-k, then top-p.

A draw depends on the row's key, the stage and the step alone, never on the batch: each derives its key by fold_in, so
there is no state to carry and a run that stops and continues draws the same tokens. Settings are arrays with one value
for each row, so new values do not compile again.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.errors import InputError, quoted
from bark_jax.generation.settings import StageSampling

# Folded into a row's key, so that the stages draw independently.
SEMANTIC_STAGE, COARSE_STAGE, FINE_STAGE = 0, 1, 2

# Named explicitly, so that a seed means the same draws whatever jax_default_prng_impl is.
KEY_IMPLEMENTATION = "threefry2x32"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings and keys by which the rows of a batch choose their tokens."""

    key_B: jax.Array  # typed PRNG keys
    temperature_B: jax.Array  # float32; 0 takes the most likely token
    top_k_B: jax.Array  # int32, tokens that stay in the draw; 0 for all
    top_p_B: jax.Array  # float32, probability mass that stays in the draw; 1 for all
    # Whether any row has a top-k or top-p; static, so it makes two programs. On a GPU a branch at every step, by the
    # values of top_k_B and top_p_B, takes longer than the draw itself.
    may_cut: bool = dataclasses.field(default=True, metadata=dict(static=True))

    @classmethod
    def stack(cls, settings: Sequence[StageSampling], keys_B2: np.ndarray) -> Self:
        """Stacks the settings of B rows, with their keys as uint32 [B, 2] (`key_data`)."""
        return cls(
            key_B=jax.random.wrap_key_data(keys_B2, impl=KEY_IMPLEMENTATION),
            temperature_B=np.array([each.temperature for each in settings], np.float32),
            top_k_B=np.array([each.top_k for each in settings], np.int32),
            top_p_B=np.array([each.top_p for each in settings], np.float32),
            may_cut=any((each.top_k > 0 or each.top_p < 1) and each.temperature > 0 for each in settings),
        )


def key_data(seed: int) -> np.ndarray:
    """The key of a seed, uint32 [2]: the seed's high and low half, as `jax.random.key(seed)` has with 64-bit integers.

    Raises:
      InputError: the seed is no integer in [0, 2**64).
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise InputError(f"seed is {quoted(seed)}, expected an integer from 0 to 2**64 - 1")
    return np.array([int(seed) >> 32, int(seed) & 0xFFFFFFFF], np.uint32)


def fold(key_B: jax.Array, number: int | jax.Array) -> jax.Array:
    """Folds a number into each row's key: the same scalar for all rows, or an array [B] with one for each."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, 0 if jnp.ndim(number) else None))(key_B, number)


def draw_logits(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """Logits [B, V] of the distribution that a row draws from: after temperature, top-k and top-p; -inf where cut.

    Rows at temperature 0 keep their logits. A token that ties with the last one kept is kept too, so more than k may
    stay: the cut is by value, which spares the scatter of a mask from sorted order back.
    """
    # transformers' order. Suno's code cuts first, top-p before top-k, and divides by the temperature afterwards: with
    # top_p the two can keep different tokens, with top_k alone they keep the same.
    V = logits_BV.shape[-1]
    scaled_BV = logits_BV / jnp.where(sampling.temperature_B > 0, sampling.temperature_B, 1.0)[:, None]
    if not sampling.may_cut:
        return scaled_BV
    top_k_B = jnp.where(sampling.top_k_B > 0, jnp.minimum(sampling.top_k_B, V), V)
    is_cut_B = ((top_k_B < V) | (sampling.top_p_B < 1)) & (sampling.temperature_B > 0)
    # The sort of V logits is the expensive part; it is skipped where no row of the batch cuts.
    return jax.lax.cond(
        jnp.any(is_cut_B),
        lambda: jnp.where(scaled_BV < _least_kept(scaled_BV, top_k_B, sampling.top_p_B, is_cut_B), -jnp.inf, scaled_BV),
        lambda: scaled_BV,
    )


def _least_kept(logits_BV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array, is_cut_B: jax.Array) -> jax.Array:
    """The smallest logit [B, 1] that stays; -inf for rows without a cut.

    top-p is counted within the top k. A token stays while more likely ones hold less than top_p of the mass together:
    probabilities 0.5, 0.3, 0.2 at top_p 0.6 have masses before them of 0, 0.5, 0.8, so the first two stay.
    """
    V = logits_BV.shape[-1]
    # All of V, 10,001 or 1,024: jax.lax.top_k needs a static k, and k is the row's.
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    rank_1V = jnp.arange(V)[None]
    in_top_k_BV = rank_1V < top_k_B[:, None]
    probability_BV = jax.nn.softmax(jnp.where(in_top_k_BV, sorted_BV, -jnp.inf), axis=-1)
    mass_before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
    # At top_p 1 all stay, even where rounding makes the cumulative sum reach 1 early; rank 0 always stays.
    is_kept_BV = in_top_k_BV & ((mass_before_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1) | (rank_1V == 0))
    least_B1 = jnp.min(jnp.where(is_kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(is_cut_B[:, None], least_B1, -jnp.inf)


def choose(logits_BV: jax.Array, sampling: Sampling, step: int | jax.Array) -> jax.Array:
    """Chooses one token for each row, int32 [B], from logits [B, V] of `draw_logits`.

    At temperature 0 the most likely token, of equal ones the smallest id; else a draw.

    Args:
      step: number of the row's draw, folded into its key: a scalar for all rows, or an array [B].
    """
    # vmap over keys, not one key for [B, V]: the noise of one key depends on its shape, and so a row's draw on B.
    drawn_B = jax.vmap(jax.random.categorical)(fold(sampling.key_B, step), logits_BV)
    likeliest_B = jnp.argmax(logits_BV, axis=-1)
    return jnp.where(sampling.temperature_B > 0, drawn_B, likeliest_B).astype(jnp.int32)


def log_probability(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """Log-probability [B] of tokens [B] under logits [B, V]; illegal tokens have -inf as logit and do not count.

    Stages call it on logits before temperature and cuts, so it is the network's own, at temperature 1.
    """
    chosen_B1 = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)
    # -inf for a token that was cut or is illegal, and NaN where a logit is; both are what callers rely on.
    return chosen_B1[:, 0] - jax.nn.logsumexp(logits_BV, axis=-1)
