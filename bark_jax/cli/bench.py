"""`bark-jax bench`: how fast a model is here, and how much memory it takes."""

import json

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.options import DTYPES, json_option, model_option, revision_option
from bark_jax.cli.paths import check_plot

EXAMPLES = """\b
Examples:
  bark-jax bench -m tiny --seconds 1
  bark-jax bench -m suno/bark-small --dtype float32 --dtype bfloat16 --rows 8 --plot speed.png
"""


@click.command("bench", cls=Verb, epilog=EXAMPLES, short_help="Measure speed and memory of a model.")
@model_option
@revision_option
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(DTYPES),
    help="Of the networks; several to compare them.",
)
@click.option(
    "--offload", "with_offload", is_flag=True, help="Also with the networks on the accelerator one at a time."
)
@click.option("--rows", "n_rows", type=click.IntRange(1), default=1, show_default=True, help="Clips of one batch.")
@click.option("--seconds", type=float, help="Audio of each clip  [default: 10, or the most that the model makes]")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Calls after the first.")
@click.option("--plot", metavar="PNG", help="Draw the seconds of each stage; also .svg and .pdf.")
@json_option
def command(
    model: str,
    revision: str | None,
    dtypes: tuple[str, ...],
    with_offload: bool,
    n_rows: int,
    seconds: float | None,
    repeats: int,
    plot: str | None,
    as_json: bool,
) -> None:
    """Measure a model on JAX's default device: seconds and rate of each stage, real-time factor, weights, peak memory.

    The first call compiles, also what earlier commands have kept compiled on disk; the others are given by median and
    spread. Peak memory is the device's where the backend tells it, else the process's.
    """
    check_plot(plot)
    import jax

    # Before anything is compiled, as JAX looks at this once.
    jax.config.update("jax_enable_compilation_cache", False)
    from bark_jax.bench import benchmark, format_report, plot_report

    report = benchmark(
        model,
        revision=revision,
        dtypes=dtypes or (None,),
        with_offload=with_offload,
        n_rows=n_rows,
        seconds=seconds,
        repeats=repeats,
        on_call=lambda line: click.echo(line, err=True),
    )
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else format_report(report))
    if plot is not None:
        from bark_jax.audio.plots import save_figure

        save_figure(plot_report(report), plot)
