"""Stages called one at a time: results equal those inside `generate`, in batches and on several devices."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from compilations import xla_flags

from bark_jax import Bark
from bark_jax.audio.clip import Recording
from bark_jax.errors import InputError, UnsupportedError, VoiceNotFoundError

ASK = dict(max_new_tokens=12, allow_early_stop=False)
TEXTS = ["One.", "Two, three.", "Four."]


@pytest.fixture(scope="module")
def bark(toy_folder):
    return Bark.from_pretrained(toy_folder)


@pytest.fixture(scope="module")
def clips(bark, toy_voice):
    return bark.generate(TEXTS, voice=[None, toy_voice, None], seed=[1, 2, 3], max_rows=1, **ASK)


def test_stages_one_by_one_are_generate(bark, toy_voice, clips):
    voices = [None, toy_voice, None]
    tokens = bark.text_to_semantic(TEXTS, voice=voices, seed=[1, 2, 3], max_rows=1, **ASK)
    codes = bark.semantic_to_codes(tokens, voice=voices, seed=[1, 2, 3], max_rows=1)
    audio = bark.codes_to_audio(codes, max_rows=1)
    straight = bark.semantic_to_audio(tokens, voice=voices, seed=[1, 2, 3], max_rows=1)
    for clip, tokens_S, codes_QT, recording, same in zip(clips, tokens, codes, audio, straight, strict=True):
        np.testing.assert_array_equal(clip.semantic, tokens_S)
        np.testing.assert_array_equal(clip.fine, codes_QT)
        assert isinstance(recording, Recording) and recording == same == Recording(clip.samples, clip.sample_rate)


def test_one_row_comes_back_as_one_and_in_batches_of_one_as_alone(bark, clips):
    alone = bark.text_to_semantic(TEXTS[0], seed=1, max_rows=1, **ASK)
    assert alone.ndim == 1 and alone.dtype == np.int32
    many = bark.text_to_semantic(TEXTS, seed=[1, 2, 3], max_rows=1, **ASK)
    np.testing.assert_array_equal(alone, many[0])
    for one in (clips[0].semantic, clips[0].semantic.tolist()):
        codes = bark.semantic_to_codes(one, seed=1)
        assert codes.shape == clips[0].fine.shape
        assert bark.codes_to_audio(codes.tolist()) == bark.codes_to_audio([codes])[0]


def test_tokens_may_be_changed_between(bark, clips):
    tokens = clips[0].semantic
    assert bark.semantic_to_codes(tokens[:6], seed=1).shape[1] < clips[0].fine.shape[1]
    assert bark.semantic_to_codes([tokens[:0]], seed=1)[0].shape == (bark.model.spaces.n_fine, 0)


def test_devices_have_what_one_has(bark, clips):
    tokens = [clip.semantic for clip in clips]
    one = bark.semantic_to_codes(tokens, seed=[1, 2, 3], max_rows=1)
    spread = bark.semantic_to_codes(tokens, seed=[1, 2, 3], max_rows=1, devices=jax.devices())
    for ours, theirs in zip(spread, one, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_threads_have_the_callers_precision(bark, clips, monkeypatch):
    from bark_jax.generation import stage_by_stage

    found = []
    monkeypatch.setattr(
        stage_by_stage, "run_semantic", lambda *_: [(found.append(jax.config.jax_default_matmul_precision), None)]
    )
    for precision in ("bfloat16", "high"):
        with jax.default_matmul_precision(precision):
            bark.text_to_semantic("One.", seed=1, devices=jax.devices())
    assert found == ["bfloat16", "high"]


def test_a_voice_for_all_rows_is_read_once(bark, clips, toy_voice, tmp_path, monkeypatch):
    from bark_jax import bark as pipeline

    toy_voice.save(tmp_path / "voice.npz")
    read, resolve = [], pipeline.resolve_voice
    monkeypatch.setattr(
        pipeline, "resolve_voice", lambda voice, **others: read.append(voice) or resolve(voice, **others)
    )
    tokens = [clip.semantic for clip in clips]
    bark.semantic_to_codes(tokens, voice=str(tmp_path / "voice.npz"), seed=1, max_rows=1)
    assert len(read) == 1


TWO = """
import sys
import jax, numpy as np
from bark_jax import Bark

