"""The causal transformer: parity with torch, layer by layer and end to end, and the KV cache."""

import functools

import jax
import numpy as np
import pytest
from checkpoints import make_bark
from flax import nnx

from bark_jax.config import BarkSemanticConfig
from bark_jax.errors import InputError
from bark_jax.model import BarkModel
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.stage_models import BarkSemanticModel

NETWORKS = ("semantic", "coarse_acoustics")

# Jitted as one program: eagerly, JAX would compile every operation by itself.
read = jax.jit(BarkCausalModel.__call__, static_argnames="output_hidden_states")
apply = jax.jit(lambda module, *arrays: module(*arrays))
logits_of = jax.jit(BarkCausalModel.logits, static_argnames=("start", "size"))


@functools.partial(jax.jit, static_argnames="n_slots")
def prefill(model, ids_BT, length_B, *, n_slots):
    return model.prefill(model.embed(ids_BT), length_B, n_slots)


@jax.jit
def decode(model, tokens_B, cache):
    hidden_BD, cache = model.decode(tokens_B, cache)
    return model.logits(hidden_BD), cache


def to_torch(array):
    import torch

    return torch.from_numpy(np.array(array))


def largest_difference(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs.detach().numpy()).max())


def draw_ids(rng, shape, model):
    return rng.integers(0, model.config.input_vocab_size, shape)


