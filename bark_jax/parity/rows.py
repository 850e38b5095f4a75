"""Results of a comparison, one row for each check, and the bounds within which two results count as equal."""

import dataclasses
import math
from typing import Any

import numpy as np

# Bounds on the largest difference. In float32 logits differ by about 1e-5 of their standard deviation, as sums are
# ordered differently; a real fault, such as another epsilon or GELU, is far above 1e-4 of it.
LOGIT_BOUND = 1e-4  # of the standard deviation of the reference's logits
WAVEFORM_BOUND = 1e-4  # of full scale, 1.0
# Two tokens whose logits are closer than this may swap ranks by rounding alone.
NEAR_TIE = 1e-3


@dataclasses.dataclass(frozen=True)
class Row:
    """The result of a check: either a largest difference and its bound, or a number of equal tokens of a total."""

    stage: str  # "semantic", "coarse", "fine", "codec" or "all"
    check: str  # the quantity compared
    is_within: bool  # whether it passes
    difference: float | None = None  # largest absolute difference
    bound: float | None = None
    n_equal: int | None = None  # equal tokens before the first difference; for codes see `compare_codes`
    n_total: int | None = None
    note: str = ""  # where the two sides differ, and why that is excused

    @property
    def found(self) -> str:
        """The column "found" of the table: "39 of 40", or the difference as "1.2e-05"."""
        if self.n_total is not None:
            return f"{self.n_equal} of {self.n_total}"
        return "" if self.difference is None else f"{self.difference:.1e}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dict for JSON, which has no infinity or NaN: such a difference becomes None."""
        values = dataclasses.asdict(self)
        if self.difference is not None and not math.isfinite(self.difference):
            values["difference"] = None
        return values

    @property
    def expected(self) -> str:
        """The column "expected" of the table: "all", or the bound as "1.4e-04"."""
        if self.n_total is not None:
            return "all"
        return "" if self.bound is None else f"{self.bound:.1e}"


def compare_logits(stage: str, check: str, ours: np.ndarray, reference: np.ndarray) -> Row:
    """Compares logits [T, V] within LOGIT_BOUND of the reference's standard deviation."""
    return _compare_values(stage, check, ours, reference, LOGIT_BOUND * float(reference.std()))


def compare_waveforms(stage: str, check: str, ours: np.ndarray, reference: np.ndarray) -> Row:
    """Compares audio samples [A] within WAVEFORM_BOUND of full scale, or of the peak where random weights exceed it."""
    return _compare_values(stage, check, ours, reference, WAVEFORM_BOUND * max(1.0, float(np.abs(reference).max())))


def _compare_values(stage: str, check: str, ours: np.ndarray, reference: np.ndarray, bound: float) -> Row:
    if ours.shape != reference.shape:
        return Row(stage, check, False, float("inf"), bound, note=f"shape {ours.shape}, expected {reference.shape}")
    difference = float(np.abs(ours - reference).max())
    return Row(stage, check, difference <= bound, difference, bound)  # False for NaN


def compare_tokens(stage: str, check: str, ours: np.ndarray, reference: np.ndarray, margins: np.ndarray) -> Row:
    """Compares tokens [T] in the order of their generation, up to the first difference: later tokens had other context.

    Args:
      margins: the reference's margins [T], and one more where it ended by itself. A difference at a margin below
        NEAR_TIE is rounding, and excused.
    """
    n_both = min(len(ours), len(reference))
    differs = np.flatnonzero(ours[:n_both] != reference[:n_both])
    first = int(differs[0]) if differs.size else n_both
    if first == len(ours) == len(reference):
        return Row(stage, check, True, n_equal=first, n_total=first)
    # No margin where the reference has made all its choices and ours is longer: rounding does not explain that.
    margin = float(margins[first]) if first < len(margins) else float("inf")
    what = f"token {first} is {_at(ours, first)}, expected {_at(reference, first)}"
    return _differing(stage, check, first, len(reference), margin, what)


def compare_codes(
    stage: str, check: str, ours_QT: np.ndarray, reference_QT: np.ndarray, margins_QT: np.ndarray, first_codebook: int
) -> Row:
    """Compares codes [Q, T] codebook by codebook, as the fine stage fills them, up to the first that differs.

    Within a codebook all frames are chosen in one pass, so the difference at the largest margin decides, and n_equal
    counts the equal codes of that codebook and of those before it.
    """
    for q in range(first_codebook, len(reference_QT)):
        differs = np.flatnonzero(ours_QT[q] != reference_QT[q])
        if differs.size:
            frame = int(differs[np.argmax(margins_QT[q, differs])])  # the largest margin, least likely to be rounding
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
    """Formats rows as a text table, a line each, with notes below their rows."""
    header = ("stage", "check", "found", "expected", "")
    cells = [(row.stage, row.check, row.found, row.expected, "ok" if row.is_within else "WRONG") for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    lines = [_line(header, widths)]
    for row, line in zip(rows, cells, strict=True):
        lines.append(_line(line, widths))
        lines += [" " * (widths[0] + 2) + row.note] if row.note else []
    return "\n".join(lines)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    """A line of the table: words aligned to the left of their columns, numbers to the right."""
    stage, check, *numbers, verdict = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
    return "  ".join([stage, check, *(number.strip().rjust(len(number)) for number in numbers), verdict]).rstrip()
