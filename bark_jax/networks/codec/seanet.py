"""EnCodec's encoder and decoder (SEANet): their layers, in order. A layer's index in `layers` is transformers' too.

In the 24 kHz codec, with upsampling_ratios 8, 5, 4, 2 (hop length 320) and 32 filters, positions a second x channels:

    encoder   24,000 x 1 -> 32 -> 12,000 x 64 -> 3,000 x 128 -> 600 x 256 -> 75 x 512 -> LSTM -> 75 x 128
    decoder   75 x 128 -> 75 x 512 -> LSTM -> 600 x 256 -> 3,000 x 128 -> 12,000 x 64 -> 24,000 x 32 -> 1
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import EncodecConfig
from bark_jax.networks.codec.conv import Conv, TransposedConv
from bark_jax.networks.codec.layer import Elu, Layer, step_through, zero_beyond
from bark_jax.networks.codec.lstm import SkipLstm


class ResidualBlock(Layer):
    """A residual block: two convolutions through fewer channels, added to the input.

    With use_conv_shortcut the sum takes a projection of the input, a convolution of width 1, instead.
    """

    def __init__(self, config: EncodecConfig, channels: int, dilation: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        narrow = channels // config.compress
        kernel_size = config.residual_kernel_size
        options = {"dtype": dtype, "rngs": rngs}
        self.block = nnx.List(
            [
                Elu(),
                Conv(config, channels, narrow, kernel_size, dilation=dilation, **options),
                Elu(),
                Conv(config, narrow, channels, 1, **options),
            ]
        )
        self.shortcut = Conv(config, channels, channels, 1, **options) if config.use_conv_shortcut else None
        self.min_start = max(layer.min_start for layer in self.block)
        self.is_causal = all(layer.is_causal for layer in self.block)

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        """x [B, T, C] to the same shape."""
        y_BTC = x_BTC
        for layer in self.block:
            y_BTC = layer(y_BTC, lengths_B)
        return self._skip(x_BTC) + y_BTC

    def init_state(self, batch: int) -> tuple[Any, ...]:
        """The states of its layers; the shortcut, of width 1, needs none."""
        return tuple(layer.init_state(batch) for layer in self.block)

    def step(self, x_BTC: jax.Array, state: tuple[Any, ...], started: bool) -> tuple[jax.Array, tuple[Any, ...]]:
        """The next piece of a signal: x [B, T, C] to (y [B, T, C], states)."""
        y_BTC, state = step_through(self.block, x_BTC, state, started)
        return self._skip(x_BTC) + y_BTC, state

    def _skip(self, x_BTC: jax.Array) -> jax.Array:
        return x_BTC if self.shortcut is None else self.shortcut(x_BTC)


class Encoder(nnx.Module):
    """Encoder: audio to one vector a frame. Channels double at each stride; strides are upsampling_ratios, reversed."""

    def __init__(self, config: EncodecConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        width = config.num_filters
        layers = [Conv(config, config.audio_channels, width, config.kernel_size, **options)]
        for ratio in reversed(config.upsampling_ratios):
            layers += _residual_blocks(config, width, **options)
            layers += [Elu(), Conv(config, width, 2 * width, 2 * ratio, stride=ratio, **options)]
            width *= 2
        layers += [SkipLstm(config, width, **options), Elu()]
        layers += [Conv(config, width, config.hidden_size, config.last_kernel_size, **options)]
        self.layers = nnx.List(layers)

    def __call__(self, audio_BAC: jax.Array) -> jax.Array:
        """audio [B, A, channels] to x [B, T, hidden_size] with T = ceil(A / hop_length)."""
        x_BTC = audio_BAC
        for layer in self.layers:
            x_BTC = layer(x_BTC)
        return x_BTC


class Decoder(nnx.Module):
    """Decoder: one vector a frame to audio. Channels halve at each stride."""

    def __init__(self, config: EncodecConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        width = config.num_filters * 2 ** len(config.upsampling_ratios)
        layers = [
            Conv(config, config.hidden_size, width, config.kernel_size, **options),
            SkipLstm(config, width, **options),
        ]
        for ratio in config.upsampling_ratios:
            layers += [Elu(), TransposedConv(config, width, width // 2, 2 * ratio, stride=ratio, **options)]
            width //= 2
            layers += _residual_blocks(config, width, **options)
        layers += [Elu(), Conv(config, width, config.audio_channels, config.last_kernel_size, **options)]
        self.layers = nnx.List(layers)

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        """x [B, T, hidden_size] to audio [B, T * hop_length, channels], zeros past lengths_B frames of a row."""
        for layer in self.layers:
            x_BTC = layer(x_BTC, lengths_B)
            lengths_B = None if lengths_B is None else lengths_B * layer.upsampling
        return zero_beyond(x_BTC, lengths_B)

    @property
    def min_first_frames(self) -> int:
        """Frames that the first `step` needs, so that each layer gets its min_start positions: 7 in the 24 kHz codec.

        That is the first convolution's: k = 7 mirrors 6 positions, which takes 7. Later layers have more positions a
        frame.
        """
        frames, positions_per_frame = 1, 1
        for layer in self.layers:
            frames = max(frames, math.ceil(layer.min_start / positions_per_frame))
            positions_per_frame *= layer.upsampling
        return frames

    @property
    def is_causal(self) -> bool:
        """Whether no sample depends on a later frame, so that `step` works."""
        return all(layer.is_causal for layer in self.layers)

    def init_state(self, batch: int) -> tuple[Any, ...]:
        """The states of all layers before the first frame."""
        return tuple(layer.init_state(batch) for layer in self.layers)

    def step(self, x_BTC: jax.Array, state: tuple[Any, ...], started: bool) -> tuple[jax.Array, tuple[Any, ...]]:
        """The next frames x [B, T, hidden_size] to (audio [B, T * hop_length, channels], states)."""
        return step_through(self.layers, x_BTC, state, started)


def _residual_blocks(config: EncodecConfig, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> list[ResidualBlock]:
    dilations = [config.dilation_growth_rate**i for i in range(config.num_residual_layers)]
    return [ResidualBlock(config, channels, dilation, dtype=dtype, rngs=rngs) for dilation in dilations]
