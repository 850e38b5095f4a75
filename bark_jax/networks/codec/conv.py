"""Convolutions over time, channels last, with the padding and the normalisation that EnCodec gives them.

The functions take arrays; the modules hold the weights and choose the padding. Weight normalisation is folded into the
kernels when a checkpoint is converted: a kernel here is the effective weight. torch has [B, C, T] and kernels
[out, in, k]; here they are [B, T, C] and [k, in, out].
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
    """Cross-correlates x_BTC with kernel [k, in, out], as torch's Conv1d does, without padding.

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
    """Normalises each row of x [B, T, C] by the mean and variance over T and C together: GroupNorm of one group.

    Statistics are float32, the result has x's dtype. They depend on all positions, the later ones too, so a codec with
    this norm is not causal and takes no padding.
    """
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
    """A convolution of T positions to ceil(T / stride).

    It pads (k - 1) * dilation + 1 - stride positions: all before the signal where the codec is causal
    (use_causal_conv), else half before and half after. A last stride that is not full is padded after the signal.

        k = 7, stride 1               6 before: an output reads its own position and the 6 earlier ones
        k = 16, stride 8, T = 100     8 before, 4 after, as 100 = 12 * 8 + 4: 13 positions
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
        self.min_start = self.left + 1 if config.pad_mode == "reflect" else 1  # mirroring n positions takes n + 1
        self.conv = ConvWeights((kernel_size, n_in, n_out), dtype=dtype, rngs=rngs)
        self.norm = _norm(config, n_out, dtype)
        self.is_causal = self.right == 0 and self.norm is None

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        """x [B, T, in] to [B, ceil(T / stride), out]."""
        lacking = -x_BTC.shape[1] % self.stride
        return self._convolve(pad_time(zero_beyond(x_BTC, lengths_B), self.left, self.right + lacking, self.pad_mode))

    def init_state(self, batch: int) -> jax.Array:
        """State [B, left, in]: the last `left` positions of the input. Zeros at first, and not read then."""
        kernel = self.conv.kernel[...]
        return jnp.zeros((batch, self.left, kernel.shape[1]), kernel.dtype)

    def step(self, x_BTC: jax.Array, state: jax.Array, started: bool) -> tuple[jax.Array, jax.Array]:
        """The next piece of a signal: x [B, T, in], T a multiple of stride, to ([B, T / stride, out], state).

        The first piece is padded on the left as the start of the signal; later ones read the state instead.
        """
        left_BTC = state if started else pad_time(x_BTC, self.left, 0, self.pad_mode)[:, : self.left]
        window_BTC = jnp.concatenate([left_BTC, x_BTC], axis=1)
        return self._convolve(window_BTC), window_BTC[:, x_BTC.shape[1] :]

    def _convolve(self, padded_BTC: jax.Array) -> jax.Array:
        y_BTC = convolve(padded_BTC, self.conv.kernel[...], stride=self.stride, dilation=self.dilation)
        y_BTC = y_BTC + self.conv.bias[...][None, None]
        return y_BTC if self.norm is None else self.norm(y_BTC)


class TransposedConv(Layer):
    """A transposed convolution of T positions to T * stride samples.

    The full result has k - stride samples more. They are trimmed: where the codec is causal, trim_right_ratio of them
    at the end (all, in EnCodec's causal model), else half, and the rest at the start.

        k = 16, stride 8, T = 10, trim_right_ratio 1     88 samples, the last 8 cut off: 80
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
        """x [B, T, in] to [B, T * stride, out]."""
        # Normalised before trimming: the statistics are over all samples, as in torch.
        return self._spread(zero_beyond(x_BTC, lengths_B))[:, self.left :][:, : x_BTC.shape[1] * self.upsampling]

    def init_state(self, batch: int) -> jax.Array:
        """State [B, ceil(k / stride) - 1, in]: the last positions of the input, which later samples read too. Zeros."""
        kernel = self.conv.kernel[...]
        return jnp.zeros((batch, self.taps - 1, kernel.shape[1]), kernel.dtype)

    def step(self, x_BTC: jax.Array, state: jax.Array, started: bool) -> tuple[jax.Array, jax.Array]:
        """The next piece of a signal: x [B, T, in] to ([B, T * stride, out], state).

        The earlier positions of the state are spread again, and their first samples, which were given before, cut off.
        Zeros before the signal add nothing, so the first piece needs no case of its own.
        """
        window_BTC = jnp.concatenate([state, x_BTC], axis=1)
        first = (self.taps - 1) * self.upsampling
        y_BTC = self._spread(window_BTC)[:, first : first + x_BTC.shape[1] * self.upsampling]
        return y_BTC, window_BTC[:, x_BTC.shape[1] :]

    def _spread(self, x_BTC: jax.Array) -> jax.Array:
        y_BTC = convolve_transposed(x_BTC, self.conv.kernel[...], stride=self.upsampling)
        y_BTC = y_BTC + self.conv.bias[...][None, None]
        return y_BTC if self.norm is None else self.norm(y_BTC)
