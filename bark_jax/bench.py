"""Benchmark of a checkpoint on JAX's default device: seconds per stage, throughput and peak memory.

Rows of random text are generated as clips of an exact length, several times. Timed is `BarkModel.generate_rows`, in
which each stage blocks until its result is on the host, so that no stage is charged for the one before. Tokens are
drawn with the checkpoint's own settings and with fixed keys: every call draws the same ones.
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
from bark_jax.networks.platform import Devices, check_devices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = ("semantic", "coarse", "fine", "codec")
PACKAGES = ("jax", "jaxlib", "flax", "numpy")
DEFAULT_SECONDS = 10.0
DEFAULT_REPEATS = 5
N_TEXT_TOKENS = 32  # per row; the prompt is padded to a fixed length, so more take no longer

OnCall = Callable[[str], None]  # a line about what starts


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of one stage, or of all four, and the amount that one call makes for all rows together."""

    first_s: float  # of the first call, with compilation
    repeats_s: tuple[float, ...]  # of each later call
    amount: float
    unit: str  # "tokens" or "frames" of one stage, "s of audio" of all four

    @property
    def median_s(self) -> float:
        """Median seconds of the repeats, without the first call."""
        return statistics.median(self.repeats_s)

    @property
    def rate(self) -> float:
        """Amount per second at the median: throughput, or the real-time factor if the amount is seconds of audio."""
        return self.amount / self.median_s

    def to_dict(self) -> dict[str, Any]:
        """The seconds as JSON values: first, median, minimum and maximum."""
        return {
            "first_s": self.first_s,
            "median_s": self.median_s,
            "min_s": min(self.repeats_s),
            "max_s": max(self.repeats_s),
        }


@dataclasses.dataclass(frozen=True)
class PeakMemory:
    """Peak memory since the process began, which includes loading and whatever earlier runs have not freed.

    It never falls, so a run that takes less than an earlier one cannot be measured.
    """

    n_bytes: int
    of: str  # "device", or "process" (resident memory) where the backend reports none, as on a CPU
    is_new: bool  # False where the run stayed below an earlier peak, which is then what n_bytes is


@dataclasses.dataclass(frozen=True)
class Run:
    """Measurements of one configuration: a dtype, with or without offloading."""

    dtype: str
    is_offloaded: bool
    weight_bytes: dict[str, int]  # by network
    copy_bytes: dict[str, int]  # by network, of its decoding copy (`networks.layout`); 0 if offloaded
    stages: dict[str, Timing]  # by name in STAGES
    end_to_end: Timing
    peak_memory: PeakMemory

    @property
    def label(self) -> str:
        """The configuration in a few words, such as "float32 offloaded"."""
        return _label(self.dtype, self.is_offloaded)

    def to_dict(self) -> dict[str, Any]:
        """The measurements as JSON values."""
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
    """The result of `benchmark`: the machine, the workload and one `Run` per configuration."""

    model: str
    device: dict[str, Any]  # platform, kind and cpu_cores
    versions: dict[str, str]  # by package
    n_devices: int  # that share the rows
    n_rows: int  # utterances per call
    clip_s: float  # seconds of audio per row
    repeats: int  # calls after the first
    runs: list[Run]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "model": self.model,
            "device": self.device,
            "devices": self.n_devices,
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
    devices: Devices = None,
    seconds: float | None = None,
    repeats: int = DEFAULT_REPEATS,
    on_call: OnCall | None = None,
) -> Report:
    """Loads a checkpoint and measures it in each dtype.

        report = benchmark("suno/bark-small", dtypes=[None, "bfloat16"], n_rows=8)
        print(format_report(report))

    Runs go from least to most memory, as the peak never falls. Each run compiles all its programs again: it clears the
    programs of this process, so do not call it beside other work. Programs in a compilation cache on disk that JAX is
    configured to use are still loaded from there.

    Args:
      model: as pretrained_model_name_or_path of `BarkModel.from_pretrained`.
      revision: as for `BarkModel.from_pretrained`.
      dtypes: dtypes of the networks, one run each; None is the checkpoint's own.
      with_offload: True also runs each dtype with `BarkModel.enable_cpu_offload`.
      n_rows: utterances per call, 1 by default. The networks run the next power of two; rates count n_rows.
      devices: as for `BarkModel.generate`: they share the rows of a call. None is JAX's default device.
      seconds: seconds of audio per utterance, rounded to a semantic token. None is 10, or the model's longest if that
        is less.
      repeats: calls after the first, which is reported by itself because it compiles; 5 by default.
      on_call: called with a line of text as each run and each call starts.

    Returns:
      The measurements.

    Raises:
      InputError: an argument is out of range; before any network is loaded.
      ModelNotFoundError: the model is neither on this machine nor on the Hub; before any network is loaded.
      DeviceMemoryError: a stage runs out of memory.
    """
    check_count("rows", n_rows)
    check_count("repeats", repeats)
    for dtype in dtypes:
        parse_dtype(dtype)
    folder = find_model(model, revision=revision)
    _, generation_config = read_configs(folder)
    spaces = TokenSpaces.from_config(generation_config)
    n_tokens = _count_tokens(seconds, spaces)
    on_call = on_call or (lambda line: None)
    devices = None if devices is None else check_devices(devices)
    runs = [_run(folder, case, n_rows, n_tokens, repeats, on_call, devices) for case in _cases(dtypes, with_offload)]
    clip_s = runs[0].end_to_end.amount / n_rows
    n_devices = 1 if devices is None else len(devices)
    return Report(model, describe_device(), _versions(), n_devices, n_rows, clip_s, repeats, runs)


