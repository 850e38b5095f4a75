"""`bark-jax parity`: compares a checkpoint's outputs with those of transformers' Bark in PyTorch."""

import json
from typing import TYPE_CHECKING

import click

from bark_jax.cli.group import EXIT_FAILURE, Verb
from bark_jax.cli.models import open_processor, open_voices
from bark_jax.cli.options import json_option, revision_option

if TYPE_CHECKING:
    from bark_jax.voices.voice import Voice

EXAMPLES = """\b
Examples:
  bark-jax parity suno/bark-small
  bark-jax parity my-bark --reference suno-files --max-tokens 200 --json
"""


@click.command("parity", cls=Verb, epilog=EXAMPLES, short_help="Compare a model with Bark in PyTorch.")
@click.argument("model")
@revision_option
@click.option("--reference", metavar="FOLDER", help="Transformers folder to compare with.  [default: MODEL itself]")
@click.option("--text", help="Text of the prompt.  [default: random text tokens]")
@click.option("--voice", help="Voice's name or .npz file.  [default: random codes]")
@click.option(
    "--max-tokens",
    type=int,
    default=40,
    show_default=True,
    help="Number of semantic tokens to generate; 50 are a second.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the test's random inputs."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    revision: str | None,
    reference: str | None,
    text: str | None,
    voice: str | None,
    max_tokens: int,
    seed: int,
    as_json: bool,
) -> None:
    """Compare MODEL with transformers' Bark in PyTorch, stage by stage; the exit status is 1 if they differ.

    Logits and audio have to agree to float32 rounding, greedy tokens exactly. A token may differ if the reference's two
    best logits nearly tie; the tokens after it are then not compared. Needs torch: pip install 'bark-jax[parity]'.
    """
    from bark_jax.parity import compare, format_table
    from bark_jax.parity.reference import import_torch

    import_torch()
    text_ids, known_voice = _read(model, revision, text, voice)
    rows = compare(
        model,
        reference=reference,
        revision=revision,
        text_ids=text_ids,
        voice=known_voice,
        max_new_tokens=max_tokens,
        seed=seed,
        on_row=lambda row: click.echo(f"{row.stage}: {row.check} {'ok' if row.is_within else 'WRONG'}", err=True),
    )
    click.echo(json.dumps([row.to_dict() for row in rows], indent=2) if as_json else format_table(rows))
    if not all(row.is_within for row in rows):
        ctx.exit(EXIT_FAILURE)


def _read(
    model: str, revision: str | None, text: str | None, voice: str | None
) -> tuple[list[int] | None, "Voice | None"]:
    """Returns the text's token ids and the voice, each None if it is not given.

    Opens the tokenizer or the voices only if they are needed: `compare` then draws random inputs instead.
    """
    if text is None and voice is None:
        return None, None
    processor = open_voices(model, revision) if text is None else open_processor(model, revision)
    ids = None
    if text is not None:
        inputs = processor(text)
        ids = inputs["input_ids"][0, : inputs["attention_mask"].sum()].tolist()
    if voice is None:
        return ids, None
    from bark_jax.voices.library import resolve_voice

    return ids, resolve_voice(voice, processor.library, processor.spaces)
