"""Choosing a token: the most likely one, or a draw after temperature, then top-k, then top-p.

A draw depends on the row's key, the stage and the step alone, never on the batch. Settings are arrays, one value a row,
so new values do not compile again.
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

# Named, so that a seed means the same draws under any JAX configuration.
KEY_IMPLEMENTATION = "threefry2x32"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """How each row of a batch chooses its tokens."""

    key_B: jax.Array  # typed PRNG keys
    temperature_B: jax.Array  # float32; 0 takes the most likely token
    top_k_B: jax.Array  # int32, tokens that stay in the draw; 0 for all
    top_p_B: jax.Array  # float32, probability mass that stays in the draw; 1 for all
    # Whether any row may cut, known when compiling: to look at top_k_B and top_p_B at every step takes a GPU longer
    # than the draw itself.
    may_cut: bool = dataclasses.field(default=True, metadata=dict(static=True))

    @classmethod
    def stack(cls, settings: Sequence[StageSampling], keys_B2: np.ndarray) -> Self:
        """The sampling of rows, each with its settings and its key, uint32 [B, 2] (`key_data`)."""
        return cls(
            key_B=jax.random.wrap_key_data(keys_B2, impl=KEY_IMPLEMENTATION),
            temperature_B=np.array([each.temperature for each in settings], np.float32),
            top_k_B=np.array([each.top_k for each in settings], np.int32),
            top_p_B=np.array([each.top_p for each in settings], np.float32),
            may_cut=any((each.top_k > 0 or each.top_p < 1) and each.temperature > 0 for each in settings),
        )


def key_data(seed: int) -> np.ndarray:
    """The key of a seed in [0, 2**64), uint32 [2]: what `jax.random.key(seed)` holds where 64-bit integers are on."""
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise InputError(f"seed is {quoted(seed)}, expected an integer from 0 to 2**64 - 1")
    return np.array([int(seed) >> 32, int(seed) & 0xFFFFFFFF], np.uint32)


def fold(key_B: jax.Array, number: int | jax.Array) -> jax.Array:
    """Every row's key with a number folded in: the same one, or of an array [B] the row's own."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, 0 if jnp.ndim(number) else None))(key_B, number)


def draw_logits(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """The logits of the distribution that a row draws from: after temperature, top-k and top-p; -inf where cut.

    Rows at temperature 0 keep their logits. A token that ties with the last one kept is kept too.
    """
    V = logits_BV.shape[-1]
    scaled_BV = logits_BV / jnp.where(sampling.temperature_B > 0, sampling.temperature_B, 1.0)[:, None]
    if not sampling.may_cut:
        return scaled_BV
    top_k_B = jnp.where(sampling.top_k_B > 0, jnp.minimum(sampling.top_k_B, V), V)
    is_cut_B = ((top_k_B < V) | (sampling.top_p_B < 1)) & (sampling.temperature_B > 0)
    return jax.lax.cond(
        jnp.any(is_cut_B),
        lambda: jnp.where(scaled_BV < _least_kept(scaled_BV, top_k_B, sampling.top_p_B, is_cut_B), -jnp.inf, scaled_BV),
        lambda: scaled_BV,
    )


def _least_kept(logits_BV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array, is_cut_B: jax.Array) -> jax.Array:
    """The smallest logit [B, 1] that stays: a token stays while those before it hold less than top_p of the mass."""
    V = logits_BV.shape[-1]
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    rank_1V = jnp.arange(V)[None]
    in_top_k_BV = rank_1V < top_k_B[:, None]
    probability_BV = jax.nn.softmax(jnp.where(in_top_k_BV, sorted_BV, -jnp.inf), axis=-1)
    mass_before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
    # The most likely token stays whatever rounding says of the mass before it.
    is_kept_BV = in_top_k_BV & ((mass_before_BV < top_p_B[:, None]) | (top_p_B[:, None] >= 1) | (rank_1V == 0))
    least_B1 = jnp.min(jnp.where(is_kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(is_cut_B[:, None], least_B1, -jnp.inf)


def choose(logits_BV: jax.Array, sampling: Sampling, step: int | jax.Array) -> jax.Array:
    """One token a row, int32 [B], from logits that `draw_logits` has prepared; ties go to the smaller id.

    `step` numbers the draws of a row: one for all rows, or of an array [B] the row's own.
    """
    drawn_B = jax.vmap(jax.random.categorical)(fold(sampling.key_B, step), logits_BV)
    likeliest_B = jnp.argmax(logits_BV, axis=-1)
    return jnp.where(sampling.temperature_B > 0, drawn_B, likeliest_B).astype(jnp.int32)


def log_probability(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """The network's own log-probability [B] of a token among the legal ones, before temperature and cuts."""
    chosen_B1 = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)
    return chosen_B1[:, 0] - jax.nn.logsumexp(logits_BV, axis=-1)
