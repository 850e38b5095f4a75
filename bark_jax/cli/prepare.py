"""`bark-jax prepare`: recordings to a dataset that training reads."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.models import open_processor
from bark_jax.cli.options import json_option, model_option, revision_option
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
    "--semantic-tokenizer", metavar="MODULE:NAME", help="Makes the semantic tokens of lines that have none."
)
tokenizer_option = click.option("--tokenizer", help="A tokenizer's file or folder, for models that bring none.")


@click.command("prepare", cls=Verb, epilog=EXAMPLES, short_help="Recordings to a dataset for training.")
@click.argument("manifest")
@click.argument("dataset")
@model_option
@revision_option
@semantic_tokenizer_option
@click.option("--keep-audio", is_flag=True, help="Keep the audio too, to train the codec.")
@tokenizer_option
@click.option("--check", "only_check", is_flag=True, help="Look for faults and write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace the dataset that is there.")
@json_option
def command(manifest: str, dataset: str, only_check: bool, overwrite: bool, as_json: bool, **options: Any) -> None:
    """Check the recordings that MANIFEST lists and turn them into the folder DATASET, for the networks of a model.

    MANIFEST has a JSON object a line: audio, text, and where you have them voice, semantic and id. All faults are told
    with their lines before anything is written.
    """
    keep_audio = options.pop("keep_audio")
    if only_check:
        told = check_recordings(manifest, **options)
    else:
        made = prepare_recordings(manifest, dataset, overwrite=overwrite, keep_audio=keep_audio, **options)
        told = {"dataset": dataset} | describe(made)
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    click.echo(f"{told['examples']} utterances, {told['seconds']:.1f} s, voices: {', '.join(told['voices'])}", err=True)
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
    """`training.prepare_dataset` with what the command line names, and a bar."""
    from bark_jax.files import check_destination
    from bark_jax.training.semantic_tokens import load_tokenizer

    check_destination(folder, overwrite=overwrite, kind="dataset")
    check_recordings(  # reading all audio once more takes less than loading a model for nothing
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
    """What a manifest holds. Raises InputError when its faults have been told."""
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
    """Tells a manifest's faults as compilers do, file:line: what, and then their number as the error."""
    from bark_jax.training.manifest import ManifestError

    try:
        yield
    except ManifestError as error:
        for fault in error.faults:
            click.echo(f"{error.path}:{fault.line}: {' '.join(fault.what.split())}", err=True)
        n_faults = f"{len(error.faults)} {'fault' if len(error.faults) == 1 else 'faults'}"
        raise InputError(f"{error.path} has {n_faults}; nothing was prepared. {error.advice}") from error


def describe(dataset: "Dataset") -> dict[str, Any]:
    return {"examples": len(dataset), "seconds": round(dataset.seconds, 2), "voices": list(dataset.voices)}


class Bar:
    """A `progress` for `prepare`: a bar of clips on a terminal, nothing elsewhere."""

    def __enter__(self) -> "Bar":
        self._bar: Any = None
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="clip", disable=None)  # None: where stderr is no terminal
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
