"""The bidirectional transformer: parity with torch for every codebook, and what it reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_gpt import largest_difference, to_torch

from bark_jax.config import BarkFineConfig
from bark_jax.errors import InputError
from bark_jax.models.fine_gpt import BarkFineModel


@pytest.mark.parametrize("codebook", range(1, 8))
def test_logits_equal_torchs_for_every_codebook(codebook, twins, rng):
    ids = rng.integers(0, 1056, (2, 60, 8))
    theirs = twins.theirs.fine_acoustics(codebook, to_torch(ids)).logits
    assert largest_difference(twins.ours.fine_acoustics(codebook, jnp.asarray(ids)), theirs) < 1e-4


def test_logits_equal_torchs_over_a_whole_window(twins, rng):
    ids = rng.integers(0, 1056, (1, 1024, 8))
    theirs = twins.theirs.fine_acoustics(7, to_torch(ids)).logits
    ours = twins.ours.fine_acoustics(7, jnp.asarray(ids))
    assert largest_difference(ours, theirs) < 1e-4 * float(theirs.std())


def test_hidden_states_equal_torchs_after_every_layer(twins, rng):
    ids = rng.integers(0, 1056, (1, 30, 8))
    theirs = twins.theirs.fine_acoustics(3, to_torch(ids), output_hidden_states=True).hidden_states
    _, ours = twins.ours.fine_acoustics(3, jnp.asarray(ids), output_hidden_states=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert largest_difference(mine, other) < 1e-5


def make_toy() -> BarkFineModel:
    config = BarkFineConfig(
        block_size=16, input_vocab_size=32, output_vocab_size=32, num_layers=1, num_heads=2, hidden_size=16
    )
    return BarkFineModel(config, rngs=nnx.Rngs(0))


def test_codebooks_above_the_predicted_one_are_not_read(rng):
    model, ids_BTQ = make_toy(), rng.integers(0, 32, (1, 10, 8))
    changed_BTQ = ids_BTQ.copy()
    changed_BTQ[:, :, 4:] = 0
    np.testing.assert_array_equal(model(3, jnp.asarray(ids_BTQ)), model(3, jnp.asarray(changed_BTQ)))
    assert np.abs(model(4, jnp.asarray(ids_BTQ)) - model(4, jnp.asarray(changed_BTQ))).max() > 1e-4


def test_a_frame_sees_the_frames_after_it(rng):
    model, ids_BTQ = make_toy(), rng.integers(0, 32, (1, 10, 8))
    changed_BTQ = ids_BTQ.copy()
    changed_BTQ[:, -1, 0] = (changed_BTQ[:, -1, 0] + 1) % 32
    assert np.abs(model(3, jnp.asarray(ids_BTQ)) - model(3, jnp.asarray(changed_BTQ)))[0, 0].max() > 1e-6


@pytest.mark.parametrize("codebook", [0, 8, -1])
def test_a_codebook_without_a_head_is_refused(codebook):
    with pytest.raises(InputError, match=f"codebook_idx is {codebook}, expected 1 to 7"):
        make_toy()(codebook, jnp.zeros((1, 4, 8), jnp.int32))


def test_more_frames_than_positions_are_refused():
    with pytest.raises(InputError, match="17 frames were given, and the network has 16"):
        make_toy()(1, jnp.zeros((1, 17, 8), jnp.int32))


@pytest.mark.parametrize("shape", [(1, 0, 8), (0, 4, 8)])
def test_nothing_to_read_is_refused(shape):
    with pytest.raises(InputError, match=f"{shape[0]} rows of {shape[1]} frames were given, expected at least one"):
        make_toy()(1, jnp.zeros(shape, jnp.int32))


def test_heads_are_the_tables_and_no_parameter_is_shared():
    model = make_toy()
    assert nnx.find_duplicates(model) == []
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert not any("head" in name for name in names) and len(jax.tree.leaves(model)) == len(names)
