"""Linear layers with weights of eight bits.

Each output feature has a scale, and its weights are whole multiples of it, -127 to 127. That is a quarter of float32's
bytes, which is what a decoding step on a CPU waits for, and CPUs multiply such numbers several times as fast.

In a step an activation keeps about 15 bits: it is cut into a coarse and a fine part of eight bits each, which pass the
same weights side by side. Sums of such products are exact whatever their order.

Whole sequences are bound by arithmetic instead, and no product is faster there than one in bfloat16 where the CPU has
instructions for it: the weights are exact in it, and activations keep eight bits. Other CPUs make the weights float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.networks.linear import Linear, multiplies_bfloat16, multiply

MAX_INT8 = 127
MAX_ROWS_WEIGHTS_FIRST = 16  # up to which XLA's product is faster with the weights first
PARTS = 2 * MAX_INT8  # a fine part's unit is this fraction of a coarse one's


class Int8Linear(nnx.Module):
    """What takes the place of a `Linear`: int8 weights [out, in], and a float32 scale [out]."""

    def __init__(self, linear: Linear):
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.param_dtype, self.platform = linear.param_dtype, linear.platform  # the dtype of activations
        weight_NK, scale_N = rounded(linear.kernel[...])
        self.weight, self.scale, self.bias = nnx.Param(weight_NK), nnx.Param(scale_N), linear.bias

    @property
    def sequence_dtype(self) -> jnp.dtype:
        """That whole sequences are multiplied in, its results too."""
        return sequence_dtype(self.param_dtype, self.platform)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, in] or [B, T, in] -> the same with out, in the dtype of x."""
        return self._features(0, None)(x).astype(x.dtype)

    def features(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """What computes `size` output features from `start` on, in float32."""
        return self._features(start, size)

    def part(self, x: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """These features of x."""
        return self._features(start, size)(x)

    def _features(self, start: int, size: int | None) -> Callable[[jax.Array], jax.Array]:
        taken = slice(start, None if size is None else start + size)
        bias_N = None if self.bias is None else self.bias[taken]
        weight_NK, scale_N = self.weight[taken], self.scale[taken]
        return functools.partial(_linear, weight_NK=weight_NK, scale_N=scale_N, bias_N=bias_N, platform=self.platform)


def quantize(network: nnx.Module) -> None:
    """Puts an `Int8Linear` in the place of each Linear of a transformer. Embeddings, norms and tied heads stay."""
    for block in network.blocks:
        for module, names in ((block.attention, ("qkv", "out")), (block.mlp, ("up", "down"))):
            for name in names:
                setattr(module, name, Int8Linear(getattr(module, name)))
    if hasattr(network, "head"):
        network.head = Int8Linear(network.head)


def is_quantized(network: nnx.Module) -> bool:
    return hasattr(network, "blocks") and isinstance(network.blocks[0].mlp.up, Int8Linear)


@jax.jit
def rounded(kernel_KN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A kernel as int8 weights [N, K], and the scale [N] to multiply what comes of them with."""
    weight_NK = kernel_KN.T.astype(jnp.float32)
    scale_N1 = _scale(weight_NK)
    return jnp.round(weight_NK / scale_N1).astype(jnp.int8), scale_N1[:, 0]


def _scale(x_MK: jax.Array) -> jax.Array:
    """[M, 1], what is 1 in the multiples of each row; of a row of zeros any number."""
    return jnp.maximum(jnp.max(jnp.abs(x_MK), axis=1, keepdims=True) / MAX_INT8, jnp.finfo(jnp.float32).tiny)


def sequence_dtype(dtype: jnp.dtype, platform: str) -> jnp.dtype:
    """Of what whole sequences are multiplied in, where activations have this dtype."""
    return jnp.dtype(jnp.bfloat16 if platform == "cpu" and multiplies_bfloat16() else dtype)


def _linear(
    x: jax.Array, weight_NK: jax.Array, scale_N: jax.Array, bias_N: jax.Array | None, platform: str
) -> jax.Array:
    x_MK = x.reshape(-1, x.shape[-1])
    is_step = x.ndim == 2 or x.shape[1] == 1  # not by the number of rows: a row reads alike in any company
    if is_step and platform == "cpu":
        y_MN = _multiply_in_parts(x_MK, weight_NK)
    else:
        y_MN = _multiply(x_MK, weight_NK, platform)
    y_MN = y_MN * scale_N[None]
    if bias_N is not None:
        y_MN = y_MN + bias_N.astype(jnp.float32)[None]
    return y_MN.reshape(*x.shape[:-1], len(scale_N))


def _multiply(x_MK: jax.Array, weight_NK: jax.Array, platform: str) -> jax.Array:
    dtype = sequence_dtype(x_MK.dtype, platform)
    return multiply(x_MK.astype(dtype), weight_NK.astype(dtype), 1, platform, jnp.float32)


def _multiply_in_parts(x_MK: jax.Array, weight_NK: jax.Array) -> jax.Array:
    x_MK = x_MK.astype(jnp.float32)
    scale_M1 = _scale(x_MK)
    coarse_MK = jnp.round(x_MK / scale_M1)
    fine_MK = jnp.round((x_MK / scale_M1 - coarse_MK) * PARTS)
    # Also why there are two parts: with one row XLA makes a loop that is thirty times as slow.
    parts = jnp.concatenate([coarse_MK, fine_MK]).astype(jnp.int8)
    if len(x_MK) <= MAX_ROWS_WEIGHTS_FIRST:
        y_MN = _joined(_sums(weight_NK, parts), axis=1).T
    else:
        y_MN = _joined(_sums(parts, weight_NK), axis=0)
    return y_MN * scale_M1


def _sums(x_MK: jax.Array, y_NK: jax.Array) -> jax.Array:
    return jax.lax.dot_general(x_MK, y_NK, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)


def _joined(sums: jax.Array, axis: int) -> jax.Array:
    coarse, fine = jnp.split(sums.astype(jnp.float32), 2, axis)
    return coarse + fine * (1 / PARTS)
