"""Seeds derived from a seed: one for each candidate of a text, one for each sentence of a long text.

    number 0 is the seed itself; number i > 0 is fold_in(fold_in(key(seed), purpose), i)

So the first candidate is what the seed gives without candidates. A threefry key is a seed written as two halves of 32
bits (`seed_of`), so what a derived key gave can be generated again from an integer seed.
"""

import secrets
from collections.abc import Sequence

import jax
import numpy as np

from bark_jax._system.forks import check_process
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.errors import InputError, quoted
from bark_jax.generation.rows import as_array
from bark_jax.generation.sampling import KEY_IMPLEMENTATION, key_data

# Keys that one call derives, needed or not, so that one compiled program serves any number of them.
_KEYS_PER_CALL = 16

# Purposes, folded in first. They are large, as stages fold small numbers (0 to 2) into a row's key: no two keys meet.
CANDIDATE = 0x63616E64  # "cand"
SENTENCE = 0x73656E74  # "sent"


def derive_keys(key: np.ndarray, purpose: int, n: int) -> list[np.ndarray]:
    """Derives the keys of numbers 0 to n - 1, uint32 [2] each, from a key uint32 [2]; number 0 is the key itself."""
    found = [key]
    while len(found) < n:
        found += list(_derive(key, purpose, first=len(found)))
    return found[:n]


def derive_key(key: np.ndarray, purpose: int, number: int) -> np.ndarray:
    """Derives the key of one number, uint32 [2], from a key uint32 [2]."""
    return key if number == 0 else _derive(key, purpose, first=number)[0]


@under_own_config
def _derive(key: np.ndarray, purpose: int, first: int) -> np.ndarray:
    """The keys of _KEYS_PER_CALL numbers from `first` on, uint32 [_KEYS_PER_CALL, 2]."""
    numbers_N = np.arange(first, first + _KEYS_PER_CALL, dtype=np.uint32)
    return np.asarray(_fold_twice(key, np.uint32(purpose), numbers_N))


@jax.jit
def _fold_twice(key: jax.Array, purpose: jax.Array, number_N: jax.Array) -> jax.Array:
    base = jax.random.fold_in(jax.random.wrap_key_data(key, impl=KEY_IMPLEMENTATION), purpose)
    return jax.random.key_data(jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, number_N))


def seed_of(key: np.ndarray) -> int:
    """The seed, in [0, 2**64), of a key uint32 [2]: the inverse of `key_data`."""
    high, low = key.tolist()
    return high << 32 | low


@under_own_config
def row_keys(seed: int | Sequence[int] | None, key: jax.Array | None, n_rows: int) -> list[np.ndarray]:
    """The keys of n_rows rows, uint32 [2] each, from the arguments `seed` and `key` of `BarkModel.generate`.

    Args:
      seed: an integer for all rows, or one for each; None, without key, draws 32 random bits for each row.
      key: a typed JAX key or its data, uint32 [2] for all rows or [n_rows, 2].

    Raises:
      InputError: both are given; a wrong number, shape or dtype; a key of another generator than threefry.
    """
    check_process()
    if seed is not None and key is not None:
        raise InputError("give seed or key, not both")
    if key is not None:
        return _spread_keys(key, n_rows)
    if seed is None:
        # From the system, so that neither random.seed nor np.random.seed of the caller makes two calls draw the same.
        seed = [secrets.randbits(32) for _ in range(n_rows)]
    is_one = not isinstance(seed, (list, tuple, np.ndarray)) or np.ndim(seed) == 0
    seeds = [seed] * n_rows if is_one else list(seed)
    if len(seeds) != n_rows:
        raise InputError(f"seed has {len(seeds)} values for {n_rows} rows; give one a row, or a single one for all")
    return [key_data(value) for value in seeds]


def _spread_keys(key: jax.Array, n_rows: int) -> list[np.ndarray]:
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise InputError(f"key is {quoted(key)}, expected a key of JAX, jax.random.key(0); an integer goes into seed")
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        # Another generator's key has other data, rbg's four numbers for instance, which no seed stands for.
        if jax.random.key_impl(key) != KEY_IMPLEMENTATION:
            raise InputError(
                f"key is of generator {jax.random.key_impl(key)}, expected {KEY_IMPLEMENTATION}; give seed=, or a key "
                f"that jax.random.key(seed, impl={KEY_IMPLEMENTATION!r}) makes"
            )
        key = jax.random.key_data(key)
    data = as_array("key", key)
    if data.dtype != np.uint32 or data.shape not in ((2,), (n_rows, 2)):
        raise InputError(f"key has shape {data.shape} and dtype {data.dtype}, expected one key, or {n_rows} of them")
    return list(np.broadcast_to(data, (n_rows, 2)))
