"""The KV cache of a TPU, [B, S, N * H], and a decoding step's attention to it.

A TPU keeps an array in tiles of 128 numbers of the last axis. Heads of 64 as the last axis, the caches of other
platforms, fill half of each tile: such a cache takes twice its bytes and twice the time to read. Here the heads of a
position lie side by side, in one axis of 768 numbers in the small networks, which fills six tiles.

The products of all heads are one product for each row: heads share the keys, and a head's query is zero outside its own
H numbers. That multiplies N times as much, mostly zeros, and still takes less time than reading the cache. At 8 rows of
bark-small XLA's own estimate of a step falls to an eighth (benchmarks/RESULTS.md, "Programs for a TPU").
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

SLOTS_TILE = 16  # rows of a tile in bfloat16, 8 in float32; a cache of any other number of slots is copied to be read


def lay_out(x_BTNH: jax.Array, n_slots: int) -> jax.Array:
    """Lays keys or values [B, T, N, H] of a prompt out as a cache [B, S, N * H], zeros past T.

    S is n_slots rounded up to whole tiles: 947 slots of the coarse stage become 960.
    """
    B, T, N, H = x_BTNH.shape
    n_slots = -(-n_slots // SLOTS_TILE) * SLOTS_TILE
    cache_BSD = jnp.pad(x_BTNH.reshape(B, T, N * H), ((0, 0), (0, n_slots - T), (0, 0)))
    # A prompt's attention wants keys with T as the last axis. Without the constraint XLA lays the cache out for the
    # prompt, and copies all of it before the steps and after them.
    return with_layout_constraint(cache_BSD, Layout((0, 1, 2)))


def step(
    qkv_BF: jax.Array, keys_BSD: jax.Array, values_BSD: jax.Array, length_B: jax.Array, n_heads: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Writes one position a row into the cache and attends from it, as `attention.step_xla` does.

    Args:
      qkv_BF: projection [B, 3 * N * H] of the new position.
      keys_BSD, values_BSD: [B, S, N * H].
      length_B: int32, slots filled so far, below S; the new position goes into slot `length_B`.

    Returns:
      The output [B, N, H], and keys and values with the position in them.
    """
    q_BD, k_BD, v_BD = jnp.split(qkv_BF, 3, axis=1)
    keys_BSD, values_BSD = _write_slot(keys_BSD, k_BD, length_B), _write_slot(values_BSD, v_BD, length_B)
    # The new position is written first, since it attends to itself: hence length + 1.
    y_BD = attend_to_slots(q_BD, keys_BSD, values_BSD, length_B + 1, n_heads)
    return y_BD.reshape(y_BD.shape[0], n_heads, -1), keys_BSD, values_BSD


def attend_to_slots(
    q_BD: jax.Array, keys_BSD: jax.Array, values_BSD: jax.Array, length_B: jax.Array, n_heads: int
) -> jax.Array:
    """Attention of one position a row to the first `length_B` slots of a cache [B, S, N * H].

    All S slots are multiplied and those past the length masked; they must hold finite numbers
    (`attention.attend_to_slots` says why they do).

    Returns:
      [B, N * H] in the queries' dtype. The softmax is float32.
    """
    _, S, D = keys_BSD.shape
    H = D // n_heads
    is_own_1ND = jnp.arange(D)[None, None] // H == jnp.arange(n_heads)[None, :, None]
    q_BND = jnp.where(is_own_1ND, (q_BD * jnp.asarray(H**-0.5, q_BD.dtype))[:, None], 0)
    by_row = ((0,), (0,))
    logits_BNS = jax.lax.dot_general(q_BND, keys_BSD, (((2,), (2,)), by_row), preferred_element_type=jnp.float32)
    is_live_B1S = jnp.arange(S)[None, None] < length_B[:, None, None]
    weights_BNS = jax.nn.softmax(jnp.where(is_live_B1S, logits_BNS, -jnp.inf), axis=-1)
    # Each head's weights for the values of all heads, of which its own are kept.
    y_BND = jax.lax.dot_general(
        weights_BNS.astype(values_BSD.dtype), values_BSD, (((2,), (1,)), by_row), preferred_element_type=jnp.float32
    )
    return jnp.sum(jnp.where(is_own_1ND, y_BND, 0), axis=1).astype(q_BD.dtype)


def _write_slot(cache_BSD: jax.Array, new_BD: jax.Array, slot_B: jax.Array) -> jax.Array:
    """Writes one position into slot `slot_B` of each row; callers keep slot_B below S."""
    row_B = jnp.arange(slot_B.shape[0])
    return cache_BSD.at[row_B, slot_B].set(new_BD, mode="promise_in_bounds", unique_indices=True)
