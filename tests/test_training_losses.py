"""The training losses against torch: values and gradients of every parameter; and what they do not depend on."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import jit
from test_training_batches import make_dataset

from bark_jax.checkpoints.model_folder import parameter_shapes
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel
from bark_jax.training.batches import coarse_batches, fine_batches, semantic_batches
from bark_jax.training.losses import coarse_loss, fine_loss, semantic_loss

# An odd length of history, so that a cut stream starts in the middle of a frame.
SHORT = dict(max_semantic=50, n_text=16, n_coarse_semantic=48, n_coarse_history=61, n_fine_history=32, fine_window=64)
STAGES = {
    "semantic": (semantic_batches, semantic_loss),
    "coarse_acoustics": (coarse_batches, coarse_loss),
    "fine_acoustics": (fine_batches, fine_loss),
}


def shortened(spaces: TokenSpaces) -> TokenSpaces:
    """Token spaces with short prompts and windows."""
    return dataclasses.replace(spaces, **SHORT)


def make_batches(spaces: TokenSpaces, **options):
    """A batch of each stage: utterances of a part of a window and of several; the last is as long as can be."""
    dataset = make_dataset(spaces, [9, 20, 33, 50], n_voices=1)
    return {name: make(dataset, spaces, batch_size=4, **options)(1) for name, (make, _) in STAGES.items()}


@dataclasses.dataclass
class Case:
    """Networks and batch of which both frameworks compute the loss."""

    twins: object  # reference.Twins
    spaces: TokenSpaces
    batches: dict


@pytest.fixture(scope="module", params=["short", pytest.param("bark", marks=pytest.mark.slow)])
def case(request):
    """With voices and without."""
    if request.param == "short":
        twins = request.getfixturevalue("twins")
        spaces = shortened(twins.spaces)
        return Case(twins, spaces, make_batches(spaces, seed=54))
    twins = request.getfixturevalue("bark_twins")
    dataset = make_dataset(twins.spaces, [7, 40, 108, 760, 768], n_voices=1)
    batches = {name: make(dataset, twins.spaces, batch_size=3, seed=10)(1) for name, (make, _) in STAGES.items()}
    return Case(twins, twins.spaces, batches)


@pytest.fixture(scope="module")
def tiny(toy_folder):
    """The toy, with short prompts and windows."""
    model = BarkModel.from_pretrained(toy_folder)
    model.spaces = shortened(model.spaces)
    return model


@pytest.fixture(scope="module")
def tiny_batches(tiny):
    return make_batches(tiny.spaces, seed=0, history_share=1.0)


@functools.cache
def jitted(name, spaces):
    """(mean loss, Loss), gradients: of a model and a batch."""

    def mean(model, batch):
        loss = STAGES[name][1](model, batch, spaces=spaces)
        return loss.total / loss.count, loss

    return jax.jit(jax.value_and_grad(mean, has_aux=True))


def gradients(name, model, batch, spaces):
    """(loss, gradients by parameter name)."""
    (_, loss), grads = jitted(name, spaces)(model, batch)
    return loss, arrays_of(grads)


def arrays_of(module) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves(module)
    return dict(zip(parameter_shapes(module), map(np.asarray, leaves), strict=True))


def torch_semantic(network, batch, spaces):
    """Yields for each row the logits at the targets' positions, and the targets as indices into the legal ids."""
    import torch

    embed = network.input_embeds_layer
    for text, history, targets, is_target in zip(*batch.values(), strict=True):
        targets = targets[is_target]
        prompt = embed(as_ids(text)) + embed(as_ids(history))
        read = embed(as_ids([spaces.semantic_infer, *targets[:-1]]))
        logits = network(inputs_embeds=torch.cat([prompt, read])[None], use_cache=False).logits[0]
        yield logits[spaces.n_text :, : spaces.semantic_end + 1], as_ids(targets)


def torch_coarse(network, batch, spaces):
    second = spaces.semantic_vocab + spaces.codebook_size
    for semantic, stream, is_target, _ in zip(*batch.values(), strict=True):
        stream = stream[is_target]
        tokens = as_ids([*semantic, spaces.coarse_infer, *stream[:-1]])
        logits = network(tokens[None], use_cache=False).logits[0, spaces.n_coarse_semantic :]
        for position, token in enumerate(stream):
            first = spaces.semantic_vocab if token < second else second
            yield logits[position : position + 1, first : first + spaces.codebook_size], as_ids([token - first])


def torch_fine(network, batch, spaces):
    for codes, targets, is_target, codebook in zip(*batch.values(), strict=True):
        logits = network(int(codebook), as_ids(codes)[None]).logits[0]
        yield logits[as_ids(is_target).bool(), : spaces.codebook_size], as_ids(targets[is_target])


def as_ids(values):
    import torch

    return torch.from_numpy(np.array(values, np.int64))


