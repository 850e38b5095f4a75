"""The second layout of a causal network's weights, [out, in], from which some decoding steps read faster.

Parameters have the layout [in, out]: checkpoints, training, LoRA merges, sharding and whole sequences use it. A
decoding step is a matrix-vector product, limited by memory bandwidth, and reads one output's weights at a time, which
[out, in] makes contiguous.

The copy is not part of the network's state. `for_decoding` makes it at first need, between compiled calls, since a copy
made inside a stage's program would be made again at every call, and keeps it as long as the network lives. It doubles
the memory of the Linear layers; `decoding_copy=False` of `from_pretrained` does without.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.kept import KeptCopies
from bark_jax.networks.linear import Linear, TransposedWeight

MAX_KERNEL_ROWS = 2  # rows up to which the GPU kernels multiply faster than XLA; see benchmarks/RESULTS.md


_copies = KeptCopies()


def for_decoding(network: BarkCausalModel, n_rows: int) -> BarkCausalModel:
    """Returns the network in the layout that decoding `n_rows` rows reads fastest: itself, or with transposed weights.

    Drivers call it between compiled calls; it must not be traced. The copy is made again where parameters have been
    replaced since, which their identity reveals: JAX arrays are immutable.
    """
    if not network.keeps_copy or not is_faster_transposed(network, n_rows):
        return network
    return _copies.get(network, lambda: with_transposed_weights(network))


def copy_bytes(network: nnx.Module) -> int:
    """Bytes of a network's transposed copy; 0 where there is none, or none yet."""
    copy = _copies.find(network)
    return 0 if copy is None else sum(linear.transposed[...].nbytes for linear in _linears(copy))


def is_faster_transposed(network: BarkCausalModel, n_rows: int) -> bool:
    """Whether decoding steps of n_rows rows are faster with weights in the layout [out, in]."""
    if not isinstance(network.head, Linear):  # Int8Linear stores [out, in] already
        return False
    if network.platform == "cpu":
        # With [out, in] two to eight float32 rows take 16 to 40 % longer (benchmarks/RESULTS.md): XLA passes them to a
        # library made for [in, out].
        return n_rows == 1 or network.head.param_dtype == jnp.bfloat16
    has_kernels = network.blocks[0].attention.implementations.step == "pallas"
    # `pallas_decode.linear` adds no bias, and rounds D up to whole programs of up to 8 output features.
    fits = not network.config.bias and network.config.hidden_size % 8 == 0
    return has_kernels and fits and n_rows <= MAX_KERNEL_ROWS


def with_transposed_weights(network: BarkCausalModel) -> BarkCausalModel:
    """Returns a clone with a copy [out, in] of every Linear's weights, made by one program; other arrays are shared."""
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
