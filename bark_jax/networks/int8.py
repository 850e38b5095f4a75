"""Linear layers with int8 weights: weight-only quantisation, symmetric, one scale for each output feature.

A weight is scale * q with q an integer in [-127, 127]; embeddings, norms and biases keep their dtype. int8 is a quarter
of float32's bytes, and memory bandwidth is what limits a decoding step on a CPU; CPUs also multiply int8 several times
as fast.

Decoding steps on a CPU multiply int8 by int8 with int32 sums. One int8 activation would lose too much, so each is split
into a coarse and a fine int8 part, about 15 bits together, which pass the same weights in one product:

    x = step * (coarse + fine / 254)    step = max|x| / 127 of the row, coarse in [-127, 127], fine in [-127, 127]

    x / step = 42.4   ->   coarse 42, fine round(0.4 * 254) = 102, read back as 42.4016

Integer sums are exact whatever their order, so a row's result does not depend on the batch.

Whole sequences are limited by arithmetic instead. Where the CPU has bfloat16 instructions no product is faster than one
in bfloat16, which holds every int8 weight exactly and 8 significant bits of an activation. Other CPUs convert the
weights to float32, accelerators to the dtype of the activations, in steps too.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.networks.linear import Linear, multiplies_bfloat16, multiply

MAX_INT8 = 127  # not 128: the range is symmetric
MAX_ROWS_WEIGHTS_FIRST = 16  # up to so many rows XLA's int8 product is faster with the weights as its left operand
PARTS = 2 * MAX_INT8  # fine units in one coarse unit: the rounding error, -0.5 to 0.5, becomes -127 to 127


class Int8Linear(nnx.Module):
    """A quantised `Linear`: weight int8 [out, in], scale float32 [out], and the Linear's bias [out] or None.

    The layout is [out, in], as one output's weights are read together; there is no second copy.
    """

    def __init__(self, linear: Linear):
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.param_dtype, self.platform = linear.param_dtype, linear.platform  # the dtype of activations
        weight_NK, scale_N = rounded(linear.kernel[...])
        self.weight, self.scale, self.bias = nnx.Param(weight_NK), nnx.Param(scale_N), linear.bias

    @property
    def sequence_dtype(self) -> jnp.dtype:
        """Dtype in which whole sequences are multiplied, by this layer and by the attention that reads its results."""
        return sequence_dtype(self.param_dtype, self.platform)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x [B, in] or [B, T, in] to [B, out] or [B, T, out], in the dtype of x."""
        return self._features(0, None)(x).astype(x.dtype)

    def features(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """Returns the function x [..., in] -> float32 [..., size] of `part`, its weights sliced already."""
        return self._features(start, size)

    def part(self, x: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """Output features `start` to `start + size` of x [..., in], with bias: float32 [..., size]."""
        return self._features(start, size)(x)

    def _features(self, start: int, size: int | None) -> Callable[[jax.Array], jax.Array]:
        taken = slice(start, None if size is None else start + size)
        bias_N = None if self.bias is None else self.bias[taken]
        weight_NK, scale_N = self.weight[taken], self.scale[taken]
        return functools.partial(_linear, weight_NK=weight_NK, scale_N=scale_N, bias_N=bias_N, platform=self.platform)


def quantize(network: nnx.Module) -> None:
    """Replaces each Linear of a transformer, in place, by an `Int8Linear`. Embeddings, norms and tied heads stay."""
    for block in network.blocks:
        # Embedding tables would gain nothing: a step reads one row of them, and a whole matrix of each Linear.
        for module, names in ((block.attention, ("qkv", "out")), (block.mlp, ("up", "down"))):
            for name in names:
                setattr(module, name, Int8Linear(getattr(module, name)))
    if hasattr(network, "head"):
        network.head = Int8Linear(network.head)


def is_quantized(network: nnx.Module) -> bool:
    """Whether it is a transformer with int8 weights; False for a codec."""
    return hasattr(network, "blocks") and isinstance(network.blocks[0].mlp.up, Int8Linear)


@jax.jit
def rounded(kernel_KN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Quantises a kernel [K, N]: int8 weights [N, K] and the float32 scale [N] of each output feature.

        [[0.5, 3.0],         [[ 32, 127],
         [2.0, 1.0]]   ->     [127,  42]], [2 / 127, 3 / 127]

    The second output feature has the weights 3 and 1: 3 is 127 steps of 3 / 127, and 1 is 42.3, rounded to 42.
    """
    weight_NK = kernel_KN.T.astype(jnp.float32)
    scale_N1 = _scale(weight_NK)
    return jnp.round(weight_NK / scale_N1).astype(jnp.int8), scale_N1[:, 0]


def _scale(x_MK: jax.Array) -> jax.Array:
    """Quantisation step of each row of x [M, K], float32 [M, 1]: its largest magnitude / 127.

    A row of zeros gets the smallest normal number, so that dividing by the step gives 0 and not NaN.
    """
    return jnp.maximum(jnp.max(jnp.abs(x_MK), axis=1, keepdims=True) / MAX_INT8, jnp.finfo(jnp.float32).tiny)


def sequence_dtype(dtype: jnp.dtype, platform: str) -> jnp.dtype:
    """Dtype in which whole sequences are multiplied, given the activations' dtype; see the module's docstring."""
    return jnp.dtype(jnp.bfloat16 if platform == "cpu" and multiplies_bfloat16() else dtype)


def _linear(
    x: jax.Array, weight_NK: jax.Array, scale_N: jax.Array, bias_N: jax.Array | None, platform: str
) -> jax.Array:
    x_MK = x.reshape(-1, x.shape[-1])
    # By the axes, never by the number of rows: the batch must not choose the arithmetic that a row gets.
    is_step = x.ndim == 2 or x.shape[1] == 1
    if is_step and platform == "cpu":
        y_MN = _multiply_in_parts(x_MK, weight_NK)
    else:
        y_MN = _multiply(x_MK, weight_NK, platform)
    # Scales come after the product: each is constant along the sum, so it need not multiply every weight.
    y_MN = y_MN * scale_N[None]
    if bias_N is not None:
        y_MN = y_MN + bias_N.astype(jnp.float32)[None]
    return y_MN.reshape(*x.shape[:-1], len(scale_N))


def _multiply(x_MK: jax.Array, weight_NK: jax.Array, platform: str) -> jax.Array:
    dtype = sequence_dtype(x_MK.dtype, platform)
    return multiply(x_MK.astype(dtype), weight_NK.astype(dtype), 1, platform, jnp.float32)


def _multiply_in_parts(x_MK: jax.Array, weight_NK: jax.Array) -> jax.Array:
    x_MK = x_MK.astype(jnp.float32)
    # Integers cannot hold NaN, so it has to survive in the scale: NaN or infinity in a row makes its scale NaN or
    # infinite, and the product with it below is not finite either. `runner.require_finite` relies on that.
    scale_M1 = _scale(x_MK)
    coarse_MK = jnp.round(x_MK / scale_M1)
    fine_MK = jnp.round((x_MK / scale_M1 - coarse_MK) * PARTS)
    # One product of 2 * M rows. That also avoids a product of a single row, for which XLA:CPU emits a loop that is
    # thirty times as slow.
    parts = jnp.concatenate([coarse_MK, fine_MK]).astype(jnp.int8)
    if len(x_MK) <= MAX_ROWS_WEIGHTS_FIRST:
        y_MN = _joined(_sums(weight_NK, parts), axis=1).T
    else:
        y_MN = _joined(_sums(parts, weight_NK), axis=0)
    return y_MN * scale_M1


def _sums(x_MK: jax.Array, y_NK: jax.Array) -> jax.Array:
    # int32 suffices: the 4,096 inputs of Bark's widest layer sum to at most 4,096 * 127 * 127 = 66 million.
    return jax.lax.dot_general(x_MK, y_NK, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)


def _joined(sums: jax.Array, axis: int) -> jax.Array:
    # float32 is exact to 2**24 = 16.8 million; larger sums are rounded by 2**-24 of themselves, far less than the
    # 2**-15 that the two parts resolve of an activation.
    coarse, fine = jnp.split(sums.astype(jnp.float32), 2, axis)
    return coarse + fine * (1 / PARTS)
