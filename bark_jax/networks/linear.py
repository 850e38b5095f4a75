"""The Linear layers of Bark's transformers, and the form of their products that a CPU computes fast in bfloat16.

XLA:CPU converts both operands of a bfloat16 product to float32 copies first, unless the result is requested in float32
and there are at least two rows; then it multiplies the bfloat16 numbers directly. `multiply` asks for that form.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx

# Rows that a bfloat16 product on a CPU is padded to. Two are enough for XLA's fast form, but with two a decoding step
# of one row took 8 % longer than with four on an AMD EPYC.
MIN_BFLOAT16_ROWS = 4


class AnyLinear(Protocol):
    """The interface of a Linear that networks use: `Linear`, and `int8.Int8Linear` with int8 weights."""

    in_features: int
    out_features: int
    param_dtype: jnp.dtype  # dtype of activations; int8 weights have their own
    platform: str

    @property
    def sequence_dtype(self) -> jnp.dtype:
        """Dtype in which the attention of whole sequences multiplies this layer's results."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, in], a decoding step, or [B, T, in] to [B, out] or [B, T, out]."""

    def part(self, x: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """Output features `start` to `start + size` of x [..., in], float32 [..., size]; for a layer without bias."""

    def features(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """Returns the function x [..., in] -> [..., size] of `part`, weights sliced; see `BarkCausalModel.head_of`."""


class TransposedWeight(nnx.Variable):
    """A copy of a kernel [in, out] in the layout [out, in]: one output's weights are contiguous. See `layout`."""


class Linear(nnx.Module):
    """A Linear layer with weights [in, out] and, where `layout` added it, a copy in the layout [out, in].

    Decoding steps (x of two axes) read the copy, whole sequences (three axes) the weights.

    Args:
      n_in, n_out: input and output features.
      use_bias: whether it adds a bias [out], zeros at first.
      deviation: standard deviation of the normal distribution that the weights are drawn from.
      dtype: dtype of parameters and result.
      platform: platform for which its products are traced; see `multiply`.
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
        # nnx.data, as nnx takes a plain None for static metadata and refuses to put a Variable there later.
        self.transposed: TransposedWeight | None = nnx.data(None)
        self.bias = nnx.Param(nnx.initializers.zeros(rngs.params(), (n_out,), dtype)) if use_bias else None

    @property
    def sequence_dtype(self) -> jnp.dtype:
        """Dtype in which attention multiplies this layer's results: that of the parameters."""
        return self.param_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, in] or [B, T, in] to [B, out] or [B, T, out], in param_dtype."""
        # By the axes, not by the number of rows: a sequence of one position multiplies the same weights as a long one,
        # and its bits do not depend on whether a copy has been made.
        if self.transposed is not None and x.ndim == 2:
            y = multiply(x, self.transposed[...], 1, self.platform)
        else:
            y = multiply(x.astype(self.param_dtype), self.kernel[...].astype(self.param_dtype), 0, self.platform)
        # Reshaped, as a caller may have set jax_numpy_rank_promotion="raise".
        return y if self.bias is None else y + self.bias[...].astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))

    def part(self, x: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """Output features `start` to `start + size` of x [..., in], without the bias: float32 [..., size]."""
        return self._features(start, size)(x)

    def features(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """Returns the function x [..., in] -> float32 [..., size] of `part`, its weights sliced already."""
        return self._features(start, size)

    def _features(self, start: int, size: int | None) -> Callable[[jax.Array], jax.Array]:
        taken = slice(start, None if size is None else start + size)
        if self.transposed is None:
            kernel_KN = self.kernel[...][:, taken]
            return lambda x: multiply(x, kernel_KN, 0, self.platform, jnp.float32)
        weight_NK = self.transposed[...][taken]
        return lambda x: multiply(x, weight_NK, 1, self.platform, jnp.float32)


def multiply(x: jax.Array, weight: jax.Array, axis: int, platform: str, dtype: jnp.dtype | None = None) -> jax.Array:
    """Matrix product of x [..., in] with a weight: [..., out].

    Args:
      weight: [in, out] with axis 0, or [out, in] with axis 1.
      axis: the weight's input axis, which is summed over.
      platform: platform for which the product is traced.
      dtype: dtype of the result, also of the sums on accelerators; x's if None.

    On a CPU a bfloat16 product is computed in float32 from at least MIN_BFLOAT16_ROWS rows and cast afterwards.
    """
    dtype = dtype or x.dtype
    if platform != "cpu" or not x.dtype == weight.dtype == jnp.bfloat16:
        dimension_numbers = (((x.ndim - 1,), (axis,)), ((), ()))
        return jax.lax.dot_general(x, weight, dimension_numbers, preferred_element_type=dtype)
    x_MK = x.reshape(-1, x.shape[-1])
    # max_dim, as the number of rows may be symbolic (`jax.export`); of integers it is `max`.
    x_RK = jnp.pad(x_MK, ((0, jax.core.max_dim(MIN_BFLOAT16_ROWS - x_MK.shape[0], 0)), (0, 0)))
    # Rows of zeros change no other row's sums; they only choose the form that XLA compiles.
    y_RN = jax.lax.dot_general(x_RK, weight, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)
    return y_RN[: x_MK.shape[0]].reshape(*x.shape[:-1], -1).astype(dtype)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions (avx512_bf16 in /proc/cpuinfo); False on systems other than Linux."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
