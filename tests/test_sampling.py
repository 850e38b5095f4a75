"""Sampling: distributions against a numpy restatement, and what a draw depends on."""

import dataclasses

import jax
import numpy as np
import pytest
from networks import in_numpy, jit
from scipy import special, stats

from bark_jax.errors import InputError
from bark_jax.generation import sampling as stage_numbers
from bark_jax.generation.sampling import Sampling, choose, draw_logits, key_data, log_probability
from bark_jax.generation.settings import StageSampling

V = 12


def make_sampling(rows, temperature=1.0, top_k=0, top_p=1.0, seeds=None):
    data = np.stack([key_data(seed) for seed in (range(rows) if seeds is None else seeds)])
    # One program for all cases: the one with top-k and top-p.
    return dataclasses.replace(Sampling.stack([StageSampling(temperature, top_k, top_p)] * rows, data), may_cut=True)


prepare, pick = in_numpy(jit(draw_logits)), in_numpy(jit(choose))


def draw(logits_BV, sampling, step):
    return pick(prepare(logits_BV, sampling), sampling, step)


def normal_logits(rng, rows):
    return rng.normal(size=(rows, V)).astype(np.float32)


def exact_probabilities(logits_V, temperature, top_k, top_p):
    """Probabilities [V] after temperature, then top-k, then top-p: one row, in float64."""
    scaled = np.asarray(logits_V, np.float64) / temperature
    order = np.argsort(-scaled, kind="stable")
    kept = order[: top_k or len(order)]
    probability = np.exp(scaled[kept] - scaled[kept].max())
    probability /= probability.sum()
    before = np.cumsum(probability) - probability
    kept = kept[before < top_p] if top_p < 1 else kept
    result = np.zeros(len(scaled))
    result[kept] = np.exp(scaled[kept] - scaled[kept].max())
    return result / result.sum()


SETTINGS = [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 5, 1.0), (1.0, 0, 0.6), (0.8, 6, 0.9), (1.0, 1, 1.0), (0.01, 0, 0.5)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_the_distribution_is_the_one_spelt_out(temperature, top_k, top_p, rng):
    logits_BV = 2 * normal_logits(rng, 20)
    found_BV = special.softmax(prepare(logits_BV, make_sampling(20, temperature, top_k, top_p)), axis=-1)
    expected_BV = np.stack([exact_probabilities(row, temperature, top_k, top_p) for row in logits_BV])
    np.testing.assert_allclose(found_BV, expected_BV, atol=2e-6)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_100_000_draws_follow_the_distribution(temperature, top_k, top_p, rng):
    n = 100_000
    logits_V = rng.normal(size=V).astype(np.float32) * 2
    sampling = make_sampling(n, temperature, top_k, top_p)
    counts = np.bincount(draw(np.broadcast_to(logits_V, (n, V)), sampling, 3), minlength=V)
    expected = exact_probabilities(logits_V, temperature, top_k, top_p) * n
    assert counts[expected == 0].sum() == 0
    is_drawn = expected > 0
    assert is_drawn.sum() == 1 or stats.chisquare(counts[is_drawn], expected[is_drawn]).pvalue > 1e-6


def test_the_draws_test_can_fail(rng):
    n = 100_000
    logits_V = rng.normal(size=V).astype(np.float32) * 2
    sampling = make_sampling(n, temperature=0.9)
    counts = np.bincount(draw(np.broadcast_to(logits_V, (n, V)), sampling, 3), minlength=V)
    assert stats.chisquare(counts, exact_probabilities(logits_V, 1.0, 0, 1.0) * n).pvalue < 1e-6


def test_temperature_0_takes_the_most_likely_token_and_the_first_of_equals():
    logits_BV = np.zeros((2, V), np.float32)
    logits_BV[:, :4] = [[0, 3, 3, 1], [5, 3, 3, 1]]
    np.testing.assert_array_equal(draw(logits_BV, make_sampling(2, temperature=0.0), 0), [1, 0])


def test_top_k_1_is_the_most_likely_token(rng):
    logits_BV = normal_logits(rng, 20)
    np.testing.assert_array_equal(draw(logits_BV, make_sampling(20, top_k=1), 0), np.argmax(logits_BV, -1))


def test_a_rows_settings_do_not_touch_its_neighbours(rng):
    logits_BV = normal_logits(rng, 2)
    keys = np.stack([key_data(seed) for seed in range(2)])
    mixed = Sampling.stack([StageSampling(1.0), StageSampling(0.5, top_k=2, top_p=0.9)], keys)
    np.testing.assert_array_equal(prepare(logits_BV, mixed)[0], prepare(logits_BV, make_sampling(2))[0])


def test_a_draw_depends_on_key_and_step_not_on_the_slot(rng):
    logits_BV = np.repeat(normal_logits(rng, 1), 8, axis=0)
    for step in range(20):
        drawn, moved = (
            pick(logits_BV, make_sampling(8, seeds=seeds), step) for seeds in ([*range(8)], [*range(8)][::-1])
        )
        np.testing.assert_array_equal(drawn, moved[::-1])


def test_steps_and_seeds_draw_differently(rng):
    logits_BV = np.zeros((64, 1000), np.float32)
    first, second = (pick(logits_BV, make_sampling(64), step) for step in (0, 1))
    assert len(set(first.tolist())) > 55 and (first != second).mean() > 0.9


def test_log_probability_is_that_of_the_softmax(rng):
    logits_BV, token_B = normal_logits(rng, 5), np.array([0, 1, 2, 4, 5])
    logits_BV[:, 3] = -np.inf
    expected = np.log(special.softmax(logits_BV, -1)[np.arange(5), token_B])
    np.testing.assert_allclose(jit(log_probability)(logits_BV, token_B), expected, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_a_seed_means_what_it_means_to_jax(seed):
    of_jax = jit(lambda seed: jax.random.key_data(jax.random.key(seed)))
    np.testing.assert_array_equal(key_data(seed), of_jax(np.uint32(seed)))


def test_seeds_above_32_bits_are_kept_apart():
    assert key_data(5).tolist() != key_data(2**32 + 5).tolist()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "abc", None, True])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(InputError, match="expected an integer from 0"):
        key_data(seed)


def test_stages_draw_apart_and_by_numbers_that_stay():
    """Another number would give another clip for every seed."""
    numbers = stage_numbers.SEMANTIC_STAGE, stage_numbers.COARSE_STAGE, stage_numbers.FINE_STAGE
    assert numbers == (0, 1, 2)


def test_a_row_at_temperature_0_keeps_its_logits_beside_rows_that_cut(rng):
    logits_BV = normal_logits(rng, 2)
    sampling = make_sampling(2, top_k=3, top_p=0.5)
    sampling = dataclasses.replace(sampling, temperature_B=np.array([0.0, 1.0], np.float32))
    found_BV = prepare(logits_BV, sampling)
    np.testing.assert_array_equal(found_BV[0], logits_BV[0])
    assert np.isneginf(found_BV[1]).sum() >= V - 3


def test_top_p_of_1_drops_nothing_where_one_token_has_all_the_mass_that_float32_can_tell():
    logits_BV = np.zeros((2, V), np.float32)
    logits_BV[:, :2] = 30, -1
    found_V = prepare(logits_BV, make_sampling(2, top_k=V - 1))[0]
    assert np.isneginf(found_V).tolist() == [False, True] + [False] * (V - 2)
