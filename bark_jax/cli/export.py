"""`bark-jax export`: a model's stages as StableHLO programs, which run without this package."""

import os
from typing import Any

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.options import dtype_option, revision_option

EXAMPLES = """\b
Examples:
  bark-jax export tiny exported --platform cpu
  bark-jax export suno/bark-small exported --platform tpu --platform cuda --voice v2/en_speaker_6
  bark-jax export suno/bark exported --platform cuda --dtype bfloat16 --rows 8
"""


@click.command("export", cls=Verb, epilog=EXAMPLES, short_help="Export the stages as StableHLO programs.")
@click.argument("model")
@click.argument("out", type=click.Path())
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    required=True,
    type=click.Choice(["cpu", "cuda", "rocm", "tpu"]),
    help="Platform to make programs for; repeat the option for several.",
)
@click.option("--rows", type=int, help="Number of rows of a batch.  [default: any number]")
@click.option("--voice", "voices", multiple=True, metavar="VOICE", help="Voice to write along, a name or a .npz file.")
@dtype_option
@click.option(
    "--attention",
    "attn_implementation",
    type=click.Choice(["xla", "cudnn"]),
    default="xla",
    show_default=True,
    help="Attention of the programs for cuda. Later versions of JAX may refuse a program that calls cuDNN.",
)
@click.option(
    "--decoding-copy/--no-decoding-copy",
    default=True,
    show_default=True,
    help="Write a second copy of weights where a CPU decodes faster with it: one row, or bfloat16.",
)
@revision_option
@click.option("--overwrite", is_flag=True, help="Replace the export in OUT.")
def command(model: str, out: str, attn_implementation: str, **options: Any) -> None:
    """Export the stages of MODEL as StableHLO programs into the folder OUT.

    OUT has a program for each stage and platform, the weights, and README.md, which describes all inputs and outputs.
    Its speak.py runs the programs with JAX alone, without bark_jax. No device of the platforms is needed. OUT is
    written atomically: it appears when it is complete.
    """
    # Lowering needs no device, and an accelerator would reserve memory that other processes use. cuDNN's version is
    # read from the GPU's libraries.
    if attn_implementation != "cudnn":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from bark_jax.stablehlo.export import export

    path = export(
        model, out, attn_implementation=attn_implementation, on_step=lambda line: click.echo(line, err=True), **options
    )
    click.echo(path)
