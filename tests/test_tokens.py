"""Token spaces: tables written by hand, and the float formulas of the torch references."""

import dataclasses
import math

import numpy as np
import pytest

from bark_jax.config import BarkConfig, BarkGenerationConfig, BarkSemanticGenerationConfig
from bark_jax.errors import ConfigError
from bark_jax.generation.tokens import TokenSpaces, check_fit, deinterleave, interleave, text_tokens

BARK = TokenSpaces()


def test_interleave_goes_frame_by_frame_and_keeps_codebooks_apart():
    codes_QT = np.array([[5, 7], [6, 8]])
    np.testing.assert_array_equal(interleave(codes_QT, BARK), [10005, 11030, 10007, 11032])


def test_deinterleave_undoes_interleave(rng):
    codes_QT = rng.integers(0, 1024, (2, 50))
    np.testing.assert_array_equal(deinterleave(interleave(codes_QT, BARK), BARK), codes_QT)


def test_three_codebooks_stay_apart_too():
    spaces = dataclasses.replace(BARK, n_coarse=3)
    codes_QT = np.array([[1, 4], [2, 5], [3, 1023]])
    stream = interleave(codes_QT, spaces)
    np.testing.assert_array_equal(stream, [10001, 11026, 12051, 10004, 11029, 13071])
    np.testing.assert_array_equal(deinterleave(stream, spaces), codes_QT)


def test_text_tokens_are_offset_and_padded_where_masked():
    tokens = text_tokens(np.array([101, 7, 0]), np.array([1, 1, 0]), BARK)
    np.testing.assert_array_equal(tokens, [10149, 10055, 129595])


def test_lengths_equal_the_references_float_formulas():
    ratio = 75 / 49.9 * 2
    for n in range(4000):
        assert BARK.n_frames(n) == math.floor(n * ratio / 2)
        assert BARK.n_semantic_done(2 * n) == round(2 * n / ratio)
    for n in range(1, 210):
        assert BARK.n_stream_history(n) == round(n * ratio)
    assert BARK.max_semantic_history == 209


def test_default_spaces_are_those_of_the_default_generation_config():
    assert TokenSpaces.from_config(BarkGenerationConfig()) == BARK


@pytest.mark.parametrize("config", [BarkConfig.small(), BarkConfig.large()])
def test_published_sizes_fit_the_default_generation_config(config):
    check_fit(config, BarkGenerationConfig())


def change(config, part, **values):
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


@pytest.mark.parametrize(
    ("part", "values", "named"),
    [
        ("semantic_config", {"block_size": 128}, "block_size is 128"),
        ("semantic_config", {"block_size": 1000}, "max_new_tokens is 768"),
        ("semantic_config", {"input_vocab_size": 1000}, "text_encoding_offset is 10048"),
        ("semantic_config", {"output_vocab_size": 10_000}, "eos_token_id is 10000"),
        ("coarse_acoustics_config", {"output_vocab_size": 12_000}, "BarkCoarseConfig.output_vocab_size is 12000"),
        ("coarse_acoustics_config", {"input_vocab_size": 12_050}, "coarse_infer_token is 12050"),
        ("coarse_acoustics_config", {"block_size": 900}, "block_size is 900"),
        ("fine_acoustics_config", {"n_codes_total": 9}, "n_codes_total is 9"),
        ("fine_acoustics_config", {"block_size": 512}, "max_fine_input_length is 1024"),
        ("fine_acoustics_config", {"input_vocab_size": 1024, "output_vocab_size": 1024}, "codebook_size is 1024"),
        ("codec_config", {"codebook_size": 512}, "codebook_size is 512"),
        ("codec_config", {"target_bandwidths": (1.5,)}, "target_bandwidths is (1.5,)"),
    ],
)
def test_networks_that_cannot_hold_the_tokens_are_refused_by_field(part, values, named):
    with pytest.raises(ConfigError) as caught:
        check_fit(change(BarkConfig.small(), part, **values), BarkGenerationConfig())
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("part", "values", "named"),
    [
        ("coarse_acoustics_config", {"n_coarse_codebooks": 3}, "n_coarse_codebooks is 3"),
        ("fine_acoustics_config", {"max_fine_input_length": 4096}, "max_fine_input_length is 4096"),
        ("semantic_config", {"max_new_tokens": 2000}, "max_new_tokens is 2000"),
        ("semantic_config", {"text_encoding_offset": 9_000}, "text_encoding_offset is 9000"),
        ("coarse_acoustics_config", {"coarse_semantic_pad_token": 11_000}, "coarse_semantic_pad_token is 11000"),
        (
            "semantic_config",
            {"max_input_semantic_length": 60_000},
            "max_input_semantic_length is 60000, expected",
        ),
        ("semantic_config", {"eos_token_id": 20_000}, "eos_token_id is 20000, expected an id below"),
        ("semantic_config", {"semantic_vocab_size": 10_048, "eos_token_id": 10_048}, "eos_token_id is 10048, expected"),
        ("coarse_acoustics_config", {"max_coarse_history": 2000}, "max_coarse_history is 2000, expected at most 708"),
        ("coarse_acoustics_config", {"sliding_window_len": 600}, "sliding_window_len is 600, expected at most 138"),
        ("fine_acoustics_config", {"n_fine_codebooks": 9}, "n_fine_codebooks is 9, expected the fine network's"),
        ("fine_acoustics_config", {"n_fine_codebooks": 7}, "n_fine_codebooks is 7, expected the fine network's"),
    ],
)
def test_stages_that_ask_for_too_much_are_refused_by_field(part, values, named):
    with pytest.raises(ConfigError) as caught:
        check_fit(BarkConfig.small(), change(BarkGenerationConfig(), part, **values))
    assert named in str(caught.value)


