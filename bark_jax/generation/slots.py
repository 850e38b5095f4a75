"""Some rows of a batch: how many are worth reading together, and how they get back to their places."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

# Whole sequences, such as a coarse prompt or a fine window, are long: so many rows of them fill an accelerator's
# arithmetic, and more at once would only read rows that need it not. On a CPU one does.
ROWS_AT_ONCE = 8

Tree = TypeVar("Tree", bound=Any)


def rows_at_once(n_rows: int, platform: str) -> int:
    """Rows of a batch of n_rows whose whole sequences are read together."""
    return min(n_rows, 1 if platform == "cpu" else ROWS_AT_ONCE)


def take_rows(tree: Tree, is_taken_B: jax.Array, n_taken: int) -> tuple[Tree, jax.Array]:
    """The first n_taken rows that are to be taken, and where they were, which is past the end where there are fewer."""
    B = len(is_taken_B)
    (row_R,) = jnp.nonzero(is_taken_B, size=n_taken, fill_value=B)
    return jax.tree.map(lambda array: array.at[row_R].get(mode="clip"), tree), row_R


def put_rows(all_rows: Tree, some_rows: Tree, slot_R: jax.Array, n_slots: int) -> Tree:
    """Rows put into slots, those of a slot past the last one dropped; numbers without rows stay.

    An array with several entries a row, such as a cache's heads, has them one after the other.
    """
    n_rows = len(slot_R)

    def put(array: jax.Array, rows: jax.Array) -> jax.Array:
        shape = array.shape
        if not shape:
            return array
        array = array.reshape(n_slots, -1, *shape[1:])
        return array.at[slot_R].set(rows.reshape(n_rows, -1, *shape[1:]), mode="drop").reshape(shape)

    return jax.tree.map(put, all_rows, some_rows)
