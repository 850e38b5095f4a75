"""`bark-jax convert`: a PyTorch checkpoint, or a LoRA beside a model, into a model folder."""

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


@click.command("convert", cls=Verb, epilog=EXAMPLES, short_help="Convert a PyTorch checkpoint.")
@click.argument("src")
@click.argument("dst", type=click.Path())
@click.option(
    "--to",
    type=click.Choice(["bark_jax", "transformers"]),
    default="bark_jax",
    show_default=True,
    help="Layout of the folder that is written.",
)
@click.option("--size", type=click.Choice(["small", "large"]), help="Size of Suno's files to read, if SRC has both.")
@click.option("--codec", metavar="SRC", help="Codec for Suno's files, which have none: a folder, .th file or Hub id.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Dtype of the weights that are written.  [default: that of SRC]",
)
@click.option("--lora", metavar="FILE", help="LoRA weights to merge into the networks, from `bark-jax train --lora`.")
@click.option("--revision", help="Branch, tag or commit of a Hub id.")
@click.option("--allow-non-finite", is_flag=True, help="Accept weights that are infinite or NaN.")
@click.option("--overwrite", is_flag=True, help="Replace the model in DST.")
def command(src: str, dst: str, **options: Any) -> None:
    """Convert a PyTorch checkpoint SRC of Bark into the folder DST.

    SRC is a Hub id, a transformers folder, Suno's files (text.pt, coarse.pt, fine.pt, or one of them), an EnCodec .th
    file, or a folder that this command wrote. DST is written atomically: it appears when it is complete.
    """
    # Conversion needs JAX for shapes alone. On an accelerator it would reserve memory that other processes use.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from bark_jax.checkpoints import convert

    with BytesBar() as bar:
        path = convert(src, dst, progress=bar, **options)
    click.echo(path)
