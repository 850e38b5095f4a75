"""`bark-jax convert`."""

import os
from typing import Any

import click

from bark_jax.checkpoints.progress import BytesBar
from bark_jax.cli.group import Verb

EXAMPLES = """\b
Examples:
  bark-jax convert suno/bark-small bark-small
  bark-jax convert suno-files bark --size large --codec facebook/encodec_24khz
  bark-jax convert bark-small for-torch --to transformers
  bark-jax convert suno/bark-small in-another-voice --lora run/lora.safetensors
"""


@click.command("convert", cls=Verb, epilog=EXAMPLES, short_help="Convert a PyTorch checkpoint into a folder.")
@click.argument("src")
@click.argument("dst", type=click.Path())
@click.option(
    "--to", type=click.Choice(["bark_jax", "transformers"]), default="bark_jax", show_default=True, help="What to make."
)
@click.option("--size", type=click.Choice(["small", "large"]), help="Which of Suno's files to take.")
@click.option("--codec", metavar="SRC", help="The codec for Suno's files: a folder, a .th file or a Hub id.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Type of the weights [default: as they are].",
)
@click.option("--lora", metavar="FILE", help="Add these changes to the networks: a file that training made.")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--allow-non-finite", is_flag=True, help="Take weights that are infinite or not a number.")
@click.option("--overwrite", is_flag=True, help="Replace the model in DST.")
def command(src: str, dst: str, **options: Any) -> None:
    """Convert a PyTorch checkpoint SRC of Bark into the folder DST.

    SRC is a Hub id, a folder of transformers, Suno's files (text.pt, coarse.pt, fine.pt, or one of them), an EnCodec's
    .th file, or a folder that this command wrote. DST appears when it is complete, or not at all.
    """
    # JAX is asked for shapes alone; it need not take an accelerator's memory from whoever runs beside this.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from bark_jax.checkpoints import convert  # loads JAX, which --help need not

    with BytesBar() as bar:
        path = convert(src, dst, progress=bar, **options)
    click.echo(path)
