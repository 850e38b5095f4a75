"""Times this project against torch implementations of Bark: the same inputs, the same device, one run.

    python -m benchmarks --quick                                a CPU, small, one row, minutes
    python -m benchmarks --sizes large --dtypes bfloat16        a GPU
    python -m benchmarks engine                                 continuous batching against fixed batches
    python -m benchmarks batch                                  bark-jax batch against a loop over generate
    python -m benchmarks serve                                  bark-jax serve with 1 to 64 callers, beside batch
    python -m benchmarks load --minutes 30                      bark-jax serve under mixed load: memory, wrong answers
    python -m benchmarks memory                                 peak memory of bark-jax batch, few rows and many
    python -m benchmarks jobs OUT -m MODEL                      whole jobs of real texts, with the cost of an hour
    python -m benchmarks gpu OUT                                one GPU, all tables, within minutes; resumes
    python -m benchmarks tpu                                    programs for a TPU: bytes, by XLA's analysis; needs none
    python -m benchmarks cuda                                   programs for a GPU: calls of kernels; needs none

Prints a table and writes results.jsonl, results.md and results.png. `benchmarks.measures` says how steps are timed.
The floor of a step is the time that reading the weights and the KV cache takes at the measured memory bandwidth.
"""

import math
import time
from pathlib import Path

import click

from benchmarks import gpu, jobs
from benchmarks.contenders import SEMANTIC_TOKENS
from benchmarks.measures import CONTENDERS, MEASURES, Plan, contender_makers, measure_all, peak_memory
from benchmarks.models import SIZES, make_model, measure_bandwidth, weight_bytes
from benchmarks.report import Result, describe_run, format_report, write_report

DTYPES = click.Choice(["float32", "bfloat16", "float16"])
PROGRAM_SIZES = ("tiny", "small", "large")
TRAINED = ("semantic", "coarse_acoustics", "fine_acoustics", "codec_model")


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
    type=DTYPES,
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
                makers = contender_makers(size, dtype, n_rows, model, contenders)
                for result in measure_all(plan, (size, dtype, n_rows), makers, bandwidth):
                    results.append(result)
                    write_report(out, about | {"peak_memory": peak_memory()}, results)
    click.echo(format_report(about, results))


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


@main.command("serve")
@click.option("-m", "--model", default="tiny", show_default=True, help="A folder, a Hub id, or tiny.")
@click.option("--dtype", help="Dtype of the networks.")
@click.option("--slots", "n_slots", default=16, show_default=True, help="Slots of both engines.")
@click.option("--rows", "n_rows", default=64, show_default=True, help="Number of texts.")
@click.option("--each", "n_each", default=8, show_default=True, help="Texts of each caller at most.")
@click.option("--repeats", default=2, show_default=True, help="Turns of server, batch and loop.")
@click.option(
    "--callers",
    multiple=True,
    type=click.IntRange(1),
    default=(1, 4, 16, 64),
    show_default=True,
    help="Callers at once, a line of the table each.",
)
def serve(model, dtype, n_slots, n_rows, n_each, repeats, callers):
    """Measures `bark-jax serve` with 1, 4, 16 and 64 callers, beside `bark-jax batch` and a loop over `generate`."""
    from benchmarks.serve import compare

    _echo_run()
    for line in compare(model, dtype, n_slots, n_rows, n_each, repeats, callers):
        click.echo(line)


@main.command("load")
@click.option("-m", "--model", default="tiny", show_default=True, help="A folder, a Hub id, or tiny.")
@click.option("--minutes", default=30.0, show_default=True, help="Length of the run.")
@click.option("--callers", default=24, show_default=True, help="Callers at once.")
@click.option("--slots", default=8, show_default=True, help="Slots of the engine.")
def load(model, minutes, callers, slots):
    """Loads `bark-jax serve` with mixed requests: a tenth is bad, a tenth leaves.

    Exit status 1 for a wrong answer, a request or slot left open, or memory that grows by more than 5 %.
    """
    from benchmarks.load import MAX_GROWTH, make_requests, run_load
    from benchmarks.serve import running, voices_of

    _echo_run()
    with running("-m", model, "--slots", str(slots), "--max-requests", str(max(1, callers - 2))) as url:
        report = run_load(url, make_requests([None, *voices_of(url)[:2]], model), 60 * minutes, callers)
    for line in report.lines():
        click.echo(line)
    if report.wrong or report.left_open or report.growth > MAX_GROWTH:
        click.get_current_context().exit(1)


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


