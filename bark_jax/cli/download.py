"""`bark-jax download`: models into the cache, so that they are at hand without a network."""

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.options import revision_option

EXAMPLES = """\b
Examples:
  bark-jax download suno/bark-small
  HF_HOME=/data/hub bark-jax download suno/bark suno/bark-small
"""


@click.command("download", cls=Verb, epilog=EXAMPLES, short_help="Fetch models of the Hub and convert them.")
@click.argument("models", metavar="ID...", nargs=-1, required=True)
@revision_option
def command(models: tuple[str, ...], revision: str | None) -> None:
    """Fetch models of the Hub into the cache and convert them, once. Prints the folder of each.

    A model that is in the cache is looked up again: this is how one gets a newer revision. Other verbs take what is
    there, and ask nobody.

    The cache is HF_HOME, ~/.cache/huggingface if it is not set; HF_TOKEN is for private models.
    """
    from bark_jax.checkpoints.find import find_model
    from bark_jax.text.processor import BarkProcessor

    for model in models:
        folder = find_model(model, revision=revision, update=True)
        BarkProcessor.from_pretrained(model, revision=revision)  # fetches a tokenizer for models that bring none
        click.echo(folder)
