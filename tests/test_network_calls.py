"""Stages called on arrays, as in transformers: tokens equal those of `generate` and of transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from bark_jax.errors import BarkError, ConfigError, InputError, VoiceError
from bark_jax.voices.voice import Voice

SEMANTIC, COARSE, FINE = (
    toy.GENERATION_CONFIG[f"{part}_config"] for part in ("semantic", "coarse_acoustics", "fine_acoustics")
)
SIZE = dict(codebook_size=toy.GENERATION_CONFIG.codebook_size)
END, PAD, UNKNOWN = SEMANTIC.eos_token_id, COARSE.coarse_semantic_pad_token, SIZE["codebook_size"]
IDS, MASK = np.array([[5, 6, 7, 8], [9, 10, 0, 0]]), np.array([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.fixture(scope="module")
def toy_voice():
    rng = np.random.default_rng(1)
    fine = rng.integers(0, 256, (8, 60))
    return Voice(semantic=rng.integers(0, 123, 40), coarse=fine[:2], fine=fine)


@pytest.fixture(scope="module")
def stages(toy_model, toy_voice):
    """Outputs of each stage for two rows of unequal length, the second with a voice."""
    shared = dict(history_prompt=[None, toy_voice], seed=[1, 2])
    tokens = toy_model.semantic.generate(
        IDS, SEMANTIC, attention_mask=MASK, max_new_tokens=[12, 5], min_eos_p=None, allow_early_stop=False, **shared
    )
    stream, lengths = toy_model.coarse_acoustics.generate(
        tokens, SEMANTIC, COARSE, return_output_lengths=True, **SIZE, **shared
    )
    codes = toy_model.fine_acoustics.generate(stream, SEMANTIC, COARSE, FINE, **SIZE, **shared)
    return tokens, stream, lengths, codes


def test_stages_on_arrays_make_the_audio_of_one_call(toy_model, toy_voice, stages):
    audio, lengths = toy_model.generate(
        IDS,
        attention_mask=MASK,
        history_prompt=[None, toy_voice],
        seed=[1, 2],
        max_new_tokens=[12, 5],
        min_eos_p=None,
        allow_early_stop=False,
        return_output_lengths=True,
    )
    codes = stages[-1]
    np.testing.assert_array_equal(toy_model.codec_decode(codes), audio)
    rows = toy_model.codec_decode(codes, output_lengths=[18, 7])
    assert [len(row) for row in rows] == lengths == [18 * 320, 7 * 320]
    np.testing.assert_array_equal(rows[1], audio[1, : 7 * 320])


def test_rows_are_padded_with_ids_that_say_so(stages):
    assert all(isinstance(array, jax.Array) and array.dtype == jnp.int32 for array in stages)
    tokens, stream, lengths, codes = (np.asarray(array) for array in stages)
    assert tokens.shape == (2, 12) and (tokens[1, 5:] == END).all() and (tokens[0] < END).all()
    assert stream.shape == (2, 36) and lengths.tolist() == [36, 14]
    assert (stream[1, 14:] == PAD).all() and (stream[0] < PAD).all()
    first_BT, second_BT = (
        stream[:, ::2] - SEMANTIC.semantic_vocab_size,
        stream[:, 1::2] - SEMANTIC.semantic_vocab_size - 256,
    )
    assert codes.shape == (2, 8, 18) and (codes[1, :, 7:] == UNKNOWN).all() and (codes[0] < UNKNOWN).all()
    for row, n_frames in enumerate((18, 7)):
        np.testing.assert_array_equal(codes[row, 0, :n_frames], first_BT[row, :n_frames])
        np.testing.assert_array_equal(codes[row, 1, :n_frames], second_BT[row, :n_frames])


def test_a_row_that_ends_by_itself_has_its_end_token(toy_model):
    # Both in the batch of two rows that the other tests compile.
    tokens = toy_model.semantic.generate(IDS, SEMANTIC, attention_mask=MASK, seed=1, min_eos_p=1e-30)
    assert tokens.tolist() == [[END], [END]]
    stream, lengths = toy_model.coarse_acoustics.generate(tokens, SEMANTIC, COARSE, return_output_lengths=True, **SIZE)
    codes = toy_model.fine_acoustics.generate(stream, SEMANTIC, COARSE, FINE, **SIZE)
    assert stream.shape == (2, 0) and lengths.tolist() == [0, 0] and codes.shape == (2, 8, 0)
    assert toy_model.codec_decode(codes).shape == (2, 0)


def test_configs_may_be_dicts_and_inputs_stay_as_they_are(toy_model, stages):
    tokens = np.array(stages[0])
    again = toy_model.coarse_acoustics.generate(
        tokens, semantic_generation_config=SEMANTIC.to_dict(), coarse_generation_config=dict(COARSE), seed=0, **SIZE
    )
    other = toy_model.coarse_acoustics.generate(stages[0], SEMANTIC, COARSE, seed=0, **SIZE)
    np.testing.assert_array_equal(again, other)
    np.testing.assert_array_equal(tokens, stages[0])


def test_stages_equal_transformers_greedy(twins, toy_voice, rng):
    import torch
    from reference import as_torch

    ours, theirs, configs = twins.ours, twins.theirs, twins.configs()
    ids, mask = rng.integers(1, 120, (1, 96)), (np.arange(96)[None] < 20).astype(np.int64)
    names = ("semantic_generation_config", "coarse_generation_config", "fine_generation_config")
    configs = dict(zip(names, configs, strict=True))
    size = dict(codebook_size=ours.spaces.codebook_size)
    with torch.no_grad():
        semantic = theirs.semantic.generate(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            semantic_generation_config=configs[names[0]],
            history_prompt=as_torch(toy_voice),
            max_new_tokens=12,
        )
        coarse = theirs.coarse_acoustics.generate(
            semantic.clone(), **{name: configs[name] for name in names[:2]}, history_prompt=as_torch(toy_voice), **size
        )
        fine = theirs.fine_acoustics.generate(
            coarse, **configs, history_prompt=as_torch(toy_voice), temperature=None, **size
        )
        audio = theirs.codec_decode(fine)
    same = dict(do_sample=False, temperature=1.0)
    our_semantic = ours.semantic.generate(ids, configs[names[0]], toy_voice, mask, max_new_tokens=12, **same)
    our_coarse = ours.coarse_acoustics.generate(
        our_semantic, **{name: configs[name] for name in names[:2]}, history_prompt=toy_voice, **same, **size
    )
    our_fine = ours.fine_acoustics.generate(our_coarse, **configs, history_prompt=toy_voice, temperature=None, **size)
    np.testing.assert_array_equal(our_semantic, semantic)
    np.testing.assert_array_equal(our_coarse, coarse)
    np.testing.assert_array_equal(our_fine, fine)
    np.testing.assert_allclose(ours.codec_decode(our_fine), audio, atol=1e-4)


def test_the_model_tells_its_device_and_that_it_generates(toy_model):
    assert toy_model.device == jax.devices()[0] and toy_model.can_generate() and type(toy_model).can_generate()
    offloaded = toy_model.replace()
    offloaded.enable_cpu_offload()
    assert offloaded.device == jax.devices()[0]


def semantic(model, ids=IDS, config=SEMANTIC, **others):
    return model.semantic.generate(ids, config, **{"attention_mask": MASK} | others)


def coarse(model, tokens, semantic_config=SEMANTIC, config=COARSE, **others):
    return model.coarse_acoustics.generate(tokens, semantic_config, config, **SIZE | others)


def fine(model, stream, **others):
    return model.fine_acoustics.generate(stream, SEMANTIC, COARSE, FINE, **SIZE | others)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (
            semantic,
            dict(config=None),
            "semantic_generation_config is None, expected a .*generation_config.semantic_config",
        ),
        (
            semantic,
            dict(config=dataclasses.replace(SEMANTIC, max_new_tokens=768)),
            "max_new_tokens is 768, expected at",
        ),
        (semantic, dict(coarse_temperature=1.0), "coarse_temperature is no setting of the semantic stage"),
        (semantic, dict(num_beams=2), "beam search is not part of Bark"),
        (semantic, dict(temprature=0.7), "did you mean temperature"),
        (semantic, dict(ids=None), "input_ids is None"),
        (semantic, dict(attention_mask=None), "there is no attention_mask"),
        (semantic, dict(history_prompt="v2/en_speaker_6"), "the voice is .*, expected a Voice or a dict"),
        (semantic, dict(seed=[1, 2, 3]), "seed has 3 values for 2 rows"),
        (coarse, dict(tokens=[[1, 2]], config=None), "coarse_generation_config is None.*coarse_acoustics_config"),
        (coarse, dict(tokens=[[1, END, 2]]), r"semantic_output\[0\] has tokens after its end, which is at 1"),
        (coarse, dict(tokens=[[1, 2], [3, 124]]), r"semantic_output\[1\] holds 124, expected 0 to 122"),
        (coarse, dict(tokens=[[0.5]]), "semantic_output has dtype float64"),
        (coarse, dict(tokens=[1, 2]), r"semantic_output has shape \(2,\)"),
        (coarse, dict(tokens=[[1, 2]], top_q=3), "did you mean top_p"),
        (coarse, dict(tokens=[[1, 2]], codebook_size=10**4), "codebook_size is 10000"),
        (fine, dict(stream=[[123, 379, 124]]), r"coarse_output\[0\] has 3 tokens, expected 2 a frame"),
        (fine, dict(stream=[[379, 123]]), "a token of another codebook than its position is for"),
        (fine, dict(stream=[[123, 637]]), r"coarse_output\[0\] holds 637"),
        (fine, dict(stream=[[123, 379]], top_k=3), "top_k is no setting of the fine stage"),
    ],
)
def test_what_a_stage_cannot_take_is_refused_by_name(call, arguments, message, toy_model):
    with pytest.raises((InputError, ConfigError, VoiceError), match=message):
        call(toy_model, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(fine_output=np.zeros((8, 3), int)), r"fine_output has shape \(8, 3\)"),
        (dict(fine_output=np.zeros((1, 99, 3), int)), "1 to 8 codebooks"),
        (dict(fine_output=np.full((1, 8, 3), 300)), r"fine_output\[0\] holds 300, expected 0 to 255"),
        (dict(fine_output=np.full((1, 8, 3), UNKNOWN), output_lengths=[3]), "holds 256"),
        (dict(fine_output=np.zeros((1, 8, 3), int), output_lengths=[4]), r"output_lengths is \[4\], expected frames"),
        (dict(fine_output=np.zeros((1, 8, 3), int), output_lengths=[1, 2]), "output_lengths is"),
        (dict(fine_output=np.zeros((1, 8, 3))), "fine_output has dtype float64"),
    ],
)
def test_what_is_no_codes_is_refused(arguments, message, toy_model):
    with pytest.raises(BarkError, match=message):
        toy_model.codec_decode(**arguments)