def _cases(dtypes: Sequence[str | None], with_offload: bool) -> list[_Case]:
    """Returns the configurations, each once, from least to most memory: offloaded first, then by bytes a weight."""
    # A checkpoint's own dtype is not known before it is loaded: it counts as float32, the widest that is stored.
    widths = {dtype: 4 if dtype is None else parse_dtype(dtype).itemsize for dtype in dtypes}
    by_width = sorted(widths, key=widths.get)
    return [
        _Case(dtype, is_offloaded)
        for is_offloaded in ([True, False] if with_offload else [False])
        for dtype in by_width
    ]


def _count_tokens(seconds: float | None, spaces: TokenSpaces) -> int:
    """Returns the semantic tokens of a clip of this length. Raises InputError unless they make at least one frame."""
    longest_s = float(spaces.max_semantic / spaces.semantic_rate)
    if seconds is None:
        seconds = min(DEFAULT_SECONDS, longest_s)
    n_tokens = round(seconds * float(spaces.semantic_rate)) if math.isfinite(seconds) else 0
    if not 1 <= n_tokens <= spaces.max_semantic or spaces.n_frames(n_tokens) == 0:
        raise InputError(
            f"seconds is {seconds}, expected enough for one frame and at most {longest_s:.2f}, the model's longest clip"
        )
    return n_tokens


def _run(folder: Path, case: _Case, n_rows: int, n_tokens: int, repeats: int, on_call: OnCall, devices: Devices) -> Run:
    _, peak_before = _peak_bytes()
    on_call(f"{_label(case.dtype or 'own dtype', case.is_offloaded)}: loading")
    # Without this package's compilation cache: a second benchmark would read its programs, and first_s not include
    # them.
    model = BarkModel.from_pretrained(str(folder), dtype=case.dtype, keep_compiled=False)
    if case.is_offloaded:
        model.enable_cpu_offload()
    shapes = {name: parameter_shapes(getattr(model, name)) for name in NETWORKS}
    dtypes = sorted({array.dtype.name for arrays in shapes.values() for array in arrays.values()})
    label = _label(", ".join(dtypes), case.is_offloaded)
    stages, end_to_end = _time(model, n_rows, n_tokens, repeats, lambda what: on_call(f"{label}: {what}"), devices)
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


def _time(
    model: BarkModel, n_rows: int, n_tokens: int, repeats: int, on_call: OnCall, devices: Devices
) -> tuple[dict[str, Timing], Timing]:
    """Returns the times of each stage and of all four, measured in the same calls."""
    rows = _make_rows(model, n_rows, n_tokens)
    # Runs may share programs, such as one offloaded and one not: the second would not compile them.
    jax.clear_caches()
    stages_s, totals_s = [], []
    for call in range(repeats + 1):
        on_call(f"repeat {call} of {repeats}" if call else "first call, with compilation")
        timer = StageTimer(None)
        started = time.perf_counter()
        utterances = model.generate_rows(rows, on_stage=timer, devices=devices)
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
    """Returns how much each stage makes for all rows together, and its unit, by stage."""
    n_frames = sum(utterance.fine.shape[1] for utterance in utterances)
    amounts = (
        (sum(len(utterance.semantic) for utterance in utterances), "tokens"),
        (sum(utterance.coarse.size for utterance in utterances), "tokens"),
        (n_frames, "frames"),
        (n_frames, "frames"),
    )
    return dict(zip(STAGES, amounts, strict=True))


