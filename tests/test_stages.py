"""The stages against transformers' greedy tokens: every row of a batch against its run alone, and windows' edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import assert_greedy_tokens_equal

from bark_jax.settings import StageSettings
from bark_jax.stages import coarse, fine, semantic
from bark_jax.stages.sampling import KEY_IMPLEMENTATION, Sampling, key_data
from bark_jax.tokens import TokenSpaces, text_tokens

NOTHING = np.zeros(0, np.int32)


def make_sampling(settings: StageSettings, seeds) -> Sampling:
    data = jnp.asarray(np.stack([key_data(seed) for seed in seeds]))
    return Sampling(
        key_B=jax.random.wrap_key_data(data, impl=KEY_IMPLEMENTATION),
        temperature_B=jnp.full(len(seeds), settings.temperature, jnp.float32),
        top_k_B=jnp.full(len(seeds), settings.top_k, jnp.int32),
        top_p_B=jnp.full(len(seeds), settings.top_p, jnp.float32),
    )


def greedy(n_rows: int) -> Sampling:
    return make_sampling(StageSettings(0.0), range(n_rows))


def run_semantic(twins, rows, spaces):
    prompt = semantic.make_prompt(rows, spaces)
    out = semantic.generate_semantic(twins.ours.semantic, prompt, greedy(len(rows)), spaces=spaces)
    return [np.asarray(out.tokens_BT[b, :n]) for b, n in enumerate(out.length_B.tolist())]


def run_coarse(twins, tokens, voices, spaces):
    pairs = [None if voice is None else (voice.semantic, voice.coarse) for voice in voices]
    prompt = coarse.make_prompt(tokens, pairs, spaces)
    out = coarse.generate_coarse(twins.ours.coarse_acoustics, prompt, greedy(len(tokens)), spaces=spaces)
    return [np.asarray(out.codes_BQT[b, :, :n]) for b, n in enumerate(out.length_B.tolist())]


@pytest.mark.parametrize("n_at_once", [1, 2])
def test_the_fine_stage_reads_only_the_windows_that_rows_need(n_at_once, monkeypatch, toy_model):
    """With a voice a second window starts at half of the frames, so a batch is a mixture of both."""
    spaces, read = toy_model.spaces, []
    fill = fine._fill_window

    def counted(model, prompt, sampling, window_B, spaces):
        jax.debug.callback(lambda n_frames_B: read.append(n_frames_B), prompt.n_frames_B)
        return fill(model, prompt, sampling, window_B, spaces)

    n_frames = [spaces.fine_window - 9, 7, 0, spaces.fine_window + 40, 30]
    dice = np.random.default_rng(0)
    codes = [dice.integers(0, spaces.codebook_size, (2, n)) for n in n_frames]
    history = dice.integers(0, spaces.codebook_size, (spaces.n_fine, spaces.n_fine_history))
    histories = [history, None, None, history, history]

    def run(rows, generate):
        prompt = fine.make_prompt([codes[row] for row in rows], [histories[row] for row in rows], spaces)
        out = generate(toy_model.fine_acoustics, prompt, greedy(len(rows)), spaces=spaces)
        return [np.asarray(out[b, :, : n_frames[row]]) for b, row in enumerate(rows)]

    alone = [run([row], fine.generate_fine)[0] for row in range(5)]
    monkeypatch.setattr(fine, "_fill_window", counted)
    monkeypatch.setattr(fine, "rows_at_once", lambda n_rows: min(n_rows, n_at_once))
    counting = jax.jit(
        lambda *rows, spaces: fine.generate_fine.__wrapped__(*rows, spaces=spaces), static_argnames="spaces"
    )
    for found, expected in zip(run(range(5), counting), alone, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [len(n_frames_B) for n_frames_B in read] == {1: [1] * 7, 2: [2] * 4}[n_at_once]


def run_fine(twins, codes, voices, spaces):
    prompt = fine.make_prompt(codes, [None if voice is None else voice.fine for voice in voices], spaces)
    out = fine.generate_fine(twins.ours.fine_acoustics, prompt, greedy(len(codes)), spaces=spaces)
    return [np.asarray(out[b, :, : codes_QT.shape[1]]) for b, codes_QT in enumerate(codes)]


@pytest.fixture(scope="module")
def short_spaces():
    return TokenSpaces(max_semantic=100)


def text_row(ids, spaces, history=NOTHING, **options):
    text = text_tokens(np.asarray(ids), np.ones(len(ids)), spaces)
    return semantic.SemanticRow(text, history, **{"max_tokens": spaces.max_semantic} | options)


def semantic_logits_at(twins, ids, voice, tokens):
    """transformers' logits of the step after `tokens`, for a near-tie."""
    import torch

    def logits_at(step):
        text = np.full(256, 129_595)
        text[: len(ids)] = np.asarray(ids) + 10_048
        history = np.full(256, 10_000) if voice is None else np.pad(voice.semantic[-256:], (0, 0))
        embed = twins.theirs.semantic.input_embeds_layer
        rest = torch.from_numpy(np.concatenate([[129_599], tokens[:step]]).astype(np.int64))
        summed = embed(torch.from_numpy(text)) + embed(torch.from_numpy(history.astype(np.int64)))
        embeds = torch.cat([summed, embed(rest)])[None]
        return twins.theirs.semantic(inputs_embeds=embeds, use_cache=False).logits[0, -1, :10_001].numpy()

    return logits_at


