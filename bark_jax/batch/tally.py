"""Counts of a run: progress events while it runs, and the summary at its end."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from bark_jax.batch.manifest import Entry

Event = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts of a run that has ended."""

    folder: str
    rows: int  # of the input, or of this run's shard
    done_before: int  # rows that earlier runs finished, with or without error
    finished: int  # rows that this run finished, with audio
    failed: int  # rows with an error, of this run or earlier ones
    left: int  # rows not spoken, as a signal stopped the run
    audio_s: float  # seconds of audio that this run generated
    took_s: float  # seconds since the model was loaded
    signal: int | None  # number of the signal that stopped the run


class Tally:
    """Counts the rows that are in the manifest and reports each to `on_event`.

    Not thread-safe: `add` is called on the writer's thread alone, `summary` after that has ended.

    Args:
      n_rows: rows of the input or shard.
      n_todo: rows to speak in this run.
      n_failed_before: rows that failed in earlier runs and are not retried.
      on_event: called with an event for each row, a dictionary.
    """

    def __init__(self, n_rows: int, *, n_todo: int, n_failed_before: int, on_event: Callable[[Event], None]):
        self._n_rows, self._n_todo, self._n_failed_before = n_rows, n_todo, n_failed_before
        self._on_event = on_event
        self._n_finished = self._n_failed = 0
        self._audio_s = 0.0
        self.start()

    def start(self) -> None:
        """Starts the clock again, from which rates are computed."""
        self._started = time.perf_counter()

    def add(self, entries: list[Entry]) -> None:
        """Counts entries that are in the manifest now and reports each."""
        for entry in entries:
            self._n_failed += "error" in entry
            self._n_finished += "error" not in entry
            self._audio_s += entry.get("seconds", 0.0)
            self._on_event({"event": "row", **_row_fields(entry), **self._progress()})

    def _progress(self) -> dict[str, Any]:
        took_s = max(time.perf_counter() - self._started, 1e-6)
        n = self._n_finished + self._n_failed
        return {
            "rows_done": n,
            "rows_failed": self._n_failed,
            "rows_todo": self._n_todo,
            "audio_seconds_per_second": round(self._audio_s / took_s, 2),
            "seconds_left": round(took_s / n * (self._n_todo - n), 1),
        }

    def summary(self, folder: str, signal: int | None) -> Summary:
        """Returns the counts of the run, which `signal` has stopped if it is given."""
        return Summary(
            folder=folder,
            rows=self._n_rows,
            done_before=self._n_rows - self._n_todo,
            finished=self._n_finished,
            failed=self._n_failed_before + self._n_failed,
            left=self._n_todo - self._n_finished - self._n_failed,
            audio_s=round(self._audio_s, 3),
            took_s=round(time.perf_counter() - self._started, 3),
            signal=signal,
        )


def _row_fields(entry: Entry) -> dict[str, Any]:
    """The fields of an entry that a "row" event repeats."""
    names = ("id", "file", "seconds", "error", "warnings")
    return {name: entry[name] for name in names if name in entry}
