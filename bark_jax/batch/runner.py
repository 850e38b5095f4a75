"""Run of a batch: all checks in their order, then rows to audio, with progress events.

    copy of the input -> format -> ids -> model and settings -> lock of OUT -> run.json -> manifest -> load, speak

Nothing is written before the ids are checked, and no network is loaded before OUT is known to have the same settings.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from bark_jax import __version__
from bark_jax.audio.formats import format_named
from bark_jax.batch import files
from bark_jax.batch.forms import choose_format
from bark_jax.batch.ids import Shard
from bark_jax.batch.interrupts import Interrupts
from bark_jax.batch.manifest import MANIFEST_FILE, DoneRows, Entry, Manifest, read_entries
from bark_jax.batch.parquet import DEFAULT_ROWS_PER_PART, Parts, find_unlisted, require_pyarrow
from bark_jax.batch.rows import Counts, TextRow, check_rows, read_rows, unit_of
from bark_jax.batch.run_folder import check_run, choose_folder, is_case_sensitive, open_folder
from bark_jax.batch.sources import Input, local_copy
from bark_jax.batch.speech import Speaks, Spoken
from bark_jax.batch.tally import Event, Summary, Tally
from bark_jax.batch.writer import DEFAULT_THREADS, Audio, Store, Writer, failed
from bark_jax.errors import BarkError, FaultsError, InputError, quoted
from bark_jax.files import as_path, output_errors
from bark_jax.generation.settings import check_count

MAX_LISTED_CHANGES = 20


@dataclasses.dataclass(frozen=True)
class Output:
    """Output format of a batch, and how it resumes in a folder.

    Attributes:
      form: "files", one audio file a row, or "parquet", Parquet parts of many rows.
      audio: encoding: "wav", "flac", "ogg", "opus" or "mp3".
      rows_per_part: maximum number of rows of a Parquet part.
      shard: the share of the rows to speak, into a folder of its own in OUT; None for all rows.
      force: resume in a folder that was filled with other settings, and speak rows again whose line was edited.
      retry_failed: speak rows again that have an error.
      n_threads: number of threads that encode and write audio.

    Raises:
      InputError: a value out of range.
      UnsupportedError: "parquet" without pyarrow.
    """

    form: Literal["files", "parquet"] = "files"
    audio: str = "wav"
    rows_per_part: int = DEFAULT_ROWS_PER_PART
    shard: Shard | None = None
    force: bool = False
    retry_failed: bool = False
    n_threads: int = DEFAULT_THREADS

    def __post_init__(self):
        if self.form not in ("files", "parquet"):
            raise InputError(f"the form of the output is {quoted(self.form)}, expected files or parquet")
        format_named(self.audio)
        check_count("rows_per_part", self.rows_per_part)
        check_count("n_threads", self.n_threads)
        if self.form == "parquet":
            require_pyarrow()


def run_batch(
    source: str | os.PathLike[str],
    out: str | Path,
    open_speaker: Callable[[Interrupts], Speaks],
    *,
    model: str,
    made_with: Callable[[], Mapping[str, Any]],
    output: Output | None = None,
    form: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Summary:
    """Speaks the rows of `source` that are not done in the folder `out`. Calling it again resumes.

    Args:
      source: a file, "-" for stdin, or an address; see `sources.local_copy`.
      out: a folder, created if it does not exist.
      open_speaker: loads the model; called once, and only if there is a row to speak.
      model: its name, for the manifest.
      made_with: returns what, beside a row's own fields, decides how it sounds, as JSON: model and settings. Called
        after the ids are checked, as it may download the model.
      form: "jsonl", "json", "csv" or "lines"; None detects it from the first bytes and the name, see `forms`.
      on_event: called with a dictionary for each event: "start", each "row", "stopping" and "end".

    Returns:
      Counts of the run. A row that cannot be spoken has an error in the manifest and is counted as failed.

    Raises:
      RowsError, FaultsError, InputError: bad ids, other settings, edited rows; before anything is written.
      BusyError: another process writes to the folder.
      OutputError: the disk is full or fails; the manifest is intact.
      BarkError: the input file changed during the run; the rows in progress are finished first.
    """
    source = source if isinstance(source, str) else str(as_path(source, "source"))
    output = output or Output()
    folder = choose_folder(out, output.shard)
    with local_copy(source) as path:
        form = choose_format(source, path, form)
        rows_in = Input(source, path)
        sensitive = is_case_sensitive(out)
        counts = check_rows(path, form, source=source, shard=output.shard, is_case_sensitive=sensitive)
        rows_in.check()
        wanted = _description(made_with(), output) | _about(rows_in, counts)
        with open_folder(folder) as folder:
            check_run(folder, wanted, force=output.force)
            with _open_manifest(folder) as manifest:
                todo = _find_todo(folder, manifest, path, form, output)
                rows_in.check()  # the rows that were compared with the manifest are those that were checked
                todo = dataclasses.replace(todo, check_input=rows_in.check)
                return _speak(todo, folder, manifest, open_speaker, model, counts, output, on_event)


def _speak(
    todo: "_Todo",
    folder: Path,
    manifest: Manifest,
    open_speaker: Callable[[Interrupts], Speaks],
    model: str,
    counts: Counts,
    output: Output,
    on_event: Callable[[Event], None],
) -> Summary:
    """Loads the model if there is a row to speak, and speaks the rows; the rows done are counted by `Tally`."""
    tally = Tally(counts.mine, n_todo=todo.n, n_failed_before=todo.n_failed, on_event=on_event)
    with Interrupts(lambda: on_event({"event": "stopping"})) as interrupts:
        begin = {"folder": str(folder), "rows": counts.mine, "rows_todo": todo.n, "rows_failed": todo.n_failed}
        on_event({"event": "start", **begin})
        if todo.n:
            speaker = open_speaker(interrupts)
            tally.start()  # again, so that rates leave out the time to load the model
            store = _open_store(folder, output)
            with Writer(
                folder, store, manifest, ending=output.audio, on_commit=tally.add, n_threads=output.n_threads
            ) as writer:
                rows = _Rows(todo, interrupts)
                speaker.speak(iter(rows), lambda spoken: writer.put(*_result(spoken, model)))
            if rows.change is not None:
                raise rows.change
        summary = tally.summary(str(folder), interrupts.received)
    on_event({"event": "end", **dataclasses.asdict(summary)})
    return summary


def _open_manifest(folder: Path) -> Manifest:
    with output_errors(folder):
        return Manifest.open(folder / MANIFEST_FILE)


class _Rows:
    """Iterates over the rows to speak until a signal arrives or the input file changes; the error is then `change`.

    The error is kept, not raised: the engine takes rows while it speaks others, and these are finished first.
    """

    def __init__(self, todo: "_Todo", interrupts: Interrupts):
        self._todo, self._interrupts = todo, interrupts
        self.change: BarkError | None = None

    def __iter__(self) -> Iterator[TextRow]:
        rows = self._todo.rows()
        while True:
            try:
                row = next(rows, None)
                self._todo.check_input()  # after reading the row, so that no row of a changed file is spoken
            except BarkError as error:
                self.change = error
                return
            if row is None or self._interrupts.received is not None:
                return
            yield row


def _result(spoken: Spoken, model: str) -> tuple[Entry, Audio | None]:
    """Returns a row's manifest entry, which encoding completes, and its audio; None for a row that has failed."""
    row = spoken.row
    entry: Entry = {"id": row.id, "row_digest": row.content.hex(), "seed": row.seed, "voice": row.voice}
    entry |= {"model": model, "version": __version__}
    extra = {"metadata": dict(row.metadata)} if row.metadata else {}
    if spoken.error is not None or spoken.samples is None:
        return failed(entry | extra, spoken.error or "there is no audio"), None
    head = {
        "id": row.id,
        "file": None,
        "text": row.text,
        "seconds": round(len(spoken.samples) / spoken.sample_rate, 6),
        "sample_rate": spoken.sample_rate,
    }
    timings = {"timings": {"speak_s": round(spoken.seconds_taken, 4)}}
    row_warnings = {"warnings": list(spoken.warnings)} if spoken.warnings else {}
    return head | entry | timings | row_warnings | extra, Audio(spoken.samples, spoken.sample_rate)