def test_five_rows_of_semantic_tokens_equal_transformers_rows_alone(twins, voice, rng, short_spaces):
    texts = [rng.integers(0, 119_000, n) for n in (3, 17, 64, 255, 256)]
    voices = [None, voice, None, voice, None]
    limits = [100, 40, 100, 7, 1]
    rows = [
        text_row(ids, short_spaces, NOTHING if v is None else v.semantic, max_tokens=limit)
        for ids, v, limit in zip(texts, voices, limits, strict=True)
    ]
    found = run_semantic(twins, rows, short_spaces)
    for ids, v, limit, tokens in zip(texts, voices, limits, found, strict=True):
        expected = twins.semantic(ids, v, max_new_tokens=limit)
        assert_greedy_tokens_equal(tokens, expected, semantic_logits_at(twins, ids, v, expected))
    assert len(set(np.concatenate(found).tolist())) > 20, "greedy tokens that never vary prove little"


@pytest.mark.slow
def test_the_longest_utterance_equals_transformers(twins, rng):
    ids = rng.integers(0, 119_000, 30)
    (found,) = run_semantic(twins, [text_row(ids, TokenSpaces())], TokenSpaces())
    expected = twins.semantic(ids)
    assert len(found) == 768
    assert_greedy_tokens_equal(found, expected, semantic_logits_at(twins, ids, None, expected))


def test_coarse_rows_of_unequal_length_and_voice_equal_transformers_rows_alone(twins, voice, rng, short_spaces):
    # 30 frames are a window: 20 semantic tokens give exactly one, 19 one short of it, 21 one more.
    lengths, voices = (19, 20, 21, 45, 60), (None, voice, None, voice, None)
    tokens = [rng.integers(0, 10_000, n) for n in lengths]
    found = run_coarse(twins, tokens, voices, short_spaces)
    for row, v, codes_QT in zip(tokens, voices, found, strict=True):
        np.testing.assert_array_equal(codes_QT, twins.coarse(row, v))
    assert len(np.unique(np.concatenate(found, axis=1))) > 50, "greedy codes that never vary prove little"


def test_coarse_with_a_history_that_starts_within_a_frame(twins, rng, short_spaces):
    # Some published voices are so short that the history keeps an odd number of codes, from codebook 1 on.
    from bark_jax.voices import Voice

    fine_QT = rng.integers(0, 1024, (8, 165))
    odd = Voice(semantic=rng.integers(0, 10_000, 108), coarse=fine_QT[:2], fine=fine_QT)
    history, stream = coarse.trim_history(odd.semantic, odd.coarse, short_spaces)
    assert len(stream) % 2 == 1 and stream[0] >= 11_024 and len(history) == 108
    tokens = rng.integers(0, 10_000, 25)
    (found,) = run_coarse(twins, [tokens], [odd], short_spaces)
    np.testing.assert_array_equal(found, twins.coarse(tokens, odd))