def _make_rows(model: BarkModel, n_rows: int, n_tokens: int) -> list[Row]:
    """Makes rows of random text whose semantic stage draws exactly n_tokens tokens."""
    spaces = model.spaces
    n_ids = model.config.semantic_config.input_vocab_size - spaces.text_offset
    rng = np.random.default_rng(0)
    # The end token cannot be drawn, so every clip has exactly n_tokens and all repeats do the same work.
    settings = resolve_settings(
        {"max_new_tokens": n_tokens, "allow_early_stop": False}, n_rows, model.generation_config, spaces
    )
    n_text = min(N_TEXT_TOKENS, spaces.n_text)
    return [
        Row(text_tokens(rng.integers(0, n_ids, n_text), np.ones(n_text), spaces), None, key_data(seed), row_settings)
        for seed, row_settings in enumerate(settings)
    ]


def _peak_bytes() -> tuple[str, int]:
    """Returns what the peak is of, "device" or "process", and its bytes so far."""
    stats = jax.local_devices()[0].memory_stats() or {}  # None on CPU
    if "peak_bytes_in_use" in stats:
        return "device", stats["peak_bytes_in_use"]
    import resource  # does not exist on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return "process", peak if sys.platform == "darwin" else 1024 * peak  # bytes on macOS, KiB on Linux


def describe_device() -> dict[str, Any]:
    """Returns JAX's default device as a dict for JSON: platform, kind and the host's number of CPU cores."""
    device = jax.local_devices()[0]
    return {"platform": device.platform, "kind": device.device_kind, "cpu_cores": os.cpu_count()}


def _versions() -> dict[str, str]:
    packages = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"bark_jax": __version__, "Python": platform.python_version(), **packages}


def _label(dtype: str, is_offloaded: bool) -> str:
    return f"{dtype} offloaded" if is_offloaded else dtype


def format_report(report: Report) -> str:
    """Formats a report as text: the workload and the machine, then a table of times and a table of memory."""
    device, rows = report.device, "row" if report.n_rows == 1 else "rows"
    among = f", {report.n_devices} devices" if report.n_devices > 1 else ""
    lines = [
        f"{report.model}: {report.n_rows} {rows} of {report.clip_s:.2f} s, {report.repeats} repeats",
        f"{device['platform']} {device['kind']}{among}, {device['cpu_cores']} CPU cores",
        ", ".join(f"{package} {version}" for package, version in report.versions.items()),
        "",
        *_align(_time_table(report.runs), n_left=2),
        "",
        *_align(_memory_table(report.runs), n_left=1),
    ]
    if not all(run.peak_memory.is_new for run in report.runs):
        lines.append("<= stayed below the peak of an earlier run, which is the number printed")
    return "\n".join(lines)


def _time_table(runs: list[Run]) -> list[tuple[str, ...]]:
    table = [("", "stage", "first s", "median s", "min s", "max s", "made", "a second")]
    for run in runs:
        for stage, timing in [*run.stages.items(), ("end to end", run.end_to_end)]:
            seconds = [f"{value:.3f}" for value in timing.to_dict().values()]
            is_total = stage == "end to end"
            amount = f"{timing.amount:.2f}" if is_total else f"{timing.amount:,}"
            rate = f"{timing.rate:.2f} x real time" if is_total else f"{timing.rate:,.1f} {timing.unit}"
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
    """Pads cells to columns: the first n_left are words, aligned left; the others are numbers, aligned right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < n_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]


def plot_report(report: Report) -> "Figure":
    """Draws a bar chart of each stage's median seconds, one colour per run; error bars reach from minimum to maximum.

    Args:
      report: the result of `benchmark`.

    Returns:
      A matplotlib figure, which Jupyter shows by itself.

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
        x_positions = np.arange(len(STAGES)) + (index - (len(report.runs) - 1) / 2) * width
        label = f"{run.label}: {run.end_to_end.rate:.2f} x real time"
        axes.bar(x_positions, medians, width, yerr=spread, capsize=3, label=label)
    axes.set_xticks(range(len(STAGES)), STAGES)
    axes.set(
        ylabel="seconds", title=f"{report.model}, {report.n_rows} x {report.clip_s:.2f} s, {report.device['kind']}"
    )
    axes.legend()
    return figure
