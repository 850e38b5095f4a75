"""Figures of audio, with matplotlib.

Import it inside functions: matplotlib is optional, and without it the import raises UnsupportedError.
"""

import io
import os

import numpy as np

from bark_jax.audio.mel import mel_filters, to_mel
from bark_jax.errors import InputError, UnsupportedError, quoted
from bark_jax.files import as_path, atomic_file, output_errors

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise UnsupportedError("plots need matplotlib: pip install 'bark-jax[plot]' or pip install matplotlib") from error

WINDOW = 1024  # audio samples of one column of the spectrogram: 43 ms of Bark's
N_MELS = 80
MAX_COLUMNS = 2000  # of waveform and spectrogram; more than a figure is pixels wide
FLOOR_DB = -80.0  # least energy drawn, relative to the loudest


class NotebookFigure(Figure):
    """A figure that Jupyter shows by itself, without pyplot, whose global state would keep it in memory."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def plot_audio(samples: np.ndarray, sample_rate: int) -> Figure:
    """Draws the waveform above the mel spectrogram, over seconds. Channels are averaged.

    Args:
      samples: audio samples, float32 [A] or [A, channels]; A may be 0.
      sample_rate: audio samples per second.
    """
    mono_A = samples if samples.ndim == 1 else samples.mean(axis=1)
    duration_s = max(len(mono_A), 1) / sample_rate
    figure = NotebookFigure(figsize=(9, 5), layout="constrained")
    wave, mel = figure.subplots(2, 1, sharex=True)
    low_K, high_K = envelope(mono_A)
    wave.fill_between(np.linspace(0, duration_s, len(low_K)), low_K, high_K, linewidth=0.5, color="tab:blue")
    wave.set(ylabel="amplitude", ylim=(-1.05, 1.05), xlim=(0, duration_s))
    image = mel.imshow(
        mel_spectrogram(mono_A, sample_rate), origin="lower", aspect="auto", extent=(0, duration_s, 0, N_MELS)
    )
    ticks_hz = [hz for hz in (0, 500, 1000, 2000, 4000, 8000, 16000) if hz <= sample_rate / 2]
    mel.set_yticks(to_mel(np.array(ticks_hz)) / to_mel(sample_rate / 2) * N_MELS, [str(hz) for hz in ticks_hz])
    mel.set(xlabel="seconds", ylabel="Hz, mel scale")
    figure.colorbar(image, ax=mel, label="dB below the loudest")
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure atomically, at 150 dots per inch; the path's ending is the format.

    Raises:
      InputError: an ending that matplotlib does not know, or a folder that does not exist.
      OutputError: the disk is full, or the path is not writable.
    """
    path = as_path(path, "the figure's file")
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise InputError(
            f"{quoted(str(path))} ends in {quoted(path.suffix)}, expected one of .{', .'.join(sorted(known))}"
        )
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} of {str(path)!r} does not exist; create it first")
    with output_errors(path), atomic_file(path) as file:
        figure.savefig(file, dpi=150, format=path.suffix.lower().removeprefix("."))


def envelope(samples_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the minimum and the maximum sample, [K] each, of K <= MAX_COLUMNS equal parts of the audio.

    Audio without samples has one part, of 0.
    """
    if not len(samples_A):
        samples_A = np.zeros(1, np.float32)
    # reduceat needs rising indices: where two are equal, it returns one sample instead of the extreme of a range.
    starts_K = np.unique(np.linspace(0, len(samples_A), min(len(samples_A), MAX_COLUMNS), endpoint=False).astype(int))
    return np.minimum.reduceat(samples_A, starts_K), np.maximum.reduceat(samples_A, starts_K)


def mel_spectrogram(samples_A: np.ndarray, sample_rate: int) -> np.ndarray:
    """Returns energy in dB relative to the loudest, FLOOR_DB to 0, [N_MELS, K] with K <= MAX_COLUMNS."""
    padded = np.pad(samples_A, (WINDOW // 2, WINDOW))
    # A hop grows with the audio, so an hour takes no more columns, and no more memory for `frames_KW`, than 21 s.
    hop = max(WINDOW // 4, -(-len(samples_A) // MAX_COLUMNS))
    starts_K = np.arange(0, max(len(samples_A), 1), hop)
    frames_KW = padded[starts_K[:, None] + np.arange(WINDOW)[None]] * np.hanning(WINDOW)[None]
    power_KF = np.abs(np.fft.rfft(frames_KW, axis=1)) ** 2
    mel_MK = mel_filters(sample_rate, WINDOW, N_MELS) @ power_KF.T
    decibels_MK = 10 * np.log10(np.maximum(mel_MK, 1e-10))
    loudest = max(decibels_MK.max(), 0.0)  # 0 dB at least, so that near-silence stays dark; a full-scale tone has 48 dB
    return np.maximum(decibels_MK - loudest, FLOOR_DB)