def _open_store(folder: Path, output: Output) -> Store:
    if output.form == "parquet":
        return Parts(folder, output.audio, output.rows_per_part)
    return files.Files(folder, output.audio)


def _description(made_with: Mapping[str, Any], output: Output) -> dict[str, Any]:
    """The fields of run.json that are compared when a run resumes."""
    shard = None if output.shard is None else str(output.shard)
    return {"format": output.form, "audio": output.audio, "shard": shard, **made_with}


def _about(rows_in: Input, counts: Counts) -> dict[str, Any]:
    """The fields of run.json that are information alone: `run_folder._NOT_COMPARED`."""
    return {
        "source": rows_in.source,
        "input": {"bytes": rows_in.n_bytes, "sha256": rows_in.sha256},
        "rows": counts.mine,
        "rows_of_all_shards": counts.total,
        "version": __version__,
    }


@dataclasses.dataclass(frozen=True)
class _Todo:
    """Rows that are left to speak."""

    rows: Callable[[], Iterator[TextRow]]
    n: int
    n_failed: int  # rows that failed in an earlier run and are not retried
    check_input: Callable[[], None] = lambda: None  # raises BarkError if the input file has changed


def _find_todo(folder: Path, manifest: Manifest, path: Path, form: str, output: Output) -> _Todo:
    """Compares the rows with the manifest. Raises FaultsError for finished rows whose line was edited.

    --force speaks edited rows again, except in Parquet parts, of which no row can be replaced.
    """
    if output.form == "parquet":
        with output_errors(folder):  # a kill between a part and its lines of the manifest leaves rows without a line
            manifest.append(find_unlisted(folder))
    done = DoneRows(read_entries(folder / MANIFEST_FILE), _audio_finder(folder, output))
    n, n_failed, changed = 0, 0, []
    for row in _rows_of(path, form, output.shard):
        state = done.find(row.id, row.content)
        is_edited = state is not None and not state.has_failed and not state.is_same
        if is_edited and len(changed) <= MAX_LISTED_CHANGES:
            changed.append(row)
        is_todo = _is_todo(row, done, output)
        n += is_todo
        n_failed += not is_todo and state.has_failed
    if changed and (output.form == "parquet" or not output.force):
        raise FaultsError(_list_changes(folder, changed, output, unit_of(form)))

    def rows() -> Iterator[TextRow]:
        return (row for row in _rows_of(path, form, output.shard) if _is_todo(row, done, output))

    return _Todo(rows, n, n_failed)


