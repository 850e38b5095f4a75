"""The second layout of a causal network's weights, [out, in], from which some decoding steps read faster.

Parameters lie as [in, out]: so they are loaded, trained, merged, sharded and saved, and so whole sequences are read.
The copy is no part of the network. It is made at first need, between compiled calls, and kept as long as the network.
"""

import threading
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.linear import Linear, TransposedWeight

MAX_KERNEL_ROWS = 2  # that the GPU kernels multiply faster than XLA does


class _Kept(NamedTuple):
    """A network with its copy, and the arrays that it was made of."""

    arrays: list[jax.Array]
    network: BarkCausalModel


_kept: "weakref.WeakKeyDictionary[BarkCausalModel, _Kept]" = weakref.WeakKeyDictionary()
_lock = threading.Lock()  # of two threads that need a copy, one makes it


def for_decoding(network: BarkCausalModel, n_rows: int) -> BarkCausalModel:
    """The network as a loop over `n_rows` rows should read it: with a copy of its weights where that is faster.

    It is for drivers of compiled calls, not for what is traced. Where parameters have been replaced since, the copy is
    made anew.
    """
    if not network.keeps_copy or not is_faster_transposed(network, n_rows):
        return network
    arrays = jax.tree.leaves(network)
    with _lock:
        kept = _kept.get(network)
        if kept is None or list(map(id, kept.arrays)) != list(map(id, arrays)):
            kept = _kept[network] = _Kept(arrays, with_transposed_weights(network))
    return kept.network


def copy_bytes(network: nnx.Module) -> int:
    """Bytes that a network's copy takes; 0 where it has none yet, or none at all."""
    kept = _kept.get(network)
    return 0 if kept is None else sum(linear.transposed[...].nbytes for linear in _linears(kept.network))


def is_faster_transposed(network: BarkCausalModel, n_rows: int) -> bool:
    """Whether decoding steps of n_rows rows read weights faster that lie as [out, in]."""
    if not isinstance(network.head, Linear):  # int8 lies as it should
        return False
    if network.platform == "cpu":
        # Two to eight rows of float32 take a third longer so: XLA hands them to a library that wants [in, out].
        return n_rows == 1 or network.head.param_dtype == jnp.bfloat16
    has_kernels = network.blocks[0].attention.implementations.step == "pallas"
    fits = not network.config.bias and network.config.hidden_size % 8 == 0
    return has_kernels and fits and n_rows <= MAX_KERNEL_ROWS


def with_transposed_weights(network: BarkCausalModel) -> BarkCausalModel:
    """The network with a copy of every Linear's weights, all made by one program; it shares its other arrays."""
    network = nnx.clone(network)
    linears = list(_linears(network))
    copies = _transposed([linear.kernel[...] for linear in linears])
    for linear, weight_NK in zip(linears, copies, strict=True):
        linear.transposed = TransposedWeight(weight_NK)
    return network


@jax.jit
def _transposed(kernels: list[jax.Array]) -> list[jax.Array]:
    return [kernel_KN.T for kernel_KN in kernels]


def _linears(network: BarkCausalModel) -> Iterator[Linear]:
    for block in network.blocks:
        yield from (block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down)
    yield network.head
