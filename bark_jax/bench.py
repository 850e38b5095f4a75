"""How fast a checkpoint is on JAX's default device, and how much memory it takes.

Rows of random text become clips of an exact length, again and again. The times are those of `BarkModel.generate_rows`,
of which every stage waits for its result and brings it to the host; the tokens are drawn with the checkpoint's own
settings, the same in every call.
"""

import dataclasses
import importlib.metadata
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bark_jax import __version__
from bark_jax.bark import StageTimer
from bark_jax.checkpoints.find import find_model
from bark_jax.checkpoints.load import parse_dtype, read_configs
from bark_jax.checkpoints.model_folder import NETWORKS, parameter_shapes
from bark_jax.errors import InputError
from bark_jax.generation.rows import Row, Utterance
from bark_jax.generation.sampling import key_data
from bark_jax.generation.settings import check_count, resolve_settings
from bark_jax.generation.tokens import TokenSpaces, text_tokens
from bark_jax.model import BarkModel
from bark_jax.networks.layout import copy_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = ("semantic", "coarse", "fine", "codec")
PACKAGES = ("jax", "jaxlib", "flax", "numpy")
DEFAULT_SECONDS = 10.0
DEFAULT_REPEATS = 5
N_TEXT_TOKENS = 32  # of a row; the prompt is padded, so more would take no longer

