"""The model end to end against transformers, from token ids to audio; rows, keys and refused input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bark_jax.checkpoints.load import FoundModel, save_networks
from bark_jax.checkpoints.model_folder import NETWORKS
from bark_jax.errors import BarkError, InputError, VoiceError, VoiceNotFoundError
from bark_jax.generation.rows import Row
from bark_jax.generation.runner import coarse_spaces
from bark_jax.generation.seeds import row_keys
from bark_jax.generation.settings import resolve_settings
from bark_jax.model import BarkModel

N_TEXT = 96  # tokens that the toy's prompt has room for
GREEDY = dict(semantic_max_new_tokens=30, do_sample=False)


def padded(texts):
    """Tokenizer ids and mask, right-padded as the processor does."""
    ids = np.zeros((len(texts), N_TEXT), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    mask = np.arange(N_TEXT)[None] < np.array([len(text) for text in texts])[:, None]
    return ids, mask.astype(np.int64)


def their_waveform(twins, text, voice):
    """transformers' own BarkModel.generate for one row, greedy in every stage."""
    import torch
    from reference import as_torch

    ids, mask = padded([text])
    audio, (length,) = twins.theirs.generate(
        torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        history_prompt=as_torch(voice),
        semantic_max_new_tokens=30,
        semantic_pad_token_id=twins.spaces.semantic_end,
        fine_temperature=None,
        return_output_lengths=True,
    )
    return audio[0, :length].numpy()


def test_a_model_that_was_found_is_the_one_that_its_name_gives(toy_folder, toy_model):
    found = FoundModel.read(toy_folder)
    assert (found.config, found.generation_config) == (toy_model.config, toy_model.generation_config)
    model = BarkModel.from_found(found)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(model), jax.tree.leaves(toy_model))
    with pytest.raises(VoiceNotFoundError, match="this model has no voices of its own"):
        model.generate(np.ones((1, 2), np.int64), history_prompt="anna")


def test_one_row_sounds_like_transformers(twins, rng):
    text = rng.integers(1, 126, 95)
    ids, mask = padded([text])
    audio = twins.ours.generate(ids, attention_mask=mask, **GREEDY)
    expected = their_waveform(twins, text, None)
    assert audio.shape == (1, len(expected)) and len(expected) == 45 * 320
    np.testing.assert_allclose(audio[0], expected, atol=1e-4)


def test_five_rows_sound_like_transformers_rows_alone(twins, toy_voice, rng):
    texts = [rng.integers(1, 126, n) for n in (5, N_TEXT, 40, 1, 90)]
    voices = [None, toy_voice, None, toy_voice, None]
    limits = [30, 12, 25, 30, 3]
    ids, mask = padded(texts)
    audio, lengths = twins.ours.generate(
        ids,
        attention_mask=mask,
        history_prompt=voices,
        semantic_max_new_tokens=limits,
        do_sample=False,
        return_output_lengths=True,
    )
    audio = np.asarray(audio)
    for row, (text, v, limit) in enumerate(zip(texts, voices, limits, strict=True)):
        tokens = twins.semantic(text, v, max_new_tokens=limit)
        expected = twins.audio(twins.fine(twins.coarse(tokens, v), v))
        assert lengths[row] == len(expected)
        np.testing.assert_allclose(audio[row, : lengths[row]], expected, atol=1e-4)
        assert not audio[row, lengths[row] :].any()


def test_different_codes_sound_different(twins, rng):
    first, second = (twins.audio(rng.integers(0, 256, (8, 20))) for _ in range(2))
    assert np.abs(first - second).max() > 1e-2, "a codec that ignores its codes would make parity worthless"


@pytest.fixture(scope="module")
def tiny(toy_model):
    """The toy: small token spaces, so that whole utterances are cheap."""
    return toy_model


def tiny_ids(rng, n_rows):
    lengths = rng.integers(1, 60, n_rows)
    return [rng.integers(2, 40, length) for length in lengths]