def test_a_codebook_size_that_no_network_has_is_named():
    generation = dataclasses.replace(BarkGenerationConfig(), codebook_size=2048)
    with pytest.raises(ConfigError, match=r"BarkGenerationConfig\.codebook_size is 2048, expected fewer codes than"):
        check_fit(BarkConfig.small(), generation)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"semantic_vocab_size": 20_000}, "semantic_vocab_size is 20000, expected at most eos_token_id 10000"),
        ({"semantic_vocab_size": 10_001}, "semantic_vocab_size is 10001, expected at most eos_token_id 10000"),
        ({"eos_token_id": 9_999}, "eos_token_id is 9999, expected an id past the 10000 semantic tokens"),
        (
            {"eos_token_id": 123, "text_encoding_offset": 128, "semantic_vocab_size": 200},
            "semantic_vocab_size is 200, expected at most eos_token_id 123",
        ),
    ],
)
def test_of_the_end_and_the_vocabulary_the_wrong_one_is_named(values, named):
    with pytest.raises(ConfigError, match=named):
        BarkSemanticGenerationConfig(**values)


# (network's field, a value that just fits, the stage's change, what the message says one below it)
EDGES = [
    ("semantic_config", "block_size", 1024, {}, "at most 767: prompt and tokens share 1023 positions"),
    ("semantic_config", "block_size", 257, {"max_new_tokens": 1}, "at least the semantic prompt's 257 positions"),
    ("semantic_config", "block_size", 258, {"max_new_tokens": 2}, "at most 1: prompt and tokens share 257 positions"),
    ("semantic_config", "input_vocab_size", 129_600, {}, "semantic_infer_token is 129599, expected an id below"),
    ("semantic_config", "output_vocab_size", 10_001, {}, "eos_token_id is 10000, expected an id below"),
    ("coarse_acoustics_config", "block_size", 946, {}, "at least 946: the coarse prompt takes 887 .* a window 59"),
    ("coarse_acoustics_config", "input_vocab_size", 12_051, {}, "coarse_infer_token is 12050.* 12048.* to 12049"),
    ("coarse_acoustics_config", "output_vocab_size", 12_048, {}, "semantic tokens and codes take 12048 ids"),
    ("fine_acoustics_config", "block_size", 1024, {}, "at most the fine network's block_size 1023"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "field", "value", "changes", "message"), EDGES)
def test_what_just_fits_is_taken_and_one_less_is_refused(part, field, value, changes, message):
    generation = change(BarkGenerationConfig(), part, **changes)
    check_fit(change(BarkConfig.small(), part, **{field: value}), generation)
    with pytest.raises(ConfigError, match=message):
        check_fit(change(BarkConfig.small(), part, **{field: value - 1}), generation)


def test_an_id_far_past_the_vocabulary_is_refused():
    generation = change(BarkGenerationConfig(), "coarse_acoustics_config", coarse_semantic_pad_token=20_000)
    with pytest.raises(ConfigError, match="coarse_semantic_pad_token is 20000, expected an id from 12048"):
        check_fit(BarkConfig.small(), generation)


def test_the_fine_windows_and_frames_of_a_model_have_bounds():
    slow = change(BarkGenerationConfig(), "semantic_config", semantic_rate_hz=1000)
    check_fit(BarkConfig.small(), change(slow, "coarse_acoustics_config", coarse_rate_hz=500, max_coarse_history=256))
    rates = dict(coarse_rate_hz=1, max_coarse_history=2)
    with pytest.raises(ConfigError, match="768 semantic tokens, 1000 a second, take 1 to 1048576 frames"):
        check_fit(BarkConfig.small(), change(slow, "coarse_acoustics_config", **rates))
