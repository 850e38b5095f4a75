"""Reports of a benchmark run: JSON lines, a Markdown table and a plot."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks.timing import Spread

PACKAGES = ("bark-jax", "jax", "jaxlib", "flax", "torch", "transformers", "numpy")


@dataclasses.dataclass(frozen=True)
class Result:
    """A measurement of a contender."""

    size: str
    dtype: str
    n_rows: int
    measure: str
    unit: str  # "ms" or "s", less is better; a unit with "/s" is a rate, more is better
    contender: str
    spread: Spread | None  # None if it failed
    floor: float | None = None  # minimum time at the memory bandwidth, in the same unit
    failure: str | None = None  # message of the error

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object, a line of results.jsonl."""
        values = dataclasses.asdict(self)
        return values | {"spread": None if self.spread is None else list(self.spread.values)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Result":
        """The result of a JSON object that `to_dict` made."""
        return cls(**values | {"spread": None if values["spread"] is None else Spread(tuple(values["spread"]))})


def describe_run() -> dict[str, Any]:
    """Command, device, processor and versions of this run, as a JSON object."""
    device = jax.local_devices()[0]
    return {
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "device": f"{device.platform} {device.device_kind}",
        "processor": _processor(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": installed_versions(),
    }


def installed_versions() -> dict[str, str | None]:
    """Versions of PACKAGES; None for one that is not installed."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_report(folder: Path, about: dict[str, Any], results: list[Result]) -> None:
    """Writes results.jsonl, results.md and, if matplotlib is installed, results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [about, *(result.to_dict() for result in results)]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "results.md").write_text(format_report(about, results))
    _plot(folder / "results.png", about, results)


def format_report(about: dict[str, Any], results: list[Result]) -> str:
    """Formats the run and its results as Markdown: a head with command and device, and a table.

    The column "of the floor" is floor / median: the share of the memory bandwidth that a decoding step reaches.
    """
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    head = [
        f"`{about['command']}`",
        "",
        f"{about['device']}; {about['processor']}, {about['cpu_cores']} cores; Python {about['python']}; {versions}.",
        *about["notes"],
        "",
        "| size | dtype | rows | measure | contender | median | min to max | of the floor | bark_jax is |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_table_row(result, results) for result in results]) + "\n"


def _table_row(result: Result, results: list[Result]) -> str:
    key = result.size, result.dtype, str(result.n_rows), result.measure, result.contender
    if result.spread is None:
        return f"| {' | '.join(key)} | failed: {result.failure} | | | |"
    spread, floor = result.spread, result.floor
    share = f"{100 * floor / spread.median:.0f} %" if floor else ""
    ours = _ours(result, results)
    faster = "" if ours is None else f"{_ratio(result, ours):.2f} x as fast"
    numbers = f"{spread.median:,.3f} {result.unit} | {spread.minimum:,.3f} to {spread.maximum:,.3f}"
    return f"| {' | '.join(key)} | {numbers} | {share} | {faster} |"


def _ours(result: Result, results: list[Result]) -> Result | None:
    """This project's result of the same measurement; None for its own results, or if it has none."""
    same = ("size", "dtype", "n_rows", "measure")
    for other in results:
        is_same = all(getattr(result, name) == getattr(other, name) for name in same)
        if is_same and other.contender == "bark_jax" != result.contender and other.spread is not None:
            return other
    return None


def _ratio(rival: Result, ours: Result) -> float:
    ratio = rival.spread.median / ours.spread.median
    return 1 / ratio if "/s" in ours.unit else ratio


def _plot(path: Path, about: dict[str, Any], results: list[Result]) -> None:
    """Plots milliseconds a step over the number of rows, one line a contender, and the floors."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    steps = [result for result in results if result.spread is not None and result.measure.endswith("step")]
    panels = sorted({(result.measure, result.size, result.dtype) for result in steps})
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        mine = [result for result in steps if (result.measure, result.size, result.dtype) == panel]
        for name in dict.fromkeys(result.contender for result in mine):
            line = sorted((each.n_rows, each.spread.median) for each in mine if each.contender == name)
            axes.plot(*zip(*line, strict=True), marker="o", label=name)
        floors = sorted({(result.n_rows, result.floor) for result in mine if result.floor})
        if floors:
            axes.plot(*zip(*floors, strict=True), linestyle=":", color="black", label="floor")
        axes.set(title=", ".join(panel), xlabel="rows", ylabel="ms a step", xscale="log", yscale="log")
        axes.legend()
    figure.suptitle(about["device"])
    figure.savefig(path, dpi=120)