bark = Bark.from_pretrained(sys.argv[1])
texts, seeds = ["one two"] * 8, list(range(8))  # batches of two rows on each device, however many there are
found = []
for devices in (None, jax.devices()):
    options = dict(seed=seeds, max_rows=2, devices=devices)
    tokens = bark.text_to_semantic(texts, max_new_tokens=12, **options)
    codes = bark.semantic_to_codes(tokens, **options)
    audio = bark.codes_to_audio(codes, max_rows=2, devices=devices)
    found.append([*tokens, *codes, *(each.samples for each in audio)])
assert all(map(np.array_equal, *found)) and len(found[0]) == 24
print("done")
"""


@pytest.mark.slow
def test_two_devices_have_what_one_has(toy_folder):
    environment = os.environ | {"XLA_FLAGS": xla_flags(2)}
    command = [sys.executable, "-c", TWO, str(toy_folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda bark: bark.text_to_semantic("a", coarse_temperature=1.0), "no setting coarse_temperature"),
        (lambda bark: bark.text_to_semantic([]), "empty list"),
        (
            lambda bark: bark.text_to_semantic("a", devices=[3]),
            r"devices is \[3\], expected 'all' or a list of devices",
        ),
        (lambda bark: bark.text_to_semantic("a", max_rows=0), "max_rows is 0"),
        (lambda bark: bark.semantic_to_codes([1, 2], semantic_top_k=3), "no setting semantic_top_k"),
        (lambda bark: bark.semantic_to_codes([]), "tokens is"),
        (lambda bark: bark.semantic_to_codes("abc"), "expected semantic tokens"),
        (lambda bark: bark.semantic_to_codes(None), "expected semantic tokens"),
        (lambda bark: bark.semantic_to_codes([0.5, 1]), "dtype float64"),
        (lambda bark: bark.semantic_to_codes([-1]), "holds -1, expected 0 to"),
        (lambda bark: bark.semantic_to_codes([10**6]), "holds 1000000, expected 0 to"),
        (lambda bark: bark.semantic_to_codes(np.zeros((2, 3, 4), int)), "expected semantic tokens"),
        (lambda bark: bark.semantic_to_codes([1] * 100_000), "100000 tokens, expected at most"),
        (lambda bark: bark.semantic_to_codes([1, 2], voice=[None, None]), "voice has 2 voices for 1 rows"),
        (lambda bark: jax.jit(bark.semantic_to_codes)(np.arange(3)), "expected semantic tokens .*traced"),
        (lambda bark: bark.codes_to_audio([1, 2]), "expected codes"),
        (lambda bark: bark.codes_to_audio(np.zeros((3, 5), int)), "codes"),
        (lambda bark: bark.codes_to_audio([[0, 1], [0]]), "expected codes"),
    ],
)
def test_what_makes_no_sense_is_refused(bark, call, message):
    with pytest.raises(InputError, match=message):
        call(bark)


def test_a_voice_that_is_not_there_is_named(bark):
    with pytest.raises(VoiceNotFoundError, match="nobody"):
        bark.semantic_to_codes([1, 2], voice="nobody")


def test_an_offloaded_model_runs_on_its_one_device(toy_folder, clips):
    bark = Bark.from_pretrained(toy_folder)
    bark.model.enable_cpu_offload()
    tokens = [clip.semantic for clip in clips]
    assert len(bark.semantic_to_codes(tokens, seed=[1, 2, 3], max_rows=1)) == 3
    with pytest.raises(UnsupportedError, match="offloaded to one device"):
        bark.semantic_to_codes(tokens, devices=jax.devices())
