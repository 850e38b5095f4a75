"""The command that converts checkpoints: `python -m converters` and `bark-jax convert`."""

import sys

import click

from bark_jax.errors import BarkError, InputError, ModelNotFoundError
from converters.progress import BytesBar

EXIT_FAILURE, EXIT_USAGE, EXIT_NOT_FOUND = 1, 2, 3

EXAMPLES = """\b
Examples:
  python -m converters suno/bark-small bark-small
  python -m converters suno-files bark --size large --codec facebook/encodec_24khz
  python -m converters bark-small for-torch --to transformers
  python -m converters suno/bark-small in-another-voice --lora run/lora.safetensors
"""


@click.command("convert", epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
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
def command(**options) -> None:
    """Convert a PyTorch checkpoint SRC of Bark into the folder DST.

    SRC is a Hub id, a folder of transformers, Suno's files (text.pt, coarse.pt, fine.pt, or one of them), an EnCodec's
    .th file, or a folder that this command wrote. DST appears when it is complete, or not at all.
    """
    try:
        run(**options)
    except (BarkError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_exit_code(error))


def run(src: str, dst: str, **options) -> None:
    """What the command does; errors are the caller's to tell."""
    from converters.conversion import convert  # loads JAX, which --help need not

    with BytesBar() as bar:
        path = convert(src, dst, progress=bar, **options)
    click.echo(path)


def _exit_code(error: Exception) -> int:
    if isinstance(error, ModelNotFoundError):
        return EXIT_NOT_FOUND
    return EXIT_USAGE if isinstance(error, InputError) else EXIT_FAILURE