@pytest.fixture(scope="module", params=[dict(bias=True), dict(bias=False, num_heads=4, num_layers=3, hidden_size=48)])
def sized_twins(request, tmp_path_factory):
    """Other sizes than the session's gentle_twins, with and without biases."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from bark_jax.checkpoints import convert

    folder = tmp_path_factory.mktemp("sized")
    make_bark(folder / "theirs", **request.param)
    convert(folder / "theirs", folder / "ours")
    return transformers.BarkModel.from_pretrained(folder / "theirs").eval(), BarkModel.from_pretrained(folder / "ours")


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_equal_torchs(network, sized_twins, rng):
    theirs, ours = (getattr(model, network) for model in sized_twins)
    ids = draw_ids(rng, (2, 40), ours)
    assert largest_difference(read(ours, ids), theirs(to_torch(ids)).logits) < 1e-4


def test_logits_equal_torchs_over_the_full_context(gentle_twins, rng):
    model = gentle_twins.ours.coarse_acoustics
    ids = draw_ids(rng, (1, model.config.block_size), model)
    theirs = gentle_twins.theirs.coarse_acoustics(to_torch(ids)).logits
    assert largest_difference(read(model, ids), theirs) < 1e-4 * float(theirs.std())


def test_hidden_states_equal_torchs_after_every_layer(gentle_twins, rng):
    ids = draw_ids(rng, (2, 30), gentle_twins.ours.semantic)
    theirs = gentle_twins.theirs.semantic(to_torch(ids), output_hidden_states=True).hidden_states
    _, ours = read(gentle_twins.ours.semantic, ids, output_hidden_states=True)
    assert len(ours) == len(theirs) == gentle_twins.ours.semantic.config.num_layers + 1
    for mine, other in zip(ours, theirs, strict=True):
        assert largest_difference(mine, other) < 1e-5


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_equals_torchs_at_any_mean(offset, gentle_twins, rng):
    x = (rng.normal(size=(2, 5, 64)) + offset).astype(np.float32)
    theirs = gentle_twins.theirs.semantic.layers[0].layernorm_1(to_torch(x))
    bound = 1e-5 if offset == 0 else 3e-4
    assert largest_difference(apply(gentle_twins.ours.semantic.blocks[0].attention_norm, x), theirs) < bound


def test_attention_equals_torchs(gentle_twins, rng):
    x = rng.normal(size=(2, 50, 64)).astype(np.float32)
    theirs, _ = gentle_twins.theirs.semantic.layers[0].attn(to_torch(x), attention_mask=None)
    ours, _, _ = apply(gentle_twins.ours.semantic.blocks[0].attention, x)
    assert largest_difference(ours, theirs) < 5e-6


def test_mlp_equals_torchs_far_from_0_too(gentle_twins, rng):
    x = (rng.normal(size=(2, 5, 64)) * 6).astype(np.float32)
    theirs = gentle_twins.theirs.semantic.layers[0].mlp(to_torch(x))
    assert largest_difference(apply(gentle_twins.ours.semantic.blocks[0].mlp, x), theirs) < 2e-5


def test_cached_steps_equal_one_full_pass(gentle_twins, rng):
    model = gentle_twins.ours.coarse_acoustics
    ids_BT = draw_ids(rng, (2, 24), model)
    full_BTV = np.asarray(read(model, ids_BT))
    cache = prefill(model, ids_BT[:, :20], np.array([20, 20]), n_slots=32)
    for step in range(20, 24):
        logits_BV, cache = decode(model, ids_BT[:, step], cache)
        np.testing.assert_allclose(logits_BV, full_BTV[:, step], atol=1e-5)
    np.testing.assert_array_equal(cache.length_B, [24, 24])


def test_prompts_of_unequal_length_share_a_batch(gentle_twins, rng):
    model = gentle_twins.ours.coarse_acoustics
    ids_BT = draw_ids(rng, (2, 20), model)
    logits_BV, _ = decode(model, np.array([5, 6]), prefill(model, ids_BT, np.array([20, 7]), n_slots=32))
    for row, length in enumerate((20, 7)):
        alone_1T = np.zeros((1, 24), int)  # what follows the position does not reach it
        alone_1T[0, : length + 1] = *ids_BT[row, :length], 5 + row
        np.testing.assert_allclose(logits_BV[row], np.asarray(read(model, alone_1T))[0, length], atol=1e-5)


def test_a_row_is_bit_equal_in_any_slot_and_company(gentle_twins, rng):
    model = gentle_twins.ours.coarse_acoustics
    ids_BT = draw_ids(rng, (8, 20), model)
    first = np.asarray(read(model, ids_BT))
    moved = np.asarray(read(model, np.concatenate([draw_ids(rng, (5, 20), model), ids_BT[:3]])))
    np.testing.assert_array_equal(first[:3], moved[5:])


def test_the_head_can_be_cut_to_the_ids_that_are_asked_for(gentle_twins, rng):
    model = gentle_twins.ours.coarse_acoustics
    hidden_BD = rng.normal(size=(2, 64)).astype(np.float32)
    full_BV = np.asarray(logits_of(model, hidden_BD))
    np.testing.assert_allclose(logits_of(model, hidden_BD, 123, 256), full_BV[:, 123 : 123 + 256], atol=1e-6)


def test_the_semantic_prompt_sums_text_and_history(gentle_twins, rng):
    text_BT, history_BT = rng.integers(128, 254, (1, 96)), rng.integers(0, 123, (1, 96))
    embed = gentle_twins.theirs.semantic.input_embeds_layer
    theirs = embed(to_torch(text_BT)) + embed(to_torch(history_BT))
    ours = jax.jit(BarkSemanticModel.embed_prompt)(gentle_twins.ours.semantic, text_BT, history_BT)
    assert largest_difference(ours, theirs) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_halves_the_bytes_and_keeps_float32_logits(dtype, gentle_twins, rng):
    ours = gentle_twins.ours
    half = BarkModel.from_pretrained(gentle_twins.folder / "ours", dtype=dtype)
    ids_BT = draw_ids(rng, (2, 30), ours.semantic)
    for network in ("semantic", "coarse_acoustics", "fine_acoustics", "codec_model"):
        n_bytes = [sum(leaf.nbytes for leaf in jax.tree.leaves(getattr(model, network))) for model in (half, ours)]
        assert n_bytes[0] * 2 == n_bytes[1]
    logits, exact = (np.asarray(read(m.semantic, ids_BT, output_hidden_states=True)[0]) for m in (half, ours))
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - exact).max() < 0.1 * exact.std()


def make_abstract() -> BarkSemanticModel:
    """A small network of abstract arrays: arguments must be refused before anything is computed."""
    config = BarkSemanticConfig(
        block_size=16, input_vocab_size=64, output_vocab_size=64, num_layers=2, num_heads=2, hidden_size=16
    )
    return nnx.eval_shape(lambda: BarkSemanticModel(config, rngs=nnx.Rngs(0)))


def test_as_many_positions_as_the_network_has_are_read_and_more_are_refused():
    assert jax.eval_shape(read, make_abstract(), np.zeros((1, 16), np.int32)).shape == (1, 16, 64)
    with pytest.raises(InputError, match=r"17 positions were given, and the network has 16"):
        jax.eval_shape(read, make_abstract(), np.zeros((1, 17), np.int32))


@pytest.mark.parametrize("shape", [(1, 0), (0, 4)])
def test_nothing_to_read_is_refused(shape):
    with pytest.raises(InputError, match=f"{shape[0]} rows of {shape[1]} positions were given, expected at least one"):
        jax.eval_shape(read, make_abstract(), np.zeros(shape, np.int32))


def test_a_cache_shorter_than_its_prompt_is_refused():
    with pytest.raises(InputError, match="n_slots is 4, fewer than the prompt's 5"):
        jax.eval_shape(
            functools.partial(prefill, n_slots=4), make_abstract(), np.zeros((1, 5), np.int32), np.array([5])
        )


def test_ids_and_embeddings_together_are_refused():
    with pytest.raises(InputError, match="either input_ids or inputs_embeds"):
        make_abstract()()
    with pytest.raises(InputError, match="either input_ids or inputs_embeds"):
        make_abstract()(np.zeros((1, 2), np.int32), inputs_embeds=np.zeros((1, 2, 16)))


def test_no_parameter_is_shared(toy_model):
    assert nnx.find_duplicates(toy_model.semantic) == []
