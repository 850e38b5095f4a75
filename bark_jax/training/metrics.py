"""Metrics of a run: a JSON line a step, a progress bar, and a plot of the loss curves."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TextIO

METRICS_FILE = "metrics.jsonl"
PLOT_FILE = "loss.png"


class MetricsLog:
    """Appends to `metrics.jsonl`: {"step": 12, "loss": 3.4, ...} a step, {"step": 500, "eval_loss": 3.1} an evaluation.

    Resuming drops the lines after the checkpoint it resumes from, since those steps run again.

    Args:
      folder: run folder.
      step: the step to resume from; 0 for a new run.
      writes: False leaves the file to another process of the same run.
    """

    def __init__(self, folder: Path, step: int, *, writes: bool = True):
        self._file: TextIO | None = None
        if not writes:
            return
        self._path = folder / METRICS_FILE
        kept = [record for record in read_metrics(folder) if record["step"] <= step]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(map(_line, kept)), encoding="utf-8")
        os.replace(partial, self._path)
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes one line for each record and flushes, so that the file can be followed."""
        if self._file is not None:
            self._file.write("".join(map(_line, records)))
            # Not synced: a kill loses nothing that was flushed, a power cut may lose lines.
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _line(record: Mapping[str, Any]) -> str:
    # The loss of a skipped step may be NaN. Python writes and reads it as NaN, which strict parsers of JSON refuse.
    return json.dumps(record) + "\n"


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads the records of a run folder, oldest first. Drops a last line without an end, which a kill has cut short."""
    path = Path(folder, METRICS_FILE)
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


class Bar:
    """Progress bar with steps, loss and rate, on stderr; shows nothing if stderr is no terminal."""

    def __init__(self, n_steps: int, done: int, *, is_visible: bool):
        self._bar = None
        if is_visible and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=n_steps, initial=done, unit="step", dynamic_ncols=True)

    def advance(self, record: Mapping[str, Any]) -> None:
        """Moves the bar to the step of a metrics record and shows its loss."""
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{record.get('loss', float('nan')):.4f}", refresh=False)
            self._bar.update(record["step"] - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def plot_losses(folder: str | os.PathLike) -> Path:
    """Plots a run's training and held-out loss over its steps into `loss.png`; returns the path. Needs matplotlib."""
    from bark_jax.audio.plots import NotebookFigure, save_figure

    records = read_metrics(folder)
    figure = NotebookFigure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for name, style in (("loss", {"linewidth": 0.8, "alpha": 0.7}), ("eval_loss", {"marker": "o", "markersize": 3})):
        points = [(record["step"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, **style)
            axes.legend()
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    path = Path(folder, PLOT_FILE)
    save_figure(figure, path)
    return path
