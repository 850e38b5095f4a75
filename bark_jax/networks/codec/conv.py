"""Convolutions over time, channels last, with the padding and the normalisation that EnCodec gives them.

The functions take arrays; the modules hold the weights and choose the padding. Weight normalisation is not seen here: a
kernel is the effective weight.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bark_jax.config import EncodecConfig
from bark_jax.networks.codec.layer import Layer, zero_beyond

GROUP_NORM_EPSILON = 1e-5  # torch.nn.GroupNorm's default


def convolve(x_BTC: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Cross-correlates x_BTC with kernel [k, in, out], as torch's Conv1d does, where the kernel fits whole.

    Returns [B, (T - (k - 1) * dilation - 1) // stride + 1, out].
    """
    return lax.conv_general_dilated(
        x_BTC,
        kernel,
        window_strides=(stride,),
        padding="VALID",
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def convolve_transposed(x_BTC: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Spreads each position over k samples, the next position `stride` samples later, as torch's ConvTranspose1d does.

    kernel [k, in, out] is not flipped: kernel[p] is what a position adds to the sample p after its first. With stride 2
    and k = 4:

        y[0] = x[0] @ kernel[0]
        y[1] = x[0] @ kernel[1]
        y[2] = x[0] @ kernel[2] + x[1] @ kernel[0]
        y[3] = x[0] @ kernel[3] + x[1] @ kernel[1]

    `stride` neighbouring samples read the same positions, so this is a plain convolution with ceil(k / stride) taps and
    stride * out channels. That spares the zeros between positions that a dilated input would multiply.

    Returns [B, (T - 1) * stride + k, out].
    """
    B, T, _ = x_BTC.shape
    k, n_in, n_out = kernel.shape
    taps = math.ceil(k / stride)
    kernel = jnp.pad(kernel, ((0, taps * stride - k), (0, 0), (0, 0))).reshape(taps, stride, n_in, n_out)
    kernel = kernel[::-1].transpose(0, 2, 1, 3).reshape(taps, n_in, stride * n_out)
    y_BTC = convolve(_pad(x_BTC, taps - 1, taps - 1), kernel)
    return y_BTC.reshape(B, -1, n_out)[:, : (T - 1) * stride + k]


def pad_time(x_BTC: jax.Array, left: int, right: int, mode: str) -> jax.Array:
    """Pads the time axis with zeros (mode "constant") or with the signal mirrored at its ends (mode "reflect").

    Mirroring n positions takes n + 1 of them. A shorter signal is first extended with zeros, which the end loses again:
    [1, 2] padded by 3 on the left is [0, 0, 2, 1, 2].

    Source: transformers, models/encodec/modeling_encodec.py, `EncodecConv1d._pad1d`.
    """
    if mode == "constant":
        return _pad(x_BTC, left, right)
    missing = max(0, max(left, right) + 1 - x_BTC.shape[1])
    mirrored_BTC = _pad(_pad(x_BTC, 0, missing), left, right, mode="reflect")
    return mirrored_BTC[:, : mirrored_BTC.shape[1] - missing]


def _pad(x_BTC: jax.Array, left: int, right: int, mode: str = "constant") -> jax.Array:
    return x_BTC if left == right == 0 else jnp.pad(x_BTC, ((0, 0), (left, right), (0, 0)), mode=mode)


def group_norm(x_BTC: jax.Array, scale_C: jax.Array, bias_C: jax.Array) -> jax.Array:
    """Normalises each row by the mean and variance of all its positions and channels: GroupNorm of one group."""
    x = x_BTC.astype(jnp.float32)
    mean = x.mean(axis=(1, 2), keepdims=True)
    variance = jnp.square(x - mean).mean(axis=(1, 2), keepdims=True)
    normal_BTC = (x - mean) * lax.rsqrt(variance + GROUP_NORM_EPSILON)
    return (normal_BTC * scale_C[None, None] + bias_C[None, None]).astype(x_BTC.dtype)


class ConvWeights(nnx.Module):
    """kernel [k, in, out] and bias [out] of a convolution, plain or transposed."""

    def __init__(self, shape: tuple[int, int, int], *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, dtype))
        self.bias = nnx.Param(jnp.zeros(shape[-1], dtype))


class TimeGroupNorm(nnx.Module):
    """scale and bias, [C] each, of `group_norm`."""

    def __init__(self, channels: int, *, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones(channels, dtype))
        self.bias = nnx.Param(jnp.zeros(channels, dtype))

    def __call__(self, x_BTC: jax.Array) -> jax.Array:
        return group_norm(x_BTC, self.scale[...], self.bias[...])


def _norm(config: EncodecConfig, channels: int, dtype: jnp.dtype) -> TimeGroupNorm | None:
    return TimeGroupNorm(channels, dtype=dtype) if config.norm_type == "time_group_norm" else None


class Conv(Layer):
    """A convolution that gives ceil(T / stride) positions for T.

    All its padding comes before the signal where the codec is causal, else half of it; what the last stride lacks comes
    after.
    """

    def __init__(
        self,
        config: EncodecConfig,
        n_in: int,
        n_out: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.dilation = dilation
        padding = (kernel_size - 1) * dilation + 1 - stride
        self.right = 0 if config.use_causal_conv else padding // 2
        self.left = padding - self.right
        self.pad_mode = config.pad_mode
        self.min_start = self.left + 1 if config.pad_mode == "reflect" else 1
        self.conv = ConvWeights((kernel_size, n_in, n_out), dtype=dtype, rngs=rngs)
        self.norm = _norm(config, n_out, dtype)
        self.is_causal = self.right == 0 and self.norm is None

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        lacking = -x_BTC.shape[1] % self.stride
        return self._convolve(pad_time(zero_beyond(x_BTC, lengths_B), self.left, self.right + lacking, self.pad_mode))

    def init_state(self, batch: int) -> jax.Array:
        """The last `left` positions that went in, as x_BTC."""
        kernel = self.conv.kernel[...]
        return jnp.zeros((batch, self.left, kernel.shape[1]), kernel.dtype)

    def step(self, x_BTC: jax.Array, state: jax.Array, started: bool) -> tuple[jax.Array, jax.Array]:
        left_BTC = state if started else pad_time(x_BTC, self.left, 0, self.pad_mode)[:, : self.left]
        window_BTC = jnp.concatenate([left_BTC, x_BTC], axis=1)
        return self._convolve(window_BTC), window_BTC[:, x_BTC.shape[1] :]

    def _convolve(self, padded_BTC: jax.Array) -> jax.Array:
        y_BTC = convolve(padded_BTC, self.conv.kernel[...], stride=self.stride, dilation=self.dilation)
        y_BTC = y_BTC + self.conv.bias[...][None, None]
        return y_BTC if self.norm is None else self.norm(y_BTC)


class TransposedConv(Layer):
    """A transposed convolution that gives T * stride samples for T positions.

    It makes k - stride samples more, of which trim_right_ratio are cut off at the end where the codec is causal, else
    half, and the rest at the start.
    """

    def __init__(
        self,
        config: EncodecConfig,
        n_in: int,
        n_out: int,
        kernel_size: int,
        *,
        stride: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.upsampling = stride
        surplus = kernel_size - stride
        right = math.ceil(surplus * config.trim_right_ratio) if config.use_causal_conv else surplus // 2
        self.left = surplus - right
        self.taps = math.ceil(kernel_size / stride)
        self.conv = ConvWeights((kernel_size, n_in, n_out), dtype=dtype, rngs=rngs)
        self.norm = _norm(config, n_out, dtype)
        self.is_causal = self.left == 0 and self.norm is None

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        # normalised before it is cut, as the statistics are those of all samples
        return self._spread(zero_beyond(x_BTC, lengths_B))[:, self.left :][:, : x_BTC.shape[1] * self.upsampling]

    def init_state(self, batch: int) -> jax.Array:
        """The last positions that went in and whose samples are not complete, as x_BTC."""
        kernel = self.conv.kernel[...]
        return jnp.zeros((batch, self.taps - 1, kernel.shape[1]), kernel.dtype)

    def step(self, x_BTC: jax.Array, state: jax.Array, started: bool) -> tuple[jax.Array, jax.Array]:
        window_BTC = jnp.concatenate([state, x_BTC], axis=1)
        first = (self.taps - 1) * self.upsampling
        y_BTC = self._spread(window_BTC)[:, first : first + x_BTC.shape[1] * self.upsampling]
        return y_BTC, window_BTC[:, x_BTC.shape[1] :]

    def _spread(self, x_BTC: jax.Array) -> jax.Array:
        y_BTC = convolve_transposed(x_BTC, self.conv.kernel[...], stride=self.upsampling)
        y_BTC = y_BTC + self.conv.bias[...][None, None]
        return y_BTC if self.norm is None else self.norm(y_BTC)
