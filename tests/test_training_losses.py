"""The losses against torch: their values and the gradients of every parameter; and what they do not depend on."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_training_batches import make_dataset

from bark_jax.model import BarkModel
from bark_jax.tokens import TokenSpaces
from bark_jax.training.batches import coarse_batches, fine_batches, semantic_batches
from bark_jax.training.losses import coarse_loss, fine_loss, semantic_loss
from bark_jax.weights import parameter_shapes

SPACES = TokenSpaces()
SHORT = dict(n_text=16, n_coarse_semantic=48, n_coarse_history=60, n_fine_history=32, fine_window=64)
STAGES = {
    "semantic": (semantic_batches, semantic_loss),
    "coarse_acoustics": (coarse_batches, coarse_loss),
    "fine_acoustics": (fine_batches, fine_loss),
}


@pytest.fixture(scope="module")
def batches():
    """A batch of each stage: utterances of a part of a window and of several, with voices and without."""
    dataset = make_dataset(SPACES, [7, 40, 108, 760, 768], n_voices=1)
    return {name: make(dataset, SPACES, batch_size=3, seed=10)(1) for name, (make, _) in STAGES.items()}


@pytest.fixture(scope="module")
def tiny():
    """The built-in model, with short prompts and windows."""
    model = BarkModel.from_pretrained("tiny")
    model.spaces = dataclasses.replace(model.spaces, **SHORT)
    return model


@pytest.fixture(scope="module")
def tiny_batches(tiny):
    dataset = make_dataset(tiny.spaces, [9, 20, 33, 50])
    return {
        name: make(dataset, tiny.spaces, batch_size=4, seed=0, history_share=1.0)(0)
        for name, (make, _) in STAGES.items()
    }


@functools.cache
def jitted(name, spaces=SPACES, **options):
    """(mean loss, Loss), gradients: of a model and a batch."""

    def mean(model, batch):
        loss = STAGES[name][1](model, batch, spaces=spaces, **options)
        return loss.total / loss.count, loss

    return jax.jit(jax.value_and_grad(mean, has_aux=True))


def gradients(name, model, batch):
    """(loss, gradients by parameter name)."""
    (_, loss), grads = jitted(name)(model, batch)
    return loss, arrays_of(grads)


def arrays_of(module) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves(module)
    return dict(zip(parameter_shapes(module), map(np.asarray, leaves), strict=True))


def torch_semantic(network, batch):
    """Rows one by one: logits at the places of the targets, and the targets among the reachable ids."""
    import torch

    embed = network.input_embeds_layer
    for text, history, targets, is_target in zip(*batch.values(), strict=True):
        targets = targets[is_target]
        prompt = embed(as_ids(text)) + embed(as_ids(history))
        read = embed(as_ids([SPACES.semantic_infer, *targets[:-1]]))
        logits = network(inputs_embeds=torch.cat([prompt, read])[None], use_cache=False).logits[0]
        yield logits[SPACES.n_text :, : SPACES.semantic_end + 1], as_ids(targets)


def torch_coarse(network, batch):
    for semantic, stream, is_target, _ in zip(*batch.values(), strict=True):
        stream = stream[is_target]
        tokens = as_ids([*semantic, SPACES.coarse_infer, *stream[:-1]])
        logits = network(tokens[None], use_cache=False).logits[0, SPACES.n_coarse_semantic :]
        for position, token in enumerate(stream):
            first = 10_000 if token < 11_024 else 11_024
            yield logits[position : position + 1, first : first + 1024], as_ids([token - first])


def torch_fine(network, batch):
    for codes, targets, is_target, codebook in zip(*batch.values(), strict=True):
        logits = network(int(codebook), as_ids(codes)[None]).logits[0]
        yield logits[as_ids(is_target).bool(), :1024], as_ids(targets[is_target])


def as_ids(values):
    import torch

    return torch.from_numpy(np.array(values, np.int64))


@pytest.fixture(scope="module")
def torch_side(twins, batches, tmp_path_factory):
    """(loss and targets by network, a model that holds the gradients): torch's, renamed by the converter."""
    import torch

    from converters import convert

    theirs = copy.deepcopy(twins.theirs).requires_grad_(True)
    totals = {}
    for name, pairs in zip(STAGES, (torch_semantic, torch_coarse, torch_fine), strict=True):
        rows = list(pairs(getattr(theirs, name), batches[name]))
        losses = [torch.nn.functional.cross_entropy(logits, ids, reduction="sum") for logits, ids in rows]
        totals[name] = (sum(loss.item() for loss in losses), sum(len(ids) for _, ids in rows))
        (sum(losses) / totals[name][1]).backward()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if not name.startswith("codec_model"):
                parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    folder = tmp_path_factory.mktemp("gradients")
    theirs.save_pretrained(folder / "theirs")
    (folder / "theirs" / "generation_config.json").write_bytes(
        (twins.folder / "theirs" / "generation_config.json").read_bytes()
    )
    convert(folder / "theirs", folder / "ours")
    return totals, BarkModel.from_pretrained(folder / "ours")


@pytest.mark.parametrize("name", STAGES)
def test_loss_and_all_gradients_equal_torchs(name, twins, batches, torch_side):
    totals, expected = torch_side
    loss, found = gradients(name, getattr(twins.ours, name), batches[name])
    total, count = totals[name]
    assert count == loss.count == batches[name]["is_target"].sum()
    np.testing.assert_allclose(loss.total, total, rtol=1e-5)
    expected = arrays_of(getattr(expected, name))
    assert found.keys() == expected.keys()
    for parameter, array in expected.items():
        scale = np.abs(array).max()
        difference = np.abs(found[parameter] - array).max()
        assert difference <= 1e-4 * scale, f"{parameter}: {difference} of {scale}"
        assert scale > 0, f"{parameter} has no gradient to compare"


