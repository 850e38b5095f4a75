"""Training batches equal what the stages feed the networks in generation; order of examples."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bark_jax.errors import InputError
from bark_jax.generation import coarse, fine, semantic
from bark_jax.generation.sampling import Sampling
from bark_jax.generation.tokens import TokenSpaces, interleave, text_tokens
from bark_jax.generation.windows import count_coarse_windows
from bark_jax.training.batches import coarse_batches, fine_batches, semantic_batches
from bark_jax.training.dataset import Dataset, Example

# Windows small enough for utterances of several, and histories that are cut.
SMALL = TokenSpaces(
    n_text=16,
    max_semantic=90,
    n_coarse_semantic=40,
    n_coarse_history=90,
    coarse_window=30,
    n_fine_history=24,
    fine_window=48,
)
GREEDY = Sampling(jax.random.wrap_key_data(np.zeros((1, 2), np.uint32)), *[np.zeros(1, np.float32)] * 3)
MAKERS = {"semantic": semantic_batches, "coarse": coarse_batches, "fine": fine_batches}


def make_dataset(spaces: TokenSpaces, lengths, n_voices: int = 2, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    examples = [
        Example(
            rng.integers(0, spaces.text_pad - spaces.text_offset, rng.integers(1, spaces.n_text + 1)),
            rng.integers(0, spaces.semantic_vocab, n),
            rng.integers(0, spaces.codebook_size, (spaces.n_fine, spaces.n_frames(n))),
            i % n_voices,
        )
        for i, n in enumerate(lengths)
    ]
    return Dataset.from_examples(examples, spaces, [f"voice {v}" for v in range(n_voices)])


@pytest.fixture(scope="module")
def dataset():
    return make_dataset(SMALL, [2, 5, 9, 20, 21, 34, 47, 60, 75, 89, 90, 90])


def histories_of(dataset, index):
    """Possible histories of an example: None, and every other example of the same voice."""
    others = [i for i in range(len(dataset)) if i != index and dataset[i].voice == dataset[index].voice]
    return [None, *(dataset[i] for i in others)]


def contains(rows, row) -> bool:
    return any(all(np.array_equal(found[name], row[name]) for name in row) for found in rows)


def collect(make, dataset, *, n_epochs: int) -> list[dict[str, np.ndarray]]:
    """Collects all rows of some epochs, from batches of one row."""
    batches = [make(step) for step in range(n_epochs * len(dataset))]
    return [{name: array[0] for name, array in batch.items()} for batch in batches]


def test_semantic_rows_are_the_prompt_of_generation_and_the_tokens_to_the_end(dataset):
    make = semantic_batches(dataset, SMALL, batch_size=1, seed=0)
    found = collect(make, dataset, n_epochs=40)
    for row in found:
        row["targets"] = row["targets"][row["is_target"]].tolist()
    n_expected = 0
    for index in range(len(dataset)):
        example = dataset[index]
        text = text_tokens(example.text, np.ones(len(example.text)), SMALL)
        for history in histories_of(dataset, index):
            spoken = np.zeros(0, np.int32) if history is None else history.semantic
            prompt = semantic.make_prompt([semantic.SemanticRow(text, spoken, max_tokens=1)], SMALL)
            targets = [*example.semantic.tolist(), SMALL.semantic_end][: SMALL.max_semantic]
            row = {"text": prompt.text_BT[0], "history": prompt.history_BT[0], "targets": targets}
            n_expected += contains(found, row)
    assert n_expected > 0.8 * sum(len(histories_of(dataset, index)) for index in range(len(dataset)))
    assert len({str(row) for row in found}) == n_expected, "rows that generation would not have fed"


window_prompt = jax.jit(coarse._window_prompt, static_argnums=2)


def test_coarse_rows_are_the_windows_of_generation(dataset):
    found = collect(coarse_batches(dataset, SMALL, batch_size=1, seed=0), dataset, n_epochs=60)
    expected = {}
    for index in range(len(dataset)):
        codes_QT = dataset[index].codes[: SMALL.n_coarse]
        true_T = interleave(codes_QT, SMALL)
        for history in histories_of(dataset, index):
            voice = None if history is None else (history.semantic, history.codes[: SMALL.n_coarse])
            prompt = coarse.make_prompt([dataset[index].semantic], [voice], SMALL)
            n_windows = count_coarse_windows(codes_QT.shape[1], SMALL)
            room = np.full(10 * SMALL.n_coarse_history, SMALL.coarse_pad)
            stream_BT = np.concatenate([prompt.stream_BT[0], true_T, room])[None, : 10 * SMALL.n_coarse_history]
            for window in range(n_windows):
                state = coarse.WindowsDone(np.array([window]), stream_BT, np.zeros((1, 0)), None)
                tokens_BT, length_B = map(np.asarray, window_prompt(prompt, state, SMALL))
                new_T = true_T[window * SMALL.coarse_window :][: SMALL.coarse_window]
                key = (*tokens_BT[0, : length_B[0]].tolist(), *new_T.tolist())
                expected[key] = len(new_T)
    rows = {}
    for row in found:
        tokens = (*row["semantic"].tolist(), SMALL.coarse_infer, *row["stream"][row["is_target"]].tolist())
        rows[tokens] = row["is_new"].sum()
        assert row["stream"][row["is_new"]].tolist() == list(tokens[len(tokens) - rows[tokens] :])
    assert rows.items() <= expected.items()
    assert len(rows) > 0.6 * len(expected)
    # Some histories are cut, and some start in the middle of a frame.
    assert any(row["is_target"].sum() > SMALL.n_coarse_history for row in found)
    assert any(row["is_target"][0] and row["stream"][0] >= SMALL.semantic_vocab + SMALL.codebook_size for row in found)


class TrueCodes:
    """A fake fine network: predicts the true codes of one window, and records its inputs."""

    def __init__(self, true_TQ, spaces):
        self.true_TQ, self.spaces, self.read = true_TQ, spaces, {}

    def __call__(self, codebook, window_BTQ):
        self.read[codebook] = window_BTQ[0]
        return jax.nn.one_hot(self.true_TQ[None, :, codebook], self.spaces.codebook_size + 1)


@functools.partial(jax.jit, static_argnums=3)
def fill_window(prompt, true_TQ, window_B, spaces):
    """The codes after a window of which the network predicts the true ones, and what it read, by codebook."""
    network = TrueCodes(true_TQ, spaces)
    return fine._fill_window(network, prompt, GREEDY, window_B, spaces), network.read


def read_at_generation(example, history, spaces):
    """Yields for each window of generation: inputs by codebook, true codes, mask of filled frames, length."""
    voice = None if history is None else history.codes
    prompt = fine.make_prompt([example.codes[: spaces.n_coarse]], [voice], spaces)
    room = spaces.n_fine_history + 3 * spaces.fine_window - prompt.codes_BTQ.shape[1]  # one width, one program
    codes_BTQ = np.pad(prompt.codes_BTQ, ((0, 0), (0, room), (0, 0)), constant_values=spaces.codebook_size)
    prompt = dataclasses.replace(prompt, codes_BTQ=codes_BTQ)
    n_history, n_frames = int(prompt.n_history_B[0]), example.codes.shape[1]
    true_TQ = np.array(prompt.codes_BTQ[0])
    true_TQ[n_history : n_history + n_frames] = example.codes.T
    n_total = max(n_history + n_frames, spaces.fine_window)
    for window in range(n_fine_windows(n_frames, n_history, spaces)):
        start = min(window * spaces.n_fine_history, n_total - spaces.fine_window)
        seen_TQ = true_TQ[start : start + spaces.fine_window]
        other_TQ = (seen_TQ + 1) % spaces.codebook_size
        window_B = np.array([window])
        (codes_BTQ, read), (other_BTQ, _) = jax.device_get(
            [fill_window(prompt, codes_TQ, window_B, spaces) for codes_TQ in (seen_TQ, other_TQ)]
        )
        is_filled_T = (codes_BTQ != other_BTQ)[0].any(1)
        prompt = dataclasses.replace(prompt, codes_BTQ=codes_BTQ)
        yield read, seen_TQ, is_filled_T[start : start + spaces.fine_window], n_history + n_frames - start


def n_fine_windows(n_frames, n_history, spaces):
    """As `windows.count_fine_windows` counts them."""
    return 1 + max(0, -(-(n_frames + n_history - spaces.fine_window) // spaces.n_fine_history))


def test_fine_rows_are_the_windows_of_generation():
    dataset = make_dataset(SMALL, [5, 20, 47, 75, 90, 90])
    found = collect(fine_batches(dataset, SMALL, batch_size=1, seed=0), dataset, n_epochs=120)
    keys, windows = set(), set()
    for row in found:
        # The codes that the network happens to predict in the padding are not comparable.
        n_real = int(np.flatnonzero(row["codes"][:, 0] != SMALL.codebook_size).max()) + 1
        keys.add(row_key(row["codebook"], row["codes"], row["targets"], row["is_target"], n_real))
    for index in range(len(dataset)):
        for history in histories_of(dataset, index):
            for read, true_TQ, is_filled_T, n_real in read_at_generation(dataset[index], history, SMALL):
                n_real = min(n_real, SMALL.fine_window)
                is_target_T = is_filled_T & (np.arange(SMALL.fine_window) < n_real)
                for codebook, read_TQ in read.items():
                    windows.add(row_key(codebook, read_TQ, true_TQ[:, codebook], is_target_T, n_real))
    assert keys <= windows
    assert len(keys) > 0.6 * len(windows)
    assert {int(row["codebook"]) for row in found} == set(range(SMALL.n_coarse, SMALL.n_fine))


def row_key(codebook, read_TQ, targets_T, is_target_T, n_real):
    seen = read_TQ[:, : codebook + 1].copy()
    seen[n_real:, SMALL.n_coarse : codebook] = 0
    return int(codebook), seen.tobytes(), targets_T[is_target_T].tobytes(), is_target_T.tobytes()


def test_codes_in_the_padding_of_fine_windows_are_any_but_the_pad_below_the_predicted_codebook(dataset):
    for row in collect(fine_batches(dataset, SMALL, batch_size=1, seed=0), dataset, n_epochs=4):
        padding_TQ = row["codes"][row["codes"][:, 0] == SMALL.codebook_size]
        below = padding_TQ[:, SMALL.n_coarse : row["codebook"]]
        assert ((below >= 0) & (below < SMALL.codebook_size)).all()
        assert (padding_TQ[:, : SMALL.n_coarse] == SMALL.codebook_size).all()
        assert (padding_TQ[:, row["codebook"] :] == SMALL.codebook_size).all()


@pytest.mark.parametrize("stage", MAKERS)
def test_a_batch_is_a_function_of_seed_and_step_alone(stage, dataset):
    options = dict(batch_size=4, seed=3)
    forward = MAKERS[stage](dataset, SMALL, **options)
    straight = [forward(step) for step in range(8)]
    resumed = MAKERS[stage](dataset, SMALL, **options)
    for step in (7, 2, 5):
        again = resumed(step)
        for name, array in straight[step].items():
            np.testing.assert_array_equal(again[name], array)
            assert array.dtype in (np.int32, bool) and len(array) == 4
    other = MAKERS[stage](dataset, SMALL, **options | {"seed": 4})
    assert any(not np.array_equal(other(0)[name], straight[0][name]) for name in straight[0])
    assert any(not np.array_equal(straight[3][name], straight[0][name]) for name in straight[0])


def test_every_example_comes_once_an_epoch_in_batches_of_few_lengths():
    spaces = dataclasses.replace(SMALL, max_semantic=400)
    lengths = [*range(3, 103), *([399, 400] * 3)]
    dataset = make_dataset(spaces, lengths)
    by_tokens = {dataset[i].semantic.tobytes(): i for i in range(len(dataset))}
    make = semantic_batches(dataset, spaces, batch_size=5, seed=1)
    n_batches = len(dataset) // 5
    epochs = []
    for epoch in range(3):
        batches = [make(epoch * n_batches + batch) for batch in range(n_batches)]
        assert len({batch["targets"].shape for batch in batches}) <= 4
        rows = [(b["targets"][r], b["is_target"][r]) for b in batches for r in range(5)]
        tokens = [target_T[is_target & (target_T != spaces.semantic_end)] for target_T, is_target in rows]
        epochs.append([by_tokens[each.tobytes()] for each in tokens])
        assert len(set(epochs[-1])) == len(epochs[-1]) == 105, "one of 106 is left over"
        padded = sum(batch["is_target"].size for batch in batches)
        assert sum(map(len, tokens)) > 0.6 * padded, "lengths that fit nothing"
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("stage", ("coarse", "fine"))
def test_every_example_comes_once_an_epoch_in_one_shape(stage, dataset):
    # An epoch without voices: which example a row is shows in its first codes that count.
    make = MAKERS[stage](dataset, SMALL, batch_size=6, seed=1, history_share=0)
    shapes = {tuple((name, array.shape) for name, array in make(step).items()) for step in range(6)}
    assert len(shapes) == 1
    codes = [set(interleave(dataset[i].codes[:2], SMALL).tolist()) for i in range(len(dataset))]
    for epoch in range(2):
        batches = [make(2 * epoch + batch) for batch in range(2)]
        key = "stream" if stage == "coarse" else "codes"
        rows = [array for batch in batches for array in batch[key]]
        if stage == "fine":
            rows = [interleave(row[row[:, 0] < SMALL.codebook_size][:, :2].T, SMALL) for row in rows]
        rows = [set(row.tolist()) - {SMALL.coarse_pad} for row in rows]
        assert sorted(i for row in rows for i, code in enumerate(codes) if row <= code) == list(range(len(dataset)))


@pytest.mark.parametrize("share", (0.0, 0.5, 1.0))
def test_voices_come_as_often_as_asked_and_from_the_same_speaker(share):
    dataset = make_dataset(SMALL, [30] * 41, n_voices=3)
    speaker = {dataset[i].semantic[-16:].tobytes(): dataset[i].voice for i in range(41)}
    speakers = {dataset[i].semantic.tobytes(): dataset[i].voice for i in range(41)}
    make = semantic_batches(dataset, SMALL, batch_size=41, seed=0, history_share=share)
    n_voiced = 0
    for step in range(5):
        batch = make(step)
        for history, targets in zip(batch["history"], batch["targets"], strict=True):
            if history[0] != SMALL.semantic_end:
                n_voiced += 1
                assert speaker[history.tobytes()] == speakers[targets[:30].tobytes()]
                assert history.tobytes() != targets[14:30].tobytes(), "its own end for a voice"
    assert abs(n_voiced / (5 * 41) - share) < 0.1


def test_a_voice_can_have_a_share_of_its_own():
    dataset = make_dataset(SMALL, [30] * 40, n_voices=2)
    first, second = dataset.voices
    speakers = {dataset[i].semantic.tobytes(): dataset[i].voice for i in range(40)}
    make = semantic_batches(dataset, SMALL, batch_size=40, seed=0, history_share={first: 0.0, second: 1.0})
    batch = make(0)
    has_voice = batch["history"][:, 0] != SMALL.semantic_end
    assert has_voice.tolist() == [speakers[targets[:30].tobytes()] == 1 for targets in batch["targets"]]
    assert 0 < has_voice.sum() < 40


def test_a_speaker_of_one_utterance_has_no_voice():
    dataset = make_dataset(SMALL, [30, 31], n_voices=2)
    batch = semantic_batches(dataset, SMALL, batch_size=2, seed=0, history_share=1.0)(0)
    assert (batch["history"] == SMALL.semantic_end).all()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(batch_size=13), "13.*12 examples"),
        (dict(batch_size=0), "0.*12 examples"),
        (dict(history_share=1.5), "1.5.*0 to 1"),
        (dict(history_share={"anna": 0.5}), "of anna, expected all voices: "),
        (dict(seed=-1), "-1"),
    ],
)
@pytest.mark.parametrize("stage", MAKERS)
def test_options_that_cannot_be_are_refused(stage, options, message, dataset):
    with pytest.raises(InputError, match=message):
        MAKERS[stage](dataset, SMALL, **{"batch_size": 2, "seed": 0} | options)
