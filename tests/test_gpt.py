"""The causal transformer: parity with torch layer by layer and whole, and the KV cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import make_bark
from flax import nnx

from bark_jax.config import BarkSemanticConfig
from bark_jax.errors import InputError
from bark_jax.model import BarkModel
from bark_jax.models.gpt import BarkCausalModel, BarkSemanticModel

NETWORKS = ("semantic", "coarse_acoustics")


def to_torch(array):
    import torch

    return torch.from_numpy(np.array(array))


def largest_difference(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs.detach().numpy()).max())


@pytest.fixture(scope="module", params=[dict(bias=True), dict(bias=False, num_heads=4, num_layers=3, hidden_size=48)])
def sized_twins(request, tmp_path_factory):
    """Other sizes than the session's twins, with and without biases."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from converters import convert

    folder = tmp_path_factory.mktemp("sized")
    make_bark(folder / "theirs", **request.param)
    convert(folder / "theirs", folder / "ours")
    return transformers.BarkModel.from_pretrained(folder / "theirs").eval(), BarkModel.from_pretrained(folder / "ours")


@pytest.mark.parametrize("network", NETWORKS)
def test_logits_equal_torchs(network, sized_twins, rng):
    theirs, ours = (getattr(model, network) for model in sized_twins)
    ids = rng.integers(0, ours.config.input_vocab_size, (2, 40))
    assert largest_difference(ours(jnp.asarray(ids)), theirs(to_torch(ids)).logits) < 1e-4


def test_logits_equal_torchs_over_the_whole_context(twins, rng):
    ids = rng.integers(0, 12_096, (1, 1024))
    theirs = twins.theirs.coarse_acoustics(to_torch(ids)).logits
    ours = twins.ours.coarse_acoustics(jnp.asarray(ids))
    assert largest_difference(ours, theirs) < 1e-4 * float(theirs.std())


def test_hidden_states_equal_torchs_after_every_layer(twins, rng):
    ids = rng.integers(0, 10_000, (2, 30))
    theirs = twins.theirs.semantic(to_torch(ids), output_hidden_states=True).hidden_states
    _, ours = twins.ours.semantic(jnp.asarray(ids), output_hidden_states=True)
    assert len(ours) == len(theirs) == twins.ours.semantic.config.num_layers + 1
    for mine, other in zip(ours, theirs, strict=True):
        assert largest_difference(mine, other) < 1e-5


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_equals_torchs_at_any_mean(offset, twins, rng):
    x = (rng.normal(size=(2, 5, 32)) + offset).astype(np.float32)
    theirs = twins.theirs.semantic.layers[0].layernorm_1(to_torch(x))
    bound = 1e-5 if offset == 0 else 3e-4
    assert largest_difference(twins.ours.semantic.blocks[0].attention_norm(jnp.asarray(x)), theirs) < bound


def test_attention_equals_torchs(twins, rng):
    x = rng.normal(size=(2, 50, 32)).astype(np.float32)
    theirs, _ = twins.theirs.semantic.layers[0].attn(to_torch(x), attention_mask=None)
    ours, _, _ = twins.ours.semantic.blocks[0].attention(jnp.asarray(x))
    assert largest_difference(ours, theirs) < 5e-6


def test_mlp_equals_torchs_far_from_0_too(twins, rng):
    x = (rng.normal(size=(2, 5, 32)) * 6).astype(np.float32)
    theirs = twins.theirs.semantic.layers[0].mlp(to_torch(x))
    assert largest_difference(twins.ours.semantic.blocks[0].mlp(jnp.asarray(x)), theirs) < 2e-5


def test_cached_steps_equal_one_full_pass(twins, rng):
    model = twins.ours.coarse_acoustics
    ids_BT = jnp.asarray(rng.integers(0, 12_000, (2, 24)))
    whole_BTV = jax.jit(BarkCausalModel.__call__)(model, ids_BT)
    cache = model.prefill(model.embed(ids_BT[:, :20]), jnp.asarray([20, 20]), n_slots=32)
    decode = jax.jit(BarkCausalModel.decode)
    for step in range(20, 24):
        hidden_BD, cache = decode(model, ids_BT[:, step], cache)
        np.testing.assert_allclose(model.logits(hidden_BD), whole_BTV[:, step], atol=1e-5)
    np.testing.assert_array_equal(cache.length_B, [24, 24])


