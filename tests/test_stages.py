"""The stages against transformers' greedy tokens: rows of a batch against single runs, and edges of windows.

Of the toy's sizes and token spaces, so that nearly all of it runs the programs of other files; once a stage, among the
slow tests, of Bark's own.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_greedy_tokens_equal

from bark_jax.generation import coarse, fine, semantic
from bark_jax.generation.sampling import Sampling, key_data
from bark_jax.generation.settings import StageSampling
from bark_jax.generation.tokens import text_tokens
from bark_jax.voices.voice import Voice

NOTHING = np.zeros(0, np.int32)
N_ROWS = 8  # of every batch of several rows, idle ones included


def make_sampling(settings: StageSampling, seeds) -> Sampling:
    return Sampling.stack([settings] * len(seeds), np.stack([key_data(seed) for seed in seeds]))


def greedy(n_rows: int) -> Sampling:
    return make_sampling(StageSampling(0.0), range(n_rows))


def fill(rows, idle):
    """Pads several rows with idle ones to N_ROWS; a single row stays alone."""
    return rows if len(rows) == 1 else [*rows, *[idle] * (N_ROWS - len(rows))]


def run_semantic(twins, rows, spaces):
    prompt = semantic.make_prompt(fill(rows, semantic.SemanticRow(NOTHING, NOTHING, max_tokens=0)), spaces)
    sampling = greedy(len(prompt.max_tokens_B))
    out = jax.device_get(semantic.generate_semantic(twins.ours.semantic, prompt, sampling, spaces=spaces))
    return [out.tokens_BT[b, :n] for b, n in enumerate(out.length_B[: len(rows)].tolist())]


def run_coarse(twins, tokens, voices, spaces):
    pairs = [None if voice is None else (voice.semantic, voice.coarse) for voice in voices]
    prompt = coarse.make_prompt(fill(tokens, NOTHING), fill(pairs, None), spaces)
    sampling = greedy(len(prompt.n_frames_B))
    out = coarse.generate_coarse(twins.ours.coarse_acoustics, prompt, sampling, spaces=spaces)
    return [np.asarray(out.codes_BQT[b, :, :n]) for b, n in enumerate(out.length_B[: len(tokens)].tolist())]


def run_fine(twins, codes, voices, spaces):
    histories = [None if voice is None else voice.fine for voice in voices]
    prompt = fine.make_prompt(fill(codes, np.zeros((2, 0), np.int32)), fill(histories, None), spaces)
    sampling = greedy(len(prompt.n_frames_B))
    out = np.asarray(fine.generate_fine(twins.ours.fine_acoustics, prompt, sampling, spaces=spaces))
    return [out[b, :, : codes_QT.shape[1]] for b, codes_QT in enumerate(codes)]


def text_row(ids, spaces, history=NOTHING, **options):
    text = text_tokens(np.asarray(ids), np.ones(len(ids)), spaces)
    return semantic.SemanticRow(text, history, **{"max_tokens": spaces.max_semantic} | options)


def draw_ids(rng, spaces, n):
    """Tokenizer ids of a text."""
    return rng.integers(0, spaces.text_pad - spaces.text_offset, n)


def assert_semantic_tokens_equal(twins, tokens, ids, voice, limit):
    expected = twins.semantic(ids, voice, max_new_tokens=limit)
    history = NOTHING if voice is None else voice.semantic
    logits_at = functools.partial(logits_after_steps, twins, ids, history, expected)
    assert_greedy_tokens_equal(tokens, expected, logits_at)


def logits_after_steps(twins, ids, history, tokens, step):
    """transformers' logits of the step after `step` tokens, for a near-tie."""
    return twins.semantic_logits(ids, history, tokens[:step])


def test_six_rows_of_semantic_tokens_equal_transformers_rows_alone(twins, toy_voice, rng):
    spaces = twins.spaces
    texts = [draw_ids(rng, spaces, n) for n in (3, 17, 64, spaces.n_text - 1, spaces.n_text, 30)]
    voices = [None, toy_voice, None, toy_voice, None, None]
    limits = [100, 40, spaces.max_semantic, 7, 1, 100]
    rows = [
        text_row(ids, spaces, NOTHING if v is None else v.semantic, max_tokens=limit)
        for ids, v, limit in zip(texts, voices, limits, strict=True)
    ]
    found = run_semantic(twins, rows, spaces)
    for ids, v, limit, tokens in zip(texts, voices, limits, found, strict=True):
        assert_semantic_tokens_equal(twins, tokens, ids, v, limit)
    assert [len(tokens) for tokens in found[2:5]] == [spaces.max_semantic, 7, 1], "rows that end at their limits"
    assert 0 < len(found[1]) < 40, "and one that ends by itself"
    assert len(set(np.concatenate(found).tolist())) > 20, "greedy tokens that never vary prove little"


