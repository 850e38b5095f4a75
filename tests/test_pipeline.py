"""Text to clips with the built-in model; candidates (best_of); lazy imports of the package."""

import dataclasses
import importlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import bark_jax
from bark_jax import Bark
from bark_jax.audio.clip import EmptyClipWarning
from bark_jax.errors import InputError, VoiceNotFoundError
from bark_jax.generation.sampling import key_data
from bark_jax.generation.seeds import CANDIDATE, derive_keys, seed_of
from bark_jax.voices.library import language_of
from bark_jax.voices.voice import Voice, check_voice

# 20 semantic tokens are 30 frames of 320 audio samples.
SHORT = dict(semantic_max_new_tokens=20, allow_early_stop=False)
TEXTS = ["Hello there.", "One.", "What now?", "La la la"]


@pytest.fixture(scope="module")
def bark():
    return Bark.from_pretrained("tiny")


@pytest.fixture
def batches(bark, monkeypatch):
    """The rows that the networks are given, batch by batch."""
    given, generate_rows = [], bark.model.generate_rows

    def spy(rows, *rest):
        given.append(list(rows))
        return generate_rows(rows, *rest)

    monkeypatch.setattr(bark.model, "generate_rows", spy)
    return given


def assert_same(clip, other):
    for name in ("semantic", "coarse", "fine", "samples"):
        np.testing.assert_array_equal(getattr(clip, name), getattr(other, name))


def test_a_text_becomes_a_clip(bark, tmp_path):
    stages = []
    clip = bark.generate("Hello there.", seed=3, on_stage=stages.append, **SHORT)
    assert clip.samples.shape == (30 * 320,) and clip.samples.dtype == np.float32
    assert np.isfinite(clip.samples).all() and clip.samples.std() > 0
    assert clip.semantic.shape == clip.semantic_logprob.shape == (20,)
    assert clip.coarse.shape == clip.coarse_logprob.shape == (2, 30) and clip.fine.shape == (8, 30)
    np.testing.assert_array_equal(clip.fine[:2], clip.coarse)
    assert (clip.text, clip.seed, clip.sample_rate) == ("Hello there.", 3, bark.sample_rate)
    assert stages == list(clip.stats) == ["semantic", "coarse", "fine", "codec"]
    clip.save(tmp_path / "clip.wav")
    assert_same(clip, bark.generate("Hello there.", seed=3, **SHORT))


def test_progress_is_reported_within_the_long_stages_and_changes_no_bit(bark):
    ask = dict(seed=3, semantic_max_new_tokens=70, allow_early_stop=False)
    calls = []
    clip = bark.generate("Hello there.", on_progress=lambda *each: calls.append(each), **ask)
    semantic = [("semantic", n_done, 70) for n_done in (32, 64, 70)]
    assert calls == semantic + [("coarse", n_done, 4) for n_done in (1, 2, 3, 4)]
    alone = bark.generate("Hello there.", **ask)
    assert_same(clip, alone)
    np.testing.assert_array_equal(clip.semantic_logprob, alone.semantic_logprob)
    np.testing.assert_array_equal(clip.coarse_logprob, alone.coarse_logprob)
    with pytest.raises(InputError, match="on_progress is 'yes', expected a function"):
        bark.generate("Hello.", on_progress="yes", **SHORT)


def test_a_list_becomes_a_list(bark):
    clips = bark.generate(TEXTS, seed=[1, 2, 3, 4], **SHORT | {"semantic_max_new_tokens": [20, 4, 12, 20]})
    assert [clip.text for clip in clips] == TEXTS and [clip.seed for clip in clips] == [1, 2, 3, 4]
    assert [len(clip.samples) for clip in clips] == [30 * 320, 6 * 320, 18 * 320, 30 * 320]


def test_every_row_has_a_voice_of_its_own(bark, tmp_path):
    """A clip's tokens do not depend on its neighbours, and do depend on its voice, which may be another clip."""
    first = bark.generate("Hello there.", seed=3, **SHORT)
    voice = check_voice(first.as_voice(), bark.model.spaces)
    voice.save(tmp_path / "voice.npz")
    kinds = [voice, None, str(tmp_path / "voice.npz"), voice.to_dict()]
    mixed = bark.generate(["Hello."] * 4, voice=kinds, seed=1, **SHORT)
    assert_same(mixed[0], mixed[2])
    assert_same(mixed[0], mixed[3])
    assert not np.array_equal(mixed[0].semantic, mixed[1].semantic)
    same = bark.generate(["Hello."] * 4, voice=voice, seed=1, **SHORT)
    assert_same(same[1], mixed[0])


def test_a_clip_without_a_seed_tells_the_seed_that_repeats_it(bark):
    clip = bark.generate("Hello.", **SHORT)
    assert_same(bark.generate("Hello.", seed=clip.seed, **SHORT), clip)
    by_key = bark.generate("Hello.", key=jax.random.key(7), **SHORT)
    assert_same(bark.generate("Hello.", seed=by_key.seed, **SHORT), by_key)


def test_an_utterance_that_ends_at_once_is_an_empty_clip_and_a_warning(bark):
    with pytest.warns(EmptyClipWarning, match=r"text\[1\], 'One.', .* seed 7") as warned:
        clips = bark.generate(TEXTS, seed=7, semantic_max_new_tokens=20, min_eos_p=[None, 1e-20, None, None])
    assert warned[0].filename == __file__
    assert clips[1].is_empty and clips[1].samples.shape == (0,) and clips[1].fine.shape == (8, 0)
    assert not clips[0].is_empty
    with pytest.warns(EmptyClipWarning):
        assert bark.generate("One.", min_eos_p=1e-20).duration_s == 0


