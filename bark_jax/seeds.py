"""Seeds from a seed: one for each candidate of a text, one for each sentence of a long text.

    number 0 is the seed itself; number i > 0 is fold_in(fold_in(key(seed), purpose), i)

A key is a seed written as two halves (`seed_of`), so what a derived key gave can be had again by an integer.
"""

import jax
import numpy as np

from bark_jax.stages.sampling import KEY_IMPLEMENTATION

# Folded in first. The stages fold small numbers into a row's key; these are none of them.
CANDIDATE = 0x63616E64  # "cand"
SENTENCE = 0x73656E74  # "sent"


def derive_keys(key: np.ndarray, purpose: int, n: int) -> list[np.ndarray]:
    """The keys of numbers 0 to n - 1, each uint32 [2], from such a key."""
    if n == 1:
        return [key]
    base = jax.random.fold_in(jax.random.wrap_key_data(key, impl=KEY_IMPLEMENTATION), purpose)
    numbers = np.arange(2 ** (n - 1).bit_length(), dtype=np.uint32)  # powers of two compile few programs
    folded = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, numbers)
    return [key, *np.asarray(jax.random.key_data(folded))[1:n]]


def seed_of(key: np.ndarray) -> int:
    """The seed, below 2**64, whose key this is: the other way round of `key_data`."""
    high, low = key.tolist()
    return high << 32 | low