@pytest.mark.slow
def test_the_longest_utterance_of_barks_token_spaces_equals_transformers(bark_twins, rng):
    ids = draw_ids(rng, bark_twins.spaces, 30)
    (found,) = run_semantic(bark_twins, [text_row(ids, bark_twins.spaces)], bark_twins.spaces)
    assert len(found) == 768
    assert_semantic_tokens_equal(bark_twins, found, ids, None, 768)


def test_coarse_rows_of_unequal_length_and_voice_equal_transformers_rows_alone(twins, toy_voice, rng):
    # 30 frames are a window: 20 semantic tokens give exactly one, 19 one short of it, 21 one more. A prompt without a
    # voice is full after 104 tokens: 105 and 250 go on past it.
    lengths = (19, 20, 21, 45, 60, 104, 105, 250)
    voices = (None, toy_voice, None, toy_voice, None, None, None, None)
    tokens = [rng.integers(0, twins.spaces.semantic_vocab, n) for n in lengths]
    found = run_coarse(twins, tokens, voices, twins.spaces)
    for row, v, codes_QT in zip(tokens, voices, found, strict=True):
        np.testing.assert_array_equal(codes_QT, twins.coarse(row, v))
    assert len(np.unique(np.concatenate(found, axis=1))) > 50, "greedy codes that never vary prove little"


def test_coarse_with_a_history_that_starts_within_a_frame(twins, rng):
    # Some published voices are so short that the history keeps an odd number of codes, from codebook 1 on.
    fine_QT = rng.integers(0, 256, (8, 80))
    odd = Voice(semantic=rng.integers(0, 123, 54), coarse=fine_QT[:2], fine=fine_QT)
    history, stream = coarse.trim_history(odd.semantic, odd.coarse, twins.spaces)
    assert len(stream) % 2 == 1 and stream[0] >= 123 + 256 and len(history) == 53
    tokens = rng.integers(0, 123, 25)
    (found,) = run_coarse(twins, [tokens], [odd], twins.spaces)
    np.testing.assert_array_equal(found, twins.coarse(tokens, odd))


def test_coarse_with_other_windows_equals_transformers(twins, toy_voice, rng):
    tokens = [rng.integers(0, 123, 40), rng.integers(0, 123, 50)]
    spaces = dataclasses.replace(twins.spaces, n_coarse_history=100, coarse_window=24)
    found = run_coarse(twins, tokens, [None, toy_voice], spaces)
    for row, v, codes_QT in zip(tokens, (None, toy_voice), found, strict=True):
        np.testing.assert_array_equal(codes_QT, twins.coarse(row, v, max_coarse_history=100, sliding_window_len=24))


@pytest.mark.slow
def test_the_longest_coarse_stage_of_barks_token_spaces_equals_transformers(bark_twins, voice, rng):
    tokens = [rng.integers(0, 10_000, 768) for _ in range(2)]
    found = run_coarse(bark_twins, tokens, [None, voice], bark_twins.spaces)
    for row, v, codes_QT in zip(tokens, (None, voice), found, strict=True):
        assert codes_QT.shape == (2, 1154)
        np.testing.assert_array_equal(codes_QT, bark_twins.coarse(row, v))


def assert_fine_codes_equal(twins, n_frames, voices, rng):
    codes = [rng.integers(0, twins.spaces.codebook_size, (2, n)) for n in n_frames]
    found = run_fine(twins, codes, voices, twins.spaces)
    for row, v, codes_QT in zip(codes, voices, found, strict=True):
        expected = twins.fine(row, v)
        # These are some thousand choices a row; a near-tie would appear as single codes that differ.
        assert (codes_QT == expected).mean() > 0.999
        np.testing.assert_array_equal(codes_QT[:2], row)


# A window is 256 frames, a voice takes 128 of the first, and each window after it fills 128 more.
@pytest.mark.parametrize(
    ("n_frames", "has_voice"),
    [
        ((1, 125, 255, 256, 257, 288, 384, 385), (False, True, False, False, False, False, False, False)),
        ((127, 128, 129, 255, 256, 257, 288), (True,) * 7),
    ],
)
def test_fine_rows_at_the_edges_of_windows_equal_transformers_rows_alone(n_frames, has_voice, twins, toy_voice, rng):
    assert_fine_codes_equal(twins, n_frames, [toy_voice if has else None for has in has_voice], rng)


@pytest.mark.slow
def test_the_longest_fine_stage_of_barks_token_spaces_equals_transformers(bark_twins, voice, rng):
    assert_fine_codes_equal(bark_twins, (1154, 1154, 511, 512, 513, 1025), [None, *[voice] * 4, None], rng)


