"""A discriminator of audio that learns to tell the codec's from the true, so that the codec learns what gives it away.

For each of a few windows it looks at the complex spectrum as at a picture, [time, frequency], with a few convolutions,
and scores every place of it: above 0 for true. Losses are of one row, [B].

Source: Défossez et al., High Fidelity Neural Audio Compression, https://arxiv.org/abs/2210.13438, 3.4 "Discriminative
Loss", with fewer channels and windows. The spectrum is compressed first: in speech most of it is a thousandth of the
loudest, and that part is where blurred audio shows.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from bark_jax.errors import InputError
from bark_jax.training.checks import check_integer, check_weight
from bark_jax.training.codec_losses import check_window, stft
from bark_jax.training.optimizer import OptimizerSettings

# Little momentum, as what there is to tell changes with the codec; no decay, as the length of a kernel means nothing.
OPTIMIZER = OptimizerSettings(
    learning_rate=5e-4, warmup_steps=50, final_share=0.2, weight_decay=0.0, beta1=0.5, beta2=0.9, clip_norm=10.0
)
COMPRESSION = 0.3  # exponent of the magnitudes
SLOPE = 0.2  # of the leaky ReLU below 0
KEEPS_DEVIATION = (2 / (1 + SLOPE**2)) ** 0.5  # gain of a convolution before that, as He et al. (2015)
TIME_DILATIONS = (1, 1, 2, 4)  # of the first convolutions, each of which halves the frequencies
_FLOOR = 2.0**-10  # a magnitude below which compression ends, so that silence has a gradient


@dataclasses.dataclass(frozen=True)
class DiscriminatorSettings:
    """Which discriminator there is, from when, and what it counts.

    Args:
      from_step: steps of the codec without it.
      windows: of its spectra, in samples.
      channels: of its convolutions.
      adversarial: weight of its scores in the codec's loss.
      feature_matching: weight of the difference between what its layers make of the two.
      optimizer: its own; it learns from the step on that the codec does from it.
    """

    from_step: int = 0
    windows: tuple[int, ...] = (1024, 512, 256)
    channels: int = 16
    adversarial: float = 0.1
    feature_matching: float = 0.4
    optimizer: OptimizerSettings = OPTIMIZER

    def __post_init__(self):
        for name, least in (("from_step", 0), ("channels", 1)):
            check_integer(f"discriminator {name}", getattr(self, name), least)
        if not self.windows:
            raise InputError("discriminator windows is empty, expected one window or more")
        for window in self.windows:
            check_window(window)
        for name in ("adversarial", "feature_matching"):
            check_weight(name, getattr(self, name))

    @property
    def min_samples(self) -> int:
        """The fewest samples of audio whose ends can be mirrored for every window."""
        return max(self.windows) // 2 + 1


class DiscriminatorOutput(NamedTuple):
    """What one window shows. T and F are the times and frequencies of the layer."""

    score_BTF: jax.Array
    features_BTFC: tuple[jax.Array, ...]  # a layer each


class SpectrumConv(nnx.Module):
    """A convolution over time and frequency, whose kernels have the length that `scale` says.

    So a step changes either what a kernel answers to or how loudly, and training does not run away.
    """

    def __init__(
        self,
        size: tuple[int, int],
        n_in: int,
        n_out: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        gain: float = 1.0,
        rng: np.random.Generator,
    ):
        self.stride, self.dilation = stride, dilation
        self.kernel = nnx.Param(jnp.asarray(rng.standard_normal((*size, n_in, n_out)), jnp.float32))
        self.scale = nnx.Param(jnp.full(n_out, gain))
        self.bias = nnx.Param(jnp.zeros(n_out))

    def __call__(self, x_BTFC: jax.Array) -> jax.Array:
        kernel, scale_C, bias_C = self.kernel[...], self.scale[...], self.bias[...]
        length = jnp.sqrt(jnp.square(kernel).sum(axis=(0, 1, 2), keepdims=True))
        n_times, n_frequencies = ((size - 1) // 2 for size in kernel.shape[:2])
        y_BTFC = lax.conv_general_dilated(
            x_BTFC,
            kernel / length * scale_C[None, None, None],
            window_strides=(1, self.stride),
            padding=((n_times * self.dilation,) * 2, (n_frequencies,) * 2),
            rhs_dilation=(self.dilation, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y_BTFC + bias_C[None, None, None]


class WindowDiscriminator(nnx.Module):
    """The discriminator of one window."""

    def __init__(self, window: int, channels: int, *, rng: np.random.Generator):
        self.window = window
        made = {"gain": KEEPS_DEVIATION, "rng": rng}
        layers = [
            SpectrumConv((3, 9), channels if i else 2, channels, stride=2, dilation=dilation, **made)
            for i, dilation in enumerate(TIME_DILATIONS)
        ]
        layers += [SpectrumConv((3, 3), channels, channels, **made)]
        self.layers = nnx.List(layers)
        self.score = SpectrumConv((3, 3), channels, 1, rng=rng)

    def __call__(self, audio_BA: jax.Array) -> DiscriminatorOutput:
        x_BTFC, features = compress(stft(audio_BA, self.window)), []
        for layer in self.layers:
            x_BTFC = jax.nn.leaky_relu(layer(x_BTFC), SLOPE)
            features.append(x_BTFC)
        return DiscriminatorOutput(self.score(x_BTFC)[..., 0], tuple(features))


class Discriminator(nnx.Module):
    """A discriminator a window. Its kernels are drawn on the host: to compile their draws would take seconds."""

    def __init__(self, settings: DiscriminatorSettings, *, seed: int):
        rng = np.random.default_rng(seed)
        self.discriminators = nnx.List(
            [WindowDiscriminator(window, settings.channels, rng=rng) for window in settings.windows]
        )

    def __call__(self, audio_BA: jax.Array) -> tuple[DiscriminatorOutput, ...]:
        """audio_BA: float32, about -1..1, settings.min_samples or more."""
        return tuple(discriminator(audio_BA) for discriminator in self.discriminators)


def compress(spectrum_BTF: jax.Array) -> jax.Array:
    """Real and imaginary parts as two channels, [B, T, F, 2], of the magnitude to the power of COMPRESSION."""
    parts_BTFC = jnp.stack([spectrum_BTF.real, spectrum_BTF.imag], axis=-1)
    squares_BTF1 = jnp.square(parts_BTFC).sum(axis=-1, keepdims=True) + _FLOOR**2
    return parts_BTFC * squares_BTF1 ** ((COMPRESSION - 1) / 2)


def discriminator_loss(true: tuple[DiscriminatorOutput, ...], decoded: tuple[DiscriminatorOutput, ...]) -> jax.Array:
    """The discriminator's hinge loss, [B]: 2 where it knows nothing, 0 where true scores exceed 1 and others -1."""
    hinges = [
        jax.nn.relu(1 - a.score_BTF).mean(axis=(1, 2)) + jax.nn.relu(1 + b.score_BTF).mean(axis=(1, 2))
        for a, b in zip(true, decoded, strict=True)
    ]
    return sum(hinges) / len(hinges)


def adversarial_loss(decoded: tuple[DiscriminatorOutput, ...]) -> jax.Array:
    """[B]: less the better the discriminator likes it."""
    return -sum(output.score_BTF.mean(axis=(1, 2)) for output in decoded) / len(decoded)


def feature_loss(true: tuple[DiscriminatorOutput, ...], decoded: tuple[DiscriminatorOutput, ...]) -> jax.Array:
    """[B]: the mean difference of the layers, relative to the mean size of what they make of true audio."""
    pairs = [
        (jax.lax.stop_gradient(a_BTFC), b_BTFC)
        for a, b in zip(true, decoded, strict=True)
        for a_BTFC, b_BTFC in zip(a.features_BTFC, b.features_BTFC, strict=True)
    ]
    axes = (1, 2, 3)
    return sum(jnp.abs(a - b).mean(axis=axes) / (jnp.abs(a).mean(axis=axes) + 1e-2) for a, b in pairs) / len(pairs)
