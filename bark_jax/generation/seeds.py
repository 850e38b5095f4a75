"""Seeds from a seed: one for each candidate of a text, one for each sentence of a long text.

    number 0 is the seed itself; number i > 0 is fold_in(fold_in(key(seed), purpose), i)

A key is a seed written as two halves (`seed_of`), so what a derived key gave can be had again by an integer.
"""

import jax
import numpy as np

from bark_jax._system.own_jax_config import under_own_config
from bark_jax.generation.sampling import KEY_IMPLEMENTATION

# Keys that one call derives, needed or not, so that any number of them is one program.
_KEYS_PER_CALL = 16

# Folded in first. The stages fold small numbers into a row's key; these are none of them.
CANDIDATE = 0x63616E64  # "cand"
SENTENCE = 0x73656E74  # "sent"


def derive_keys(key: np.ndarray, purpose: int, n: int) -> list[np.ndarray]:
    """The keys of numbers 0 to n - 1, each uint32 [2], from such a key."""
    found = [key]
    while len(found) < n:
        found += list(_derive(key, purpose, first=len(found)))
    return found[:n]


def derive_key(key: np.ndarray, purpose: int, number: int) -> np.ndarray:
    """The key of one number."""
    return key if number == 0 else _derive(key, purpose, first=number)[0]


@under_own_config
def _derive(key: np.ndarray, purpose: int, first: int) -> np.ndarray:
    """The keys of _KEYS_PER_CALL numbers."""
    numbers_N = np.arange(first, first + _KEYS_PER_CALL, dtype=np.uint32)
    return np.asarray(_fold_twice(key, np.uint32(purpose), numbers_N))


@jax.jit
def _fold_twice(key: jax.Array, purpose: jax.Array, number_N: jax.Array) -> jax.Array:
    base = jax.random.fold_in(jax.random.wrap_key_data(key, impl=KEY_IMPLEMENTATION), purpose)
    return jax.random.key_data(jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, number_N))


def seed_of(key: np.ndarray) -> int:
    """The seed, below 2**64, whose key this is: the other way round of `key_data`."""
    high, low = key.tolist()
    return high << 32 | low
