"""The Linear layers of Bark's transformers, and the form of their products that a CPU computes fast in bfloat16.

XLA on a CPU makes float32 copies of both sides of a bfloat16 product, unless the result is asked for in float32 and
there are at least two rows; then it multiplies the numbers as they lie.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

MIN_BFLOAT16_ROWS = 4  # of a bfloat16 product on a CPU; two do, but made a step of one row 8 % slower on an AMD EPYC


class AnyLinear(Protocol):
    """What networks need of a Linear, however its weights lie: `Linear` and `int8.Int8Linear`."""

    in_features: int
    out_features: int
    param_dtype: jnp.dtype  # of activations
    platform: str

    @property
    def sequence_dtype(self) -> jnp.dtype:
        """That whole sequences of its results are multiplied in."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, in], which is a decoding step, or [B, T, in] -> the same with out."""

    def part(self, x: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """`size` output features from `start` on, in float32; of a layer without bias."""

    def features(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """What computes `size` output features from `start` on, in float32; of a layer without bias."""


class TransposedWeight(nnx.Variable):
    """A copy of a kernel [in, out] as [out, in]: what makes one output lies side by side. See `networks.layout`."""


class Linear(nnx.Module):
    """A Linear of one of Bark's transformers, with weights [in, out] and, where it was laid out so, a copy [out, in].

    Decoding steps read the copy, whole sequences do not.

    Args:
      deviation: of the normal distribution that the weights are drawn from.
      dtype: of parameters and result.
      platform: whose products it makes.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        use_bias: bool,
        deviation: float,
        dtype: jnp.dtype,
        platform: str,
        rngs: nnx.Rngs,
    ):
        self.in_features, self.out_features = n_in, n_out
        self.param_dtype, self.platform = dtype, platform
        self.kernel = nnx.Param(nnx.initializers.normal(deviation)(rngs.params(), (n_in, n_out), dtype))
        self.transposed: TransposedWeight | None = nnx.data(None)
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (n_out,), dtype)) if use_bias else None

    @property
    def sequence_dtype(self) -> jnp.dtype:
        return self.param_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.transposed is not None and x.ndim == 2:
            y = multiply(x, self.transposed[...], 1, self.platform)
        else:
            y = multiply(x.astype(self.param_dtype), self.kernel[...].astype(self.param_dtype), 0, self.platform)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

    def part(self, x: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        return self._features(start, size)(x)

    def features(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        return self._features(start, size)

    def _features(self, start: int, size: int | None) -> Callable[[jax.Array], jax.Array]:
        taken = slice(start, None if size is None else start + size)
        if self.transposed is None:
            kernel_KN = self.kernel[...][:, taken]
            return lambda x: multiply(x, kernel_KN, 0, self.platform, jnp.float32)
        weight_NK = self.transposed[...][taken]
        return lambda x: multiply(x, weight_NK, 1, self.platform, jnp.float32)


def multiply(x: jax.Array, weight: jax.Array, axis: int, platform: str, dtype: jnp.dtype | None = None) -> jax.Array:
    """Sums over the last axis of x and `axis` of a weight [in, out] or [out, in]: [..., out].

    Args:
      platform: that the product is made on.
      dtype: of the result; that of x if None.
    """
    dtype = dtype or x.dtype
    if platform != "cpu" or not x.dtype == weight.dtype == jnp.bfloat16:
        dimension_numbers = (((x.ndim - 1,), (axis,)), ((), ()))
        return jax.lax.dot_general(x, weight, dimension_numbers, preferred_element_type=dtype)
    x_MK = x.reshape(-1, x.shape[-1])
    x_RK = jnp.pad(x_MK, ((0, max(0, MIN_BFLOAT16_ROWS - len(x_MK))), (0, 0)))
    y_RN = jax.lax.dot_general(x_RK, weight, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
    return y_RN[: len(x_MK)].reshape(*x.shape[:-1], -1).astype(dtype)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, as Linux tells; other systems are taken to have none."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
