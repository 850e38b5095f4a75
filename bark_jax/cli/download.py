"""`bark-jax download`: fetches models into the cache, for machines without a network later."""

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.options import revision_option

EXAMPLES = """\b
Examples:
  bark-jax download suno/bark-small
  HF_HOME=/data/hub bark-jax download suno/bark suno/bark-small
"""


@click.command("download", cls=Verb, epilog=EXAMPLES, short_help="Download models from the Hub and convert them.")
@click.argument("models", metavar="ID...", nargs=-1, required=True)
@revision_option
def command(models: tuple[str, ...], revision: str | None) -> None:
    """Download models from the Hub into the cache and convert them once; print the folder of each.

    For a model in the cache the Hub is asked for a newer revision. Other verbs use the cached model and do not ask.

    The cache is the folder HF_HOME, by default ~/.cache/huggingface. HF_TOKEN gives access to private models.
    """
    from bark_jax.checkpoints.find import find_model
    from bark_jax.text.processor import BarkProcessor

    for model in models:
        folder = find_model(model, revision=revision, update=True)
        BarkProcessor.from_pretrained(model, revision=revision)  # downloads a tokenizer for models that have none
        click.echo(folder)
