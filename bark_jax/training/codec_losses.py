"""Reconstruction losses of the codec: multi-scale mel and STFT differences, and the difference of the waveforms.

A scale is a short-time Fourier transform (STFT) of one window length, with a hop of a quarter of the window, scaled so
that white noise of standard deviation 1 has magnitudes around 1 at every window length. Each loss is [B] for audio
[B, A], one number a row, so that a batch can be split over devices in any way. All are 0 for equal audio, and their
gradients are finite at silence.

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

# Added to magnitudes, so that quiet parts count little. LOG_FLOOR, -60 dB, inside logarithms. LOUDNESS_FLOOR, -40 dB,
# in the denominator of relative errors: without it a silent row would outweigh the rest of the batch.
LOG_FLOOR, LOUDNESS_FLOOR = 1e-3, 1e-2
# Powers of two, so that sqrt(floor**2) - floor is exactly 0 in float32.
_MAGNITUDE_FLOOR, _DISTANCE_FLOOR = 2.0**-15, 2.0**-13


@dataclasses.dataclass(frozen=True)
class ReconstructionWeights:
    """Scales and weights of the reconstruction loss.

    Args:
      scales: (window in audio samples, number of mel bands) of each magnitude spectrogram.
      log_mel: weight of the absolute difference of log-mel spectrograms, in nats, averaged over the scales.
      mel: weight of the absolute difference of mel spectrograms, averaged over the scales.
      log_stft: weight of the absolute difference of log-magnitude STFTs, in nats, averaged over the scales.
      complex_windows: windows, in audio samples, of the complex STFTs, which compare phases too.
      complex_stft: weight of their distance, relative to the row's mean magnitude, averaged over the windows.
      waveform: weight of the absolute difference of audio samples.

    Raises:
      InputError: a window is no multiple of 4, scales or complex_windows is empty, or a weight is negative.
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
        """Minimum length of audio, in samples: reflect padding by half the longest window needs one more than that."""
        return max(*(window for window, _ in self.scales), *self.complex_windows) // 2 + 1


def check_window(window: Any) -> None:
    """Raises InputError unless the window is a whole number of samples and a multiple of 4: its hop is a quarter."""
    if not is_integer(window, 1) or window % 4:
        raise InputError(f"a window is {window!r}, expected a whole number of samples, a multiple of 4")


def reconstruction_loss(
    audio_BA: jax.Array, true_BA: jax.Array, sample_rate: int, weights: ReconstructionWeights
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of all losses, float32 [B], and the unweighted losses by name, float32 [B] each.

    The names are those of the weights: log_mel, mel, log_stft, complex_stft, waveform.

    Args:
      audio_BA, true_BA: decoded and original audio, about -1..1, A >= weights.min_samples.
      sample_rate: in Hz.
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
    """log_mel, mel and log_stft of one scale, float32 [B] each: mean absolute differences."""
    filters_MF = mel_filters(sample_rate, window, n_mels)
    # Short windows leave low mel bands narrower than a frequency bin: their filters are all zero and are dropped.
    filters_FM = jnp.asarray(filters_MF[filters_MF.any(axis=1)].T, jnp.float32)
    found_BTF, true_BTF = magnitude(stft(audio_BA, window)), magnitude(stft(true_BA, window))
    found_BTM, true_BTM = found_BTF @ filters_FM, true_BTF @ filters_FM
    return {
        "log_mel": _mean_distance(_log(found_BTM), _log(true_BTM)),
        "mel": _mean_distance(found_BTM, true_BTM),
        "log_stft": _mean_distance(_log(found_BTF), _log(true_BTF)),
    }


def complex_loss(audio_BA: jax.Array, true_BA: jax.Array, window: int) -> jax.Array:
    """Mean distance of the complex STFTs, relative to the mean magnitude of the true one, [B]."""
    found_BTF, true_BTF = stft(audio_BA, window), stft(true_BA, window)
    distance_B = (magnitude(found_BTF - true_BTF, _DISTANCE_FLOOR) - _DISTANCE_FLOOR).mean(axis=(1, 2))
    return distance_B / (magnitude(true_BTF).mean(axis=(1, 2)) + LOUDNESS_FLOOR)


def stft(audio_BA: jax.Array, window: int) -> jax.Array:
    """The STFT, complex64 [B, A // hop + 1, window // 2 + 1], hop = window // 4: windows are centred on every hop.

    A periodic Hann window, scaled so that its squares sum to 1. The ends are padded by reflection, so A must be at
    least window // 2 + 1.
    """
    hop = window // 4
    n_windows = audio_BA.shape[1] // hop + 1
    padded_BA = jnp.pad(audio_BA, ((0, 0), (window // 2, window // 2)), mode="reflect")
    # A window is 4 consecutive hops. Joining 4 shifted slices of hops is faster than gathering samples by index.
    hops_BTH = padded_BA[:, : (n_windows + 3) * hop].reshape(len(audio_BA), n_windows + 3, hop)
    windows_BTW = jnp.concatenate([hops_BTH[:, i : i + n_windows] for i in range(4)], axis=2)
    # Periodic: divided by the window's length. numpy.hanning divides by one less, and its hops do not add up evenly.
    hann_W = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    # The squares sum to 3/8 of the window, 384 at 1,024. Division by the root gives noise equal magnitudes everywhere.
    scaled_W = jnp.asarray(hann_W / np.sqrt(np.square(hann_W).sum()), jnp.float32)
    return jnp.fft.rfft(windows_BTW * scaled_W[None, None])


def magnitude(spectrum: jax.Array, floor: float = _MAGNITUDE_FLOOR) -> jax.Array:
    """sqrt(|spectrum|^2 + floor^2), of the shape of `spectrum`: the gradient of |spectrum| alone is infinite at 0."""
    return jnp.sqrt(jnp.square(spectrum.real) + jnp.square(spectrum.imag) + floor**2)


def _log(magnitudes: jax.Array) -> jax.Array:
    return jnp.log(magnitudes + LOG_FLOOR)


def _mean_distance(found_BTX: jax.Array, true_BTX: jax.Array) -> jax.Array:
    # JAX's gradient of abs is 0 at 0, so equal spectra do not pull in either direction.
    return jnp.abs(found_BTX - true_BTX).mean(axis=(1, 2))


def _mean(losses: list[jax.Array]) -> jax.Array:
    return sum(losses) / len(losses)