@main.command("jobs")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("-m", "--model", required=True, help="A checkpoint of transformers: a folder or a Hub id.")
@click.option("--dtype", type=DTYPES, default="float32", show_default=True, help="Dtype of weights and computation.")
@click.option(
    "--slots",
    multiple=True,
    type=click.IntRange(2),
    default=(16, 32, 64),
    show_default=True,
    help="Slots of the engine, and rows of transformers' batches.",
)
@click.option("--texts", "n_texts", type=click.IntRange(1), default=256, show_default=True, help="Number of texts.")
@click.option(
    "--max-seconds", type=click.FloatRange(0.2), default=13.5, show_default=True, help="Cut longer speech to this."
)
@click.option("--price", type=click.FloatRange(0), help="Price of an hour of the machine; adds the cost of speech.")
@click.option("--transformers/--no-transformers", "has_transformers", default=True, help="Measure transformers too.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=60, show_default=True, help="Time limit.")
def jobs_run(out, model, dtype, slots, n_texts, max_seconds, price, has_transformers, minutes):
    """Runs whole jobs, from texts to audio files, by bark-jax batch and by transformers. Resumes in OUT.

    `python -m benchmarks.random_bark small FOLDER` makes a model to measure with, where none can be downloaded.
    """
    case = jobs.JobCase(model, dtype, n_texts, max_seconds)
    options = dict(has_transformers=has_transformers, price=price, minutes=minutes, out=out.absolute())
    for line in jobs.run(case, sorted(set(slots)), **options):
        click.echo(line)


@main.command("gpu")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=9, show_default=True, help="Time limit.")
@click.option("--size", type=click.Choice(SIZES), default="large", show_default=True, help="Model size.")
@click.option("--dtype", type=DTYPES, default="bfloat16", show_default=True, help="Dtype of weights and computation.")
@click.option(
    "--rows",
    multiple=True,
    type=click.IntRange(1),
    default=(1, 8, 16, 64),
    show_default=True,
    help="Batch sizes.",
)
@click.option(
    "--measures", multiple=True, type=click.Choice(gpu.MEASURES), default=gpu.MEASURES, help="Measurements to make."
)
@click.option(
    "--contenders",
    multiple=True,
    type=click.Choice(gpu.CONTENDERS),
    default=gpu.CONTENDERS,
    show_default=True,
    help="Implementations to compare.",
)
@click.option(
    "--part-seconds",
    type=click.FloatRange(1),
    default=180,
    show_default=True,
    help="Time limit of a part, after which it counts as failed.",
)
def gpu_run(out, minutes, size, dtype, rows, measures, contenders, part_seconds):
    """Measures one GPU in parts, the most valuable first, and writes tables into OUT.

    Re-running the command resumes. Delete OUT/parts/NAME.json to repeat a part.
    """
    case = gpu.Case(size, dtype, out.absolute())
    for line in gpu.run(case, gpu.make_parts(rows, measures, contenders), minutes=minutes, limit_s=part_seconds):
        click.echo(line)


@main.command("training-memory")
@click.option("--size", type=click.Choice(SIZES), default="small", show_default=True, help="Model size.")
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice(TRAINED),
    default=TRAINED,
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


@main.command("tpu")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.Choice(PROGRAM_SIZES),
    default=PROGRAM_SIZES,
    show_default=True,
    help="Model sizes.",
)
@click.option("--rows", default=8, show_default=True, help="Rows of a batch.")
@click.option("--slots", default=16, show_default=True, help="Slots of the engine.")
@click.option("--trained-rows", default=1, show_default=True, help="Rows of a training step.")
def tpu(sizes, rows, slots, trained_rows):
    """Compiles every program for a TPU v5e that need not be here, and counts its bytes. Needs libtpu."""
    from benchmarks.tpu import measure

    _echo_run()
    for line in measure(sizes, rows, slots, trained_rows):
        click.echo(line)


@main.command("cuda")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.Choice(PROGRAM_SIZES),
    default=("small", "large"),
    show_default=True,
    help="Model sizes.",
)
@click.option(
    "--rows", multiple=True, type=click.IntRange(1), default=(1, 2, 8, 64), show_default=True, help="Batch sizes."
)
def cuda(sizes, rows):
    """Lowers the stages for a GPU that need not be here, and counts kernels and copies of the KV cache."""
    from benchmarks.cuda import measure

    _echo_run()
    for line in measure(sizes, rows):
        click.echo(line)


def _echo_run() -> None:
    """Prints command, device and versions."""
    about = describe_run()
    click.echo(f"{about['command']}\n{about['device']}; {about['processor']}, {about['cpu_cores']} cores")
    click.echo(", ".join(f"{name} {version}" for name, version in about["versions"].items() if version))


if __name__ == "__main__":
    main()