def _rows_of(path: Path, form: str, shard: Shard | None) -> Iterator[TextRow]:
    """Yields the rows of this run's shard; there are no faults, as `check_rows` refuses them."""
    for row in read_rows(path, form):
        if isinstance(row, TextRow) and (shard is None or shard.has(row.id)):
            yield row


def _is_todo(row: TextRow, done: DoneRows, output: Output) -> bool:
    """Whether to speak a row: not done, or edited since, or failed and to be retried."""
    state = done.find(row.id, row.content)
    if state is None or not state.is_same:
        return True
    return state.has_failed and output.retry_failed


def _audio_finder(folder: Path, output: Output) -> Callable[[Entry], bool]:
    """Returns a function that says whether an entry's audio exists; of a Parquet part each file is looked up once."""
    if output.form == "files":
        return lambda entry: files.has_audio_file(folder, entry)
    parts: dict[Any, bool] = {}

    def has_audio(entry: Entry) -> bool:
        part = entry.get("file")
        if part not in parts:
            parts[part] = isinstance(part, str) and (folder / part).is_file()
        return parts[part]

    return has_audio


def _list_changes(folder: Path, changed: list[TextRow], output: Output, unit: str) -> str:
    lines = [f"  {unit} {row.line}: id {quoted(row.id)}" for row in changed[:MAX_LISTED_CHANGES]]
    lines += ["  and more"] if len(changed) > MAX_LISTED_CHANGES else []
    fault = f"{folder} has audio of rows whose text, voice, seed or settings have changed since:\n" + "\n".join(lines)
    if output.form == "parquet":
        return fault + "\nRows of Parquet parts cannot be replaced; give the edited rows other ids, or another OUT."
    return fault + "\nGive the edited rows other ids, or another OUT; --force speaks them again."
