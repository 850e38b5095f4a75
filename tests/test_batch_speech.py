"""Audio of a batch's rows equals that of `generate` and `generate_long`."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
from batch_engine import PlainEngine
from batch_stub import MADE_WITH, StubSpeaker

from bark_jax.bark import Bark
from bark_jax.batch.job import Job
from bark_jax.batch.rows import TextRow
from bark_jax.batch.runner import run_batch
from bark_jax.batch.speech import Speaker
from bark_jax.errors import BarkError, InputError, VoiceNotFoundError
from bark_jax.text.processor import BarkProcessor
from bark_jax.voices.voice import Voice

SHORT = {"max_seconds": 0.2}
LONG = "One two three. Four five six! Seven eight nine? Ten eleven."


@pytest.fixture(scope="module")
def bark(toy_model, toy_folder):
    return Bark(toy_model, BarkProcessor.from_pretrained(toy_folder))


@pytest.fixture(scope="module")
def voice_file(bark, tmp_path_factory):
    path = tmp_path_factory.mktemp("voice") / "found.npz"
    bark.generate("Hello.", seed=5, max_seconds=0.4).as_voice().save(path)
    return str(path)


def speak(bark, rows, engine=None, **options):
    engine = engine or PlainEngine(bark.model)
    spoken = {}
    options = {"settings": SHORT, "max_tokens": 20} | options
    Speaker(bark, engine, **options).speak(iter(rows), lambda each: spoken.update({each.row.id: each}))
    return spoken


def row(name, text, **fields):
    return TextRow(1, name, text, **{"seed": 7, **fields})


def same(spoken, clip):
    assert spoken.error is None and np.array_equal(spoken.samples, clip.samples) and spoken.sample_rate == 24_000


def test_a_sentence_is_what_generate_makes_of_it(bark, voice_file):
    rows = [
        row("plain", "One two  three."),
        row("voice", "One two three.", voice=voice_file, seed=8),
        row("settings", "One two three.", settings={"temperature": 0.3, "semantic_top_k": 3}),
    ]
    spoken = speak(bark, rows)
    same(spoken["plain"], bark.generate("One two  three.", seed=7, **SHORT))
    same(spoken["voice"], bark.generate("One two three.", voice=voice_file, seed=8, **SHORT))
    same(spoken["settings"], bark.generate("One two three.", seed=7, temperature=0.3, semantic_top_k=3, **SHORT))


@pytest.mark.slow
def test_several_sentences_are_what_generate_long_makes_of_them(bark, voice_file):
    rows = [row("long", LONG, voice=voice_file), row("other", "One.", seed=1), row("longer", LONG * 2, seed=2)]
    engine = PlainEngine(bark.model)
    spoken = speak(bark, rows, engine, silence_s=0.1)
    options = dict(silence_s=0.1, max_tokens=20, max_rows=1, **SHORT)
    same(spoken["long"], bark.generate_long(LONG, voice=voice_file, seed=7, **options))
    # Without a voice, the first sentence becomes the voice of the others.
    same(spoken["longer"], bark.generate_long(LONG * 2, seed=2, **options))
    same(spoken["other"], bark.generate("One.", seed=1, **SHORT))
    assert engine.n_runs <= 2


@pytest.mark.slow
def test_a_model_of_one_sentence_a_prompt_speaks_them_one_by_one(bark):
    few = Bark(bark.model, BarkProcessor(bark.processor.tokenizer, spaces=bark.model.spaces, max_sentences=1))
    rows = [row("two", "Hello. Yes."), row("one", "Hello  you.")]
    spoken = speak(few, rows, max_tokens=None)
    same(spoken["two"], few.generate_long("Hello. Yes.", seed=7, **SHORT))
    same(spoken["one"], bark.generate("Hello  you.", seed=7, **SHORT))
    assert len(few.generate_long("Hello. Yes.", seed=7, **SHORT).sentences) == 2
    assert len(bark.generate_long("Hello. Yes.", seed=7, **SHORT).sentences) == 1


@pytest.mark.slow
def test_the_slots_of_the_engine_give_the_same(bark, voice_file):
    from bark_jax.generation.engine import Engine

    rows = [row("long", LONG, voice=voice_file), row("found", LONG * 2, seed=2)]
    rows += [row(f"short-{n}", "One two."[: n + 3], seed=n, settings={"max_seconds": 0.05 * n + 0.1}) for n in range(6)]
    spoken, plain = speak(bark, rows, Engine(bark.model, n_slots=4)), speak(bark, rows)
    assert set(spoken) == set(plain) == {each.id for each in rows}
    for name, expected in plain.items():
        assert spoken[name].error is None and len(spoken[name].samples) == len(expected.samples)
        assert np.abs(spoken[name].samples - expected.samples).max() < 1e-4


def test_a_voice_of_the_run_is_that_of_rows_without_one(bark, voice_file):
    spoken = speak(bark, [row("a", "One two three.")], voice=voice_file)
    same(spoken["a"], bark.generate("One two three.", voice=voice_file, seed=7, **SHORT))


def test_an_empty_first_sentence_is_no_voice(bark, monkeypatch):
    """The next sentence speaks alone then, and is the voice of those after it."""
    asked, generate_rows = [], type(bark.model).generate_rows

    def first_is_empty(self, rows, *rest):
        (utterance,) = generate_rows(self, rows, *rest)
        asked.append(rows[0].voice)
        if len(asked) == 1:
            empty = {"semantic": 0, "coarse": 1, "fine": 1, "samples": 0}
            cut = {name: np.take(getattr(utterance, name), [], axis=axis) for name, axis in empty.items()}
            return [type(utterance)(**(vars(utterance) | cut))]
        return [utterance]

    monkeypatch.setattr(type(bark.model), "generate_rows", first_is_empty)
    spoken = speak(bark, [row("a", LONG)])["a"]
    assert asked[:2] == [None, None] and all(isinstance(each, Voice) for each in asked[2:]) and len(asked) > 3
    assert spoken.warnings == ("the sentence 'One two three.' has no audio",)
    asked.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(spoken, bark.generate_long(LONG, seed=7, max_tokens=20, max_rows=1, **SHORT))


POISON = {
    "empty": row("empty", ""),
    "white": row("white", " \n"),
    "huge": row("huge", "a" * 10_000_000),
    "control": row("control", "a\x00b"),
    "surrogate": row("surrogate", "\ud800"),
    "unread": TextRow(1, "unread", error="the line is not JSON"),
    "voice": row("voice", "Hi.", voice="nobody"),
    "file": row("file", "Hi.", voice="missing.npz"),
    "address": row("address", "Hi.", voice="http://x/y.npz"),
    "setting": row("setting", "Hi.", settings={"temperature": -1}),
    "type": row("type", "Hi.", settings={"top_k": "many"}),
    "list": row("list", "Hi.", settings={"temperature": [0.5, 0.6]}),
    "window": row("window", "Hi.", settings={"sliding_window_len": 20}),
    "unknown": row("unknown", "Hi.", settings={"num_beams": 2}),
}


def test_a_poisoned_row_is_an_error_and_the_others_are_spoken(bark):
    good = [row(f"good-{number}", "One two.", seed=number) for number in range(3)]
    rows = [each for pair in itertools.zip_longest(POISON.values(), good) for each in pair if each is not None]
    spoken = speak(bark, rows)
    assert set(spoken) == {*POISON, "good-0", "good-1", "good-2"}
    for name in POISON:
        assert spoken[name].error and len(spoken[name].error) < 700 and spoken[name].samples is None
    same(spoken["good-1"], bark.generate("One two.", seed=1, **SHORT))


def test_an_error_of_one_sentence_is_its_rows(bark):
    def fails_on(asked):
        n_tokens = np.count_nonzero(asked.text != asked.text[-1])  # of which the last is padding
        return BarkError("the semantic stage computed values that are not finite") if n_tokens == 14 else None

    spoken = speak(bark, [row("a", LONG), row("b", "One.")], PlainEngine(bark.model, fails_on=fails_on))
    assert "not finite" in spoken["a"].error and spoken["b"].error is None


def test_a_row_without_any_audio_is_an_error(bark, monkeypatch):
    monkeypatch.setattr(Speaker, "close", _close_empty(Speaker.close))
    assert "seed 7" in speak(bark, [row("a", "One.")])["a"].error


def _close_empty(close):
    def close_empty(self, text):
        text.samples = [samples[:0] for samples in text.samples]
        return close(self, text)

    return close_empty


def test_rows_are_taken_as_there_is_room(bark):
    taken = []

    def rows():
        for number in range(12):
            taken.append(number)
            yield row(f"row-{number}", "One.", settings={"max_seconds": 0.05})

    ahead = []
    engine = PlainEngine(bark.model, n_slots=3)
    Speaker(bark, engine).speak(rows(), lambda spoken: ahead.append(len(taken) - len(ahead)))
    assert len(ahead) == 12 and max(ahead) <= 4


def test_warnings_come_with_the_row(bark, monkeypatch):
    monkeypatch.setattr(bark.processor, "words", frozenset({"one"}))
    spoken = speak(bark, [row("a", "One grault.")])["a"]
    assert spoken.error is None and len(spoken.warnings) == 1 and "grault" in spoken.warnings[0]


def test_a_job_refuses_what_would_make_every_row_an_error(toy_folder):
    assert Job(str(toy_folder)).made_with()["model"]["name"] == str(toy_folder)
    with pytest.raises(VoiceNotFoundError):
        Job(str(toy_folder), voice="nobody").made_with()
    with pytest.raises(InputError, match="temperature"):
        Job(str(toy_folder), settings={"temperature": -1}).made_with()
    with pytest.raises(InputError, match="max_tokens"):
        Job(str(toy_folder), max_tokens=1000).made_with()
    with pytest.raises(InputError, match="silence_s"):
        Job(str(toy_folder), silence_s=-1)


def test_paths_are_taken_as_text_is(toy_folder, voice_file, tmp_path):
    assert Job(Path(toy_folder), voice=Path(voice_file)) == Job(str(toy_folder), voice=str(voice_file))
    rows = tmp_path / "rows.txt"
    rows.write_text("One.\nTwo.\n")
    options = {"model": "stub", "made_with": lambda: MADE_WITH}
    for source in (rows, str(rows)):
        assert run_batch(source, tmp_path / "out", lambda _: StubSpeaker(), **options).rows == 2
    for source in (5, b"rows.txt", None):
        with pytest.raises(InputError, match=r"source is .*, expected a path"):
            run_batch(source, tmp_path / "out", lambda _: StubSpeaker(), **options)


def test_a_job_is_made_with_the_contents_of_its_files(toy_folder, voice_file):
    first = Job(str(toy_folder), voice=voice_file).made_with()
    assert first["voice"]["name"] == voice_file and len(first["voice"]["sha256"]) == 64
    assert first["model"] == Job(str(toy_folder)).made_with()["model"]
