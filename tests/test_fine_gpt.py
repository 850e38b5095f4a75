"""The bidirectional transformer: parity with torch for every codebook, and which inputs it depends on."""

import jax
import numpy as np
import pytest
from flax import nnx
from test_gpt import largest_difference, to_torch

from bark_jax.config import BarkFineConfig
from bark_jax.errors import InputError
from bark_jax.stage_models import BarkFineModel

# Jitted as one program: eagerly, JAX would compile every operation by itself.
read = jax.jit(BarkFineModel.__call__, static_argnums=1, static_argnames="output_hidden_states")


def draw_codes(rng, n_rows, n_frames):
    return rng.integers(0, 257, (n_rows, n_frames, 8))


@pytest.mark.parametrize("codebook", range(1, 8))
def test_logits_equal_torchs_for_every_codebook(codebook, gentle_twins, rng):
    ids = draw_codes(rng, 2, 30)
    theirs = gentle_twins.theirs.fine_acoustics(codebook, to_torch(ids)).logits
    ours, _ = read(gentle_twins.ours.fine_acoustics, codebook, ids, output_hidden_states=True)
    assert largest_difference(ours, theirs) < 1e-4


def test_logits_equal_torchs_over_a_full_window(gentle_twins, rng):
    ids = draw_codes(rng, 1, gentle_twins.spaces.fine_window)
    theirs = gentle_twins.theirs.fine_acoustics(7, to_torch(ids)).logits
    assert largest_difference(read(gentle_twins.ours.fine_acoustics, 7, ids), theirs) < 1e-4 * float(theirs.std())


def test_hidden_states_equal_torchs_after_every_layer(gentle_twins, rng):
    ids = draw_codes(rng, 2, 30)
    theirs = gentle_twins.theirs.fine_acoustics(3, to_torch(ids), output_hidden_states=True).hidden_states
    _, ours = read(gentle_twins.ours.fine_acoustics, 3, ids, output_hidden_states=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert largest_difference(mine, other) < 1e-5


def logits(model, codebook, ids_BTQ):
    return np.asarray(read(model, codebook, ids_BTQ, output_hidden_states=True)[0])


def test_codebooks_above_the_predicted_one_are_not_read(gentle_twins, rng):
    model, ids_BTQ = gentle_twins.ours.fine_acoustics, draw_codes(rng, 2, 30)
    changed_BTQ = ids_BTQ.copy()
    changed_BTQ[:, :, 4:] = 0
    np.testing.assert_array_equal(logits(model, 3, ids_BTQ), logits(model, 3, changed_BTQ))
    assert np.abs(logits(model, 4, ids_BTQ) - logits(model, 4, changed_BTQ)).max() > 1e-4


def test_a_frame_sees_the_frames_after_it(gentle_twins, rng):
    model, ids_BTQ = gentle_twins.ours.fine_acoustics, draw_codes(rng, 2, 30)
    changed_BTQ = ids_BTQ.copy()
    changed_BTQ[:, -1, 0] = (changed_BTQ[:, -1, 0] + 1) % 256
    assert np.abs(logits(model, 3, ids_BTQ) - logits(model, 3, changed_BTQ))[:, 0].max(-1).min() > 1e-6


def make_abstract() -> BarkFineModel:
    """A small network of abstract arrays: arguments must be refused before anything is computed."""
    config = BarkFineConfig(
        block_size=16, input_vocab_size=32, output_vocab_size=32, num_layers=1, num_heads=2, hidden_size=16
    )
    return nnx.eval_shape(lambda: BarkFineModel(config, rngs=nnx.Rngs(0)))


def give(codebook, shape):
    return jax.eval_shape(lambda model, ids: model(codebook, ids), make_abstract(), np.zeros(shape, np.int32))


@pytest.mark.parametrize("codebook", [0, 8, -1])
def test_a_codebook_without_a_head_is_refused(codebook):
    with pytest.raises(InputError, match=f"codebook_idx is {codebook}, expected 1 to 7"):
        give(codebook, (1, 4, 8))


def test_as_many_frames_as_positions_are_read_and_more_are_refused():
    assert give(1, (1, 16, 8)).shape == (1, 16, 32)
    with pytest.raises(InputError, match="17 frames were given, and the network has 16"):
        give(1, (1, 17, 8))


@pytest.mark.parametrize("shape", [(1, 0, 8), (0, 4, 8)])
def test_nothing_to_read_is_refused(shape):
    with pytest.raises(InputError, match=f"{shape[0]} rows of {shape[1]} frames were given, expected at least one"):
        give(1, shape)


def test_heads_are_the_tables_and_no_parameter_is_shared(toy_model):
    model = toy_model.fine_acoustics
    assert nnx.find_duplicates(model) == []
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))}
    assert not any("head" in name for name in names) and len(jax.tree.leaves(model)) == len(names)