def generate_tokens(model, texts, seeds, **settings):
    ids = np.zeros((len(texts), 60), np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    mask = (np.arange(60)[None] < np.array([len(text) for text in texts])[:, None]).astype(np.int64)
    audio, lengths = model.generate(ids, attention_mask=mask, seed=seeds, return_output_lengths=True, **settings)
    return np.asarray(audio), lengths


def test_a_drawn_row_is_bit_equal_beside_other_neighbours_and_in_other_slots(tiny, rng):
    texts, seeds = tiny_ids(rng, 8), list(range(8))
    limits = rng.integers(5, 40, 8).tolist()
    audio, lengths = generate_tokens(tiny, texts, seeds, max_new_tokens=limits)
    order = rng.permutation(8)
    moved, moved_lengths = generate_tokens(
        tiny, [texts[i] for i in order], [seeds[i] for i in order], max_new_tokens=[limits[i] for i in order]
    )
    for slot, row in enumerate(order):
        assert moved_lengths[slot] == lengths[row]
        np.testing.assert_array_equal(moved[slot, : lengths[row]], audio[row, : lengths[row]])


def test_seeds_make_rows_differ_and_repeat(tiny, rng):
    (text,) = tiny_ids(rng, 1)
    audio, _ = generate_tokens(tiny, [text] * 8, [1, 2, 1, 3] * 2, max_new_tokens=20, allow_early_stop=False)
    np.testing.assert_array_equal(audio[0], audio[2])
    assert np.abs(audio[0] - audio[1]).max() > 1e-3 and np.abs(audio[1] - audio[3]).max() > 1e-3


def test_sequences_of_a_row_lie_together_and_the_first_has_its_seed(tiny, rng):
    texts = tiny_ids(rng, 4)
    settings = dict(max_new_tokens=20, allow_early_stop=False)
    audio, _ = generate_tokens(tiny, texts, [1, 2, 3, 4], num_return_sequences=2, **settings)
    alone, _ = generate_tokens(tiny, [text for text in texts for _ in range(2)], [1, 1, 2, 2, 3, 3, 4, 4], **settings)
    assert audio.shape == alone.shape
    np.testing.assert_array_equal(audio[::2], alone[::2])
    assert all(np.abs(audio[row] - audio[row + 1]).max() > 1e-3 for row in range(0, 8, 2))


def test_rows_that_end_at_once_are_empty_and_leave_the_others_alone(tiny, rng):
    texts = tiny_ids(rng, 8)
    settings = dict(max_new_tokens=20, min_eos_p=[1e-30, None] * 4, allow_early_stop=[True, False] * 4)
    audio, lengths = generate_tokens(tiny, texts, 5, **settings)
    assert lengths == [0, 30 * 320] * 4 and not audio[::2].any()


def test_a_batch_in_which_every_row_ends_at_once_is_empty(tiny, rng):
    audio, lengths = generate_tokens(tiny, tiny_ids(rng, 8), 5, min_eos_p=1e-30)
    assert lengths == [0] * 8 and audio.shape == (8, 0)


def test_a_saved_model_loads_and_sounds_the_same(tiny, rng, tmp_path):
    tiny.save_pretrained(tmp_path / "saved")
    texts = tiny_ids(rng, 8)
    again = BarkModel.from_pretrained(tmp_path / "saved")
    for model in (tiny, again):
        assert model.config == tiny.config
    np.testing.assert_array_equal(
        generate_tokens(tiny, texts, 1, max_new_tokens=9)[0], generate_tokens(again, texts, 1, max_new_tokens=9)[0]
    )


def test_a_model_stored_in_halves_can_say_that_it_computes_in_float32(tiny, tmp_path):
    halves = {name: jax.tree.map(lambda a: np.asarray(a).astype("float16"), getattr(tiny, name)) for name in NETWORKS}
    for dtype, expected in ((None, "float16"), ("float32", "float32")):
        folder = tmp_path / str(dtype)
        save_networks(folder, tiny.config, tiny.generation_config, halves, dtype=dtype)
        assert BarkModel.from_pretrained(folder).semantic.head.kernel.dtype == expected
        assert BarkModel.from_pretrained(folder, dtype="bfloat16").semantic.head.kernel.dtype == "bfloat16"


def test_a_network_that_is_not_finite_raises_with_the_stage(tiny, rng):
    broken = nnx.clone(tiny.coarse_acoustics)
    broken.final_norm.scale[...] = jnp.full_like(broken.final_norm.scale[...], jnp.nan)
    model = tiny.replace(coarse_acoustics=broken)
    with pytest.raises(BarkError, match="the coarse stage computed values that are not finite"):
        generate_tokens(model, tiny_ids(rng, 8), 1, max_new_tokens=9, allow_early_stop=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(input_ids=None), "input_ids is None"),
        (dict(input_ids=np.array([1, 2])), r"input_ids has shape \(2,\)"),
        (dict(input_ids=np.zeros((0, 5), int)), r"input_ids has shape \(0, 5\)"),
        (dict(input_ids=np.ones((1, 5))), "input_ids has dtype float64"),
        (dict(input_ids=[[1, -5]]), "input_ids holds -5"),
        (dict(input_ids=[[1, -20_000]]), "input_ids holds -20000"),
        (dict(input_ids=[[1, 500]]), "input_ids holds 500, expected tokenizer ids from 0 to 127"),
        (dict(input_ids=np.ones((1, 97), int)), "97 tokens a row, and the prompt has room for 96"),
        (dict(input_ids=[[5, 0, 0]]), "there is no attention_mask"),
        (dict(input_ids=[[5, 6]], attention_mask=[[1]]), "attention_mask has shape"),
        (dict(input_ids=[[5, 6]], attention_mask=[[1, 2]]), "attention_mask has shape"),
        (dict(input_ids=[[5, 6]], attention_mask=[[1, 0.5]]), "attention_mask has dtype float64"),
        (dict(input_ids=[[5, 6]], seed="abc"), "seed is 'abc'"),
        (dict(input_ids=[[5, 6]], seed=[1, 2]), "seed has 2 values for 1 rows"),
        (dict(input_ids=[[5, 6]], seed=1, key=jax.random.key(0)), "give seed or key, not both"),
        (dict(input_ids=[[5, 6]], key=np.zeros(3)), "key has shape"),
        (dict(input_ids=[[5, 6]], key=jax.random.key(0, impl="rbg")), "key is of generator"),
        (dict(input_ids=[[5, 6]], history_prompt=[None, None]), "history_prompt has 2 voices for 1 rows"),
        (dict(input_ids=[[5, 6]], temprature=0.7), "did you mean temperature"),
        (dict(input_ids=[[5, 6]], num_return_sequences=0), "num_return_sequences is 0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_and_named(arguments, message, tiny):
    with pytest.raises(InputError, match=message):
        tiny.generate(**arguments)


def test_the_coarse_stage_has_the_windows_that_rows_ask_for(tiny):
    asked = {"max_coarse_history": 100, "sliding_window_len": 24}
    (settings,) = resolve_settings(asked, 1, tiny.generation_config, tiny.spaces)
    row = Row(np.arange(130, 140), None, row_keys(1, None, 1)[0], settings)
    assert coarse_spaces([row], tiny.spaces) == dataclasses.replace(tiny.spaces, n_coarse_history=100, coarse_window=24)


def test_a_voice_of_other_token_spaces_is_refused(tiny, voice):
    with pytest.raises(VoiceError, match="semantic"):
        tiny.generate([[5, 6]], history_prompt=voice)


def test_a_key_is_what_its_seed_is(tiny):
    (from_seed,), (from_key,) = row_keys(7, None, 1), row_keys(None, jax.random.key(7), 1)
    np.testing.assert_array_equal(from_seed, from_key)
    keys = row_keys(None, jax.random.split(jax.random.key(7), 3), 3)
    assert len({tuple(key.tolist()) for key in keys}) == 3


def test_without_a_seed_rows_and_calls_differ():
    first, second = row_keys(None, None, 2), row_keys(None, None, 2)
    assert len({tuple(key.tolist()) for key in (*first, *second)}) == 4
