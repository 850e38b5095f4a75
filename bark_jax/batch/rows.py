"""Parser of a batch's input: JSON objects, CSV or plain text to rows, streamed one by one.

    {"id": "a1", "text": "Good morning.", "voice": "v2/en_speaker_6", "seed": 7, "settings": {"temperature": 0.6}}

JSON and CSV need `id` and `text`. Settings of `generate` may also stand beside them, outside "settings". Every other
key is metadata, which is copied to the manifest. A line of plain text, and a line that cannot be parsed, gets its
number as its id, "line-000000007". The elements of a JSON array are numbered by their index, from 1.

A row that cannot be spoken becomes a row with an `error`, and the others are spoken. Only a bad id refuses the file:
the id is the name of the row's audio file and the key by which a run resumes.
"""

import csv
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from bark_jax._system.json_lines import Fault, list_faults, read_lines, read_object
from bark_jax._system.strict_json import read_strict
from bark_jax.batch.forms import DELIMITERS
from bark_jax.batch.ids import Shard, check_id, comparable, derive_seed, digest
from bark_jax.batch.json_array import read_elements
from bark_jax.errors import FaultsError, InputError, quoted
from bark_jax.generation.settings import SETTING_NAMES
from bark_jax.voices.voice import Voice

# 16 MiB. A book has some 1 MB of text: a longer line is a file that has lost its line ends.
MAX_LINE_BYTES = 2**24
MAX_LISTED_FAULTS = 100

# Fields of a row; every other key is a setting or metadata.
KEYS = ("id", "text", "voice", "seed", "settings", "metadata")


@dataclasses.dataclass(frozen=True)
class TextRow:
    """Row of a batch: a text to speak. A row with an `error` cannot be spoken, and its other fields may be empty."""

    line: int  # number of its first line, or its index in a JSON array; the first is 1
    id: str
    text: str = ""
    # A preset's name or a .npz file; None for the run's voice. A row of a file has no Voice, a caller's may.
    voice: str | Voice | None = None
    seed: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    is_read: bool = True  # False if the line cannot be parsed in the file's format

    @property
    def content(self) -> bytes:
        """Digest of what is spoken, 16 bytes: it shows whether the line of a finished row was edited."""
        return digest(json.dumps([self.text, self.voice, self.seed, self.settings, self.error], sort_keys=True))


class RowsError(FaultsError):
    """Input file with bad ids; `faults` has the first 100 of them, `n_faults` counts all."""

    def __init__(self, source: str, faults: list[Fault], n_faults: int):
        self.source, self.faults, self.n_faults = source, faults, n_faults
        title = f"{source} has {n_faults:,} {'fault' if n_faults == 1 else 'faults'} in its ids; nothing was started:"
        super().__init__(list_faults(title, faults, n_faults))


def read_rows(path: Path, form: str) -> Iterator[TextRow | Fault]:
    """Yields the rows of a file one by one, without blank lines; a Fault in place of a row with a bad or missing id.

    Args:
      form: "jsonl", "json", "csv" or "lines".

    Raises:
      InputError: a CSV without a column "text", or a JSON array that is cut off.
    """
    return {"jsonl": _read_jsonl, "json": _read_array, "csv": _read_csv, "lines": _read_lines}[form](path)


def unit_of(form: str) -> str:
    """Returns what `TextRow.line` counts, for messages: "row" of a JSON array, else "line"."""
    return "row" if form == "json" else "line"


class Counts(NamedTuple):
    """Number of rows of a file, and of one shard."""

    total: int
    mine: int  # rows of this run's shard; `total` without shards


def check_rows(
    path: Path, form: str, *, source: str, shard: Shard | None = None, is_case_sensitive: bool = True
) -> Counts:
    """Checks the ids of all rows and counts them. Holds 16 bytes for each row, a digest of its id.

    Args:
      source: the name that the user gave, for messages.
      shard: the shard whose rows are counted as `mine`; None for all.
      is_case_sensitive: whether the file system has "a" and "A" as two files.

    Raises:
      RowsError: ids that cannot be file names, or occur twice; the first 100, each with its line.
      InputError: the file has no rows, or none of them can be spoken.
    """
    digests, faults, n_faults = bytearray(), [], 0
    n_mine, n_unread, n_wrong, wrong = 0, 0, 0, None
    for row in read_rows(path, form):
        if isinstance(row, Fault):
            n_faults += 1
            if len(faults) < MAX_LISTED_FAULTS:
                faults.append(row)
            continue
        if row.error is not None:
            n_unread, n_wrong, wrong = n_unread + (not row.is_read), n_wrong + 1, wrong or row
        digests += digest(comparable(row.id, is_case_sensitive=is_case_sensitive))
        n_mine += shard is None or shard.has(row.id)
    repeated = _repeated(digests)
    if repeated:
        found, n_found = _find_repeated(path, form, repeated, is_case_sensitive)
        faults = sorted(faults + found)[:MAX_LISTED_FAULTS]
        n_faults += n_found
    if faults:
        raise RowsError(source, faults, n_faults)
    n_rows = len(digests) // 16
    if not n_rows:
        raise InputError(f"{source} has no rows, expected one or more")
    if n_wrong == n_rows:
        raise InputError(_all_wrong_message(source, form, n_rows, wrong, is_unread=n_unread == n_rows))
    return Counts(n_rows, n_mine)


