"""Rows of a batch that take the place of others."""

from typing import Any, TypeVar

import jax

Tree = TypeVar("Tree", bound=Any)


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
