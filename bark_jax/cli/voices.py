"""`bark-jax voices`: lists the names of a model's voices."""

import json

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.models import open_voices
from bark_jax.cli.options import json_option, model_option, revision_option

MAX_LISTED_NAMES = 10

EXAMPLES = """\b
Examples:
  bark-jax voices --language de
  bark-jax voices -m my-bark --json
"""


@click.command("voices", cls=Verb, epilog=EXAMPLES, short_help="List the voices of a model.")
@model_option
@revision_option
@click.option("--language", help='List voices of this language alone, such as "de" or "German".')
@json_option
def command(model: str, revision: str | None, language: str | None, as_json: bool) -> None:
    """List the names of a model's voices, one a line, for --voice of `bark-jax say`."""
    processor = open_voices(model, revision)
    names = processor.voices(language)
    click.echo(json.dumps(names, indent=2) if as_json else "\n".join(names), nl=bool(names) or as_json)
    if not names and not as_json:
        click.echo(_why_none(model, processor.voices(), language), err=True)


def _why_none(model: str, names: list[str], language: str | None) -> str:
    if names:
        listed = ", ".join(names[:MAX_LISTED_NAMES]) + (", ..." if len(names) > MAX_LISTED_NAMES else "")
        return f"{model} has no voice that is listed as {language}; its voices are {listed}"
    return f"{model} has no voices of its own; --voice also takes the path of a .npz file"
