"""Seconds until something is there to hear or to give away: a stream's first part, and one chunk of the engine."""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from bark_jax import Bark
from bark_jax.generation.engine import STEPS_PER_CHUNK, Engine, Request
from bark_jax.generation.seeds import row_keys
from bark_jax.model import BarkModel
from bark_jax.text.processor import BarkProcessor
from benchmarks.random_bark import made_up_vocabulary

TEXT = "some words"
STREAMED_TOKENS = 24  # semantic tokens of the streamed row: half a second of audio
N_CHUNKS = 4  # of each row of the engine


def measure(model: BarkModel, slots: tuple[int, ...], repeats: int) -> Iterator[str]:
    """Yields a line for the stream and for each number of slots. The first run, which compiles, does not count."""
    bark = Bark(model, _processor(model))
    _first_part_s(bark)
    found = [_first_part_s(bark) for _ in range(repeats)]
    yield f"first part of a stream: {_spread(found)} s"
    stages = [
        bark.generate(TEXT, seed=0, max_new_tokens=STREAMED_TOKENS, allow_early_stop=False) for _ in range(1 + repeats)
    ][1:]
    for stage in stages[0].stats:
        yield f"  {stage} stage of as much audio: {_spread([clip.stats[stage] for clip in stages])} s"
    for n_slots in slots:
        yield f"{STEPS_PER_CHUNK} steps of {n_slots} slots: {_spread(_chunks_s(bark, n_slots))} s"


def _processor(model: BarkModel) -> BarkProcessor:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(made_up_vocabulary()) + "\n", encoding="utf-8")
        Path(folder, "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
        Path(folder, "config.json").write_text(json.dumps(model.config.to_dict()))
        return BarkProcessor.from_pretrained(folder)


def _first_part_s(bark: Bark) -> float:
    start = time.perf_counter()
    parts = bark.stream(TEXT, seed=0, max_new_tokens=STREAMED_TOKENS, allow_early_stop=False)
    next(parts)
    taken_s = time.perf_counter() - start
    parts.close()
    return taken_s


def _chunks_s(bark: Bark, n_slots: int) -> list[float]:
    """Seconds of every chunk of semantic steps but the first, while all slots are busy."""
    engine, taken_s = Engine(bark.model, n_slots), []
    run = engine._programs.run_semantic

    def timed(*args: object, **options: object) -> object:
        start = time.perf_counter()
        state = jax.block_until_ready(run(*args, **options))
        taken_s.append(time.perf_counter() - start)
        return state

    engine._programs.run_semantic = timed
    ask = dict(max_new_tokens=N_CHUNKS * STEPS_PER_CHUNK, allow_early_stop=False)
    rows = bark.rows([TEXT] * n_slots, None, row_keys(list(range(n_slots)), None, n_slots), ask)
    finished = engine.run(Request(index, row) for index, row in enumerate(rows))
    next(finished)
    finished.close()
    return taken_s[1:]


def _spread(found: list[float]) -> str:
    return f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})"