def test_the_batches_above_are_not_of_the_simplest_kind(batches):
    assert (batches["semantic"]["history"][:, 0] != SPACES.semantic_end).tolist() == [True, True, False]
    assert SPACES.semantic_end not in batches["semantic"]["targets"][2], "an utterance that is cut"
    assert batches["coarse_acoustics"]["stream"][1, 0] >= 11_024, "a history that starts within a frame"
    assert batches["fine_acoustics"]["codebook"].tolist() == [5, 6, 7]
    assert batches["fine_acoustics"]["is_target"].argmax(axis=1).tolist() == [60, 162, 0]


@pytest.mark.parametrize("name", STAGES)
def test_nothing_depends_on_what_is_no_target(name, twins, batches, rng):
    batch, field = batches[name], "stream" if name == "coarse_acoustics" else "targets"
    network = getattr(twins.ours, name)
    other = np.where(batch["is_target"], batch[field], rng.integers(0, 1024, batch[field].shape))
    assert (other != batch[field]).any()
    (loss, found), (expected_loss, expected) = (
        gradients(name, network, batch | {field: values.astype(np.int32)}) for values in (other, batch[field])
    )
    assert loss == expected_loss
    for parameter, array in expected.items():
        np.testing.assert_array_equal(found[parameter], array)


@pytest.mark.parametrize("name", STAGES)
def test_the_losses_of_parts_of_a_batch_add_up_to_that_of_the_whole(name, tiny, tiny_batches):
    loss = functools.partial(jitted_loss, name, getattr(tiny, name), spaces=tiny.spaces)
    batch = tiny_batches[name]
    whole = loss(batch)
    parts = [loss({field: array[row : row + 1] for field, array in batch.items()}) for row in range(4)]
    assert sum(part.count for part in parts) == whole.count > 0
    np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-6)
    assert whole.total.dtype == whole.count.dtype == jnp.float32 and whole.total.shape == whole.count.shape == ()


@functools.partial(jax.jit, static_argnums=0, static_argnames="spaces")
def jitted_loss(name, model, batch, *, spaces):
    return STAGES[name][1](model, batch, spaces=spaces)


def test_the_coarse_loss_of_the_window_alone_leaves_its_history_out(tiny, tiny_batches):
    batch = tiny_batches["coarse_acoustics"]
    loss = functools.partial(jitted_loss, "coarse_acoustics", tiny.coarse_acoustics, spaces=tiny.spaces)
    only_new = jax.jit(functools.partial(coarse_loss, spaces=tiny.spaces, only_new=True))
    found, whole = only_new(tiny.coarse_acoustics, batch), loss(batch)
    history = loss(batch | {"is_target": batch["is_target"] & ~batch["is_new"]})
    assert 0 < found.count == batch["is_new"].sum() < whole.count == found.count + history.count
    np.testing.assert_allclose(found.total + history.total, whole.total, rtol=1e-6)


@pytest.mark.parametrize("end", (123, 126))
def test_the_end_token_can_lie_anywhere_past_the_semantic_tokens(end, tiny, tiny_batches):
    spaces, batch = dataclasses.replace(tiny.spaces, semantic_end=end), tiny_batches["semantic"]
    targets = np.where(batch["targets"] == tiny.spaces.semantic_end, end, batch["targets"])
    loss = jitted_loss("semantic", tiny.semantic, batch | {"targets": targets}, spaces=spaces)
    read = np.concatenate([np.full((4, 1), spaces.semantic_infer), targets[:, :-1]], axis=1)
    logits = jax.jit(logits_after)(tiny.semantic, batch["text"], batch["history"], read)
    legal = np.array([*range(spaces.semantic_vocab), end])
    logprob = jax.nn.log_softmax(logits[:, spaces.n_text :, legal], axis=-1)
    place = np.searchsorted(legal, targets)
    expected = -np.take_along_axis(np.asarray(logprob), place[:, :, None], 2)[:, :, 0][batch["is_target"]].sum()
    np.testing.assert_allclose(loss.total, expected, rtol=1e-6)


def logits_after(model, text, history, read):
    embeds = jnp.concatenate([model.embed_prompt(text, history), model.embed(read)], axis=1)
    return model(inputs_embeds=embeds)


@pytest.mark.parametrize("name", STAGES)
def test_a_bfloat16_network_has_a_float32_loss_near_that_of_float32(name, tiny, tiny_batches):
    exact = getattr(tiny, name)
    rounded = getattr(BarkModel.from_pretrained("tiny", dtype="bfloat16"), name)
    exact, rounded = (
        jitted_loss(name, network, tiny_batches[name], spaces=tiny.spaces) for network in (exact, rounded)
    )
    assert rounded.total.dtype == jnp.float32
    np.testing.assert_allclose(rounded.total, exact.total, rtol=5e-3)


@pytest.mark.parametrize("name", STAGES)
def test_a_small_network_learns_four_examples_by_heart(name, tiny, tiny_batches):
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(model, state):
        (loss, _), grads = jitted(name, tiny.spaces)(model, tiny_batches[name])
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(model, updates), state, loss

    model = getattr(tiny, name)
    state = optimizer.init(model)
    losses = []
    for _ in range(40):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    uniform = np.log(tiny.spaces.codebook_size if name != "semantic" else tiny.spaces.semantic_vocab + 1)
    assert losses[0] > 0.9 * uniform
    assert losses[-1] < 0.2 * uniform, losses
