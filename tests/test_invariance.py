"""A row's tokens are its own: whatever batch, slot and neighbours it is drawn with."""

import dataclasses

import numpy as np
import pytest

from bark_jax.generation.rows import Row
from bark_jax.generation.runner import run_coarse, run_fine, run_semantic
from bark_jax.generation.sampling import key_data
from bark_jax.generation.settings import resolve_settings
from bark_jax.generation.tokens import text_tokens
from bark_jax.model import BarkModel
from bark_jax.voices.voice import Voice

BATCH_SIZES = (8, 5, 2, 1)


@pytest.fixture(scope="module")
def model():
    return BarkModel.from_pretrained("tiny")


def draw_rows(model, n_rows: int) -> list[Row]:
    """Rows with their own text, voice, limit, temperature and seed."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(n_rows):
        ids = rng.integers(2, 40, rng.integers(1, 60))
        given = {"max_new_tokens": int(rng.integers(1, 25)), "temperature": float(rng.uniform(0.5, 1.5))}
        (settings,) = resolve_settings(given, 1, model.generation_config, model.spaces)
        voice = draw_voice(rng, model.spaces) if rng.random() < 0.5 else None
        rows.append(Row(text_tokens(ids, np.ones_like(ids), model.spaces), voice, key_data(seed), settings))
    return rows


def draw_voice(rng, spaces) -> Voice:
    n_semantic = int(rng.integers(10, 150))
    fine = rng.integers(0, spaces.codebook_size, (spaces.n_fine, spaces.n_frames(n_semantic)))
    semantic = rng.integers(0, spaces.semantic_vocab, n_semantic)
    return Voice(semantic=semantic, coarse=fine[: spaces.n_coarse], fine=fine)


def generate(model, rows, order, batch_size) -> dict[int, tuple]:
    """Every row's tokens, generated in batches of rows in this order. Nothing is decoded to audio."""
    found = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        mine = [rows[index] for index in batch]
        semantic = [tokens for tokens, _ in run_semantic(model.semantic, mine, model.spaces)]
        coarse = [codes for codes, _ in run_coarse(model.coarse_acoustics, mine, semantic, model.spaces)]
        fine = run_fine(model.fine_acoustics, mine, coarse, model.spaces)
        found |= zip(batch, zip(semantic, coarse, fine, strict=True), strict=True)
    return found


def different_rows(first: dict, second: dict) -> list[int]:
    return [
        row
        for row in first
        if not all(np.array_equal(mine, other) for mine, other in zip(first[row], second[row], strict=True))
    ]


def check_arrangements(model, n_rows: int, n_arrangements: int) -> None:
    rows, rng = draw_rows(model, n_rows), np.random.default_rng(1)
    expected = generate(model, rows, list(range(n_rows)), BATCH_SIZES[0])
    assert len({tokens[0].tobytes() for tokens in expected.values()}) > 0.8 * n_rows, "the rows should differ"
    for arrangement in range(n_arrangements):
        order = rng.permutation(n_rows).tolist()
        found = generate(model, rows, order, BATCH_SIZES[arrangement % len(BATCH_SIZES)])
        assert different_rows(expected, found) == [], f"arrangement {arrangement}"


def test_rows_keep_their_tokens_in_any_arrangement(model):
    check_arrangements(model, n_rows=16, n_arrangements=2)


@pytest.mark.slow
def test_64_rows_keep_their_tokens_in_8_arrangements(model):
    check_arrangements(model, n_rows=64, n_arrangements=8)


def test_keys_that_stay_with_the_slot_are_found_out(model):
    """Negative control: the tests above would fail if draws depended on a row's position."""
    rows = draw_rows(model, 16)
    expected = generate(model, rows, list(range(16)), 8)
    order = np.random.default_rng(1).permutation(16).tolist()
    moved = {row: dataclasses.replace(rows[row], key=key_data(slot)) for slot, row in enumerate(order)}
    found = generate(model, moved, order, 8)
    assert len(different_rows(expected, found)) > 8