@pytest.fixture(scope="module")
def torch_side(case, tmp_path_factory):
    """(loss and targets by network, a model that holds the gradients): torch's, renamed by the converter."""
    import torch

    from bark_jax.checkpoints import convert

    theirs = copy.deepcopy(case.twins.theirs).requires_grad_(True)
    totals = {}
    for name, pairs in zip(STAGES, (torch_semantic, torch_coarse, torch_fine), strict=True):
        rows = list(pairs(getattr(theirs, name), case.batches[name], case.spaces))
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
        (case.twins.folder / "theirs" / "generation_config.json").read_bytes()
    )
    convert(folder / "theirs", folder / "ours")
    return totals, BarkModel.from_pretrained(folder / "ours")


@pytest.mark.parametrize("name", STAGES)
def test_loss_and_all_gradients_equal_torchs(name, case, torch_side):
    totals, expected = torch_side
    loss, found = gradients(name, getattr(case.twins.ours, name), case.batches[name], case.spaces)
    total, count = totals[name]
    assert count == loss.count == case.batches[name]["is_target"].sum()
    np.testing.assert_allclose(loss.total, total, rtol=1e-5)
    expected = arrays_of(getattr(expected, name))
    assert found.keys() == expected.keys()
    for parameter, array in expected.items():
        scale = np.abs(array).max()
        difference = np.abs(found[parameter] - array).max()
        assert difference <= 1e-4 * scale, f"{parameter}: {difference} of {scale}"
        assert scale > 0, f"{parameter} has no gradient to compare"


def test_the_batches_above_are_not_of_the_simplest_kind(case):
    spaces, batches = case.spaces, case.batches
    semantic, stream = batches["semantic"], batches["coarse_acoustics"]["stream"]
    has_voice = semantic["history"][:, 0] != spaces.semantic_end
    assert has_voice.any() and not has_voice.all()
    ends = (semantic["targets"] == spaces.semantic_end) & semantic["is_target"]
    assert ends.any() and not ends.any(1).all(), "an utterance that is cut"
    assert (stream[:, 0] >= spaces.semantic_vocab + spaces.codebook_size).any(), "a history that starts within a frame"
    assert len(set(batches["fine_acoustics"]["codebook"].tolist())) > 2
    first_target = batches["fine_acoustics"]["is_target"].argmax(axis=1)
    assert 0 in first_target and len(set(first_target.tolist())) > 2, "first windows, voices, and later windows"


@pytest.mark.parametrize("name", STAGES)
def test_nothing_depends_on_what_is_no_target(name, case, rng):
    batch, field = case.batches[name], "stream" if name == "coarse_acoustics" else "targets"
    network = getattr(case.twins.ours, name)
    drawn = rng.integers(0, case.spaces.codebook_size, batch[field].shape)
    other = np.where(batch["is_target"], batch[field], drawn)
    assert (other != batch[field]).any()
    (loss, found), (expected_loss, expected) = (
        gradients(name, network, batch | {field: values.astype(np.int32)}, case.spaces)
        for values in (other, batch[field])
    )
    assert loss == expected_loss
    for parameter, array in expected.items():
        np.testing.assert_array_equal(found[parameter], array)


@pytest.mark.parametrize("name", STAGES)
def test_the_losses_of_parts_of_a_batch_add_up_to_that_of_the_batch(name, tiny, tiny_batches):
    network, batch = getattr(tiny, name), tiny_batches[name]
    of_batch, _ = gradients(name, network, batch, tiny.spaces)
    rows = [{field: array[row : row + 1] for field, array in batch.items()} for row in range(4)]
    parts = [jitted_loss(name, network, row, spaces=tiny.spaces) for row in rows]
    assert sum(float(part.count) for part in parts) == of_batch.count > 0
    np.testing.assert_allclose(sum(float(part.total) for part in parts), of_batch.total, rtol=1e-6)
    assert (
        of_batch.total.dtype == of_batch.count.dtype == jnp.float32
        and of_batch.total.shape == of_batch.count.shape == ()
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "semantic")) for name in STAGES]
)
def test_recomputed_layers_have_the_same_gradients_and_take_less_memory(name, tiny, tiny_batches):
    network = getattr(tiny, name)
    # Many rows, so that activations outweigh the copy of the weights.
    batch = {field: np.tile(array, (4, *[1] * (array.ndim - 1))) for field, array in tiny_batches[name].items()}

    def total(network, batch, remat):
        return STAGES[name][1](network, batch, spaces=tiny.spaces, remat=remat).total

    compiled = [
        jit(jax.value_and_grad(total), static_argnums=2).lower(network, batch, remat).compile()
        for remat in (True, False)
    ]
    (loss, found), (expected_loss, expected) = (program(network, batch) for program in compiled)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for (parameter, array), other in zip(arrays_of(found).items(), arrays_of(expected).values(), strict=True):
        assert np.abs(array - other).max() <= 1e-5 * np.abs(other).max(), parameter
    # XLA's count of the program itself: on a CPU it can undo a recomputation that was asked for.
    remat_bytes, plain_bytes = (program.memory_analysis().temp_size_in_bytes for program in compiled)
    assert remat_bytes < 0.75 * plain_bytes, (remat_bytes, plain_bytes)


