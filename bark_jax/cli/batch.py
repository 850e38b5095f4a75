"""`bark-jax batch`: a file of texts to a folder of audio, resumable; `bark-jax batch merge` joins shards."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from bark_jax.audio.formats import NAMES
from bark_jax.cli.batch_progress import BatchProgress
from bark_jax.cli.group import EXIT_SOME_FAILED, Verb
from bark_jax.cli.options import (
    json_option,
    model_option,
    network_options,
    revision_option,
    sampling_options,
    sampling_settings,
)
from bark_jax.errors import InputError

if TYPE_CHECKING:
    from bark_jax.batch.job import Job
    from bark_jax.batch.runner import Output
    from bark_jax.batch.tally import Summary

EXAMPLES = """\b
Examples:
  bark-jax batch rows.jsonl out -m suno/bark-small --voice v2/en_speaker_6
  bark-jax batch lines.txt out -m tiny --audio flac
  bark-jax batch s3://bucket/rows.csv out --format parquet --audio opus
  bark-jax batch rows.jsonl out --shard 0/8
  srun --ntasks=8 bark-jax batch rows.jsonl out --shard auto
  bark-jax batch merge out
"""

MERGE = "merge"


@click.command("merge", cls=Verb, short_help="Check and join the manifests of shards.")
@click.argument("out")
@click.option("--verify", is_flag=True, help="Also read every audio file and compare its SHA-256 with the manifest.")
@json_option
def merge(out: str, verify: bool, as_json: bool) -> None:
    """Check the shards in OUT and join their manifests into OUT/manifest.jsonl.

    All shards of one batch have to be there and complete, with each row in exactly one of them. If they are not, the
    faults are listed and nothing is written.
    """
    from bark_jax.batch.merge import merge_shards

    merged = merge_shards(out, verify=verify)
    if as_json:
        click.echo(json.dumps(merged._asdict()))
    else:
        click.echo(f"{merged.shards} shards, {merged.rows:,} rows, {merged.audio_s:.1f} s of audio", err=True)
        click.echo(merged.manifest)
    if merged.failed:
        click.echo(f"{merged.failed:,} of {merged.rows:,} rows have failed; the manifest has their errors", err=True)
        click.get_current_context().exit(EXIT_SOME_FAILED)


class _BatchVerb(Verb):
    """The verb `batch`; with "merge" as its first argument it is `batch merge`.

    IN and OUT are arguments of `batch` itself, so it cannot be a click group with a subcommand. A file that is called
    "merge" is given as ./merge.
    """

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        if args[:1] == [MERGE]:
            return merge.make_context(f"{info_name} {MERGE}", args[1:], *rest, **extra)
        return super().make_context(info_name, args, *rest, **extra)


@click.command("batch", cls=_BatchVerb, epilog=EXAMPLES, short_help="Speak a file of texts into a folder of audio.")
@click.argument("rows", metavar="IN")
@click.argument("out")
@model_option
@revision_option
@click.option("--voice", help="Voice of rows that name none: a preset's name or the path of a .npz file.")
@click.option(
    "--input-format",
    type=click.Choice(["jsonl", "json", "csv", "lines"]),
    help="Format of IN.  [default: detected from its first bytes]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["files", "parquet"]),
    default="files",
    show_default=True,
    help="Output format: one audio file a row, or Parquet files of many rows.",
)
@click.option("--audio", type=click.Choice(NAMES), default="wav", show_default=True, help="Encoding of the audio.")
@click.option(
    "--rows-per-part",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Maximum rows of a Parquet file, with --format parquet.",
)
@click.option(
    "--shard",
    metavar="I/N|auto",
    help="Speak shard I of N alone, 0 <= I < N, into a folder of its own in OUT; auto takes I and N from Slurm, "
    "SkyPilot or Open MPI.",
)
@click.option("--retry-failed", is_flag=True, help="Also retry rows that failed before.")
@click.option(
    "--force",
    is_flag=True,
    help="Resume although OUT was filled with other settings; replace audio of rows that were edited since.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Number of sentences to generate at once.")
@click.option("--devices", type=click.IntRange(1), help="Number of this machine's devices to use.  [default: all]")
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Number of threads that encode and write audio.",
)
@click.option(
    "--silence",
    "silence_s",
    type=float,
    default=0.25,
    show_default=True,
    help="Seconds of silence between the sentences of a row.",
)
@click.option("--max-tokens", type=click.IntRange(1), help="Maximum number of text tokens of a sentence.")
@sampling_options
@network_options
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Run the model in this process, or in the actors of a Ray cluster.",
)
@click.option(
    "--ray-address",
    help="Address of the Ray cluster.  [default: the running cluster, else a new one on this machine]",
)
@click.option(
    "--ray-actors",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of Ray actors; each holds a copy of the model.",
)
@click.option(
    "--ray-gpus",
    type=click.FloatRange(0),
    help="Number of GPUs of each actor.  [default: 1 if the cluster has GPUs, else 0]",
)
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines: start, row, stopping, end.")
@click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Print nothing on stderr but errors and failed rows.")
def command(rows: str, out: str, as_json: bool, is_quiet: bool, **options: Any) -> None:
    """Speak the rows of the file IN (- for stdin) into the folder OUT. Re-running the command resumes.

    IN is JSON Lines or a JSON array of objects (id, text; optionally voice, seed, settings, metadata), CSV or TSV with
    such columns, or plain text with a text a line. Other formats are refused.

    A row that cannot be spoken does not stop the others: its error goes into OUT/manifest.jsonl, and the exit status is
    then 4. The first Ctrl-C finishes the rows in progress, the second stops at once.
    """
    from bark_jax.batch.runner import run_batch

    settings = sampling_settings(options)
    output, job = _output(options), _job(options, settings)
    progress = BatchProgress(as_json=as_json, is_quiet=is_quiet)
    with progress:
        summary = run_batch(
            rows,
            out,
            _opener(job, options),
            model=job.model,
            made_with=job.made_with,
            output=output,
            form=options["input_format"],
            on_event=progress,
        )
    _conclude(summary, as_json=as_json, is_quiet=is_quiet)


def _output(options: dict[str, Any]) -> "Output":
    from bark_jax.batch.auto_shard import AUTO, find_shard
    from bark_jax.batch.ids import Shard
    from bark_jax.batch.runner import Output

    text = options["shard"]
    shard = find_shard() if text == AUTO else None if text is None else Shard.parse(text)
    names = ("form", "audio", "rows_per_part", "force", "retry_failed")
    given = {name: options[name] for name in names}
    return Output(**given, shard=shard, n_threads=options["threads"])


def _job(options: dict[str, Any], settings: dict[str, Any]) -> "Job":
    from bark_jax.batch.job import Job

    names = {field.name for field in dataclasses.fields(Job)} & options.keys()
    given = {name: options[name] for name in names}
    return Job(**given, settings=settings, n_slots=options["batch_size"], n_devices=options["devices"])


def _opener(job: "Job", options: dict[str, Any]) -> Any:
    """Returns `open_speaker` of `run_batch`: it loads the model once there is a row to speak.

    Raises:
      UnsupportedError: --engine ray, and Ray is not installed.
      InputError: options of Ray without --engine ray, or more devices than the machine has.
    """
    if options["engine"] == "ray":
        from bark_jax.batch.ray_engine import RaySpeaker, require_ray

        require_ray()
        given = {"address": options["ray_address"], "n_actors": options["ray_actors"], "n_gpus": options["ray_gpus"]}
        return lambda interrupts: RaySpeaker(job, is_stopping=lambda: interrupts.received is not None, **given)
    if any(options[name] is not None for name in ("ray_address", "ray_gpus")) or options["ray_actors"] != 1:
        raise InputError("--ray-address, --ray-actors and --ray-gpus are for --engine ray")

    if options["devices"] is not None:  # too many are refused now, before anything is written
        from bark_jax.batch.job import choose_devices

        choose_devices(options["devices"])

    def open_local(_: Any) -> Any:
        return job.open_speaker()

    return open_local


def _conclude(summary: "Summary", *, as_json: bool, is_quiet: bool) -> None:
    """Prints how the run ended and sets the exit status: that of a signal before that of failed rows."""
    context = click.get_current_context()
    if not is_quiet and summary.finished:
        before = f", {summary.done_before:,} done before" if summary.done_before else ""
        rate = summary.audio_s / max(summary.took_s, 1e-6)
        click.echo(
            f"{summary.folder}: {summary.finished:,} of {summary.rows:,} rows{before}; {summary.audio_s:.1f} s of "
            f"audio in {summary.took_s:.1f} s ({rate:.1f} a second)",
            err=True,
        )
    if not as_json:
        click.echo(summary.folder)
    if summary.left:
        click.echo(f"{summary.left:,} rows are left; re-run the command to resume", err=True)
    if summary.failed:
        click.echo(
            f"{summary.failed:,} of {summary.rows:,} rows have failed; {summary.folder}/manifest.jsonl has their "
            "errors, and --retry-failed retries them",
            err=True,
        )
    if summary.signal is not None and summary.left:
        context.exit(128 + summary.signal)  # as a shell reports a signal
    if summary.failed:
        context.exit(EXIT_SOME_FAILED)
    sys.stdout.flush()
