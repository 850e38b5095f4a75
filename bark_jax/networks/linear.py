"""The Linear layers of Bark's transformers, and the form of their products that a CPU computes fast in bfloat16.

XLA on a CPU makes float32 copies of both sides of a bfloat16 product, unless the result is asked for in float32 and
there are at least two rows; then it multiplies the numbers as they lie.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import BarkSubModelConfig
from bark_jax.networks.platform import backend

FEWEST_ROWS = 4  # of a bfloat16 product on a CPU; two do, but made a step of one row 8 % slower on an AMD EPYC


def make_linear(config: BarkSubModelConfig, n_in: int, n_out: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """A Linear of one of Bark's transformers, drawn as torch's Bark draws it."""
    return nnx.Linear(
        n_in,
        n_out,
        use_bias=config.bias,
        dtype=dtype,
        param_dtype=dtype,
        kernel_init=nnx.initializers.normal(config.initializer_range),
        dot_general=_dot_general,
        rngs=rngs,
    )


class TransposedLinear(nnx.Module):
    """What takes the place of an `nnx.Linear`, with weights [out, in]: what makes one output lies side by side."""

    def __init__(self, linear: nnx.Linear):
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.param_dtype = linear.param_dtype
        # The barrier keeps XLA from folding the transpose into the product, which would undo it.
        self.weight = nnx.Param(jax.lax.optimization_barrier(linear.kernel[...].T))
        self.bias = linear.bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out], in the dtype of x."""
        y = multiply(x, self.weight[...], 1).astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))

    def features(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """What computes `size` output features from `start` on, in float32; of a layer without bias."""
        weight_NK = self.weight[start : None if size is None else start + size]
        return lambda x: multiply(x, weight_NK, 1, jnp.float32)


def transpose_weights(network: nnx.Module) -> nnx.Module:
    """The causal network with a `TransposedLinear`, and so a copy of the weights, in the place of each Linear."""
    network = nnx.clone(network)
    for block in network.blocks:
        for module, names in ((block.attention, ("qkv", "out")), (block.mlp, ("up", "down"))):
            for name in names:
                setattr(module, name, TransposedLinear(getattr(module, name)))
    network.head = TransposedLinear(network.head)
    return network


def multiply(x: jax.Array, weight: jax.Array, axis: int, dtype: jnp.dtype | None = None) -> jax.Array:
    """Sums over the last axis of x and `axis` of a weight [in, out] or [out, in]: [..., out].

    Args:
      dtype: of the result; that of x if None.
    """
    dtype = dtype or x.dtype
    if not _is_bfloat16_on_cpu(x, weight):
        dimension_numbers = (((x.ndim - 1,), (axis,)), ((), ()))
        return jax.lax.dot_general(x, weight, dimension_numbers, preferred_element_type=dtype)
    x_MK = x.reshape(-1, x.shape[-1])
    x_RK = jnp.pad(x_MK, ((0, max(0, FEWEST_ROWS - len(x_MK))), (0, 0)))
    y_RN = jax.lax.dot_general(x_RK, weight, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
    return y_RN[: len(x_MK)].reshape(*x.shape[:-1], -1).astype(dtype)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, as Linux tells; other systems are taken to have none."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def _dot_general(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    """`jax.lax.dot_general` as `nnx.Linear` calls it."""
    if _is_bfloat16_on_cpu(x, kernel):
        return multiply(x, kernel, 0)
    return jax.lax.dot_general(x, kernel, dimension_numbers, **options)


def _is_bfloat16_on_cpu(x: jax.Array, weight: jax.Array) -> bool:
    return backend() == "cpu" and x.dtype == weight.dtype == jnp.bfloat16
