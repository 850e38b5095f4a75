"""Detection of a file's format from its first 64 KiB: JSON Lines, a JSON array, CSV, or plain lines of text.

The name alone does not decide, as it may be wrong or missing (stdin). Every line of a plain text is spoken, so a YAML
or XML file that was read as plain text would become hours of audio of brackets and tags. Such formats are refused, with
the command that converts them. A guess is never silent: a file whose content and name disagree is refused as well.
"""

import codecs
import csv
import json
import re
from pathlib import Path
from typing import Any

from bark_jax.errors import InputError, quoted

FORMATS = ("jsonl", "json", "csv", "lines")
DELIMITERS = ",\t;|"

_FORM_BY_ENDING = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".txt": "lines",
}
_JSON = ("jsonl", "json")
_OTHER_ENDINGS = {
    **dict.fromkeys((".yaml", ".yml"), "YAML"),
    **dict.fromkeys((".toml", ".ini", ".cfg"), "TOML or INI"),
    **dict.fromkeys((".xml", ".html", ".htm", ".xhtml", ".ssml"), "XML or HTML"),
    **dict.fromkeys((".srt", ".vtt", ".ass"), "subtitles"),
    **dict.fromkeys((".py", ".sql", ".tex", ".rtf"), "a program or a document"),
}