def test_a_long_voice_conditions_the_fine_stage_with_its_last_frames(twins, toy_voice, rng):
    assert toy_voice.fine.shape[1] > twins.spaces.n_fine_history
    codes = rng.integers(0, 256, (2, 150))
    (found,) = run_fine(twins, [codes], [toy_voice], twins.spaces)
    np.testing.assert_array_equal(found, twins.fine(codes, toy_voice))


def test_a_row_without_frames_does_not_disturb_its_batch(twins, rng):
    codes = [rng.integers(0, 256, (2, n)) for n in (0, 200, 0, 0)]
    found = run_fine(twins, codes, [None] * 4, twins.spaces)
    np.testing.assert_array_equal(found[1], twins.fine(codes[1]))
    assert found[0].shape == (8, 0)


@jax.tree_util.register_static
class Echo:
    """A fake fine network: every predicted code depends on every code that it may read, and on its position."""

    platform = "cpu"

    def __call__(self, codebook, window_BTQ):
        read_BTQ = window_BTQ[:, :, : codebook + 1] * (1 + jnp.arange(codebook + 1))[None, None]
        read_BT = read_BTQ.sum(2) * (1 + jnp.arange(window_BTQ.shape[1]))[None]
        return jax.nn.one_hot((read_BT + read_BT.sum(1, keepdims=True)) % 255, 256)