def _all_wrong_message(source: str, form: str, n_rows: int, first: TextRow, *, is_unread: bool) -> str:
    """Words the error of a file without a single good row; `is_unread`: its lines are not in this format at all."""
    subject = "the only row" if n_rows == 1 else f"none of the {n_rows:,} rows"
    fault = f"{unit_of(form)} {first.line}: {first.error}"
    if not is_unread:
        return f"{subject} of {source} {'cannot' if n_rows == 1 else 'can'} be spoken. {fault}"
    return (
        f"{subject} of {source} {'cannot' if n_rows == 1 else 'can'} be read as {form}, beginning with {fault}; "
        "give their format with --input-format, such as lines"
    )


def _repeated(digests: bytearray) -> set[bytes]:
    """Returns the digests that occur more than once; the array [rows] is sorted once, without a set of all."""
    values = np.sort(np.frombuffer(bytes(digests) or b"\0" * 16, "S16"))
    # numpy's S16 drops zero bytes at the end, which one digest in 256 has.
    return {value.ljust(16, b"\0") for value in values[1:][values[1:] == values[:-1]].tolist()}


def _find_repeated(path: Path, form: str, repeated: set[bytes], is_case_sensitive: bool) -> tuple[list[Fault], int]:
    """Returns faults for ids that occur again, at most 100, and the number of all. Reads the file a second time."""
    first_lines: dict[bytes, int] = {}
    unit = unit_of(form)
    faults, n_faults = [], 0
    for row in read_rows(path, form):
        if isinstance(row, Fault):
            continue
        key = digest(comparable(row.id, is_case_sensitive=is_case_sensitive))
        if key not in repeated or first_lines.setdefault(key, row.line) == row.line:
            continue
        n_faults += 1
        if len(faults) < MAX_LISTED_FAULTS:
            faults.append(Fault(row.line, f"id {quoted(row.id)} is that of {unit} {first_lines[key]} too", unit))
    return faults, n_faults


