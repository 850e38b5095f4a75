"""Streaming of one utterance: which parts equal those of one call, which differ, and when each stage runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from twins import random_encodec

from bark_jax.config import EncodecConfig
from bark_jax.errors import BarkError, InputError, UnsupportedError
from bark_jax.generation import coarse, fine
from bark_jax.generation.codec import decode_codes
from bark_jax.generation.codec_steps import decode_next, frames_per_step
from bark_jax.generation.rows import Row
from bark_jax.generation.runner import sampling_of
from bark_jax.generation.sampling import key_data
from bark_jax.generation.seeds import row_keys
from bark_jax.generation.settings import resolve_settings
from bark_jax.generation.streaming import N_HELD, part_stops, stream_row
from bark_jax.model import BarkModel
from bark_jax.voices.voice import Voice

# 160 semantic tokens are 240 frames: 8 coarse windows, streamed as 1, 2, 3 and 2.
N_TOKENS, N_FRAMES, STOPS = 160, 240, [1, 3, 6, 8]


@pytest.fixture(scope="module")
def tiny():
    """The built-in model: small token spaces, so that whole utterances are cheap."""
    return BarkModel.from_pretrained("tiny")


def make_row(model, *, voice=None, seed=3, **given) -> Row:
    text = model.spaces.text_offset + np.arange(2, 12)
    given = {"max_new_tokens": N_TOKENS, "allow_early_stop": False} | given
    (settings,) = resolve_settings(given, 1, model.generation_config, model.spaces)
    return Row(text, voice, row_keys(seed, None, 1)[0], settings)


@pytest.fixture(scope="module")
def tiny_voice():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (8, 200))
    return Voice(semantic=rng.integers(0, 123, 130), coarse=codes[:2], fine=codes)


@pytest.fixture(scope="module")
def at_once(tiny):
    return tiny.generate_rows([make_row(tiny)])[0]


@pytest.fixture(scope="module")
def streamed(tiny):
    """(parts, utterance) of the row of `at_once`, streamed."""
    stream = stream_row(tiny, make_row(tiny))
    return list(stream), stream.utterance


def assert_equal_but_for_fine(utterance, at_once):
    for field in ("semantic", "coarse", "semantic_logprob", "coarse_logprob"):
        found, expected = getattr(utterance, field), getattr(at_once, field)
        assert found.dtype == expected.dtype, field
        np.testing.assert_array_equal(found, expected, err_msg=field)
    for field in ("fine", "samples"):
        found, expected = getattr(utterance, field), getattr(at_once, field)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), field


def test_drawn_semantic_tokens_and_coarse_codes_equal_those_of_one_call(streamed, at_once):
    assert_equal_but_for_fine(streamed[1], at_once)
    assert at_once.coarse.shape == (2, N_FRAMES) and len(np.unique(at_once.coarse)) > 50
    np.testing.assert_array_equal(streamed[1].fine[:2], at_once.coarse)


def test_with_a_voice_too(tiny, tiny_voice, at_once):
    row = make_row(tiny, voice=tiny_voice)
    stream = stream_row(tiny, row)
    list(stream)
    (with_voice,) = tiny.generate_rows([row])
    assert_equal_but_for_fine(stream.utterance, with_voice)
    assert (with_voice.coarse != at_once.coarse).mean() > 0.5, "a voice without effect would prove little"


def test_parts_follow_one_another_and_make_up_the_utterance(streamed):
    parts, utterance = streamed
    assert [part.first_frame for part in parts] == [0, *[30 * stop - N_HELD for stop in STOPS[:-1]]]
    np.testing.assert_array_equal(np.concatenate([part.codes for part in parts], axis=1), utterance.fine)
    np.testing.assert_array_equal(np.concatenate([part.samples for part in parts]), utterance.samples)
    for part in parts:
        assert part.samples.dtype == np.float32 and part.samples.shape == (320 * part.codes.shape[1],)


def test_the_audio_is_that_of_the_codes(tiny, streamed):
    (expected,) = decode_codes(tiny.codec_model, [streamed[1].fine])
    np.testing.assert_allclose(streamed[1].samples, expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-2


def test_an_utterance_of_one_part_equals_one_call(tiny, at_once):
    stream = stream_row(tiny, make_row(tiny), first_windows=8)
    (part,) = stream
    np.testing.assert_array_equal(part.codes, at_once.fine)
    np.testing.assert_allclose(part.samples, at_once.samples, atol=1e-5)


def test_the_same_seed_streams_the_same_and_another_does_not(tiny, streamed):
    again, other = (np.concatenate([p.samples for p in stream_row(tiny, make_row(tiny, seed=s))]) for s in (3, 4))
    np.testing.assert_array_equal(again, streamed[1].samples)
    assert np.abs(other - again).max() > 1e-2


@pytest.mark.parametrize("n_held", [0, 15, 60])
def test_how_many_of_the_most_likely_fine_codes_are_those_of_one_call(tiny, n_held, record_property):
    """A record more than a claim: a random network's choices hang on every code of its window, a trained one's on few.

    The tiny model has 0.29 to 0.35 of these codes in common, where chance is 0.004.
    """
    row = make_row(tiny, fine_do_sample=False)
    (at_once,) = tiny.generate_rows([row])
    stream = stream_row(tiny, row, n_held=n_held)
    list(stream)
    np.testing.assert_array_equal(stream.utterance.fine[:2], at_once.fine[:2])
    share = (stream.utterance.fine == at_once.fine)[2:].mean()
    record_property("share", float(share))
    assert 0.1 < share < 1


def test_the_fine_stage_reads_the_voice_and_what_was_sent(tiny, tiny_voice, monkeypatch):
    prompts = record_calls(monkeypatch, fine, "generate_fine")
    parts = list(stream_row(tiny, make_row(tiny, voice=tiny_voice)))
    sent = tiny_voice.fine
    for part, (_, prompt, _) in zip(parts, prompts, strict=True):
        n_history = int(prompt.n_history_B[0])
        assert n_history == tiny.spaces.n_fine_history
        np.testing.assert_array_equal(prompt.codes_BTQ[0, :n_history].T, sent[:, -n_history:])
        sent = np.concatenate([sent, part.codes], axis=1)
    ahead = [
        int(prompt.n_frames_B[0]) - part.codes.shape[1] for part, (_, prompt, _) in zip(parts, prompts, strict=True)
    ]
    assert ahead == [N_HELD] * (len(parts) - 1) + [0]


def test_every_part_draws_its_fine_codes_from_a_key_of_its_own(tiny, monkeypatch):
    calls = record_calls(monkeypatch, fine, "generate_fine")
    list(stream_row(tiny, make_row(tiny)))
    keys = [tuple(jax.random.key_data(sampling.key_B)[0].tolist()) for _, _, sampling in calls]
    assert keys[0] == tuple(key_data(3).tolist()) and len(set(keys)) == len(STOPS)


def test_the_first_audio_comes_before_the_coarse_stage_has_ended(tiny, monkeypatch):
    calls = record_calls(monkeypatch, coarse, "run_windows")
    log = []
    stream = stream_row(tiny, make_row(tiny), on_stage=log.append)
    next(stream)
    assert log == ["semantic", "coarse", "fine", "codec"] and [call[-1] for call in calls] == STOPS[:1]
    list(stream)
    assert (
        log == ["semantic", *["coarse", "fine", "codec"] * len(STOPS)]
        and np.cumsum([call[-1] for call in calls]).tolist() == STOPS
    )


def test_nothing_runs_before_the_first_part_is_asked_for_or_after_close(tiny):
    log = []
    stream = stream_row(tiny, make_row(tiny), on_stage=log.append)
    assert log == []
    next(stream)
    stream.close()
    assert list(stream) == [] and log == ["semantic", "coarse", "fine", "codec"] and stream.utterance is None


def test_streams_run_the_programs_of_one_call(tiny, at_once):
    programs = (coarse.run_windows, fine.generate_fine)
    before = [program._cache_size() for program in programs]
    list(stream_row(tiny, make_row(tiny, max_new_tokens=100)))
    assert [program._cache_size() for program in programs] == before


def test_a_row_that_ends_at_once_has_no_parts(tiny):
    row = make_row(tiny, allow_early_stop=True, min_eos_p=1e-30)
    stream = stream_row(tiny, row)
    assert list(stream) == []
    (at_once,) = tiny.generate_rows([row])
    assert_equal_but_for_fine(stream.utterance, at_once)
    assert stream.utterance.fine.shape == (8, 0) and stream.utterance.samples.shape == (0,)


@pytest.mark.parametrize(("n_tokens", "n_frames"), [(1, 1), (4, 6), (5, 7), (20, 30), (21, 31)])
def test_short_utterances(n_tokens, n_frames, tiny):
    row = make_row(tiny, max_new_tokens=n_tokens)
    stream = stream_row(tiny, row)
    parts = list(stream)
    (at_once,) = tiny.generate_rows([row])
    assert_equal_but_for_fine(stream.utterance, at_once)
    assert at_once.coarse.shape == (2, n_frames) and len(parts) == (2 if n_frames > 30 else 1)
    (expected,) = decode_codes(tiny.codec_model, [stream.utterance.fine])
    np.testing.assert_allclose(stream.utterance.samples, expected, atol=1e-5)


def test_more_look_ahead_than_the_first_part_has_frames_delays_it(tiny, at_once):
    stream = stream_row(tiny, make_row(tiny), n_held=70)
    # Every part has one window, as a fine window has no room for more; 90 frames are known at the first.
    assert [part.first_frame for part in stream] == [0, 15, 45, 75, 105, 135]
    assert_equal_but_for_fine(stream.utterance, at_once)


def test_a_codec_that_looks_ahead_is_refused_before_a_network_runs(tiny):
    config = dataclasses.replace(tiny.config.codec_config, use_causal_conv=False)
    model = tiny.replace(codec_model=random_encodec(config))
    with pytest.raises(UnsupportedError, match="looks ahead"):
        stream_row(model, make_row(tiny))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(first_windows=0), "first_windows is 0, expected an integer from 1 up"),
        (dict(first_windows=1.5), "first_windows is 1.5"),
        (dict(n_held=-1), "n_held is -1, expected an integer from 0 up"),
        (dict(n_held=True), "n_held is True"),
    ],
)
def test_options_that_make_no_sense_are_refused_and_named(options, message, tiny):
    with pytest.raises(InputError, match=message):
        stream_row(tiny, make_row(tiny), **options)


def test_a_network_that_is_not_finite_raises_with_the_stage(tiny):
    from flax import nnx

    broken = nnx.clone(tiny.coarse_acoustics)
    broken.final_norm.scale[...] = jnp.full_like(broken.final_norm.scale[...], jnp.nan)
    model = tiny.replace(coarse_acoustics=broken)
    with pytest.raises(BarkError, match="the coarse stage computed values that are not finite"):
        next(stream_row(model, make_row(tiny)))


@pytest.mark.parametrize(
    ("n_windows", "first", "max_windows", "expected"),
    [
        (39, 1, 16, [1, 3, 7, 15, 31, 39]),
        (1, 1, 16, [1]),
        (0, 1, 16, []),
        (9, 4, 3, [4, 8, 9]),
        (5, 2, 0, [2, 4, 5]),
        (5, 9, 16, [5]),
    ],
)
def test_parts_double_up_to_what_a_fine_window_holds(n_windows, first, max_windows, expected):
    assert part_stops(n_windows, first, max_windows) == expected


def test_coarse_windows_run_in_any_pieces_equal_one_run(tiny, rng):
    """Windows past the end change nothing."""
    spaces = tiny.spaces
    prompt = coarse.make_prompt([rng.integers(0, 123, N_TOKENS)], [None], spaces)
    sampling = sampling_of([make_row(tiny, seed=5)], "coarse")
    expected_codes = coarse.generate_coarse(tiny.coarse_acoustics, prompt, sampling, spaces=spaces)
    state = coarse.start(tiny.coarse_acoustics, prompt, spaces=spaces)
    for n_windows, n_done in ((1, 1), (0, 1), (3, 4), (2, 6), (1, 7), (100, 8)):
        state = coarse.run_windows(tiny.coarse_acoustics, prompt, sampling, state, n_windows, spaces=spaces)
        assert int(state.window_B[0]) == n_done
    jax.tree.map(np.testing.assert_array_equal, coarse.read_codes(prompt, state, spaces=spaces), expected_codes)


@pytest.mark.parametrize(
    ("changes", "cuts"),
    [
        ({}, [15, 45, 60]),
        ({}, []),
        ({"audio_channels": 2, "kernel_size": 21}, [30, 60]),
        ({"pad_mode": "constant"}, [15]),
    ],
)
def test_codes_decoded_as_they_come_sound_like_one_decode(changes, cuts, rng):
    model = random_encodec(small_codec(**changes))
    codes_QT = rng.integers(0, 16, (4, 71))
    state, pieces = model.init_decode_state(1), []
    for piece_QT in np.split(codes_QT, cuts, axis=1):
        samples, state = decode_next(model, piece_QT, state)
        pieces.append(samples)
    (expected,) = decode_codes(model, [codes_QT])
    found = np.concatenate(pieces)
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_codec_that_needs_many_frames_to_start_takes_longer_steps():
    assert frames_per_step(random_encodec(small_codec())) == 15
    assert frames_per_step(random_encodec(small_codec(kernel_size=21))) == 30


def small_codec(**changes) -> EncodecConfig:
    sizes = dict(num_filters=4, hidden_size=8, codebook_size=16, target_bandwidths=(1.2,), num_lstm_layers=1)
    return EncodecConfig(**(sizes | dict(upsampling_ratios=(4, 2), sampling_rate=600) | changes))


def record_calls(monkeypatch, module, name) -> list[tuple]:
    """The positional arguments of every call of a function from here on."""
    calls, function = [], getattr(module, name)

    def recorded(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, recorded)
    return calls
