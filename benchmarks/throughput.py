"""Audio a second of the slot engine, of fixed batches and of single rows, on utterances of mixed length."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from bark_jax.batch.engine import Engine, Request
from bark_jax.model import BarkModel, Row
from benchmarks.contenders import BarkJax
from benchmarks.timing import seconds


def make_rows(model: BarkModel, n_rows: int, most_tokens: int) -> list[Row]:
    """Rows of known lengths, from a tenth of the longest on, most of them short, as sentences are."""
    share = np.random.default_rng(0).beta(1.5, 3.0, n_rows)
    lengths = np.round(most_tokens * (0.1 + 0.9 * share)).astype(int)
    return [
        dataclasses.replace(row, settings=dataclasses.replace(row.settings, max_semantic_tokens=int(length)))
        for row, length in zip(BarkJax(model, n_rows).rows(1), lengths, strict=True)
    ]


def compare(model: BarkModel, n_slots: int, n_rows: int, most_tokens: int, *, alone: bool) -> Iterator[str]:
    """A line for each way, as it is done. Each runs twice, and the first run, which compiles, does not count."""
    rows = make_rows(model, n_rows, most_tokens)
    speaker = Engine(model, n_slots)
    audio_s = sum(len(each.samples) for each in run_batches(model, rows[:n_slots], n_slots)) / model.sample_rate
    yield f"{n_rows} utterances of {min(map(_length, rows))} to {max(map(_length, rows))} semantic tokens"
    ways: dict[str, Callable[[], list]] = {
        f"engine of {n_slots} slots": lambda: [
            done.utterance for done in speaker.run(Request(index, row) for index, row in enumerate(rows))
        ],
        f"fixed batches of {n_slots}": lambda: run_batches(model, rows, n_slots),
    }
    if alone:
        ways["one after the other"] = lambda: run_batches(model, rows, 1)
    rates = {}
    for name, way in ways.items():
        audio_s = sum(len(each.samples) for each in way()) / model.sample_rate
        taken_s = seconds(way)
        rates[name] = audio_s / taken_s
        yield f"{name}: {audio_s:.1f} s of audio in {taken_s:.1f} s, {rates[name]:.2f} audio seconds a second"
    ours, *others = rates.items()
    for name, rate in others:
        yield f"{ours[0]}: {ours[1] / rate:.2f} x {name}"


def run_batches(model: BarkModel, rows: list[Row], n_rows: int) -> list:
    """As they come, so many at a time."""
    return [
        utterance
        for start in range(0, len(rows), n_rows)
        for utterance in model.generate_rows(rows[start : start + n_rows])
    ]


def _length(row: Row) -> int:
    return row.settings.max_semantic_tokens
