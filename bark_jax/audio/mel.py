"""Mel filters and the mel scale, on which equal distances sound like equal steps of pitch."""

import numpy as np


def mel_filters(sample_rate: int, window: int, n_mels: int) -> np.ndarray:
    """Returns triangular mel filters, float64 [n_mels, window // 2 + 1], to multiply with a power spectrum.

    Filters are evenly spaced in mel from 0 Hz to half the sample rate, and 1 at the middle. A filter that is narrower
    than the spacing of the Fourier frequencies can fall between two of them and be 0 everywhere.

    Args:
      sample_rate: audio samples per second.
      window: audio samples of a Fourier transform.
      n_mels: number of filters.

    Source: The HTK Book (Young et al., 2006), 5.6 "Filterbank Analysis".
    """
    edges_hz = from_mel(np.linspace(0, to_mel(sample_rate / 2), n_mels + 2))
    low_M1, middle_M1, high_M1 = (edges_hz[i : i + n_mels, None] for i in range(3))
    hz_1F = np.fft.rfftfreq(window, 1 / sample_rate)[None]
    rising_MF, falling_MF = (hz_1F - low_M1) / (middle_M1 - low_M1), (high_M1 - hz_1F) / (high_M1 - middle_M1)
    return np.maximum(0, np.minimum(rising_MF, falling_MF))


def to_mel(hz: float | np.ndarray) -> float | np.ndarray:
    """Converts Hz to mel; scalars, or arrays of any shape."""
    return 2595 * np.log10(1 + hz / 700)


def from_mel(mel: float | np.ndarray) -> float | np.ndarray:
    """Converts mel to Hz; scalars, or arrays of any shape."""
    return 700 * (10 ** (mel / 2595) - 1)
