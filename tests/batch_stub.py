"""A batch without a model: a row's text seeds its noise. Run as a script, it is the process that tests kill.

python tests/batch_stub.py ROWS OUT [files|parquet]
"""

import collections
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from bark_jax.batch.rows import TextRow
from bark_jax.batch.runner import Output, run_batch
from bark_jax.batch.speech import Spoken
from bark_jax.text.checks import check_text

RATE = 24_000
DELAY_S = float(os.environ.get("STUB_DELAY_S", 0))  # per row
MADE_WITH = {"model": {"name": "stub", "sha256": "0"}, "settings": {}}


def noise(row: TextRow) -> np.ndarray:
    """Noise of 20 to 120 ms, seeded by the row."""
    rng = np.random.default_rng([row.seed, len(row.text)])
    return rng.uniform(-0.5, 0.5, 480 + 24 * int(rng.integers(100))).astype(np.float32)


class StubSpeaker:
    """A fake speaker that reads rows ahead and finishes them in another order, as an engine does."""

    def __init__(self, n_slots: int = 8):
        self._n_slots = n_slots
        self.n_spoken = 0

    def speak(self, rows, done):
        held = collections.deque()
        for row in rows:
            held.append(row)
            if len(held) > self._n_slots:
                held.rotate(row.seed % 3)
                done(self._spoken(held.popleft()))
        for row in held:
            done(self._spoken(row))

    def _spoken(self, row):
        self.n_spoken += 1
        time.sleep(DELAY_S)
        error = row.error
        if error is None:
            try:
                check_text(row.text, "text")
            except ValueError as refused:
                error = str(refused)
        return Spoken(row, noise(row) if error is None else None, RATE, 0.0, error=error)


def run_stub(rows, out, speaker=None, **options):
    speaker = speaker or StubSpeaker()
    events = options.pop("on_event", lambda event: None)
    made_with, form = options.pop("made_with", MADE_WITH), options.pop("rows_form", None)
    return run_batch(
        str(rows),
        out,
        lambda interrupts: speaker,
        model="stub",
        made_with=lambda: made_with,
        output=Output(**options),
        form=form,
        on_event=events,
    )


def write_rows(path: Path, rows) -> Path:
    """A JSONL file; a number is that many rows."""
    if isinstance(rows, int):
        rows = [{"id": f"row-{number}", "text": f"Text number {number}."} for number in range(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    asked = {"form": sys.argv[3]} if len(sys.argv) > 3 else {}
    ended = run_stub(
        sys.argv[1], sys.argv[2], rows_per_part=50, on_event=lambda event: print(event["event"], flush=True), **asked
    )
    print(json.dumps(dataclasses.asdict(ended)))
