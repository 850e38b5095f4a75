"""Times this project against torch implementations of Bark: the same inputs, the same device, one run.

    python -m benchmarks --quick                                a CPU, small, one row, minutes
    python -m benchmarks --sizes large --dtypes bfloat16        a GPU
    python -m benchmarks engine                                 continuous batching against fixed batches
    python -m benchmarks batch                                  bark-jax batch against a loop over generate
    python -m benchmarks memory                                 peak memory of bark-jax batch, few rows and many

Prints a table and writes results.jsonl, results.md and results.png. Every measurement is repeated; contenders take
turns, so that a busy machine slows all of them. With n_short and n_long steps in a short and a long call:

    step       (t_long - t_short) / (n_long - n_short)
    prefill    t_short - n_short * step

A coarse step is measured over whole windows with a voice, so it contains 1/60 of the window's prefill of 887 positions.
The floor of a step is the time that reading the weights and the KV cache takes at the measured memory bandwidth.
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
N_COARSE_KEYS = 917  # positions that an average step of a window attends to: prompt of 887 and half of 60 new tokens


@dataclasses.dataclass(frozen=True)
class Plan:
    """Measurements to make, and their lengths."""

    measures: tuple[str, ...]
    repeats: int
    semantic_steps: tuple[int, int]  # in the short and in the long call
    coarse_windows: tuple[int, int]  # likewise
    deadline: float  # of time.monotonic(); no measurement starts after it


@click.group(invoke_without_command=True, help=__doc__.splitlines()[0])
@click.option(
    "--sizes",
    multiple=True,
    type=click.Choice(SIZES),
    default=("small", "large"),
    show_default=True,
    help="Model sizes.",
)
@click.option(
    "--rows",
    multiple=True,
    type=click.IntRange(1),
    default=(1, 8, 16, 64),
    show_default=True,
    help="Batch sizes.",
)
@click.option(
    "--dtypes",
    multiple=True,
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default=("bfloat16",),
    help="Dtypes of weights and computation.",
)
@click.option("--measures", multiple=True, type=click.Choice(MEASURES), default=MEASURES, help="Measurements to make.")
@click.option(
    "--contenders",
    multiple=True,
    type=click.Choice(CONTENDERS),
    default=CONTENDERS,
    show_default=True,
    help="Implementations to compare.",
)
@click.option("--quick", is_flag=True, help="Small model, one row, float32, few steps.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Repetitions of a measurement.")
@click.option("--time-limit", type=float, default=math.inf, help="Seconds after which no measurement is started.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("benchmark"),
    show_default=True,
    help="Folder for the results.",
)
@click.pass_context
def main(context, sizes, rows, dtypes, measures, contenders, quick, repeats, time_limit, out):
    """Measures every combination of size, dtype and rows, and rewrites the report after each result."""
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
        # Far enough apart that the fixed cost of a call, and its spread, is small against the difference.
        semantic_steps=(8, 104) if quick else (16, 400),
        coarse_windows=(1, 3) if quick else (1, 4),
        deadline=time.monotonic() + time_limit,
    )
    out.mkdir(parents=True, exist_ok=True)  # fails before the first measurement if the path is not writable
    about = describe_run()
    bandwidth, how = measure_bandwidth()
    about["notes"] = [f"Floors: weights and live cache at {bandwidth / 1e9:,.1f} GB/s, which {how} reached."]
    results: list[Result] = []
    for size in sizes:
        for dtype in dtypes:
            model = make_model(size, dtype)
            about["notes"].append(f"{size}, {dtype}: {weight_bytes(model) / 1e6:,.0f} MB of weights.")
            for n_rows in rows:
                makers = _makers(size, dtype, n_rows, model, contenders)
                for result in _measure(plan, (size, dtype, n_rows), makers, bandwidth):
                    results.append(result)
                    write_report(out, about | {"peak_memory": _peak_memory()}, results)
    click.echo(format_report(about, results))


def _makers(size, dtype, n_rows, model, contenders) -> dict[str, Callable[[], Contender]]:
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


def _measure(plan: Plan, case: tuple[str, str, int], makers, bandwidth: float):
    """Yields a Result for each measurement of each contender, also for those that fail."""
    made, failed = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:  # a missing package, a driver, out of memory: the other contenders still run
            failed[name] = _error_line(error)
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
            failed[name] = _error_line(error)
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


def _error_line(error: Exception) -> str:
    """An error as one short line for the table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _peak_memory() -> int | None:
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


