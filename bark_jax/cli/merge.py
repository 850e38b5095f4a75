"""`bark-jax merge`: a model with a LoRA in it, for what does not know LoRA."""

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.options import model_option, revision_option

EXAMPLES = """\b
Examples:
  bark-jax merge run/lora.safetensors merged -m suno/bark-small
  bark-jax convert merged for-torch --to transformers
"""


@click.command("merge", cls=Verb, epilog=EXAMPLES, short_help="Put a LoRA into a model.")
@click.argument("lora")
@click.argument("dst")
@model_option
@revision_option
@click.option("--overwrite", is_flag=True, help="Replace the model in DST.")
def command(lora: str, dst: str, model: str, revision: str | None, overwrite: bool) -> None:
    """Write the model with the changes of the file LORA added to it, as the folder DST, with tokenizer and voices."""
    from bark_jax.folders import check_destination
    from bark_jax.lora import load_lora

    check_destination(dst, overwrite=overwrite)
    load_lora(lora)
    from bark_jax.pipeline import Bark

    Bark.from_pretrained(model, revision=revision, lora=lora).save_pretrained(dst, overwrite=overwrite)
    click.echo(dst)
