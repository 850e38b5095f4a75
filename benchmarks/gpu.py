"""All figures of one GPU in one run, which is limited in time and resumes: the parts, by worth, and their report.

A part is one measurement of one contender at one number of rows. Contenders do not take turns, as the device is taken
to be idle but for them. transformers decodes fewer steps than this project, so that its parts take seconds; its caches
are then shorter, which favours it.
"""

import functools
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks.contenders import SEMANTIC_TOKENS
from benchmarks.measures import INT8, Plan, contender_makers, measure_all, peak_memory
from benchmarks.models import make_model, measure_bandwidth, weight_bytes
from benchmarks.parts import Ended, claim, ended_parts, run_parts
from benchmarks.report import Result, describe_run, format_report, installed_versions, write_report
from benchmarks.throughput import engine_rates

OURS, TRANSFORMERS, TORCH = "bark_jax", "transformers", "torch.compile"
PROGRAMS_FOLDER = "programs"
# (measure, contender, which numbers of rows), the most valuable first.
ORDER = (
    ("semantic", OURS, "all"),
    ("clip", OURS, "fewest"),
    ("engine", OURS, "highest"),
    ("semantic", TORCH, "fewest"),
    ("semantic", TRANSFORMERS, "fewest"),
    ("coarse", OURS, "fewest"),
    ("coarse", TRANSFORMERS, "fewest"),
    ("clip", OURS, "highest"),
    ("semantic", TRANSFORMERS, "rest"),
    ("semantic", TORCH, "rest"),
    ("coarse", OURS, "rest"),
    ("fine", OURS, "all"),
    ("codec", OURS, "all"),
    ("semantic", INT8, "all"),
    ("coarse", TRANSFORMERS, "rest"),
    ("fine", TRANSFORMERS, "all"),
    ("codec", TRANSFORMERS, "all"),
    ("clip", TRANSFORMERS, "fewest"),
    ("clip", OURS, "rest"),
    ("clip", TRANSFORMERS, "rest"),
)
MEASURES = tuple(dict.fromkeys(measure for measure, _, _ in ORDER))
CONTENDERS = tuple(dict.fromkeys(contender for _, contender, _ in ORDER))


class Part(NamedTuple):
    """A measurement of a contender."""

    measure: str
    contender: str
    n_rows: int

    @property
    def name(self) -> str:
        """Name of the part's file."""
        return f"{self.measure}-{self.n_rows:03d}-{self.contender.replace(', ', '-').replace('.', '-')}"


ABOUT = Part("about", "device", 0)  # describes the device and measures its bandwidth


class Case(NamedTuple):
    """Model and folder of a run."""

    size: str
    dtype: str
    out: Path


def make_parts(rows: Sequence[int], measures: Sequence[str], contenders: Sequence[str]) -> dict[str, Part]:
    """The parts of a run by name, the most valuable first."""
    first, *others = sorted(set(rows))
    of = {"all": [first, *others], "fewest": [first], "rest": others, "highest": [max(rows)]}
    parts = [
        ABOUT,
        *(
            Part(measure, contender, n_rows)
            for measure, contender, which in ORDER
            for n_rows in of[which]
            if measure in measures and contender in contenders
        ),
    ]
    return {part.name: part for part in parts}


def run(case: Case, parts: Mapping[str, Part], *, minutes: float, limit_s: float) -> Iterator[str]:
    """Runs the parts that are left within some minutes, and writes the report after each. Yields a line a part.

    Args:
      limit_s: seconds after which a part counts as failed.

    Raises:
      ClickException: the folder holds a run of another size or dtype, or of other versions.
    """
    deadline = time.monotonic() + 60 * minutes
    claim(case.out, {"size": case.size, "dtype": case.dtype, "versions": installed_versions()})
    # The process that measures reads these. Without preallocation JAX and torch share the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((case.out / PROGRAMS_FOLDER / "torch").absolute()))
    yield f"{len(ended_parts(case.out, parts))} of {len(parts)} parts are done"
    work = functools.partial(run_part, case=case)
    for name, ended in run_parts(case.out, parts, work, deadline=deadline, limit_s=limit_s):
        yield f"{name}: {ended.failure or 'done'}, {ended.seconds:.1f} s"
        write_results(case, parts)
    if left := len(parts) - len(ended_parts(case.out, parts)):
        yield f"{left} parts are left; run the same command again"
    yield write_results(case, parts)


def write_results(case: Case, parts: Mapping[str, Part]) -> str:
    """Writes results.jsonl, results.md and results.png from the parts that have ended. Returns the Markdown."""
    ended = ended_parts(case.out, parts)
    described = ended.pop(ABOUT.name, None)
    if described is None or described.value is None:
        return f"nothing was measured: {'no time was left' if described is None else described.failure}"
    about = described.value["about"]
    about["notes"] += sorted(
        f"{name} ran on another device, {each.value['device']}."
        for name, each in ended.items()
        if each.value is not None and each.value["device"] != about["device"]
    )
    results = [result for name, each in ended.items() for result in _results(case, parts[name], each)]
    write_report(case.out, about, results)
    return format_report(about, results)


def _results(case: Case, part: Part, ended: Ended) -> list[Result]:
    if ended.value is None:
        failed = (part.n_rows, part.measure, "", part.contender, None, None, ended.failure)
        return [Result(case.size, case.dtype, *failed)]
    return [Result.from_dict(values) for values in ended.value["results"]]


def run_part(part: Part, *, case: Case) -> dict[str, Any]:
    """Runs a part, in the process that measures: the Results as JSON objects, or a description of the device."""
    jax.config.update("jax_compilation_cache_dir", str((case.out / PROGRAMS_FOLDER).absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if part == ABOUT:
        return {"about": _describe(case), "bandwidth": _bandwidth()[0]}
    about = json.loads((case.out / "parts" / f"{ABOUT.name}.json").read_text())["value"]
    bandwidth = math.nan if about is None else about["bandwidth"]
    results = [result.to_dict() for result in _measure(part, case, bandwidth)]
    return {"device": describe_run()["device"], "peak_memory": peak_memory(), "results": results}


def _describe(case: Case) -> dict[str, Any]:
    bandwidth, how = _bandwidth()
    notes = [
        f"Floors: weights and live cache at {bandwidth / 1e9:,.1f} GB/s, which {how} reached.",
        f"{case.size}, {case.dtype}: {weight_bytes(_model(case.size, case.dtype)) / 1e6:,.0f} MB of weights.",
    ]
    return describe_run() | {"notes": notes, "peak_memory": None}


_bandwidth = functools.cache(measure_bandwidth)
_model = functools.cache(make_model)


def _measure(part: Part, case: Case, bandwidth: float) -> Iterator[Result]:
    model = _model(case.size, case.dtype)
    if part.measure == "engine":
        for name, spread in engine_rates(model, part.n_rows, 2 * part.n_rows, SEMANTIC_TOKENS).items():
            yield Result(case.size, case.dtype, part.n_rows, name, "audio s/s", part.contender, spread)
        return
    is_ours = part.contender in (OURS, INT8)
    plan = Plan(
        (part.measure,),
        repeats=1 if part.contender == TRANSFORMERS and part.measure == "clip" else 3,
        semantic_steps=(16, 400) if is_ours or part.contender == TORCH else (8, 72),
        coarse_windows=(1, 4) if is_ours else (1, 2),
        deadline=math.inf,
    )
    makers = contender_makers(case.size, case.dtype, part.n_rows, model, [part.contender])
    yield from measure_all(plan, (case.size, case.dtype, part.n_rows), makers, bandwidth)