@main.command("engine")
@click.option("--size", type=click.Choice(SIZES), default="small", show_default=True, help="Model size.")
@click.option("--dtype", default="bfloat16", show_default=True, help="Dtype of the networks.")
@click.option("--slots", "n_slots", default=16, show_default=True, help="Slots of the engine; rows of a fixed batch.")
@click.option("--utterances", "n_rows", default=64, show_default=True, help="Number of utterances.")
@click.option(
    "--max-tokens", default=SEMANTIC_TOKENS, show_default=True, help="Maximum semantic tokens of an utterance."
)
@click.option("--alone/--no-alone", default=True, help="Also measure one row at a time.")
def engine(size, dtype, n_slots, n_rows, max_tokens, alone):
    """Compares throughput of continuous batching, fixed batches of as many rows, and one row at a time."""
    from benchmarks.throughput import compare

    _echo_run()
    for line in compare(make_model(size, dtype), n_slots, n_rows, max_tokens, alone=alone):
        click.echo(line)


@main.command("batch")
@click.option("-m", "--model", default="tiny", show_default=True, help="A folder, a Hub id, or tiny.")
@click.option("--dtype", help="Dtype of the networks.")
@click.option("--slots", "n_slots", default=16, show_default=True, help="Slots of the engine; texts of a batched loop.")
@click.option("--rows", "n_rows", default=64, show_default=True, help="Number of texts.")
def batch(model, dtype, n_slots, n_rows):
    """Compares `bark-jax batch`, encoding and writing included, with loops over `generate`, batched and not."""
    from benchmarks.throughput import compare_batch

    _echo_run()
    for line in compare_batch(model, dtype, n_slots, n_rows):
        click.echo(line)


@main.command("memory")
@click.option(
    "--rows",
    "counts",
    multiple=True,
    type=click.IntRange(1),
    default=(200, 10_000),
    show_default=True,
    help="Numbers of rows to compare.",
)
def memory(counts):
    """Measures peak memory of `bark-jax batch -m tiny` on few rows and on many."""
    from benchmarks.batch_memory import compare

    _echo_run()
    for line in compare(counts):
        click.echo(line)


@main.command("wait")
@click.option("--size", type=click.Choice(SIZES), default="small", show_default=True, help="Model size.")
@click.option("--dtype", default="float32", show_default=True, help="Dtype of the networks.")
@click.option(
    "--slots", multiple=True, type=click.IntRange(1), default=(1, 4), show_default=True, help="Slots of the engine."
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs of each measure.")
def wait(size, dtype, slots, repeats):
    """Measures the time to a stream's first part, and the time of one chunk of the engine's semantic steps."""
    from benchmarks.waiting import measure

    _echo_run()
    for line in measure(make_model(size, dtype), slots, repeats):
        click.echo(line)


@main.command("training-memory")
@click.option("--size", type=click.Choice(SIZES), default="small", show_default=True, help="Model size.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice(["semantic", "coarse_acoustics", "fine_acoustics"]),
    default=("semantic", "coarse_acoustics", "fine_acoustics"),
    show_default=True,
    help="Networks to compile a step of.",
)
@click.option(
    "--rows", multiple=True, type=click.IntRange(1), default=(1, 8), show_default=True, help="Rows of a step."
)
def training_memory(size, networks, rows):
    """Counts the bytes of a training step, from XLA's own analysis; nothing is trained."""
    from benchmarks.training_memory import measure

    _echo_run()
    for line in measure(make_model(size, "float32"), networks, rows):
        click.echo(line)


def _echo_run() -> None:
    """Prints command, device and versions."""
    about = describe_run()
    click.echo(f"{about['command']}\n{about['device']}; {about['processor']}, {about['cpu_cores']} cores")
    click.echo(", ".join(f"{name} {version}" for name, version in about["versions"].items() if version))


if __name__ == "__main__":
    main()