def test_prompts_of_unequal_length_share_a_batch(twins, rng):
    model = twins.ours.coarse_acoustics
    ids_BT = rng.integers(0, 12_000, (2, 20))
    cache = model.prefill(model.embed(jnp.asarray(ids_BT)), jnp.asarray([20, 7]), n_slots=24)
    hidden_BD, _ = jax.jit(BarkCausalModel.decode)(model, jnp.asarray([5, 6]), cache)
    read = jax.jit(BarkCausalModel.__call__)
    for row, length in enumerate((20, 7)):
        alone_1T = jnp.asarray(np.append(ids_BT[row, :length], 5 + row))[None]
        np.testing.assert_allclose(model.logits(hidden_BD)[row], read(model, alone_1T)[0, -1], atol=1e-5)


def test_a_row_is_bit_equal_in_any_slot_and_company(twins, rng):
    model = twins.ours.coarse_acoustics
    read = jax.jit(BarkCausalModel.__call__)
    ids_BT = rng.integers(0, 12_000, (8, 20))
    first = np.asarray(read(model, jnp.asarray(ids_BT)))
    moved = np.asarray(read(model, jnp.asarray(np.concatenate([rng.integers(0, 12_000, (5, 20)), ids_BT[:3]]))))
    np.testing.assert_array_equal(first[:3], moved[5:])


def test_the_head_can_be_cut_to_the_ids_that_are_asked_for(twins, rng):
    model = twins.ours.coarse_acoustics
    hidden_BD = jnp.asarray(rng.normal(size=(2, 32)), jnp.float32)
    np.testing.assert_allclose(
        model.logits(hidden_BD, 10_000, 1024), model.logits(hidden_BD)[:, 10_000:11_024], atol=1e-6
    )


def test_the_semantic_prompt_sums_text_and_history(twins, rng):
    text_BT, history_BT = rng.integers(10_048, 129_000, (1, 256)), rng.integers(0, 10_000, (1, 256))
    embed = twins.theirs.semantic.input_embeds_layer
    theirs = embed(to_torch(text_BT)) + embed(to_torch(history_BT))
    assert largest_difference(
        twins.ours.semantic.embed_prompt(jnp.asarray(text_BT), jnp.asarray(history_BT)), theirs
    ) == pytest.approx(0, abs=1e-6)


def make_toy() -> BarkSemanticModel:
    config = BarkSemanticConfig(
        block_size=16, input_vocab_size=64, output_vocab_size=64, num_layers=2, num_heads=2, hidden_size=16
    )
    return BarkSemanticModel(config, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_halves_the_bytes_and_keeps_float32_logits(dtype, twins, rng):
    half = BarkModel.from_pretrained(twins.folder / "ours", dtype=dtype)
    ids_BT = jnp.asarray(rng.integers(0, 10_000, (1, 30)))
    for network in ("semantic", "coarse_acoustics", "fine_acoustics", "codec_model"):
        n_bytes = [sum(leaf.nbytes for leaf in jax.tree.leaves(getattr(m, network))) for m in (half, twins.ours)]
        assert n_bytes[0] * 2 == n_bytes[1]
    logits, exact = half.semantic(ids_BT), twins.ours.semantic(ids_BT)
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - exact).max() < 0.1 * exact.std()


def test_more_positions_than_the_network_has_are_refused():
    with pytest.raises(InputError, match=r"17 positions were given, and the network has 16"):
        make_toy()(jnp.zeros((1, 17), jnp.int32))


@pytest.mark.parametrize("shape", [(1, 0), (0, 4)])
def test_nothing_to_read_is_refused(shape):
    with pytest.raises(InputError, match=f"{shape[0]} rows of {shape[1]} positions were given, expected at least one"):
        make_toy()(jnp.zeros(shape, jnp.int32))


def test_a_cache_shorter_than_its_prompt_is_refused():
    model = make_toy()
    with pytest.raises(InputError, match="n_slots is 4, fewer than the prompt's 5"):
        model.prefill(model.embed(jnp.zeros((1, 5), jnp.int32)), jnp.asarray([5]), n_slots=4)


def test_ids_and_embeddings_together_are_refused():
    with pytest.raises(InputError, match="either input_ids or inputs_embeds"):
        make_toy()()


def test_no_parameter_is_shared():
    assert nnx.find_duplicates(make_toy()) == []