def test_coarse_with_other_windows_equals_transformers(twins, voice, rng, short_spaces):
    tokens = [rng.integers(0, 10_000, 40), rng.integers(0, 10_000, 50)]
    spaces = dataclasses.replace(short_spaces, n_coarse_history=100, coarse_window=24)
    found = run_coarse(twins, tokens, [None, voice], spaces)
    for row, v, codes_QT in zip(tokens, (None, voice), found, strict=True):
        np.testing.assert_array_equal(codes_QT, twins.coarse(row, v, max_coarse_history=100, sliding_window_len=24))


@pytest.mark.slow
def test_the_longest_coarse_stage_equals_transformers(twins, voice, rng):
    tokens = [rng.integers(0, 10_000, 768) for _ in range(2)]
    found = run_coarse(twins, tokens, [None, voice], TokenSpaces())
    for row, v, codes_QT in zip(tokens, (None, voice), found, strict=True):
        assert codes_QT.shape == (2, 1154)
        np.testing.assert_array_equal(codes_QT, twins.coarse(row, v))


@pytest.mark.parametrize(
    ("n_frames", "has_voice"),
    [
        ((1, 500, 1023, 1024), (False, True, False, False)),
        ((511, 512, 513, 1025), (True, True, True, False)),
        ((1154, 1154, 1023, 1030), (False, True, True, True)),
    ],
)
def test_fine_rows_at_the_edges_of_windows_equal_transformers_rows_alone(n_frames, has_voice, twins, voice, rng):
    codes = [rng.integers(0, 1024, (2, n)) for n in n_frames]
    voices = [voice if has else None for has in has_voice]
    found = run_fine(twins, codes, voices, TokenSpaces())
    for row, v, codes_QT in zip(codes, voices, found, strict=True):
        expected = twins.fine(row, v)
        # Frame by frame these are some thousand choices a row; a near-tie would show as single codes that differ.
        assert (codes_QT == expected).mean() > 0.999
        np.testing.assert_array_equal(codes_QT[:2], row)


def test_a_long_voice_conditions_the_fine_stage_with_its_last_frames(twins, rng):
    from bark_jax.voices import Voice

    fine_QT = rng.integers(0, 1024, (8, 700))
    long_voice = Voice(semantic=rng.integers(0, 10_000, 466), coarse=fine_QT[:2], fine=fine_QT)
    codes = rng.integers(0, 1024, (2, 600))
    (found,) = run_fine(twins, [codes], [long_voice], TokenSpaces())
    np.testing.assert_array_equal(found, twins.fine(codes, long_voice))


def test_a_row_without_frames_does_not_disturb_its_batch(twins, rng):
    codes = [rng.integers(0, 1024, (2, n)) for n in (0, 200, 0, 0)]
    found = run_fine(twins, codes, [None] * 4, TokenSpaces())
    np.testing.assert_array_equal(found[1], twins.fine(codes[1]))
    assert found[0].shape == (8, 0)


def test_the_semantic_loop_equals_a_plain_python_loop(twins, rng):
    """Drawn, not greedy: one step at a time, each over the whole sequence, without a cache."""
    spaces, model = TokenSpaces(max_semantic=12), twins.ours.semantic
    row = text_row(rng.integers(0, 119_000, 20), spaces)
    prompt = semantic.make_prompt([row], spaces)
    sampling = make_sampling(StageSettings(0.8, top_k=40, top_p=0.95), [7])
    out = semantic.generate_semantic(model, prompt, sampling, spaces=spaces)
    folded = dataclasses.replace(sampling, key_B=semantic.fold(sampling.key_B, semantic.SEMANTIC_STAGE))
    prompt_embeds_1TD = model.embed_prompt(prompt.text_BT, prompt.history_BT)

    @jax.jit
    def logits_after(read_1T):  # always 12 wide: what follows a position does not reach it
        embeds_1TD = jnp.concatenate([prompt_embeds_1TD, model.embed(read_1T)], axis=1)
        return model(inputs_embeds=embeds_1TD)[:, spaces.n_text :, : spaces.semantic_end + 1]

    read_1T, tokens = np.zeros((1, 12), np.int32), []
    read_1T[0, 0] = spaces.semantic_infer
    for step in range(12):
        logits_1V = logits_after(read_1T)[:, step]
        token = int(semantic.choose(semantic.draw_logits(logits_1V, folded), folded, step)[0])
        if token == spaces.semantic_end:
            break
        tokens.append(token)
        read_1T[0, step + 1 : step + 2] = token
    assert len(set(tokens)) > 5
    np.testing.assert_array_equal(out.tokens_BT[0, : int(out.length_B[0])], tokens)