# Binary formats: magic number at the file's start, name, and what to do.
_MAGIC = (
    (codecs.BOM_UTF32_LE, "UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (codecs.BOM_UTF32_BE, "UTF-32", "iconv -f UTF-32 -t UTF-8"),
    (codecs.BOM_UTF16_LE, "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    (b"PK\x03\x04", "a zip archive, as .xlsx and .ods files are too", "unpack it, or export the sheet as CSV"),
    (b"PK\x05\x06", "an empty zip archive", "unpack it, or export the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Office file", "export the sheet as CSV"),
    (b"\x1f\x8b", "compressed by gzip", "zcat FILE | bark-jax batch - OUT"),
    (b"BZh", "compressed by bzip2", "bzcat FILE | bark-jax batch - OUT"),
    (b"\xfd7zXZ\x00", "compressed by xz", "xzcat FILE | bark-jax batch - OUT"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstdcat FILE | bark-jax batch - OUT"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "lz4cat FILE | bark-jax batch - OUT"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it"),
    (b"PAR1", "a Parquet file", "write it as JSONL, such as by pandas.read_parquet and to_json(lines=True)"),
    (b"ARROW1", "an Arrow file", "write it as JSONL, such as by pandas.read_feather and to_json(lines=True)"),
    (b"ORC", "an ORC file", "write it as JSONL, such as by pandas.read_orc and to_json(lines=True)"),
    (b"Obj\x01", "an Avro file", "write it as JSONL"),
    (b"SQLite format 3", "an SQLite database", "export a table: sqlite3 -csv -header FILE 'select ...'"),
    (b"%PDF-", "a PDF", "take its text out: pdftotext FILE -"),
    (b"{\\rtf", "an RTF document", "save it as plain text"),
    (b"version https://git-lfs", "a pointer to a file in git-lfs", "fetch the file: git lfs pull"),
)

# Text formats that are not read. Patterns match at the file's start; the second line of a format has to fit as well
# where the first one could be a sentence: "- Yes." is dialogue, "- text: Yes." is YAML.
_MARKUP = re.compile(r"<(\?xml|!doctype|html|!--)", re.IGNORECASE)
_ELEMENT = re.compile(r"<([A-Za-z][\w:.-]*)[^<>]*>")
_YAML = re.compile(
    r"(---\s*\n(#.*\n|\s*\n)*[ \t]*(- )?[\w\"']+:(\s|$)|%YAML|"
    r"-\s+[\"']?(id|text|voice|seed|settings|metadata)[\"']?:\s|"
    r"(rows|data|items|texts|sentences|lines|utterances):[ \t]*\n\s*-\s)"
)
_TOML = re.compile(r"\[\[?[\w.\"-]+\]\]?[ \t]*\r?\n\s*[\w.\"-]+[ \t]*=")
_PYTHON = re.compile(r"[\[({]\s*[\[({]?\s*'[^'\n]*'\s*[:,]")
_SUBTITLES = re.compile(r"(WEBVTT|(\d+\s*\n)?\d{1,2}:\d\d:\d\d[.,]\d{3}\s*-->)")
_SQL = re.compile(r"((--.*|/\*.*\*/;?)?\s*\n)*(INSERT INTO|CREATE TABLE|PRAGMA |BEGIN TRANSACTION|DROP TABLE)\b")
_NAME = re.compile(r"\w[\w .()/-]{0,40}")  # of a CSV's column

_SAMPLE_BYTES = 2**16
_SAMPLE_LINES = 100


def choose_format(source: str, path: Path, given: str | None = None) -> str:
    """Returns the format of the rows, one of FORMATS: as given, else by the first bytes, else by the source's ending.

    Args:
      source: the name that the user gave, for its ending and for messages.
      path: a local file with the source's bytes.
      given: a format that is used without detection; binary files are refused even so.

    Raises:
      InputError: an unknown format, a binary file, text in a format that is not read, or content and ending that
        disagree. The message has the remedy.
    """
    if given is not None and given not in FORMATS:
        raise InputError(f"the format of the rows is {quoted(given)}, expected {', '.join(FORMATS)}")
    with open(path, "rb") as file:
        data = file.read(_SAMPLE_BYTES)
        is_complete = len(data) < _SAMPLE_BYTES
        file.seek(max(0, path.stat().st_size - 256))
        end = file.read()
    _check_is_text(source, data)
    if given is not None:
        return given
    text = data.removeprefix(codecs.BOM_UTF8).decode(errors="replace").lstrip()
    ending = Path(source).suffix.lower()
    named = _FORM_BY_ENDING.get(ending)
    found = _find_form(source, text, end.decode(errors="replace").rstrip(), is_complete, named)
    if found is None and text and (ending in _OTHER_ENDINGS or named == "json"):
        raise _refusal(source, _OTHER_ENDINGS.get(ending, "no JSON"), "write its rows as JSONL or CSV")
    if found is None or named is None or found == named or (found in _JSON and named in _JSON):
        return found or named or "lines"
    raise InputError(
        f"{quoted(source, 200)} looks like {found}, and its ending says {named}; give --input-format {found} to read "
        f"its rows so, or --input-format {named}"
    )


def _check_is_text(source: str, data: bytes) -> None:
    """Raises InputError for data that is no UTF-8 text: by magic number, zero bytes, control characters, encoding.

    UTF-16 of Latin text has a zero in every second byte: the zeros at even (or odd) offsets are more than an eighth of
    all bytes, and there are almost none at the others.
    """
    for magic, what, remedy in _MAGIC:
        if data.startswith(magic):
            raise InputError(
                f"{quoted(source, 200)} is {what}, expected text in UTF-8 (jsonl, json, csv or lines); {remedy}"
            )
    n_control = sum(data.count(byte) for byte in _CONTROL)
    n_even, n_odd = data[::2].count(0), data[1::2].count(0)
    if max(n_even, n_odd) > len(data) // 8 and min(n_even, n_odd) <= len(data) // 32:
        what, remedy = "UTF-16 without a mark", "iconv -f UTF-16LE (or UTF-16BE) -t UTF-8"
    elif n_control > max(2, len(data) // 20) or (0 in data and not _is_utf8(data)) or data.startswith(_BINARY_STARTS):
        what, remedy = "binary", "write its rows as JSONL"
    elif (encoding := _other_encoding(data)) is not None:
        what, remedy = encoding, "iconv -f ITS-ENCODING -t UTF-8"
    else:
        return
    raise InputError(f"{quoted(source, 200)} is {what}, expected text in UTF-8 (jsonl, json, csv or lines); {remedy}")


# ASCII control characters that no text has. Escape is left out of them: logs have it, for colours.
_CONTROL = [bytes([code]) for code in range(32) if code not in b"\t\n\v\f\r\x1b"]
# Ogg, FLAC, MP3, PNG and HDF5, JPEG, numpy, pickle: magic numbers that are too many to name one by one.
_BINARY_STARTS = (b"OggS\0", b"fLaC\0", b"ID3\x03", b"ID3\x04", b"\x89", b"\xff\xd8", b"\x93NUMPY", b"\x80")


def _is_utf8(data: bytes) -> bool:
    """Whether data is UTF-8; the last character may be cut off, as in a sample. That is what the decoder is for."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _other_encoding(data: bytes) -> str | None:
    """Describes data of which 3 lines and 5 % are not UTF-8; None below that: a few lines are errors of their rows."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    broken = [line for line in lines if not _is_utf8(line)]
    if len(broken) < 3 or len(broken) * 20 < len(lines):
        return None
    return f"not UTF-8 in {len(broken)} of its first {len(lines)} lines, as Latin-1 or Shift-JIS are not"


def _find_form(source: str, text: str, end: str, is_complete: bool, named: str | None) -> str | None:
    """Returns the format that a text shows; None for what may be plain lines. Raises InputError for others.

    Args:
      source: the name that the user gave, for messages.
      text: the file's start.
      end: the file's last 256 bytes, for the closing tag of XML.
      is_complete: `text` is all of the file.
      named: the format that the ending of the name stands for.
    """
    if form := _find_json(source, text, is_complete):
        return form
    lines = [line for line in text.split("\n") if line.strip()][:_SAMPLE_LINES]
    if not is_complete and len(lines) < _SAMPLE_LINES:
        lines = lines[:-1] or lines  # without the last line, which the sample cuts off
    n_objects = sum(map(_is_object, lines))
    if n_objects and (2 * n_objects >= len(lines) or named in _JSON):
        return "jsonl"
    if n_objects:
        number = next(number for number, line in enumerate(lines, 1) if _is_object(line))
        raise _refusal(source, f"plain text with JSON in it, first in line {number}", "split it into two files")
    if what := _find_markup(text, end):
        raise _refusal(source, what, "write its rows as JSONL or CSV")
    return "csv" if named != "csv" and _is_table(source, lines) else named if named == "csv" else None


def _find_json(source: str, text: str, is_complete: bool) -> str | None:
    """Returns "json" for an array, "jsonl" for an object on a line of its own, None for no JSON.

    Raises InputError for JSON that has rows in another structure, such as one object with a list in it.
    """
    if text[:1] not in ("[", "{"):
        return None
    if _PYTHON.match(text):
        raise _refusal(source, "Python, not JSON", "write it by json.dump")
    value, end = _decode_start(text, is_complete)
    rest = text[end:].lstrip(" \t\r")
    if isinstance(value, _CutOff):
        if text[0] == "[":
            return "json" if re.match(r"\[\s*[\[{\"]", text) else None
        return "jsonl" if "\n" not in text.rstrip() or not value.is_pretty else _refuse_document(source, value.head)
    if value is None:
        return "jsonl" if re.match(r"""\{\s*["']?\w+["']?\s*:""", text) else None  # not "[laughs] Hello."
    if isinstance(value, list):
        if rest and not rest.startswith("\n"):
            return None  # such as "[1] Hello."
        if not rest.strip():
            return "json" if is_complete else None
        if rest.strip().startswith("["):
            raise _refusal(source, "JSON arrays, one a line", "write a JSON object a line, with id and text")
        return None
    if "\n" in text[:end] or (is_complete and not rest.strip() and _has_rows(value)):
        return _refuse_document(source, value)
    return "jsonl"


class _CutOff:
    """A JSON value that is longer than the sample, or has a syntax error in it.

    Attributes:
      is_pretty: an object that is written over many lines, so it is no JSON Lines.
      head: {name: [{}]} with the name of the first list in the object; empty if there is none. It stands for the value
        in `_refuse_document`.
    """

    def __init__(self, text: str):
        self.is_pretty = bool(re.match(r"\{\s*\n", text))
        name = re.search(r'"(\w{1,40})"\s*:\s*\[', text)
        self.head = {name[1]: [{}]} if name else {}


def _decode_start(text: str, is_complete: bool) -> tuple[Any, int]:
    """Returns the JSON value that a text begins with, or a _CutOff, and where it ends; (None, 0) for no JSON."""
    try:
        return json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError) as error:
        is_deep = isinstance(error, RecursionError)
        # An error in the last characters of a sample is most likely where the sample was cut, not a fault of the file.
        is_cut = is_deep or (not is_complete and (error.pos >= len(text) - 16 or "Unterminated string" in error.msg))
        # An array, or an object over many lines, that has a syntax error is still JSON; its row reports the error.
        if is_cut or re.match(r"\[\s*\{\s*[\"'\w}]|\{\s*\n\s*[\"']", text):
            return _CutOff(text), len(text)
        return None, 0


def _has_rows(value: Any) -> bool:
    """Whether an object is no row itself (no text, no id) but has lists or objects in it, which may be rows."""
    has_parts = any(isinstance(each, (list, dict)) and each for each in value.values())
    return has_parts and "text" not in value and "id" not in value


def _refuse_document(source: str, value: Any) -> str:
    """Raises InputError for a JSON object that is no row; returns nothing, though callers return its result."""
    name = next((key for key, each in value.items() if isinstance(each, list)), None) if value else None
    if name is not None:
        raise _refusal(source, f"one JSON object with a list in it, {quoted(name)}", f"jq -c '.{name}[]' gives JSONL")
    raise _refusal(source, "one JSON object, not one a line", "jq -c . gives JSONL, an object a line")


def _is_object(line: str) -> bool:
    """Whether a line is a JSON object; a comma may follow it, as in an array over many lines."""
    line = line.strip().removesuffix(",")
    if not (line.startswith("{") and line.endswith("}")):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _find_markup(text: str, end: str) -> str | None:
    """Names the text format that is not read, such as YAML; None if there is none.

    XML without a declaration is known by its first tag if the file ends with the closing tag of the same name.
    """
    element = _ELEMENT.match(text)
    if _MARKUP.match(text) or (element and end.endswith((f"</{element[1]}>", "/>"))):
        return "XML or HTML"
    for pattern, what in (
        (_SUBTITLES, "subtitles"),
        (_YAML, "YAML"),
        (_TOML, "TOML or INI"),
        (_SQL, "SQL"),
    ):
        if pattern.match(text):
            return what
    return None


def _is_table(source: str, lines: list[str]) -> bool:
    """Whether lines are CSV with a column "text". Raises InputError for other tables.

    A table has the same number of fields in nine of ten lines and names in the first. Commas and semicolons are common
    in prose, so with them a table without a column "text" is refused only if its first column is id, text or name.
    """
    if len(lines) < 2:
        return False
    for delimiter in DELIMITERS:
        rows = _split(lines, delimiter)
        n_names = len(rows[0])
        if n_names < 2:
            continue
        is_even = sum(len(row) == n_names for row in rows) >= 0.9 * len(rows)
        names = [name.strip() for name in rows[0]]
        has_names = is_even and all(_NAME.fullmatch(name) for name in names)
        if has_names and "text" in names:
            return True
        if (delimiter in "\t|" and is_even) or (has_names and names[0].lower() in ("id", "text", "name")):
            kind = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}[delimiter]
            raise _refusal(
                source,
                f"a table with {kind}, whose first line does not name a column text",
                "give it a first line such as id,text",
            )
    return False


def _split(lines: list[str], delimiter: str) -> list[list[str]]:
    try:
        return list(csv.reader(lines, delimiter=delimiter)) or [[]]
    except csv.Error:
        return [[]]  # a quote that is not closed: no table


def _refusal(source: str, what: str, remedy: str) -> InputError:
    return InputError(
        f"{quoted(source, 200)} is {what}, expected JSON objects (one a line, or an array of them), CSV with a column "
        f"text, or a text a line; {remedy}. --input-format lines speaks its lines as they stand"
    )
