"""What a comparison found, a row a check, and the rules for calling it equal."""

import dataclasses
import math
from typing import Any

import numpy as np

# Float32 against float32 differs by 1e-5 of the logits' standard deviation; any real fault is far above.
LOGIT_BOUND = 1e-4
WAVEFORM_BOUND = 1e-4
# Two tokens whose logits are closer than this may change places by rounding alone.
NEAR_TIE = 1e-3


@dataclasses.dataclass(frozen=True)
class Row:
    """One check. Either a largest difference and its bound, or a number of equal tokens of a total."""

    stage: str
    check: str
    is_within: bool
    difference: float | None = None
    bound: float | None = None
    n_equal: int | None = None
    n_total: int | None = None
    note: str = ""

    @property
    def found(self) -> str:
        if self.n_total is not None:
            return f"{self.n_equal} of {self.n_total}"
        return "" if self.difference is None else f"{self.difference:.1e}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinity: null stands for what is no number."""
        values = dataclasses.asdict(self)
        if self.difference is not None and not math.isfinite(self.difference):
            values["difference"] = None
        return values

    @property
    def expected(self) -> str:
        if self.n_total is not None:
            return "all"
        return "" if self.bound is None else f"{self.bound:.1e}"


def compare_logits(stage: str, check: str, ours: np.ndarray, reference: np.ndarray) -> Row:
    return _compare_values(stage, check, ours, reference, LOGIT_BOUND * float(reference.std()))


def compare_waveforms(stage: str, check: str, ours: np.ndarray, reference: np.ndarray) -> Row:
    """The bound is of the full scale; of the peak where random weights make it louder than that."""
    return _compare_values(stage, check, ours, reference, WAVEFORM_BOUND * max(1.0, float(np.abs(reference).max())))


def _compare_values(stage: str, check: str, ours: np.ndarray, reference: np.ndarray, bound: float) -> Row:
    if ours.shape != reference.shape:
        return Row(stage, check, False, float("inf"), bound, note=f"shape {ours.shape}, expected {reference.shape}")
    difference = float(np.abs(ours - reference).max())
    return Row(stage, check, difference <= bound, difference, bound)  # False for NaN


def compare_tokens(stage: str, check: str, ours: np.ndarray, reference: np.ndarray, margins: np.ndarray) -> Row:
    """Tokens in the order of their generation, up to the first difference: what follows it had another past.

    Args:
      margins: the reference's logit of its token less that of the runner-up, one a token and, where the reference ended
        by itself, one more. A difference where they nearly tie is rounding and excused.
    """
    n_both = min(len(ours), len(reference))
    differs = np.flatnonzero(ours[:n_both] != reference[:n_both])
    first = int(differs[0]) if differs.size else n_both
    if first == len(ours) == len(reference):
        return Row(stage, check, True, n_equal=first, n_total=first)
    margin = float(margins[first]) if first < len(margins) else float("inf")
    what = f"token {first} is {_at(ours, first)}, expected {_at(reference, first)}"
    return _differing(stage, check, first, len(reference), margin, what)


def compare_codes(
    stage: str, check: str, ours_QT: np.ndarray, reference_QT: np.ndarray, margins_QT: np.ndarray, first_codebook: int
) -> Row:
    """Codes codebook by codebook, as the fine stage fills them, up to the first codebook with a difference."""
    for q in range(first_codebook, len(reference_QT)):
        differs = np.flatnonzero(ours_QT[q] != reference_QT[q])
        if differs.size:
            frame = int(differs[np.argmax(margins_QT[q, differs])])  # the least excusable
            n_equal = (q - first_codebook) * reference_QT.shape[1] + reference_QT.shape[1] - differs.size
            what = f"codebook {q} frame {frame} is {ours_QT[q, frame]}, expected {reference_QT[q, frame]}"
            n_total = (len(reference_QT) - first_codebook) * reference_QT.shape[1]
            return _differing(stage, check, n_equal, n_total, float(margins_QT[q, frame]), what)
    n_total = (len(reference_QT) - first_codebook) * reference_QT.shape[1]
    return Row(stage, check, True, n_equal=n_total, n_total=n_total)


def _differing(stage: str, check: str, n_equal: int, n_total: int, margin: float, what: str) -> Row:
    note = f"{what}; the reference's margin is {margin:.1e}"
    if margin < NEAR_TIE:
        note += ", a near tie: excused, and compared up to there"
    return Row(stage, check, margin < NEAR_TIE, n_equal=n_equal, n_total=n_total, note=note)


def _at(tokens: np.ndarray, index: int) -> str:
    return str(tokens[index]) if index < len(tokens) else "the end"


def format_table(rows: list[Row]) -> str:
    """The rows for people, a line each; a note stands below its row."""
    header = ("stage", "check", "found", "expected", "")
    cells = [(row.stage, row.check, row.found, row.expected, "ok" if row.is_within else "WRONG") for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [_line(header, widths)]
    for row, line in zip(rows, cells, strict=True):
        lines.append(_line(line, widths))
        lines += [" " * (widths[0] + 2) + row.note] if row.note else []
    return "\n".join(lines)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    """Words to the left of their columns, numbers to the right."""
    stage, check, *numbers, verdict = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
    return "  ".join([stage, check, *(number.strip().rjust(len(number)) for number in numbers), verdict]).rstrip()