def test_a_row_ends_where_the_end_token_is_likely_enough(twins, rng, short_spaces):
    """At a threshold below every probability the first step ends the row; above all of them none does."""
    ids = rng.integers(0, 119_000, 20)
    rows = [text_row(ids, short_spaces, min_end_probability=p) for p in (1e-30, 2.0)]
    at_once, never = run_semantic(twins, rows, short_spaces)
    assert len(at_once) == 0 and len(never) == 100


def test_the_end_threshold_looks_at_the_distribution_that_is_drawn_from(twins, rng):
    spaces, model = TokenSpaces(max_semantic=4), twins.ours.semantic
    ids = rng.integers(0, 119_000, 20)
    prompt = semantic.make_prompt([text_row(ids, spaces)], spaces)
    embeds_1TD = jnp.concatenate(
        [model.embed_prompt(prompt.text_BT, prompt.history_BT), model.embed(jnp.asarray([[spaces.semantic_infer]]))], 1
    )
    logits_V = np.asarray(model(inputs_embeds=embeds_1TD)[0, -1, : spaces.semantic_end + 1], np.float64)
    probability = (np.exp(logits_V / 3.0) / np.exp(logits_V / 3.0).sum())[spaces.semantic_end]
    lengths = []
    for threshold in (probability * 0.99, probability * 1.01):
        rows = [text_row(ids, spaces, max_tokens=1, min_end_probability=threshold)]
        sampling = make_sampling(StageSettings(3.0), [1])
        out = semantic.generate_semantic(model, semantic.make_prompt(rows, spaces), sampling, spaces=spaces)
        lengths.append(int(out.length_B[0]))
    assert lengths == [0, 1]


def test_a_row_that_may_not_end_goes_on_to_its_limit(twins, rng, short_spaces):
    rows = [text_row(rng.integers(0, 119_000, 20), short_spaces, min_end_probability=1e-30, may_end=False)] * 2
    assert [len(tokens) for tokens in run_semantic(twins, rows, short_spaces)] == [100, 100]


def test_tokens_never_leave_their_codebooks_when_drawn_hot(twins, rng, short_spaces):
    prompt = coarse.make_prompt([rng.integers(0, 10_000, 40)], [None], short_spaces)
    sampling = make_sampling(StageSettings(100.0), [3])
    out = coarse.generate_coarse(twins.ours.coarse_acoustics, prompt, sampling, spaces=short_spaces)
    codes = np.asarray(out.codes_BQT[0, :, : int(out.length_B[0])])
    assert codes.min() >= 0 and codes.max() < 1024 and len(np.unique(codes)) > 80


def test_log_probabilities_are_those_of_the_network(twins, rng, short_spaces):
    """Of the first coarse code, from a full pass over the window's prompt."""
    tokens = rng.integers(0, 10_000, 20)
    prompt = coarse.make_prompt([tokens], [None], short_spaces)
    model = twins.ours.coarse_acoustics
    out = coarse.generate_coarse(model, prompt, greedy(1), spaces=short_spaces)
    read = np.concatenate([np.pad(tokens, (0, 236), constant_values=12_048), [12_050]])
    logits_V = np.asarray(model(jnp.asarray(read)[None])[0, -1, 10_000:11_024], np.float64)
    expected = logits_V - np.log(np.exp(logits_V).sum())
    assert out.logprob_BQT[0, 0, 0] == pytest.approx(expected[int(out.codes_BQT[0, 0, 0])], abs=1e-4)


def test_a_voice_too_short_for_one_semantic_token_gives_no_history(short_spaces):
    semantic_T, stream_T = coarse.trim_history(np.array([5]), np.array([[1, 2], [3, 4]]), short_spaces)
    assert len(semantic_T) == len(stream_T) == 0
