"""Measurements of contenders: seconds of stages, steps and clips, with a message for each that fails.

Contenders take turns, so that a busy machine slows all of them. With n_short and n_long steps in a short and a long
call:

    step       (t_long - t_short) / (n_long - n_short)
    prefill    t_short - n_short * step

A coarse step is measured over whole windows with a voice, so it contains 1/60 of the window's prefill of 887 positions.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax

from bark_jax.model import BarkModel
from benchmarks.contenders import BarkJax, Contender, Transformers
from benchmarks.models import Shape, step_floor_ms, with_int8
from benchmarks.parts import error_line
from benchmarks.report import Result
from benchmarks.timing import Spread, seconds, take_turns

INT8 = "bark_jax, int8"
CONTENDERS = ("bark_jax", INT8, "transformers", "torch.compile")
MEASURES = ("semantic", "coarse", "fine", "codec", "clip", "compile")
N_PROMPT = 257
N_COARSE_KEYS = 917  # positions that an average step of a window attends to: prompt of 887 and half of 60 new tokens


@dataclasses.dataclass(frozen=True)
class Plan:
    """Measurements to make, and their lengths."""

    measures: tuple[str, ...]
    repeats: int
    semantic_steps: tuple[int, int]  # in the short and in the long call
    coarse_windows: tuple[int, int]  # likewise
    deadline: float  # of time.monotonic(); no measurement starts after it


def contender_makers(
    size: str, dtype: str, n_rows: int, model: BarkModel, contenders: Sequence[str]
) -> dict[str, Callable[[], Contender]]:
    """Constructors of the contenders by name. Called later, since importing or constructing one may fail."""

    def torch_compile() -> Contender:
        from benchmarks.torch_static_cache import TorchCompile

        return TorchCompile(size, dtype, n_rows)

    makers = {
        "bark_jax": lambda: BarkJax(model, n_rows),
        INT8: lambda: BarkJax(with_int8(model), n_rows),
        "transformers": lambda: Transformers(size, dtype, n_rows),
        "torch.compile": torch_compile,
    }
    return {name: makers[name] for name in contenders}


def measure_all(
    plan: Plan, case: tuple[str, str, int], makers: Mapping[str, Callable[[], Contender]], bandwidth: float
) -> Iterator[Result]:
    """Yields a Result for each measurement of each contender, also for those that fail."""
    made, failed = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:  # a missing package, a driver, out of memory: the other contenders still run
            failed[name] = error_line(error)
            yield Result(*case, "start", "", name, None, failure=failed[name])
    read = {"semantic step": (N_PROMPT + plan.semantic_steps[1] / 2, 10_001), "coarse step": (N_COARSE_KEYS, 1024)}
    for measure in plan.measures:
        if time.monotonic() > plan.deadline:
            yield Result(*case, measure, "", "all", None, failure="no time was left")
            continue
        for name, unit, found in _take(plan, measure, made):
            for contender, spread in found.items():
                if isinstance(spread, str):
                    yield Result(*case, name, unit, contender, None, failure=spread)
                else:
                    shape = Shape.of(*case[:2], has_int8=contender == INT8)
                    floor = step_floor_ms(shape, case[2], *read[name], bandwidth) if name in read else None
                    yield Result(*case, name, unit, contender, spread, floor)


def _take(plan: Plan, measure: str, made: dict[str, Contender]):
    """Yields (name of the measurement, unit, {contender: Spread or message of its failure})."""
    able = {name: each for name, each in made.items() if hasattr(each, measure)}
    if measure == "semantic":
        yield from _steps(plan, able, "semantic", plan.semantic_steps, per=1)
    elif measure == "coarse":
        yield from _steps(plan, able, "coarse", plan.coarse_windows, per=60)
    elif measure == "compile":
        yield "compile, nothing kept", "s", _compile(made["bark_jax"], False) if "bark_jax" in made else {}
        yield "compile, programs kept", "s", _compile(made["bark_jax"], True) if "bark_jax" in made else {}
    else:
        calls = {name: getattr(each, measure) for name, each in able.items()}
        ready, found = _warm(calls)
        found |= take_turns({name: lambda call=call: 1e3 * seconds(call) for name, call in ready.items()}, plan.repeats)
        yield {"clip": "10 s clip"}.get(measure, measure), "ms", found


def _steps(plan: Plan, able, stage: str, counts: tuple[int, int], per: int):
    """As `_take`, for a stage's decoding steps. counts: arguments of the short and the long call; per: steps of one."""
    short, long = counts
    calls = {name: getattr(each, stage) for name, each in able.items()}
    ready, found = _warm({name: lambda call=call: (call(short), call(long)) for name, call in calls.items()})
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
    for _ in range(plan.repeats):
        for name in ready:
            at = [seconds(functools.partial(calls[name], count)) for count in counts]
            times[name].append((at[0], at[1]))
    step = {
        name: Spread(tuple(1e3 * (b - a) / (per * (long - short)) for a, b in each)) for name, each in times.items()
    }
    yield f"{stage} step", "ms", found | step
    if stage == "semantic":
        yield (
            "semantic prefill",
            "ms",
            {name: Spread(tuple(1e3 * a - short * step[name].median for a, _ in each)) for name, each in times.items()},
        )


def _warm(calls):
    """Runs each call once, which compiles it. Returns (calls that work, messages of the failures), by name."""
    ready, failed = {}, {}
    for name, call in calls.items():
        try:
            call()
            ready[name] = call
        except Exception as error:
            failed[name] = error_line(error)
    return ready, failed


def _compile(ours: BarkJax, is_kept: bool) -> dict[str, Spread]:
    """Compile time in seconds: time of the first clip minus that of the second.

    Args:
      is_kept: the compilation cache on disk is warm, so the first clip reads its programs from there.
    """
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        try:
            for _ in range(1 + is_kept):
                jax.clear_caches()
                first = seconds(ours.clip)
            return {ours.name: Spread((first - seconds(ours.clip),))}
        finally:
            jax.config.update("jax_compilation_cache_dir", None)


def peak_memory() -> int | None:
    """Peak bytes in use on the default device so far; None where the platform does not count them."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