def test_candidates_have_derived_seeds_and_the_likeliest_is_kept(bark):
    takes = bark.generate("Hello there.", seed=3, num_return_sequences=4, **SHORT)
    assert [take.seed for take in takes] == [seed_of(key) for key in derive_keys(key_data(3), CANDIDATE, 4)]
    assert takes[0].seed == 3 and len({take.seed for take in takes}) == 4
    assert len({take.semantic.tobytes() for take in takes}) == 4
    best = max(takes, key=lambda take: take.mean_logprob)
    assert_same(bark.generate("Hello there.", seed=3, best_of=4, **SHORT), best)
    ranked = bark.generate("Hello there.", seed=3, best_of=4, num_return_sequences=2, **SHORT)
    assert [take.mean_logprob for take in ranked] == sorted((take.mean_logprob for take in takes), reverse=True)[:2]
    # The best one's seed alone repeats it, in a batch of as many rows.
    assert_same(bark.generate(["Hello there."] * 4, seed=best.seed, **SHORT)[2], best)


def test_every_text_has_its_own_candidates(bark, batches):
    takes = bark.generate(TEXTS[:2], seed=[1, 2], num_return_sequences=2, **SHORT)
    assert [[take.text for take in of_text] for of_text in takes] == [[text] * 2 for text in TEXTS[:2]]
    assert [of_text[0].seed for of_text in takes] == [1, 2]
    assert [len(batch) for batch in batches] == [4]
    best = bark.generate(TEXTS[:2], seed=[1, 2], best_of=2, **SHORT)
    assert [clip.text for clip in best] == TEXTS[:2]
    assert_same(best[1], max(takes[1], key=lambda take: take.mean_logprob))
    assert isinstance(bark.generate("One.", num_return_sequences=1, **SHORT), list)


def test_an_empty_candidate_is_never_the_best(bark, monkeypatch):
    generate_rows = bark.model.generate_rows

    def generate(rows, *rest):
        first, *others = generate_rows(rows, *rest)
        nothing = {name: values[..., :0] for name, values in vars(first).items()}
        return [dataclasses.replace(first, **nothing), *others]

    monkeypatch.setattr(bark.model, "generate_rows", generate)
    assert bark.generate("Hello.", seed=3, best_of=4, **SHORT).seed != 3


def test_rows_run_in_batches_of_at_most_max_rows(bark, batches):
    alone = bark.generate(TEXTS, seed=[1, 2, 3, 4], max_rows=1, **SHORT)
    assert [len(batch) for batch in batches] == [1, 1, 1, 1]
    assert [clip.text for clip in alone] == TEXTS
    assert_same(alone[2], bark.generate(TEXTS[2], seed=3, **SHORT))


@pytest.mark.parametrize("n", [2, 5])
def test_derived_keys_are_those_of_the_formula(n):
    keys = derive_keys(key_data(9), CANDIDATE, n)
    assert len(keys) == n and seed_of(keys[0]) == 9
    key = jax.random.wrap_key_data(key_data(9), impl="threefry2x32")
    for i in range(1, n):
        folded = jax.random.fold_in(jax.random.fold_in(key, CANDIDATE), i)
        np.testing.assert_array_equal(keys[i], jax.random.key_data(folded))
        np.testing.assert_array_equal(key_data(seed_of(keys[i])), keys[i])


@pytest.mark.parametrize(
    "arguments",
    [
        {"text": 3},
        {"text": []},
        {"text": ["a", ""]},
        {"text": "a", "best_of": 0},
        {"text": "a", "best_of": 1.5},
        {"text": "a", "num_return_sequences": True},
        {"text": "a", "best_of": 2, "num_return_sequences": 3},
        {"text": "a", "max_rows": 0},
        {"text": "a", "seed": -1},
        {"text": ["a", "b"], "seed": [1]},
        {"text": "a", "temperature": -1},
        {"text": "a" * 97},
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(arguments, bark, batches):
    with pytest.raises(InputError):
        bark.generate(**arguments)
    with pytest.raises(VoiceNotFoundError):
        bark.generate("a", voice="nobody")
    assert not batches


@pytest.mark.parametrize(
    ("name", "language"), [("v2/de_speaker_3", "de"), ("ja_speaker_0", "ja"), ("announcer", "en"), (None, "en")]
)
def test_a_presets_name_tells_its_language(name, language, voice):
    assert language_of(Voice(voice.semantic, voice.coarse, voice.fine, name)) == language


def test_importing_the_package_loads_no_framework():
    script = (
        "import sys, bark_jax; bark_jax.BarkError; dir(bark_jax); "
        "print([name for name in ('jax', 'flax', 'torch', 'transformers', 'tokenizers', 'soundfile', 'matplotlib') "
        "if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_generating_loads_no_torch():
    script = (
        "import sys, bark_jax; bark_jax.Bark; "
        "print([name for name in ('torch', 'transformers', 'matplotlib', 'IPython') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_public_name_can_be_imported():
    assert dir(bark_jax) == bark_jax.__all__
    for name in bark_jax.__all__:
        value = getattr(bark_jax, name)
        assert getattr(importlib.import_module(value.__module__), name) is value
    with pytest.raises(AttributeError, match="no attribute 'Dog'"):
        _ = bark_jax.Dog
