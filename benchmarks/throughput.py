"""Throughput in audio seconds a second: continuous batching, fixed batches and single rows, on mixed lengths."""

import contextlib
import dataclasses
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bark_jax.batch import Job
from bark_jax.batch.runner import run_batch
from bark_jax.generation import runner
from bark_jax.generation.engine import Engine, Request
from bark_jax.generation.rows import Row
from bark_jax.model import BarkModel
from benchmarks.batch_memory import WORDS
from benchmarks.contenders import BarkJax
from benchmarks.timing import Spread, seconds


def make_rows(model: BarkModel, n_rows: int, max_tokens: int) -> list[Row]:
    """Rows with fixed numbers of semantic tokens, 0.1 to 1 times max_tokens. Most are short, as sentences are."""
    share = np.random.default_rng(0).beta(1.5, 3.0, n_rows)
    lengths = np.round(max_tokens * (0.1 + 0.9 * share)).astype(int)
    return [
        dataclasses.replace(row, settings=dataclasses.replace(row.settings, max_semantic_tokens=int(length)))
        for row, length in zip(BarkJax(model, n_rows).rows(1), lengths, strict=True)
    ]


def compare(model: BarkModel, n_slots: int, n_rows: int, max_tokens: int, *, alone: bool) -> Iterator[str]:
    """Yields a line for each method, then its speed relative to the engine. Runs each twice: the first run compiles."""
    rows = make_rows(model, n_rows, max_tokens)
    speaker = Engine(model, n_slots)
    yield f"{n_rows} utterances of {min(map(_length, rows))} to {max(map(_length, rows))} semantic tokens"
    runs: dict[str, Callable[[], list]] = {
        f"engine of {n_slots} slots": lambda: [
            done.utterance for done in speaker.run(Request(index, row) for index, row in enumerate(rows))
        ],
        f"fixed batches of {n_slots}": lambda: run_batches(model, rows, n_slots),
    }
    if alone:
        runs["one after the other"] = lambda: run_batches(model, rows, 1)
    # The fine stage and the codec cost a row the same at every batch size, and are most of the time on a CPU. They are
    # timed apart, to show what batching does to the stages that decode token by token.
    filling = [(runner, "run_fine"), (runner, "run_codec"), (type(speaker._programs), "finish")]
    rates, decoding_s = {}, {}
    for name, run in runs.items():
        audio_s = sum(len(each.samples) for each in run()) / model.sample_rate
        with _stopwatch(*filling) as spent:
            taken_s = seconds(run)
        rates[name], decoding_s[name] = audio_s / taken_s, taken_s - sum(spent)
        yield (
            f"{name}: {audio_s:.1f} s of audio in {taken_s:.1f} s, {rates[name]:.2f} audio seconds a second; "
            f"{decoding_s[name]:.1f} s without the fine stage and the codec"
        )
    ours, *others = rates
    for name in others:
        faster, decoding = rates[ours] / rates[name], decoding_s[name] / decoding_s[ours]
        yield f"{ours}: {faster:.2f} x {name}; {decoding:.2f} x without the fine stage and the codec"


def engine_rates(model: BarkModel, n_slots: int, n_rows: int, max_tokens: int) -> dict[str, Spread]:
    """Audio seconds a second of n_rows utterances of mixed length, of the engine and of fixed batches of n_slots rows.

    Each runs twice, and the first run, which compiles, is not timed.
    """
    rows = make_rows(model, n_rows, max_tokens)
    speaker = Engine(model, n_slots)
    runs: dict[str, Callable[[], list]] = {
        f"engine, {n_slots} slots": lambda: [
            done.utterance for done in speaker.run(Request(index, row) for index, row in enumerate(rows))
        ],
        f"fixed batches of {n_slots}": lambda: run_batches(model, rows, n_slots),
    }
    rates = {}
    for name, run in runs.items():
        audio_s = sum(len(each.samples) for each in run()) / model.sample_rate
        rates[name] = Spread((audio_s / seconds(run),))
    return rates


@contextlib.contextmanager
def _stopwatch(*methods: tuple[Any, str]) -> Iterator[list[float]]:
    """Times calls of some blocking functions in a `with` block; yields the list of their seconds.

    Args:
      methods: (module or class, name of its function), patched during the block.
    """
    spent: list[float] = []

    def timed(method: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - started)

        return call

    before = [(owner, name, getattr(owner, name)) for owner, name in methods]
    for owner, name, method in before:
        setattr(owner, name, timed(method))
    try:
        yield spent
    finally:
        for owner, name, method in before:
            setattr(owner, name, method)


def compare_batch(model: str, dtype: str | None, n_slots: int, n_rows: int) -> Iterator[str]:
    """Yields the throughput of `bark-jax batch` and of loops over `generate`, from texts to a folder of audio files.

    The model is loaded before. Each method runs twice, and the first run, which compiles, is not timed.
    """
    job = Job(model, dtype=dtype, n_slots=n_slots)
    speaker, made_with = job.open_speaker(), job.made_with()
    bark, numbers = speaker.bark, itertools.count()
    with tempfile.TemporaryDirectory() as work:
        texts = write_texts(Path(work, "rows.jsonl"), n_rows)

        def batch(out: Path) -> None:
            run_batch(f"{work}/rows.jsonl", out, lambda _: speaker, model=model, made_with=lambda: made_with)

        def loop(out: Path, at_once: int = 1) -> None:
            (out / "audio").mkdir(parents=True)
            for start in range(0, n_rows, at_once):
                seeds = list(range(start, min(start + at_once, n_rows)))
                for seed, clip in zip(seeds, bark.generate([texts[seed] for seed in seeds], seed=seeds), strict=True):
                    clip.save(out / "audio" / f"{seed}.wav")

        runs: dict[str, Callable[[Path], None]] = {
            f"bark-jax batch, {n_slots} slots": batch,
            "a loop over generate": loop,
            f"a loop over generate, {n_slots} texts at a time": lambda out: loop(out, n_slots),
        }
        rates = {}
        for name, run in runs.items():
            run(Path(work, str(next(numbers))))
            out = Path(work, str(next(numbers)))
            taken_s = seconds(lambda run=run, out=out: run(out))
            lengths_s = [soundfile.info(path).duration for path in (out / "audio").iterdir()]
            assert len(lengths_s) == n_rows
            audio_s, rates[name] = sum(lengths_s), sum(lengths_s) / taken_s
            yield f"{name}: {audio_s:.1f} s of audio in {taken_s:.1f} s, {rates[name]:.2f} audio seconds a second"
    ours, *others = rates
    for name in others:
        yield f"{ours}: {rates[ours] / rates[name]:.2f} x {name}"


def write_texts(path: Path, n_rows: int) -> list[str]:
    """Writes a file of rows, one sentence each, one to ten words that the built-in model knows. Returns the texts."""
    dice = random.Random(0)
    texts = [" ".join(dice.choice(WORDS) for _ in range(dice.randint(1, 10))) for _ in range(n_rows)]
    rows = [{"id": str(seed), "text": text, "seed": seed} for seed, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return texts


def run_batches(model: BarkModel, rows: list[Row], n_rows: int) -> list:
    """Generates rows in fixed batches of n_rows, in their order."""
    return [
        utterance
        for start in range(0, len(rows), n_rows)
        for utterance in model.generate_rows(rows[start : start + n_rows])
    ]


def _length(row: Row) -> int:
    return row.settings.max_semantic_tokens