OnCall = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a stage, or of all four, and what all rows together got in one call."""

    first_s: float  # compilation included
    repeats_s: tuple[float, ...]
    amount: float
    unit: str  # "tokens", "frames", or "s of audio" for all stages

    @property
    def median_s(self) -> float:
        return statistics.median(self.repeats_s)

    @property
    def rate(self) -> float:
        """Amount a second, by the median; the real-time factor where the amount is seconds of audio."""
        return self.amount / self.median_s

    def to_dict(self) -> dict[str, Any]:
        return {
            "first_s": self.first_s,
            "median_s": self.median_s,
            "min_s": min(self.repeats_s),
            "max_s": max(self.repeats_s),
        }


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """The most memory in use at once since the process began: loading and what earlier runs left behind count."""

    n_bytes: int
    of: str  # "device", or "process" where the backend does not tell: what the process had resident
    is_new: bool  # False where the run stayed below an earlier peak, which is then what n_bytes is


@dataclasses.dataclass(frozen=True)
class Run:
    """One way to run the checkpoint."""

    dtype: str
    is_offloaded: bool
    weight_bytes: dict[str, int]  # by network
    copy_bytes: dict[str, int]  # of the copies that decoding keeps beside them; an offloaded network keeps none
    stages: dict[str, Timing]
    end_to_end: Timing
    peak_memory: PeakMemory

    @property
    def label(self) -> str:
        return _label(self.dtype, self.is_offloaded)

    def to_dict(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "is_offloaded": self.is_offloaded,
            "weight_bytes": {**self.weight_bytes, "all": sum(self.weight_bytes.values())},
            "copy_bytes": {**self.copy_bytes, "all": sum(self.copy_bytes.values())},
            "stages": {
                stage: timing.to_dict() | {timing.unit: timing.amount, f"{timing.unit}_per_s": timing.rate}
                for stage, timing in self.stages.items()
            },
            "end_to_end": self.end_to_end.to_dict()
            | {"audio_s": self.end_to_end.amount, "real_time_factor": self.end_to_end.rate},
            "peak_memory": {
                "bytes": self.peak_memory.n_bytes,
                "of": self.peak_memory.of,
                "is_new": self.peak_memory.is_new,
            },
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """What `benchmark` found."""

    model: str
    device: dict[str, Any]
    versions: dict[str, str]
    n_rows: int
    clip_s: float  # audio of one row
    repeats: int
    runs: list[Run]

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "device": self.device,
            "versions": self.versions,
            "rows": self.n_rows,
            "clip_s": self.clip_s,
            "repeats": self.repeats,
            "runs": [run.to_dict() for run in self.runs],
        }


@dataclasses.dataclass(frozen=True)
class _Case:
    dtype: str | None
    is_offloaded: bool


def benchmark(
    model: str,
    *,
    revision: str | None = None,
    dtypes: Sequence[str | None] = (None,),
    with_offload: bool = False,
    n_rows: int = 1,
    seconds: float | None = None,
    repeats: int = DEFAULT_REPEATS,
    on_call: OnCall | None = None,
) -> Report:
    """Loads a checkpoint and times it, once for each dtype.

    The leanest run comes first, as the peak of memory never falls. Each run compiles all its programs anew: it clears
    what this process has compiled. What JAX keeps on disk, where it was told to, it still takes.

    Args:
      model, revision: as for `BarkModel.from_pretrained`.
      dtypes: of the networks, a run each; None is the checkpoint's own.
      with_offload: also run each dtype with `BarkModel.enable_cpu_offload`.
      n_rows: utterances of one batch. The networks run a power of two of them; the rates count those asked for.
      seconds: audio of each, to the nearest semantic token; None for 10, or for the most that the model makes.
      repeats: calls after the first.
      on_call: called with a line that tells what starts.

    Raises:
      InputError, ModelNotFoundError: before any network is loaded.
    """
    check_count("rows", n_rows)
    check_count("repeats", repeats)
    for dtype in dtypes:
        parse_dtype(dtype)
    folder = find_model(model, revision=revision)
    _, generation_config = read_configs(folder)
    spaces = TokenSpaces.from_config(generation_config)
    n_tokens = _count_tokens(seconds, spaces)
    tell = on_call or (lambda line: None)
    runs = [_run(folder, case, n_rows, n_tokens, repeats, tell) for case in _cases(dtypes, with_offload)]
    clip_s = runs[0].end_to_end.amount / n_rows
    return Report(model, _describe_device(), _versions(), n_rows, clip_s, repeats, runs)


def _cases(dtypes: Sequence[str | None], with_offload: bool) -> list[_Case]:
    """Offloaded before not, narrow before wide."""
    widths = {dtype: 4 if dtype is None else parse_dtype(dtype).itemsize for dtype in dtypes}  # each dtype once
    by_width = sorted(widths, key=widths.get)
    return [
        _Case(dtype, is_offloaded)
        for is_offloaded in ([True, False] if with_offload else [False])
        for dtype in by_width
    ]


def _count_tokens(seconds: float | None, spaces: TokenSpaces) -> int:
    """Semantic tokens of a clip; at least as many as make a frame."""
    longest_s = float(spaces.max_semantic / spaces.semantic_rate)
    if seconds is None:
        seconds = min(DEFAULT_SECONDS, longest_s)
    n_tokens = round(seconds * float(spaces.semantic_rate)) if math.isfinite(seconds) else 0
    if not 1 <= n_tokens <= spaces.max_semantic or spaces.n_frames(n_tokens) == 0:
        raise InputError(
            f"seconds is {seconds}, expected enough for a frame and at most the {longest_s:.2f} that this model makes"
        )
    return n_tokens


def _run(folder: Path, case: _Case, n_rows: int, n_tokens: int, repeats: int, tell: OnCall) -> Run:
    _, peak_before = _peak_bytes()
    tell(f"{_label(case.dtype or 'own dtype', case.is_offloaded)}: loading")
    model = BarkModel.from_pretrained(str(folder), dtype=case.dtype, keep_compiled=False)
    if case.is_offloaded:
        model.enable_cpu_offload()
    shapes = {name: parameter_shapes(getattr(model, name)) for name in NETWORKS}
    dtypes = sorted({array.dtype.name for arrays in shapes.values() for array in arrays.values()})
    label = _label(", ".join(dtypes), case.is_offloaded)
    stages, end_to_end = _time(model, n_rows, n_tokens, repeats, lambda what: tell(f"{label}: {what}"))
    of, peak = _peak_bytes()
    return Run(
        dtype=", ".join(dtypes),
        is_offloaded=case.is_offloaded,
        weight_bytes={
            name: sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())
            for name, arrays in shapes.items()
        },
        copy_bytes={name: copy_bytes(getattr(model, name)) for name in NETWORKS},
        stages=stages,
        end_to_end=end_to_end,
        peak_memory=PeakMemory(peak, of, is_new=peak > peak_before),
    )


def _time(model: BarkModel, n_rows: int, n_tokens: int, repeats: int, tell: OnCall) -> tuple[dict[str, Timing], Timing]:
    """Times of each stage and of all, from the same calls."""
    rows = _make_rows(model, n_rows, n_tokens)
    jax.clear_caches()
    stages_s, totals_s = [], []
    for call in range(repeats + 1):
        tell(f"repeat {call} of {repeats}" if call else "first call, with compilation")
        timer = StageTimer(None)
        started = time.perf_counter()
        utterances = model.generate_rows(rows, on_stage=timer)
        timer.stop()
        totals_s.append(time.perf_counter() - started)
        stages_s.append(timer.seconds)
    stages = {
        stage: _timing([seconds[stage] for seconds in stages_s], *amount)
        for stage, amount in _amounts(utterances).items()
    }
    audio_s = sum(len(utterance.samples) for utterance in utterances) / model.sample_rate
    return stages, _timing(totals_s, audio_s, "s of audio")


def _timing(seconds: list[float], amount: float, unit: str) -> Timing:
    return Timing(seconds[0], tuple(seconds[1:]), amount, unit)


def _amounts(utterances: list[Utterance]) -> dict[str, tuple[int, str]]:
    """What each stage made for all rows together."""
    n_frames = sum(utterance.fine.shape[1] for utterance in utterances)
    amounts = (
        (sum(len(utterance.semantic) for utterance in utterances), "tokens"),
        (sum(utterance.coarse.size for utterance in utterances), "tokens"),
        (n_frames, "frames"),
        (n_frames, "frames"),
    )
    return dict(zip(STAGES, amounts, strict=True))


def _make_rows(model: BarkModel, n_rows: int, n_tokens: int) -> list[Row]:
    """Rows of random text that end at n_tokens semantic tokens and not before."""
    spaces = model.spaces
    n_ids = model.config.semantic_config.input_vocab_size - spaces.text_offset
    rng = np.random.default_rng(0)
    settings = resolve_settings(
        {"max_new_tokens": n_tokens, "allow_early_stop": False}, n_rows, model.generation_config, spaces
    )
    n_text = min(N_TEXT_TOKENS, spaces.n_text)
    return [
        Row(text_tokens(rng.integers(0, n_ids, n_text), np.ones(n_text), spaces), None, key_data(seed), row_settings)
        for seed, row_settings in enumerate(settings)
    ]


def _peak_bytes() -> tuple[str, int]:
    """Whose peak is known, "device" or "process", and how high it is so far."""
    told = jax.local_devices()[0].memory_stats() or {}  # None on CPU
    if "peak_bytes_in_use" in told:
        return "device", told["peak_bytes_in_use"]
    import resource  # not on Windows, where JAX has the CPU alone

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return "process", peak if sys.platform == "darwin" else 1024 * peak


def _describe_device() -> dict[str, Any]:
    device = jax.local_devices()[0]
    return {"platform": device.platform, "kind": device.device_kind, "cpu_cores": os.cpu_count()}


def _versions() -> dict[str, str]:
    packages = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"bark_jax": __version__, "Python": platform.python_version(), **packages}


def _label(dtype: str, is_offloaded: bool) -> str:
    return f"{dtype} offloaded" if is_offloaded else dtype


def format_report(report: Report) -> str:
    """The report for people: what ran, then a table of times and one of memory."""
    device, rows = report.device, "row" if report.n_rows == 1 else "rows"
    lines = [
        f"{report.model}: {report.n_rows} {rows} of {report.clip_s:.2f} s, {report.repeats} repeats",
        f"{device['platform']} {device['kind']}, {device['cpu_cores']} CPU cores",
        ", ".join(f"{package} {version}" for package, version in report.versions.items()),
        "",
        *_align(_time_table(report.runs), n_left=2),
        "",
        *_align(_memory_table(report.runs), n_left=1),
    ]
    if not all(run.peak_memory.is_new for run in report.runs):
        lines.append("<= stayed below the peak of a run above, which is shown")
    return "\n".join(lines)


def _time_table(runs: list[Run]) -> list[tuple[str, ...]]:
    table = [("", "stage", "first s", "median s", "min s", "max s", "made", "a second")]
    for run in runs:
        for stage, timing in [*run.stages.items(), ("end to end", run.end_to_end)]:
            seconds = [f"{value:.3f}" for value in timing.to_dict().values()]
            is_whole = stage == "end to end"
            amount = f"{timing.amount:.2f}" if is_whole else f"{timing.amount:,}"
            rate = f"{timing.rate:.2f} x real time" if is_whole else f"{timing.rate:,.1f} {timing.unit}"
            table.append((run.label, stage, *seconds, f"{amount} {timing.unit}", rate))
    return table


def _memory_table(runs: list[Run]) -> list[tuple[str, ...]]:
    table = [("MB", *NETWORKS, "all weights", "copies", f"peak of the {runs[0].peak_memory.of}")]
    for run in runs:
        weights = [*run.weight_bytes.values(), sum(run.weight_bytes.values()), sum(run.copy_bytes.values())]
        mark = "" if run.peak_memory.is_new else "<= "
        table.append((run.label, *map(_megabytes, weights), mark + _megabytes(run.peak_memory.n_bytes)))
    return table


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.2f}"


def _align(table: list[tuple[str, ...]], n_left: int) -> list[str]:
    """Lines of equal columns: the first n_left are words, the others numbers, set to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < n_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]


def plot_report(report: Report) -> "Figure":
    """Bars of each stage's median seconds, a colour a run; the lines across their ends go from least to most.

    Raises:
      UnsupportedError: matplotlib is not installed.
    """
    from bark_jax.audio.plots import NotebookFigure

    figure = NotebookFigure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(report.runs)
    for index, run in enumerate(report.runs):
        timings = [run.stages[stage] for stage in STAGES]
        medians = np.array([timing.median_s for timing in timings])
        spread = [
            medians - [min(timing.repeats_s) for timing in timings],
            [max(timing.repeats_s) for timing in timings] - medians,
        ]
        places = np.arange(len(STAGES)) + (index - (len(report.runs) - 1) / 2) * width
        label = f"{run.label}: {run.end_to_end.rate:.2f} x real time"
        axes.bar(places, medians, width, yerr=spread, capsize=3, label=label)
    axes.set_xticks(range(len(STAGES)), STAGES)
    axes.set(
        ylabel="seconds", title=f"{report.model}, {report.n_rows} x {report.clip_s:.2f} s, {report.device['kind']}"
    )
    axes.legend()
    return figure