def _read_lines(path: Path) -> Iterator[TextRow]:
    for number, line in _lines(path):
        if line is None:
            yield _broken(number, f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            continue
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            yield _broken(number, f"the line is not UTF-8 (byte {error.start})")
            continue
        name = _line_id(number)
        yield TextRow(number, name, text, seed=derive_seed(name))


def _read_jsonl(path: Path) -> Iterator[TextRow | Fault]:
    for number, line in _lines(path):
        yield _read_object(number, line, "line")


def _read_array(path: Path) -> Iterator[TextRow | Fault]:
    try:
        for number, element in read_elements(path, MAX_LINE_BYTES):
            found = _read_object(number, element, "row")
            yield found._replace(unit="row") if isinstance(found, Fault) else found
    except InputError as error:
        raise InputError(f"the rows are no JSON array: {error}; mend the file, or give --input-format") from error


def _read_object(number: int, data: bytes | None, what: str) -> TextRow | Fault:
    """Parses the row in a line or in an element of an array; `data` is None if it is longer than MAX_LINE_BYTES."""
    try:
        fields = read_object(data, MAX_LINE_BYTES)
    except InputError as error:
        return _broken(number, f"the {what} is {error}")
    return _row(number, fields)


def _read_csv(path: Path) -> Iterator[TextRow | Fault]:
    """Reads CSV: the first line has the names of the columns; a quoted field may contain line ends."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))  # of the process; Python's default is 128 KiB
    names, delimiter = _read_header(path)
    with _open_csv(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        next(reader)
        number = reader.line_num + 1
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield _broken(number, f"the line is no CSV ({error})")
                number = reader.line_num + 1
                continue
            if values is None:
                return
            if len(values) > len(names):
                yield _broken(number, f"the line has {len(values)} fields and the first line {len(names)} names")
            elif any(value.strip() for value in values):
                given = {name: value for name, value in zip(names, values, strict=False) if value != ""}
                yield _row(number, _typed(given))
            number = reader.line_num + 1


def _open_csv(path: Path) -> TextIO:
    """Opens a CSV; bytes that are not UTF-8 become surrogates, so that they are errors of their own rows alone."""
    # utf-8-sig drops the mark that spreadsheets write. newline="", as csv parses line ends itself, also within quotes.
    return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _read_header(path: Path) -> tuple[list[str], str]:
    """Returns the names of the columns and the delimiter: the first of DELIMITERS that gives a column "text"."""
    found = []
    for delimiter in DELIMITERS:
        with _open_csv(path) as file:
            try:
                names = [name.strip() for name in next(csv.reader(file, delimiter=delimiter), [])]
            except csv.Error as error:
                raise InputError(f"the first line is no CSV ({error}); expected the names of the columns") from error
        if "text" in names and len(set(names)) == len(names):
            return names, delimiter
        found.append(names)
    raise InputError(
        f"the CSV's columns are {quoted(max(found, key=len), 200)}, expected a first line with names that differ and "
        "have text among them, such as id,text,voice,seed"
    )


def _typed(fields: dict[str, str]) -> dict[str, Any]:
    """Parses seeds and settings of a CSV's row as JSON values ("0.6", "True", "null"); text stays text."""
    typed: dict[str, Any] = dict(fields)
    for name in fields:
        if name in SETTING_NAMES or name in ("seed", "settings", "metadata"):
            try:
                typed[name] = read_strict(fields[name].strip().lower() if name in SETTING_NAMES else fields[name])
            except InputError:
                continue  # stays a string, which `_checked` or `resolve_settings` refuses by name
    return typed


def _row(number: int, fields: dict[str, Any]) -> TextRow | Fault:
    """Makes a row of parsed fields: a Fault for a bad id, a row with an error for any other bad field."""
    if "id" not in fields:
        return Fault(number, "id is missing; plain lines (--input-format lines) need none")
    try:
        row_id = check_id(fields["id"])
    except InputError as error:
        return Fault(number, str(error))
    try:
        return _checked(number, row_id, fields)
    except InputError as error:
        return TextRow(number, row_id, error=str(error))


def _checked(number: int, row_id: str, fields: dict[str, Any]) -> TextRow:
    """Makes a row of checked fields. Raises InputError for the first bad one."""
    text, voice, seed = fields.get("text"), fields.get("voice"), fields.get("seed")
    if not isinstance(text, str):
        raise InputError(f"text is {quoted(text) if 'text' in fields else 'missing'}, expected a string")
    if voice is not None and not isinstance(voice, str):
        raise InputError(f"voice is {quoted(voice)}, expected a name or the path of a .npz file")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**64):
        raise InputError(f"seed is {quoted(seed)}, expected a whole number from 0 to 2**64 - 1")
    settings, metadata = _object(fields, "settings"), _object(fields, "metadata")
    for name, value in fields.items():
        if name in settings and name not in KEYS:
            raise InputError(
                f"{name} is {quoted(value)} beside the text and {quoted(settings[name])} in settings; give one"
            )
        if name not in KEYS:
            (settings if _is_setting(name) else metadata)[name] = value
    if seed is None:
        seed = derive_seed(row_id)
    return TextRow(number, row_id, text, voice, seed, settings, metadata)


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{name} is {quoted(value)}, expected a JSON object")
    return dict(value or {})


def _is_setting(name: str) -> bool:
    """Whether a key is a setting. Raises InputError for a misspelt one, which would be metadata, without effect."""
    if name in SETTING_NAMES:
        return True
    if near := difflib.get_close_matches(name[:64], SETTING_NAMES, n=1, cutoff=0.85):
        raise InputError(
            f"{quoted(name)} is no setting, did you mean {near[0]}? Metadata of such a name goes into "
            '"metadata": {...}'
        )
    return False


def _broken(number: int, error: str) -> TextRow:
    """Makes the row of a line that cannot be parsed."""
    return TextRow(number, _line_id(number), error=error, is_read=False)


def _line_id(number: int) -> str:
    return f"line-{number:09d}"


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    with open(path, "rb") as file:
        yield from read_lines(file, MAX_LINE_BYTES)
