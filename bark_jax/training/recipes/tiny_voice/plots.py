"""Mel spectrograms of the voice beside those of flite, the synthesiser that it learnt from."""

import itertools
import os
from collections.abc import Sequence

import numpy as np

from bark_jax.audio.plots import N_MELS, NotebookFigure, mel_spectrogram, save_figure


def plot_samples(rows: Sequence[Sequence[tuple[str, np.ndarray]]], sample_rate: int, path: str | os.PathLike) -> None:
    """Plots a grid of mel spectrograms on a common time axis.

    Args:
      rows: of (title, mono samples, float32 [A]); all rows have the same number of columns.
      sample_rate: in Hz.
      path: the image file to write.
    """
    longest_s = max(len(samples) for row in rows for _, samples in row) / sample_rate
    figure = NotebookFigure(figsize=(4.5 * len(rows[0]), 1.7 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]))
    for axes, (title, samples) in zip(grid.flat, itertools.chain(*rows), strict=True):
        duration_s = len(samples) / sample_rate
        axes.imshow(
            mel_spectrogram(samples, sample_rate), origin="lower", aspect="auto", extent=(0, duration_s, 0, N_MELS)
        )
        axes.set(xlim=(0, longest_s), yticks=[])
        axes.set_title(title, fontsize=8)
    save_figure(figure, path)
