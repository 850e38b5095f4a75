"""Times this project and the torch versions that are installed: the same inputs, the same device, one run.

    python -m benchmarks --quick                                a CPU, small, one row, minutes
    python -m benchmarks --sizes large --dtypes bfloat16        a GPU
    python -m benchmarks engine                                 continuous batching against fixed batches
    python -m benchmarks batch                                  bark-jax batch against a loop over generate
    python -m benchmarks memory                                 bark-jax batch, few rows and many

Prints a table and writes results.jsonl, results.md and results.png. Every measurement is repeated, the contenders
taking turns. A step's time is the difference between a long and a short call, over the steps between them; prefill is
what is left of the short call. A coarse step is one of a window with a voice; its share of reading the window's prompt
of 887 positions is in it.
"""

import dataclasses
import functools
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import jax

from benchmarks.contenders import SEMANTIC_TOKENS, BarkJax, Contender, Transformers
from benchmarks.models import SIZES, Shape, make_model, measure_bandwidth, step_floor_ms, weight_bytes, with_int8
from benchmarks.report import Result, describe_run, format_report, write_report
from benchmarks.timing import Spread, seconds, take_turns

INT8 = "bark_jax, int8"
CONTENDERS = ("bark_jax", INT8, "transformers", "torch.compile")
MEASURES = ("semantic", "coarse", "fine", "codec", "clip", "compile")
N_PROMPT = 257
N_COARSE_KEYS = 917  # of an average step in such a window


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how long."""

    measures: tuple[str, ...]
    repeats: int
    semantic_steps: tuple[int, int]  # of the short and the long call
    coarse_windows: tuple[int, int]
    deadline: float


@click.group(invoke_without_command=True, help=__doc__.splitlines()[0])
@click.option("--sizes", multiple=True, type=click.Choice(SIZES), default=("small", "large"), show_default=True)
@click.option("--rows", multiple=True, type=click.IntRange(1), default=(1, 8, 16, 64), show_default=True)
@click.option("--dtypes", multiple=True, type=click.Choice(["float32", "bfloat16", "float16"]), default=("bfloat16",))
@click.option("--measures", multiple=True, type=click.Choice(MEASURES), default=MEASURES)
@click.option("--contenders", multiple=True, type=click.Choice(CONTENDERS), default=CONTENDERS, show_default=True)
@click.option("--quick", is_flag=True, help="Small, one row, float32, few steps.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--time-limit", type=float, default=math.inf, help="Seconds after which nothing new is started.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("benchmark"), show_default=True)
@click.pass_context
def main(context, sizes, rows, dtypes, measures, contenders, quick, repeats, time_limit, out):
    if context.invoked_subcommand:
        return
    is_given = lambda name: context.get_parameter_source(name).name == "COMMANDLINE"  # noqa: E731
    if quick:
        sizes = sizes if is_given("sizes") else ("small",)
        rows = rows if is_given("rows") else (1,)
        dtypes = dtypes if is_given("dtypes") else ("float32",)
        measures = measures if is_given("measures") else ("semantic", "coarse", "fine", "codec")
    plan = Plan(
        measures,
        repeats,
        # Far enough apart that what a call takes besides, and its spread, is little of the difference.
        semantic_steps=(8, 104) if quick else (16, 400),
        coarse_windows=(1, 3) if quick else (1, 4),
        deadline=time.monotonic() + time_limit,
    )
    out.mkdir(parents=True, exist_ok=True)  # not after the first measurement, if it cannot be
    about = describe_run()
    bandwidth, how = measure_bandwidth()
    about["notes"] = [f"Floors: weights and live cache at {bandwidth / 1e9:,.1f} GB/s, which {how} reached."]
    results: list[Result] = []
    for size in sizes:
        for dtype in dtypes:
            model = make_model(size, dtype)
            about["notes"].append(f"{size}, {dtype}: {weight_bytes(model) / 1e6:,.0f} MB of weights.")
            for n_rows in rows:
                makes = _makes(size, dtype, n_rows, model, contenders)
                for result in _measure(plan, (size, dtype, n_rows), makes, bandwidth):
                    results.append(result)
                    write_report(out, about | {"peak_memory": _peak_memory()}, results)
    click.echo(format_report(about, results))


def _makes(size, dtype, n_rows, model, contenders) -> dict[str, Callable[[], Contender]]:
    def torch_compile() -> Contender:
        from benchmarks.torch_static_cache import TorchCompile

        return TorchCompile(size, dtype, n_rows)

    makes = {
        "bark_jax": lambda: BarkJax(model, n_rows),
        INT8: lambda: BarkJax(with_int8(model), n_rows),
        "transformers": lambda: Transformers(size, dtype, n_rows),
        "torch.compile": torch_compile,
    }
    return {name: makes[name] for name in contenders}


def _measure(plan: Plan, case: tuple[str, str, int], makes, bandwidth: float):
    made, failed = {}, {}
    for name, make in makes.items():
        try:
            made[name] = make()
        except Exception as error:  # a missing package, a driver, no memory: the others go on
            failed[name] = _told(error)
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
    """(what, unit, a Spread or a failure by contender)."""
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
    """The calls that work, after one run of each, and what the others failed with."""
    ready, failed = {}, {}
    for name, call in calls.items():
        try:
            call()
            ready[name] = call
        except Exception as error:
            failed[name] = _told(error)
    return ready, failed


def _compile(ours: BarkJax, is_kept: bool) -> dict[str, Spread]:
    """Seconds that the first clip takes longer than the second one; with `is_kept` from programs kept on disk."""
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


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _peak_memory() -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


@main.command("engine")
@click.option("--size", type=click.Choice(SIZES), default="small", show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option("--slots", "n_slots", default=16, show_default=True)
@click.option("--utterances", "n_rows", default=64, show_default=True)
@click.option("--max-tokens", default=SEMANTIC_TOKENS, show_default=True, help="Of the longest utterance.")
@click.option("--alone/--no-alone", default=True, help="Also one row after the other.")
def engine(size, dtype, n_slots, n_rows, max_tokens, alone):
    """Continuous batching against fixed batches of as many rows, and against one row after the other."""
    from benchmarks.throughput import compare

    _tell_run()
    for line in compare(make_model(size, dtype), n_slots, n_rows, max_tokens, alone=alone):
        click.echo(line)


@main.command("batch")
@click.option("-m", "--model", default="tiny", show_default=True, help="A folder, a Hub id, or tiny.")
@click.option("--dtype", help="Of the networks.")
@click.option("--slots", "n_slots", default=16, show_default=True)
@click.option("--rows", "n_rows", default=64, show_default=True)
def batch(model, dtype, n_slots, n_rows):
    """`bark-jax batch`, with encoding and writing, against a loop over `generate` of one text, and of several."""
    from benchmarks.throughput import compare_batch

    _tell_run()
    for line in compare_batch(model, dtype, n_slots, n_rows):
        click.echo(line)


@main.command("memory")
@click.option("--rows", "counts", multiple=True, type=click.IntRange(1), default=(200, 10_000), show_default=True)
def memory(counts):
    """Peak memory of `bark-jax batch -m tiny` on few rows and on many."""
    from benchmarks.batch_memory import compare

    _tell_run()
    for line in compare(counts):
        click.echo(line)


def _tell_run() -> None:
    about = describe_run()
    click.echo(f"{about['command']}\n{about['device']}; {about['processor']}, {about['cpu_cores']} cores")
    click.echo(", ".join(f"{name} {version}" for name, version in about["versions"].items() if version))


if __name__ == "__main__":
    main()
