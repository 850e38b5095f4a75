"""The mel scale: frequencies as far apart as they sound."""

import numpy as np


def mel_filters(sample_rate: int, window: int, n_mels: int) -> np.ndarray:
    """Triangles over the frequencies of a Fourier transform of `window` samples, [n_mels, window // 2 + 1].

    They are evenly spaced in mel from 0 to half the sample rate, each 1 at its middle. One that is narrower than the
    spacing of the frequencies can fall between two of them and be 0 everywhere.

    Source: The HTK Book (Young et al., 2006), 5.6 "Filterbank Analysis".
    """
    edges_hz = from_mel(np.linspace(0, to_mel(sample_rate / 2), n_mels + 2))
    low_M1, middle_M1, high_M1 = (edges_hz[i : i + n_mels, None] for i in range(3))
    hz_1F = np.fft.rfftfreq(window, 1 / sample_rate)[None]
    rising_MF, falling_MF = (hz_1F - low_M1) / (middle_M1 - low_M1), (high_M1 - hz_1F) / (high_M1 - middle_M1)
    return np.maximum(0, np.minimum(rising_MF, falling_MF))


def to_mel(hz: float | np.ndarray) -> float | np.ndarray:
    return 2595 * np.log10(1 + hz / 700)


def from_mel(mel: float | np.ndarray) -> float | np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)