@functools.partial(jax.jit, static_argnums=0, static_argnames="spaces")
def jitted_loss(name, model, batch, *, spaces):
    return STAGES[name][1](model, batch, spaces=spaces)


def test_the_coarse_loss_of_the_window_alone_leaves_its_history_out(tiny, tiny_batches):
    network, batch = tiny.coarse_acoustics, tiny_batches["coarse_acoustics"]
    found = jax.jit(functools.partial(coarse_loss, spaces=tiny.spaces, only_new=True))(network, batch)
    of_batch, _ = gradients("coarse_acoustics", network, batch, tiny.spaces)
    older = batch | {"is_target": batch["is_target"] & ~batch["is_new"]}
    history, _ = gradients("coarse_acoustics", network, older, tiny.spaces)
    assert 0 < found.count == batch["is_new"].sum() < of_batch.count == float(found.count) + float(history.count)
    np.testing.assert_allclose(float(found.total) + float(history.total), of_batch.total, rtol=1e-6)


def test_the_end_token_can_lie_anywhere_past_the_semantic_tokens(tiny, tiny_batches):
    """Right after them it is in the comparison with torch."""
    end = tiny.spaces.semantic_end + 3
    spaces, batch = dataclasses.replace(tiny.spaces, semantic_end=end), tiny_batches["semantic"]
    targets = np.where(batch["targets"] == tiny.spaces.semantic_end, end, batch["targets"])
    loss = jitted_loss("semantic", tiny.semantic, batch | {"targets": targets}, spaces=spaces)
    read = np.concatenate([np.full((4, 1), spaces.semantic_infer), targets[:, :-1]], axis=1)
    logits = np.asarray(logits_after(tiny.semantic, batch["text"], batch["history"], read), np.float64)
    legal = np.array([*range(spaces.semantic_vocab), end])
    legal_logits = logits[:, spaces.n_text :, legal]
    logprob = legal_logits - np.log(np.exp(legal_logits).sum(axis=-1, keepdims=True))
    position = np.searchsorted(legal, targets)
    expected = -np.take_along_axis(logprob, position[:, :, None], 2)[:, :, 0][batch["is_target"]].sum()
    np.testing.assert_allclose(loss.total, expected, rtol=1e-6)


@jax.jit
def logits_after(model, text, history, read):
    embeds = jnp.concatenate([model.embed_prompt(text, history), model.embed(read)], axis=1)
    return model(inputs_embeds=embeds)


@pytest.fixture(scope="module")
def rounded(toy_folder):
    return BarkModel.from_pretrained(toy_folder, dtype="bfloat16")


@pytest.mark.parametrize("name", STAGES)
def test_a_bfloat16_network_has_a_float32_loss_near_that_of_float32(name, tiny, tiny_batches, rounded):
    exact, _ = gradients(name, getattr(tiny, name), tiny_batches[name], tiny.spaces)
    found = jitted_loss(name, getattr(rounded, name), tiny_batches[name], spaces=tiny.spaces)
    assert found.total.dtype == jnp.float32
    np.testing.assert_allclose(found.total, exact.total, rtol=5e-3)


@pytest.mark.parametrize("name", STAGES)
def test_a_small_network_learns_four_examples_by_heart(name, tiny, tiny_batches):
    leaves, tree = jax.tree.flatten(getattr(tiny, name))
    weights = [np.asarray(leaf) for leaf in leaves]
    mean, square = (list(map(np.zeros_like, weights)) for _ in range(2))
    losses = []
    for step in range(1, 41):
        (loss, _), grads = jitted(name, tiny.spaces)(jax.tree.unflatten(tree, weights), tiny_batches[name])
        losses.append(float(loss))
        for i, grad in enumerate(map(np.asarray, jax.tree.leaves(grads))):  # Adam
            mean[i] = 0.9 * mean[i] + 0.1 * grad
            square[i] = 0.999 * square[i] + 0.001 * grad**2
            scale = np.sqrt(square[i] / (1 - 0.999**step)) + 1e-8
            weights[i] = (weights[i] - 1e-2 * mean[i] / (1 - 0.9**step) / scale).astype(np.float32)
    uniform = np.log(tiny.spaces.codebook_size if name != "semantic" else tiny.spaces.semantic_vocab + 1)
    assert losses[0] > 0.9 * uniform
    assert losses[-1] < 0.2 * uniform, losses
