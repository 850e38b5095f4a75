"""The report of a verification, as JSON and as Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bark_jax.parity.rows import Row
from bark_jax.verify.private import without_paths

PASSED, DIFFERENT, FAILED, SKIPPED, MEASURED = "passed", "different", "failed", "skipped", "measured"
JSON_FILE, MARKDOWN_FILE = "report.json", "report.md"


@dataclasses.dataclass(frozen=True)
class Part:
    """The result of one part.

    Attributes:
      name: a name of `run.PARTS`.
      status: PASSED or DIFFERENT of a comparison; MEASURED of a part that compares nothing; FAILED with the error in
        `note`; SKIPPED with the reason in `note`.
      note: a sentence, "" if there is nothing to say.
      values: what was found, for JSON.
      table: the same for Markdown: a header and rows of cells; empty for none.
    """

    name: str
    status: str
    note: str = ""
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    table: Sequence[Sequence[str]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The part as JSON values, without the table."""
        return {"status": self.status, "note": self.note, **self.values}


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `verify`, without paths or names of users.

    Attributes:
      about: the model, its size, the options, the versions and the device.
      parts: in the order in which they ran.
    """

    about: Mapping[str, Any]
    parts: Sequence[Part]

    @property
    def is_good(self) -> bool:
        """Whether no part found a difference and none failed; skipped parts count as good."""
        return not any(part.status in (DIFFERENT, FAILED) for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**self.about, "is_good": self.is_good, "parts": {part.name: part.to_dict() for part in self.parts}}

    def to_markdown(self) -> str:
        """The report as Markdown: a summary, then a section with a table for each part."""
        lines = [f"# bark_jax verify: {self.about['model']}", ""]
        lines += _table([("", ""), *((name, _in_words(value)) for name, value in self.about.items())])
        lines += ["", *_table([("part", "result", ""), *((part.name, part.status, part.note) for part in self.parts)])]
        for part in self.parts:
            if part.table:
                lines += ["", f"## {part.name}", "", *_table(part.table)]
        return "\n".join(lines) + "\n"

    def posted(self, names: Mapping[str, str]) -> "Report":
        """Returns the report with every path cut to its last part; `names` as for `without_paths`."""
        parts = [Part(**without_paths(_fields(part), names)) for part in self.parts]
        return Report(without_paths(self.about, names), parts)


def _fields(part: Part) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


def part_of_rows(name: str, rows: Sequence[Row], note: str = "") -> Part:
    """Makes a part of comparisons: DIFFERENT if one of the rows is not within its bound."""
    is_within = all(row.is_within for row in rows)
    table = [
        ("stage", "check", "found", "expected", "", ""),
        *(
            (row.stage, row.check, row.found, row.expected, "ok" if row.is_within else "WRONG", row.note)
            for row in rows
        ),
    ]
    return Part(name, PASSED if is_within else DIFFERENT, note, {"rows": [row.to_dict() for row in rows]}, table)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the first row is its header."""
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return [lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
