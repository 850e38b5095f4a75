"""Attention weights and masks of a network's plain call: those of transformers' eager attention."""

import functools

import jax
import numpy as np
import pytest
from networks import jit

from bark_jax.errors import InputError

B, T = 2, 12
IS_ATTENDED = np.arange(T)[None] < np.array([[7], [T]])  # the first row is padded on the right


@functools.partial(jit, static_argnums=0)
def read(codebook, network, ids, mask, pairs):
    """(logits, hidden states, attentions) under a mask of positions; (logits, attentions) under one of pairs."""
    call = network if codebook is None else functools.partial(network, codebook)
    return (
        call(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True),
        call(ids, attention_mask=pairs, output_attentions=True),
    )


def inputs(name, network, rng):
    """(arguments before the mask; the mask of pairs, numbers to add to the logits, of which some are -inf)."""
    pairs = rng.normal(size=(B, network.config.num_heads, T, T)).astype(np.float32)
    pairs[rng.random(pairs.shape) < 0.3] = -np.inf
    pairs[:, :, np.arange(T), np.arange(T)] = 0  # each position attends at least to itself
    if name == "fine_acoustics":
        return 3, rng.integers(0, 257, (B, T, 8)), pairs
    return None, rng.integers(0, 250, (B, T)), pairs


@pytest.fixture(scope="module", params=["semantic", "fine_acoustics"])
def outputs(request, gentle_twins):
    """(name, our outputs, transformers' outputs) of one network under both masks."""
    import torch

    name, rng = request.param, np.random.default_rng(5)
    network, theirs = getattr(gentle_twins.ours, name), getattr(gentle_twins.theirs, name)
    codebook, ids, pairs = inputs(name, network, rng)
    first = () if codebook is None else (codebook,)
    with torch.no_grad():
        expected = [
            theirs(*first, torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), output_attentions=True)
            for mask in (IS_ATTENDED.astype(np.int64), pairs)
        ]
    ours = jax.tree.map(np.asarray, read(codebook, network, ids, IS_ATTENDED, pairs))
    return name, ours, expected


def test_attention_weights_equal_those_of_transformers_under_any_mask(outputs):
    _, (by_position, by_pair), expected = outputs
    for ours, theirs in zip((by_position, by_pair), expected, strict=True):
        assert len(ours[-1]) == len(theirs.attentions) > 1
        for weights_BNTS, other in zip(ours[-1], theirs.attentions, strict=True):
            assert weights_BNTS.dtype == np.float32 and weights_BNTS.shape == tuple(other.shape)
            np.testing.assert_allclose(weights_BNTS, other, atol=1e-5)
        np.testing.assert_allclose(ours[0], theirs.logits, atol=1e-4)


def test_nothing_is_attended_to_that_is_masked(outputs):
    name, (by_position, _), _ = outputs
    for weights_BNTS in by_position[-1]:
        np.testing.assert_allclose(weights_BNTS.sum(-1), 1, atol=1e-5)
        assert not weights_BNTS[0, :, :, 7:].any()
        if name == "semantic":
            assert not np.triu(weights_BNTS, 1).any()
        else:
            assert weights_BNTS[1, :, 0, 1:].all()


def test_hidden_states_come_before_attention_weights(outputs):
    _, (by_position, by_pair), _ = outputs
    _, hidden, attentions = by_position
    assert [array.ndim for array in hidden] == [3] * (len(attentions) + 1) and len(by_pair) == 2


def test_a_bool_mask_of_pairs_is_one_of_positions_spread_out(gentle_twins, rng):
    network = gentle_twins.ours.semantic
    _, ids, _ = inputs("semantic", network, rng)
    spread = np.broadcast_to(IS_ATTENDED[:, None, None], (B, 1, T, T))
    by_position, by_pair = read(None, network, ids, IS_ATTENDED, spread)
    jax.tree.map(np.testing.assert_array_equal, (by_position[0], by_position[2]), by_pair)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((B, T, T), bool), r"shape \(2, 12, 12\), expected \(2, 12\).* or \(2, 1, 12, 12\)"),
        (np.ones((B, 3, T, T), bool), r"shape \(2, 3, 12, 12\)"),
        (np.ones((3, 1, T, T), bool), r"shape \(3, 1, 12, 12\)"),
        (np.ones((B, 1, 1, T), bool), r"shape \(2, 1, 1, 12\)"),
        (np.ones((B, 1, T, T), np.int32), "dtype int32; by query and key expected bool"),
    ],
)
def test_a_mask_of_another_shape_or_of_integer_pairs_is_refused(mask, message, toy_model):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda network: network(np.ones((B, T), int), attention_mask=mask), toy_model.semantic)
