"""`bark-jax prepare`: turns recordings into a dataset for training."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.models import open_processor
from bark_jax.cli.options import json_option, model_option, revision_option, tokenizer_option
from bark_jax.errors import InputError

if TYPE_CHECKING:
    from bark_jax.training.dataset import Dataset

EXAMPLES = """\b
Examples:
  bark-jax prepare recordings.jsonl data -m suno/bark-small
  bark-jax prepare recordings.jsonl data -m suno/bark-small --check
  bark-jax prepare speech.jsonl data -m tiny --semantic-tokenizer my_package.tokens:tokenize --keep-audio
"""

semantic_tokenizer_option = click.option(
    "--semantic-tokenizer",
    metavar="MODULE:NAME",
    help="Python function that makes the semantic tokens of lines that have none.",
)


@click.command("prepare", cls=Verb, epilog=EXAMPLES, short_help="Turn recordings into a dataset for training.")
@click.argument("manifest")
@click.argument("dataset")
@model_option
@revision_option
@semantic_tokenizer_option
@click.option("--keep-audio", is_flag=True, help="Keep the audio in the dataset too; training the codec needs it.")
@tokenizer_option
@click.option("--check", "only_check", is_flag=True, help="Report the faults of MANIFEST and write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace DATASET if it exists.")
@json_option
def command(manifest: str, dataset: str, only_check: bool, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Check the recordings that MANIFEST lists and encode them into the folder DATASET, for the networks of a model.

    MANIFEST has a JSON object a line: audio, text, and optionally voice, semantic and id. All faults are reported by
    line before anything is written.

    \f
    Raises:
      InputError: the manifest has faults, which are printed first.
    """
    keep_audio = options.pop("keep_audio")
    if only_check:
        report = check_recordings(manifest, **options)
    else:
        made = prepare_recordings(manifest, dataset, overwrite=overwrite, keep_audio=keep_audio, **options)
        report = {"dataset": dataset} | describe(made)
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False))
        return
    voices = ", ".join(report["voices"])
    click.echo(f"{report['examples']} utterances, {report['seconds']:.1f} s, voices: {voices}", err=True)
    if not only_check:
        click.echo(dataset)


def prepare_recordings(
    manifest: str,
    folder: str | os.PathLike,
    *,
    model: str,
    revision: str | None,
    tokenizer: str | None,
    semantic_tokenizer: str | None,
    keep_audio: bool,
    overwrite: bool = False,
) -> "Dataset":
    """Calls `training.prepare_dataset` with the model, tokenizers and paths that the command line names, and a bar.

    Args:
      semantic_tokenizer: "module:name", for lines without semantic tokens; None if all lines have them.

    Raises:
      InputError: faults of the manifest, which are printed by line first; or `folder` is there and not `overwrite`.
      ModelNotFoundError: no such model.
    """
    from bark_jax.files import check_destination
    from bark_jax.training.semantic_tokens import load_tokenizer

    check_destination(folder, overwrite=overwrite, kind="dataset")
    check_recordings(  # reads all audio once more, which costs less than loading a model for a faulty manifest
        manifest, model=model, revision=revision, tokenizer=tokenizer, semantic_tokenizer=semantic_tokenizer
    )
    tokenize = None if semantic_tokenizer is None else load_tokenizer(semantic_tokenizer)
    processor = open_processor(model, revision, tokenizer)
    from bark_jax.model import BarkModel
    from bark_jax.training.prepare import prepare_dataset

    with Bar() as bar, _faults_by_line():
        return prepare_dataset(
            manifest,
            folder,
            bark=BarkModel.from_pretrained(model, revision=revision, dtype="float32"),
            processor=processor,
            semantic_tokenizer=tokenize,
            keep_audio=keep_audio,
            overwrite=overwrite,
            progress=bar,
        )


def check_recordings(
    manifest: str, *, model: str, revision: str | None, tokenizer: str | None, semantic_tokenizer: str | None
) -> dict[str, Any]:
    """Counts a manifest's examples, seconds and voices. Prints its faults by line and raises InputError for them."""
    from bark_jax.training.manifest import check_manifest
    from bark_jax.training.semantic_tokens import load_tokenizer

    if semantic_tokenizer is not None:
        load_tokenizer(semantic_tokenizer)
    processor = open_processor(model, revision, tokenizer)
    with _faults_by_line():
        corpus = check_manifest(
            manifest, spaces=processor.spaces, processor=processor, has_tokenizer=semantic_tokenizer is not None
        )
    return {"examples": corpus.n_entries, "seconds": round(corpus.seconds, 2), "voices": list(corpus.voices)}


@contextlib.contextmanager
def _faults_by_line() -> Iterator[None]:
    """Prints a manifest's faults as compilers do, "file:line: fault", and raises InputError with their number."""
    from bark_jax.training.manifest import ManifestError

    try:
        yield
    except ManifestError as error:
        for fault in error.faults:
            click.echo(f"{error.path}:{fault.line}: {' '.join(fault.what.split())}", err=True)
        n_faults = f"{len(error.faults)} {'fault' if len(error.faults) == 1 else 'faults'}"
        raise InputError(f"{error.path} has {n_faults}; nothing was prepared. {error.advice}") from error


def describe(dataset: "Dataset") -> dict[str, Any]:
    """Counts a dataset's examples, seconds and voices, for the output of `prepare`."""
    return {"examples": len(dataset), "seconds": round(dataset.seconds, 2), "voices": list(dataset.voices)}


class Bar:
    """Callback `progress` of `prepare_dataset`: a bar of clips on a terminal, nothing elsewhere."""

    def __enter__(self) -> "Bar":
        self._bar: Any = None
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="clip", disable=None)  # None disables it if stderr is no terminal
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
