"""`bark-jax bench`: measures a model's speed and memory on this machine."""

import json

import click

from bark_jax.cli.devices import choose_devices
from bark_jax.cli.group import Verb
from bark_jax.cli.options import DTYPES, devices_option, json_option, model_option, revision_option
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
    help="Dtype of the networks; repeat the option to compare several.  [default: the model's]",
)
@click.option(
    "--offload",
    "with_offload",
    is_flag=True,
    help="Also measure with CPU offload: one network at a time on the accelerator.",
)
@click.option(
    "--rows", "n_rows", type=click.IntRange(1), default=1, show_default=True, help="Number of clips in the batch."
)
@devices_option
@click.option("--seconds", type=float, help="Seconds of audio of each clip.  [default: 10, or the model's maximum]")
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Number of timed calls after the first, which compiles.",
)
@click.option("--plot", metavar="FILE", help="Plot the seconds of each stage into a .png, .svg or .pdf file.")
@json_option
def command(
    model: str,
    revision: str | None,
    dtypes: tuple[str, ...],
    with_offload: bool,
    n_rows: int,
    devices: str | None,
    seconds: float | None,
    repeats: int,
    plot: str | None,
    as_json: bool,
) -> None:
    """Measure a model: seconds and rate of each stage, real-time factor, weights, peak memory.

    It runs on JAX's default device, or on those of --devices. The first call compiles and is reported by itself; the
    compilation cache on disk is not used. The other calls are reported as median and spread. Peak memory is the
    device's if the backend reports it, else the process's.

    \f
    Raises:
      InputError, UnsupportedError: --plot cannot be written, before anything is measured.
    """
    check_plot(plot)
    if with_offload and devices is not None:
        raise click.UsageError("--offload keeps one network at a time on one device; leave out --devices.")
    import jax

    # Set before anything is compiled: JAX reads it once. With the cache on, the first call would not compile.
    jax.config.update("jax_enable_compilation_cache", False)
    from bark_jax.bench import benchmark, format_report, plot_report

    report = benchmark(
        model,
        revision=revision,
        dtypes=dtypes or (None,),
        with_offload=with_offload,
        n_rows=n_rows,
        devices=choose_devices(devices),
        seconds=seconds,
        repeats=repeats,
        on_call=lambda line: click.echo(line, err=True),
    )
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else format_report(report))
    if plot is not None:
        from bark_jax.audio.plots import save_figure

        save_figure(plot_report(report), plot)
