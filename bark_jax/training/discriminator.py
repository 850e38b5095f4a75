"""Multi-scale STFT discriminator (MS-STFT) for adversarial training of the codec, with hinge and feature-matching loss.

For each of a few window lengths, 2-D convolutions over time and frequency read the complex STFT and score every
position: above 0 for original audio, below 0 for decoded. Losses are [B], one number a row.

Source: Défossez et al., High Fidelity Neural Audio Compression, https://arxiv.org/abs/2210.13438, 3.4 "Discriminative
Loss", with fewer channels and windows, and with compressed magnitudes: most of a speech spectrum has a thousandth of
the peak's magnitude, and there the artefacts of a codec are.
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

# Low beta1: the codec it is trained against changes. No weight decay: kernels are normalised, so it would do nothing
# but raise the effective learning rate.
OPTIMIZER = OptimizerSettings(
    learning_rate=5e-4, warmup_steps=50, final_share=0.2, weight_decay=0.0, beta1=0.5, beta2=0.9, clip_norm=10.0
)
COMPRESSION = 0.3  # exponent of the magnitudes
SLOPE = 0.2  # of the leaky ReLU below 0
KEEPS_DEVIATION = (2 / (1 + SLOPE**2)) ** 0.5  # initial gain of a convolution before a leaky ReLU, He et al. (2015)
TIME_DILATIONS = (1, 1, 2, 4)  # one a strided convolution, each of which halves the frequency axis
_FLOOR = 2.0**-10  # magnitude below which compression is linear, so that the gradient at silence is finite


@dataclasses.dataclass(frozen=True)
class DiscriminatorSettings:
    """Settings of the discriminator and of the codec's losses from it.

    Args:
      from_step: first step with the discriminator: its own training and the codec's losses from it start there.
      windows: STFT windows in audio samples, multiples of 4.
      channels: of every hidden convolution.
      adversarial: weight of the adversarial loss in the codec's loss.
      feature_matching: weight of the feature-matching loss in the codec's loss.
      optimizer: the discriminator's own; its schedule starts at from_step.

    Raises:
      InputError: a setting is out of range.
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
        """Minimum length of audio, in samples: reflect padding by half the longest window needs one more than that."""
        return max(self.windows) // 2 + 1


class DiscriminatorOutput(NamedTuple):
    """Output for one window length. F shrinks from layer to layer, so each array has its own."""

    score_BTF: jax.Array  # above 0 for original audio
    features_BTFC: tuple[jax.Array, ...]  # activations of each hidden layer, for feature matching


class SpectrumConv(nnx.Module):
    """2-D convolution over time and frequency with weight normalisation: a kernel's direction and norm are separate.

    A kernel is normalised to length 1 and multiplied by `scale`, which keeps adversarial training stable.
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
    """Discriminator of one window length."""

    def __init__(self, window: int, channels: int, *, rng: np.random.Generator):
        self.window = window
        # At window 1,024 the strides leave 513, 257, 129, 65 and 33 frequencies. A score sees 1 + 2 * (1 + 1 + 2 + 4) +
        # 2 + 2 = 21 windows, 6,144 samples: a quarter of a second.
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
    """A WindowDiscriminator for each window. Kernels are drawn by numpy: compiling their draws would take seconds."""

    def __init__(self, settings: DiscriminatorSettings, *, seed: int):
        rng = np.random.default_rng(seed)
        self.discriminators = nnx.List(
            [WindowDiscriminator(window, settings.channels, rng=rng) for window in settings.windows]
        )

    def __call__(self, audio_BA: jax.Array) -> tuple[DiscriminatorOutput, ...]:
        """Scores audio_BA, float32, about -1..1, A >= settings.min_samples: one output for each window."""
        return tuple(discriminator(audio_BA) for discriminator in self.discriminators)


def compress(spectrum_BTF: jax.Array) -> jax.Array:
    """Raises magnitudes to the power COMPRESSION and keeps phases: float32 [B, T, F, 2], real and imaginary part."""
    parts_BTFC = jnp.stack([spectrum_BTF.real, spectrum_BTF.imag], axis=-1)
    squares_BTF1 = jnp.square(parts_BTFC).sum(axis=-1, keepdims=True) + _FLOOR**2
    # The factor is largest at silence: (2**-20)**-0.35 = 128.
    return parts_BTFC * squares_BTF1 ** ((COMPRESSION - 1) / 2)


def discriminator_loss(true: tuple[DiscriminatorOutput, ...], decoded: tuple[DiscriminatorOutput, ...]) -> jax.Array:
    """The discriminator's hinge loss, [B]: 2 at scores of 0; 0 where original audio scores > 1 and decoded < -1."""
    # A score beyond its margin of 1 has no gradient: a discriminator that wins stops there, and the codec can catch up.
    hinges = [
        jax.nn.relu(1 - a.score_BTF).mean(axis=(1, 2)) + jax.nn.relu(1 + b.score_BTF).mean(axis=(1, 2))
        for a, b in zip(true, decoded, strict=True)
    ]
    return sum(hinges) / len(hinges)


def adversarial_loss(decoded: tuple[DiscriminatorOutput, ...]) -> jax.Array:
    """The codec's adversarial loss, [B]: minus the mean score of decoded audio."""
    return -sum(output.score_BTF.mean(axis=(1, 2)) for output in decoded) / len(decoded)


def feature_loss(true: tuple[DiscriminatorOutput, ...], decoded: tuple[DiscriminatorOutput, ...]) -> jax.Array:
    """The feature-matching loss, [B]: mean absolute difference of activations, relative to those of original audio."""
    pairs = [
        (jax.lax.stop_gradient(a_BTFC), b_BTFC)
        for a, b in zip(true, decoded, strict=True)
        for a_BTFC, b_BTFC in zip(a.features_BTFC, b.features_BTFC, strict=True)
    ]
    axes = (1, 2, 3)
    return sum(jnp.abs(a - b).mean(axis=axes) / (jnp.abs(a).mean(axis=axes) + 1e-2) for a, b in pairs) / len(pairs)
