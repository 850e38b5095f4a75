"""`bark-jax verify`: writes a report on a checkpoint that can be posted as it is."""

import json
import os
from pathlib import Path

import click

from bark_jax.cli.group import EXIT_FAILURE, Verb
from bark_jax.cli.options import DTYPES, json_option, revision_option
from bark_jax.files import check_destination

PARTS = ("files", "recordings", "clips", "words", "speed", "parity")  # a copy of those of `verify.run`, for --help

EXAMPLES = """\b
Examples:
  bark-jax verify suno/bark-small --recordings recordings
  bark-jax verify suno/bark --part files --part recordings --recordings recordings
  bark-jax verify tiny --quick -o report
"""


@click.command("verify", cls=Verb, epilog=EXAMPLES, short_help="Report checksums, parity, clips and speed of a model.")
@click.argument("model")
@revision_option
@click.option("-o", "--out", metavar="FOLDER", help="Folder to make.  [default: verify-MODEL]")
@click.option("--overwrite", is_flag=True, help="Replace a report in FOLDER.")
@click.option(
    "--recordings", metavar="FOLDER", help="Recordings of a published model to compare with; see docs/verify.md."
)
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(PARTS),
    help="Part to run; repeat the option for several.  [default: all that can run here]",
)
@click.option("--quick", "is_quick", is_flag=True, help="Run less of each part: one clip, one recorded run a stage.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Dtype of clips, words and speed.  [default: the model's]")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    revision: str | None,
    out: str | None,
    overwrite: bool,
    recordings: str | None,
    parts: tuple[str, ...],
    is_quick: bool,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Verify MODEL and write a report that can be posted as it is; the exit status is 1 if a part differs or fails.

    Checksums of the checkpoint's files; recordings of a published model, if given; a clip in each language with figure
    and token hashes; a recogniser's word error and parity with transformers, if installed; speed. FOLDER gets
    report.json, report.md and clips/. The report holds no paths and no names of users.

    \f
    Raises:
      InputError, OutputError: FOLDER cannot be made, before JAX is imported.
    """
    out = out or f"verify-{Path(os.path.abspath(model)).name}"
    check_destination(out, overwrite=overwrite, kind="report")  # before JAX is imported
    from bark_jax.verify import verify

    report = verify(
        model,
        out,
        revision=revision,
        parts=parts,
        recordings=recordings,
        dtype=dtype,
        is_quick=is_quick,
        overwrite=overwrite,
        on_line=lambda line: click.echo(line, err=True),
    )
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else report.to_markdown(), nl=as_json)
    if not report.is_good:
        ctx.exit(EXIT_FAILURE)
