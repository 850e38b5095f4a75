"""Some rows of a batch: how many to read together, gathered from the batch and scattered back into it."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

# Rows whose whole sequences (a coarse prompt, a fine window) are read together. They are long, up to 887 or 1,024
# positions: 8 of them fill an accelerator's arithmetic. Larger groups would gain nothing and carry more rows that are
# not due. One row fills a CPU.
ROWS_AT_ONCE = 8

Tree = TypeVar("Tree", bound=Any)


def rows_at_once(n_rows: int, platform: str) -> int:
    """Rows of a batch of n_rows whose whole sequences are read together: 1 on a CPU, else at most ROWS_AT_ONCE."""
    # min_dim, as the number of rows may be symbolic (`jax.export`); of integers it is `min`.
    return 1 if platform == "cpu" else jax.core.min_dim(n_rows, ROWS_AT_ONCE)


def prompts_at_once(n_rows: int, platform: str) -> int:
    """Rows of a batch of n_rows whose coarse prompts are read together into its KV cache.

    One on a TPU: XLA writes one row of the cache in place there, and for several it first lays out a second cache. A
    prompt of 887 positions multiplies each weight often enough to fill a TPU's arithmetic alone.
    """
    return 1 if platform == "tpu" else rows_at_once(n_rows, platform)


def take_rows(tree: Tree, is_taken_B: jax.Array, n_taken: int) -> tuple[Tree, jax.Array]:
    """Gathers the first n_taken rows for which bool is_taken_B holds.

    The count is static. Where fewer rows qualify, the rest repeat the batch's last row with an index past the end,
    which a scatter with mode="drop" ignores: [F, T, F, T] and n_taken = 3 give rows 1, 3, 3 and row_R = [1, 3, 4].

    Args:
      tree: arrays with the batch as leading axis, [B, ...].

    Returns:
      The tree with arrays [R, ...], R = n_taken, and the row indices row_R, integers [R].
    """
    B = is_taken_B.shape[0]
    (row_R,) = jnp.nonzero(is_taken_B, size=n_taken, fill_value=B)
    return jax.tree.map(lambda array: array.at[row_R].get(mode="clip"), tree), row_R


def put_rows(all_rows: Tree, some_rows: Tree, slot_R: jax.Array, n_slots: int) -> Tree:
    """Scatters some rows into the slots of a batch.

    Args:
      all_rows: arrays [n_slots * m, ...]. Those with m > 1 entries a row, such as a KV cache [B * N, S, H], have a
        row's entries contiguous. Scalars are kept.
      some_rows: the same tree with arrays [R * m, ...].
      slot_R: integers [R]; rows with a slot of n_slots or more are dropped.
      n_slots: rows of the batch.

    Returns:
      all_rows with these rows replaced.
    """
    n_rows = slot_R.shape[0]

    def put(array: jax.Array, rows: jax.Array) -> jax.Array:
        shape = array.shape
        if not shape:
            return array
        array = array.reshape(n_slots, -1, *shape[1:])
        return array.at[slot_R].set(rows.reshape(n_rows, -1, *shape[1:]), mode="drop").reshape(shape)

    return jax.tree.map(put, all_rows, some_rows)