@pytest.mark.parametrize("network", ["echo", pytest.param("toy", marks=pytest.mark.slow)])
@pytest.mark.parametrize("n_at_once", [1, 2])
def test_the_fine_stage_reads_only_the_windows_that_rows_need(n_at_once, network, monkeypatch, toy_model):
    """With a voice a second window starts at half of the frames, so a batch is a mixture of both."""
    model = Echo() if network == "echo" else toy_model.fine_acoustics
    spaces, read = toy_model.spaces, []
    fill_window = fine._fill_window

    def counted(model, prompt, sampling, window_B, spaces):
        jax.debug.callback(lambda n_frames_B: read.append(n_frames_B), prompt.n_frames_B)
        return fill_window(model, prompt, sampling, window_B, spaces)

    n_frames = [spaces.fine_window - 9, 7, 0, spaces.fine_window + 40, 30]
    dice = np.random.default_rng(0)
    codes = [dice.integers(0, spaces.codebook_size, (2, n)) for n in n_frames]
    history = dice.integers(0, spaces.codebook_size, (spaces.n_fine, spaces.n_fine_history))
    histories = [history, None, None, history, history]

    prompt = fine.make_prompt(codes, histories, spaces)

    def run(rows, generate):
        mine = jax.tree.map(lambda array: array[rows], prompt)
        out = generate(model, mine, greedy(len(rows)), spaces=spaces)
        return [np.asarray(out)[b, :, : n_frames[row]] for b, row in enumerate(rows)]

    alone = [run([row], fine.generate_fine)[0] for row in range(5)]
    monkeypatch.setattr(fine, "_fill_window", counted)
    monkeypatch.setattr(fine, "rows_at_once", lambda n_rows, platform: min(n_rows, n_at_once))
    counting = jax.jit(
        lambda *rows, spaces: fine.generate_fine.__wrapped__(*rows, spaces=spaces), static_argnames="spaces"
    )
    for found, expected in zip(run(list(range(5)), counting), alone, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [len(n_frames_B) for n_frames_B in read] == {1: [1] * 7, 2: [2] * 4}[n_at_once]


@jax.jit
def logits_after(model, text_BT, history_BT, read_BT):
    """Logits of the steps after the prompt, from one pass over the whole sequence, without a cache."""
    embeds_BTD = jnp.concatenate([model.embed_prompt(text_BT, history_BT), model.embed(read_BT)], axis=1)
    return model(inputs_embeds=embeds_BTD)[:, text_BT.shape[1] :]


@jax.jit
def choose_token(logits_1V, sampling, step):
    return semantic.choose(semantic.draw_logits(logits_1V, sampling), sampling, step)[0]


@functools.partial(jax.jit, static_argnums=1)
def fold(sampling, stage):
    return dataclasses.replace(sampling, key_B=semantic.fold(sampling.key_B, stage))


def test_the_semantic_loop_equals_a_plain_python_loop(twins, rng):
    """Drawn, not greedy: one step at a time, each over the whole sequence, without a cache."""
    spaces, model = twins.spaces, twins.ours.semantic
    prompt = semantic.make_prompt([text_row(draw_ids(rng, spaces, 20), spaces, max_tokens=12)], spaces)
    sampling = make_sampling(StageSampling(0.8, top_k=40, top_p=0.95), [7])
    out = semantic.generate_semantic(model, prompt, sampling, spaces=spaces)
    folded = fold(sampling, semantic.SEMANTIC_STAGE)
    read_1T, tokens = np.zeros((1, 12), np.int32), []  # always 12 wide: what follows a position does not reach it
    read_1T[0, 0] = spaces.semantic_infer
    for step in range(12):
        logits_1TV = np.asarray(logits_after(model, prompt.text_BT, prompt.history_BT, read_1T))
        token = int(choose_token(logits_1TV[:, step, : spaces.semantic_end + 1], folded, step))
        if token == spaces.semantic_end:
            break
        tokens.append(token)
        read_1T[0, step + 1 : step + 2] = token
    assert len(set(tokens)) > 5
    np.testing.assert_array_equal(np.asarray(out.tokens_BT)[0, : int(out.length_B[0])], tokens)


def test_a_row_ends_where_the_end_token_is_likely_enough(twins, rng):
    """At a threshold below every probability the first step ends the row; above all of them none does."""
    ids = draw_ids(rng, twins.spaces, 20)
    rows = [text_row(ids, twins.spaces, max_tokens=100, min_end_probability=p) for p in (1e-30, 2.0)]
    at_once, never = run_semantic(twins, rows, twins.spaces)
    assert len(at_once) == 0 and len(never) == 100


def test_the_end_threshold_looks_at_the_distribution_that_is_drawn_from(twins, rng):
    spaces, model = twins.spaces, twins.ours.semantic
    ids = draw_ids(rng, spaces, 20)
    prompt = semantic.make_prompt([text_row(ids, spaces)], spaces)
    read_1T = np.full((1, 12), spaces.semantic_infer, np.int32)
    logits_1TV = np.asarray(logits_after(model, prompt.text_BT, prompt.history_BT, read_1T), np.float64)
    weight_V = np.exp(logits_1TV[0, 0, : spaces.semantic_end + 1] / 3.0)
    probability = (weight_V / weight_V.sum())[spaces.semantic_end]
    lengths = []
    for threshold in (probability * 0.99, probability * 1.01):
        rows = [text_row(ids, spaces, max_tokens=1, min_end_probability=threshold)]
        sampling = make_sampling(StageSampling(3.0), [1])
        out = semantic.generate_semantic(model, semantic.make_prompt(rows, spaces), sampling, spaces=spaces)
        lengths.append(int(out.length_B[0]))
    assert lengths == [0, 1]


def test_a_row_that_may_not_end_goes_on_to_its_limit(twins, rng):
    options = dict(max_tokens=100, min_end_probability=1e-30, may_end=False)
    rows = [text_row(draw_ids(rng, twins.spaces, 20), twins.spaces, **options)] * 2
    assert [len(tokens) for tokens in run_semantic(twins, rows, twins.spaces)] == [100, 100]


def test_tokens_never_leave_their_codebooks_when_drawn_hot(twins, rng):
    prompt = coarse.make_prompt([rng.integers(0, 123, 40)], [None], twins.spaces)
    sampling = make_sampling(StageSampling(100.0), [3])
    out = coarse.generate_coarse(twins.ours.coarse_acoustics, prompt, sampling, spaces=twins.spaces)
    codes = np.asarray(out.codes_BQT[0, :, : int(out.length_B[0])])
    assert codes.min() >= 0 and codes.max() < 256 and len(np.unique(codes)) > 80


def test_log_probabilities_are_those_of_the_network(twins, rng):
    """Checks the first coarse code against a full pass over the window's prompt."""
    tokens, spaces = rng.integers(0, 123, 20), twins.spaces
    prompt = coarse.make_prompt([tokens], [None], spaces)
    model = twins.ours.coarse_acoustics
    out = coarse.generate_coarse(model, prompt, greedy(1), spaces=spaces)
    pads = np.full(spaces.n_coarse_semantic - len(tokens), spaces.coarse_pad)
    read_1T = np.concatenate([tokens, pads, [spaces.coarse_infer]])[None]
    logits_1TV = jax.jit(type(model).__call__)(model, read_1T)
    logits_V = np.asarray(logits_1TV, np.float64)[0, -1, 123 : 123 + 256]
    expected = logits_V - np.log(np.exp(logits_V).sum())
    assert out.logprob_BQT[0, 0, 0] == pytest.approx(expected[int(out.codes_BQT[0, 0, 0])], abs=1e-4)


def test_a_voice_too_short_for_one_semantic_token_gives_no_history(twins):
    semantic_T, stream_T = coarse.trim_history(np.array([5]), np.array([[1, 2], [3, 4]]), twins.spaces)
    assert len(semantic_T) == len(stream_T) == 0
