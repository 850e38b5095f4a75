"""How far decoded audio is from the true one: in what is heard, on several scales of time, and in the samples.

A scale is a Fourier transform of windows of so many samples, a quarter of a window apart; its magnitudes are scaled so
that white noise of deviation 1 has magnitudes around 1 on every scale. Each loss is of one row, [B] of audio [B, A], so
that the rows of a batch can be cut in any way. All of them are 0 for equal audio and have gradients at silence.

Source: the mixture of losses is that of Défossez et al., High Fidelity Neural Audio Compression,
https://arxiv.org/abs/2210.13438, 3.4 "Training objective", with logarithms of the magnitudes and a complex term added.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.audio.mel import mel_filters
from bark_jax.errors import InputError
from bark_jax.training.checks import check_weight, is_integer

# What is quieter counts little: -60 dB of full scale in logarithms, and -40 dB as the loudness that errors are relative
# to, so that a row of silence does not drown the others.
LOG_FLOOR, LOUDNESS_FLOOR = 1e-3, 1e-2
# Powers of two, so that their squares and roots are exact and cancel.
_MAGNITUDE_FLOOR, _DISTANCE_FLOOR = 2.0**-15, 2.0**-13


@dataclasses.dataclass(frozen=True)
class ReconstructionWeights:
    """What each difference counts.

    Args:
      scales: (window in samples, mel bands) of the magnitudes.
      log_mel, mel: of the mel bands, in nats and as they are; means over the scales.
      log_stft: of the single frequencies, in nats; a mean over the scales.
      complex_windows: windows of the complex spectra, whose phases count too.
      complex_stft: of these spectra, relative to the row's mean magnitude; a mean over the windows.
      waveform: of the samples.
    """

    scales: tuple[tuple[int, int], ...] = ((2048, 80), (1024, 64), (512, 40), (256, 20))
    log_mel: float = 1.0
    mel: float = 1.0
    log_stft: float = 0.3
    complex_windows: tuple[int, ...] = (1024, 256)
    complex_stft: float = 1.0
    waveform: float = 0.1

    def __post_init__(self):
        for window in (*(window for window, _ in self.scales), *self.complex_windows):
            check_window(window)
        if not self.scales or not self.complex_windows or not all(is_integer(n_mels, 1) for _, n_mels in self.scales):
            raise InputError(
                f"scales is {self.scales!r} and complex_windows {self.complex_windows!r}, expected one or more pairs "
                "of a window and its mel bands, and one or more windows"
            )
        for name in ("log_mel", "mel", "log_stft", "complex_stft", "waveform"):
            check_weight(name, getattr(self, name))

    @property
    def min_samples(self) -> int:
        """The fewest samples of audio whose ends can be mirrored for every window."""
        return max(*(window for window, _ in self.scales), *self.complex_windows) // 2 + 1


def check_window(window: Any) -> None:
    if not is_integer(window, 1) or window % 4:
        raise InputError(f"a window is {window!r}, expected a whole number of samples, a multiple of 4")


def reconstruction_loss(
    audio_BA: jax.Array, true_BA: jax.Array, sample_rate: int, weights: ReconstructionWeights
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of a row's losses [B], and the losses by the name of their weight, [B] each; float32.

    Args:
      audio_BA, true_BA: about -1..1, weights.min_samples or more.
    """
    audio_BA, true_BA = audio_BA.astype(jnp.float32), true_BA.astype(jnp.float32)
    scales = [magnitude_losses(audio_BA, true_BA, sample_rate, *scale) for scale in weights.scales]
    losses = {name: _mean([scale[name] for scale in scales]) for name in scales[0]}
    losses["complex_stft"] = _mean([complex_loss(audio_BA, true_BA, window) for window in weights.complex_windows])
    losses["waveform"] = jnp.abs(audio_BA - true_BA).mean(axis=1)
    return sum(getattr(weights, name) * loss_B for name, loss_B in losses.items()), losses


def magnitude_losses(
    audio_BA: jax.Array, true_BA: jax.Array, sample_rate: int, window: int, n_mels: int
) -> dict[str, jax.Array]:
    """log_mel, mel and log_stft of one scale, [B] each: mean absolute differences."""
    filters_MF = mel_filters(sample_rate, window, n_mels)
    filters_FM = jnp.asarray(filters_MF[filters_MF.any(axis=1)].T, jnp.float32)  # bands between two frequencies go
    found_BTF, true_BTF = magnitude(stft(audio_BA, window)), magnitude(stft(true_BA, window))
    found_BTM, true_BTM = found_BTF @ filters_FM, true_BTF @ filters_FM
    return {
        "log_mel": _mean_distance(_log(found_BTM), _log(true_BTM)),
        "mel": _mean_distance(found_BTM, true_BTM),
        "log_stft": _mean_distance(_log(found_BTF), _log(true_BTF)),
    }


def complex_loss(audio_BA: jax.Array, true_BA: jax.Array, window: int) -> jax.Array:
    """[B]: the mean distance of complex spectra, relative to the mean magnitude of the true one."""
    found_BTF, true_BTF = stft(audio_BA, window), stft(true_BA, window)
    distance_B = (magnitude(found_BTF - true_BTF, _DISTANCE_FLOOR) - _DISTANCE_FLOOR).mean(axis=(1, 2))
    return distance_B / (magnitude(true_BTF).mean(axis=(1, 2)) + LOUDNESS_FLOOR)


def stft(audio_BA: jax.Array, window: int) -> jax.Array:
    """The spectra of windows centred on every window / 4 samples: complex64 [B, A // (window / 4) + 1, window / 2 + 1].

    The ends are mirrored, so A is at least window / 2 + 1. A periodic Hann window whose squares sum to 1.
    """
    hop = window // 4
    n_windows = audio_BA.shape[1] // hop + 1
    padded_BA = jnp.pad(audio_BA, ((0, 0), (window // 2, window // 2)), mode="reflect")
    # Each window is 4 hops side by side: reshaped and joined, which is faster than to gather samples.
    hops_BTH = padded_BA[:, : (n_windows + 3) * hop].reshape(len(audio_BA), n_windows + 3, hop)
    windows_BTW = jnp.concatenate([hops_BTH[:, i : i + n_windows] for i in range(4)], axis=2)
    hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    scaled_W = jnp.asarray(hann_W / np.sqrt(np.square(hann_W).sum()), jnp.float32)
    return jnp.fft.rfft(windows_BTW * scaled_W[None, None])


def magnitude(spectrum: jax.Array, floor: float = _MAGNITUDE_FLOOR) -> jax.Array:
    """|spectrum|, rounded off below `floor`, where the gradient of a root would have no bound."""
    return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + floor**2)


def _log(magnitudes: jax.Array) -> jax.Array:
    return jnp.log(magnitudes + LOG_FLOOR)


def _mean_distance(found_BTX: jax.Array, true_BTX: jax.Array) -> jax.Array:
    return jnp.abs(found_BTX - true_BTX).mean(axis=(1, 2))


def _mean(losses: list[jax.Array]) -> jax.Array:
    return sum(losses) / len(losses)
