"""How far a run is, and how it ended."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from bark_jax.batch.manifest import Entry

Event = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a run ended."""

    folder: str
    rows: int  # of the input, or of its shard
    done_before: int  # finished by earlier runs, with or without error
    finished: int  # by this run, with audio
    failed: int  # of all rows: those that have an error, also from earlier runs
    left: int  # neither finished nor failed, as the run was told to stop
    audio_s: float  # seconds of audio that this run made
    took_s: float
    signal: int | None  # that told the run to stop


class Tally:
    """Counts what is settled, and tells it. `add` is called on one thread, the others when that has ended."""

    def __init__(self, n_rows: int, *, n_todo: int, n_failed_before: int, on_event: Callable[[Event], None]):
        self._n_rows, self._n_todo, self._n_failed_before = n_rows, n_todo, n_failed_before
        self._on_event = on_event
        self._n_finished = self._n_failed = 0
        self._audio_s = 0.0
        self.start()

    def start(self) -> None:
        self._started = time.perf_counter()

    def add(self, entries: list[Entry]) -> None:
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
    names = ("id", "file", "seconds", "error", "warnings")
    return {name: entry[name] for name in names if name in entry}
