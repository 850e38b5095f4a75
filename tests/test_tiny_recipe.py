"""The recipe of the built-in voice: texts, semantic tokens, recogniser, and a complete run at smoke size."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip("pocketsphinx")
pytest.importorskip("orbax.checkpoint")

from click.testing import CliRunner

from bark_jax.bark import Bark
from bark_jax.config import BarkGenerationConfig
from bark_jax.errors import InputError, ModelNotFoundError, UnsupportedError
from bark_jax.training.loop import RunSettings, TrainingStopped, read_settings
from bark_jax.training.recipes.tiny_voice import choose, measure, open_texts, pace, speech, texts
from bark_jax.training.recipes.tiny_voice.__main__ import main
from bark_jax.training.recipes.tiny_voice.amounts import SMOKE
from bark_jax.training.recipes.tiny_voice.corpus import Share
from bark_jax.training.recipes.tiny_voice.listen import edit_distance, listen, word_error
from bark_jax.training.recipes.tiny_voice.model import CHARACTERS, GRAMMAR, OPEN
from bark_jax.training.recipes.tiny_voice.train import make_processor, random_model, train
from bark_jax.training.stage_training import fingerprint


@pytest.mark.parametrize("kind", measure.KINDS)
def test_what_is_listened_to_is_never_trained_on(kind):
    learnt = texts.draw(kind, 400, seed=3)
    heard = texts.draw(kind, 60, seed=3, held_out=True)
    assert len(set(learnt)) == 400 and len(set(heard)) == 60 and not set(learnt) & set(heard)
    assert learnt == texts.draw(kind, 400, seed=3) != texts.draw(kind, 400, seed=4)
    assert learnt[:100] == texts.draw(kind, 100, seed=3), "more of it changes what comes first"


def test_the_grammar_says_only_words_of_its_vocabulary_in_signs_that_the_model_reads():
    said = [*texts.draw("digits", 200, seed=0), *texts.draw("sentences", 2000, seed=0)]
    found = {word for text in said for word in texts.words(text)}
    assert found == set(texts.vocabulary())
    assert set("".join(said)) <= set(CHARACTERS) and max(map(len, said)) <= GRAMMAR.n_text


def test_a_grammar_that_is_exhausted_says_so():
    with pytest.raises(InputError, match="100000 different sentences"):
        texts.draw("sentences", 100_000, seed=0)


@pytest.mark.parametrize(
    ("ends", "tokens"),
    [
        (["pau:0.06"], [0, 1, 2, 2]),  # one token a state, and one more for an even number
        (["p:0.04", "iy:0.12"], [3, 4, 6, 6, 7, 8]),
        (["p:0.001", "iy:0.04"], [6, 7]),  # a phone too short for a token
        (["brth:0.04"], [0, 1]),  # what is not in the list is silence
    ],
)
def test_a_phone_becomes_three_states(ends, tokens):
    found = speech.phone_states(ends)
    assert found.dtype == np.int32 and found.tolist() == tokens


def test_the_errors_of_a_hearing_are_counted_in_words():
    assert edit_distance(list("abc"), list("axc")) == 1
    assert edit_distance(list("abc"), list("bcde")) == 3
    assert edit_distance([], list("ab")) == edit_distance(list("ab"), []) == 2
    assert word_error(["One two.", "three"], ["one two", "free tree"]) == 2 / 3


def test_a_listener_makes_no_sense_of_silence_and_noise():
    said = ["four nine", "one two three"]
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    silent = listen("sentences", said, [np.zeros(24_000, np.float32)] * 2, 24_000)
    assert silent.word_error == silent.other_text == 1
    assert listen("digits", said, [noise] * 2, 24_000).word_error >= 0.6


def test_noise_is_as_long_and_as_loud_as_speech():
    samples = np.random.default_rng(5).normal(0, 0.03, 9000).astype(np.float32)
    noise = measure.noise_like(samples)
    assert noise.shape == samples.shape and noise.dtype == np.float32
    assert noise.std() == pytest.approx(0.03, rel=0.1) and abs(np.corrcoef(samples, noise)[0, 1]) < 0.05
    assert measure.noise_like(np.zeros(0, np.float32)).size == 0


def test_the_model_has_room_for_every_text_and_reads_figures_as_words():
    processor = make_processor(GRAMMAR)
    assert (processor.spaces.n_text, processor.spaces.max_semantic) == (GRAMMAR.n_text, GRAMMAR.max_semantic)
    read = processor(["OFFICE 7", "office seven"])["input_ids"]
    np.testing.assert_array_equal(*read)


@pytest.fixture(scope="module")
def words():
    return open_texts.frequent_words()


def test_open_texts_hold_only_words_that_the_recogniser_knows_and_signs_that_the_model_reads(words):
    assert len(words) == len(set(words)) == 9_000 and words[:3] == ("the", "to", "i")
    strings = open_texts.draw_strings(words, 300, seed=0)
    assert len(set(strings)) == 300 and strings[:20] == open_texts.draw_strings(words, 20, seed=0)
    said = {word for text in (*strings, *open_texts.english()) for word in texts.words(text)}
    assert said <= set(words) and len(said) > 800
    assert set("".join((*strings, *open_texts.english()))) <= set(CHARACTERS)


def test_a_share_fits_the_prompt_and_holds_nothing_that_is_measured(words):
    share = Share("slt", 30, 60, 60, 40)
    drawn = share.draw(words, seed=1)
    assert len(set(drawn)) == 190 and max(map(len, drawn)) <= OPEN.n_text
    pairs = drawn[-40:]
    assert all(make_processor(OPEN).is_within_sentence_limit(pair) for pair in pairs)
    for kind in OPEN.kinds:
        measured = set(open_texts.draw_held_out(kind, 60, seed=measure.TEXTS_SEED))
        assert len(measured) == 60 and not measured & set(drawn) and max(map(len, measured)) <= OPEN.n_text
    held_out = open_texts.draw_held_out("pairs", 60, seed=measure.TEXTS_SEED)
    parts = {part.strip(" .?!") for pair in held_out for part in re.split(r"(?<=[.?!]) ", pair)}
    assert not parts & {text.strip(" .?!") for text in drawn}


def test_too_few_texts_to_draw_from_are_an_error():
    with pytest.raises(InputError, match=r"101 different sentences were asked for, english\.txt has 100"):
        open_texts.draw_english(101, seed=0)
    with pytest.raises(InputError, match="9 pairs were asked for, and only 3 texts"):
        open_texts.draw_pairs(["one", "two", "three", "x" * 61], 9, seed=0)


def test_the_open_model_is_stored_in_12_megabytes():
    networks = jax.eval_shape(lambda: random_model(OPEN, 0))
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(networks))
    assert 2 * n_parameters < 11.8e6, "float16; the voices and configs take some 0.1 MB"


def test_a_run_has_as_many_steps_as_its_seconds_allow(tmp_path, monkeypatch):
    now = iter(range(10_000))  # 16 steps a second: each block of 16 takes one tick
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(now))
    probed = []

    def probe(folder, run, stop):
        probed.append(run)
        while not stop():
            pass
        raise TrainingStopped("stopped")

    run = RunSettings(n_steps=5000, eval_every=2000, save_every=100)
    assert pace.fit_run(tmp_path, "semantic", run, None, probe) == run and not probed
    fitted = pace.fit_run(tmp_path, "semantic", run, 100, probe)
    assert fitted == RunSettings(n_steps=1600, eval_every=1600, save_every=100)
    assert probed == [RunSettings(n_steps=5000, eval_every=5000, save_every=5000)]
    assert pace.fit_run(tmp_path, "semantic", run, 100, probe) == fitted and len(probed) == 1, (
        "a resumed run has the same"
    )
    assert pace.fit_run(tmp_path, "coarse", run, 1e9, probe) == run, "never more than it asks for"
    assert pace.fit_run(tmp_path, "fine", run, 1, probe).n_steps == pace.LEAST_STEPS


def test_the_clock_stops_what_would_end_too_late(monkeypatch):
    clock = pace.Clock(1)
    clock.begin_part("the corpus")  # the first of a run begins in any case, or no run would get further
    with pytest.raises(TrainingStopped, match="before the codes, which can take 150 s; the same command resumes"):
        clock.begin_part("the codes")
    assert not clock.is_over() and not pace.Clock(None).is_over() and pace.Clock(1e-9).is_over()
    pace.Clock(None).begin_part("the codes")


@pytest.mark.parametrize("kind", measure.KINDS)
def test_settings_are_chosen_by_texts_that_are_neither_learnt_nor_measured(kind):
    chosen = choose.choosing_texts(kind, 24)
    assert len(set(chosen)) == 24 and all(map(texts.is_held_out, chosen))
    assert not set(chosen) & set(texts.draw(kind, 60, seed=measure.TEXTS_SEED, held_out=True))


def test_the_best_settings_of_the_grid_are_written_into_the_model(built_in, tmp_path, monkeypatch):
    """Greedy tokens are listened to, and never chosen."""
    wanted = {"semantic_temperature": 0.3, "coarse_temperature": 0.1, "fine_temperature": 0.1}

    def word_errors_with(bark, settings, n_texts, *, seed):
        off = sum(abs(settings.get(name, 0.5) - value) for name, value in wanted.items())
        error = 0.0 if settings == choose.GREEDY else 0.1 + off
        return choose.Choice(settings, {"digits": error, "sentences": error})

    monkeypatch.setattr(choose, "word_errors_with", word_errors_with)
    folder = shutil.copytree(built_in, tmp_path / "model")
    lines = choose.choose_for(str(folder), n_texts=2).splitlines()
    assert len(lines) == 2 + 1 + 9 + 2 + 4 and lines[2].startswith("| greedy | greedy | greedy | 0.0 |")
    config, before = (BarkGenerationConfig.from_pretrained(each) for each in (folder, built_in))
    found = [
        config[part].temperature for part in ("semantic_config", "coarse_acoustics_config", "fine_acoustics_config")
    ]
    assert found == list(wanted.values())
    assert dataclasses.replace(config.semantic_config, temperature=before.semantic_config.temperature) == (
        before.semantic_config
    )
    assert config.sentences_per_prompt == before.sentences_per_prompt == 1


def test_settings_are_written_into_no_model_that_is_given_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        choose.choose_for("tiny", n_texts=1)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("flite") or shutil.which("apt-get")), reason="flite cannot be had here")
def test_the_recipe_goes_all_the_way_from_nothing_and_on_from_there(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "N_BLOCKS", 1)  # blocks of steps that are timed
    monkeypatch.setattr(pace, "FETCH_EVERY", 4)  # steps of a block
    options = ["--amount", "smoke", "--texts", "1", "--seeds", "1", "--no-choose"]
    stopped = CliRunner().invoke(main, [str(tmp_path / "first"), *options, "--minutes", "0.001"])
    assert stopped.exit_code == 75 and "stopped after step 1 of 3" in stopped.output, stopped.output
    result = CliRunner().invoke(main, [str(tmp_path / "first"), *options])
    assert result.exit_code == 0, result.output
    kinds = "|".join(OPEN.kinds)
    assert len(re.findall(rf"^\| 1 (?:{kinds}) \| (?:none|slt|rms) ", result.output, re.MULTILINE)) == 12
    report = json.loads((tmp_path / "first" / "report.json").read_text())
    assert report["amount"] == "smoke" and len(report["measures"]) == 12 and report["model_bytes"] < 12e6
    bark = Bark.from_pretrained(str(tmp_path / "first" / "model"))
    assert bark.voices() == ["slt", "rms"]
    runs = {path.parent.name for path in (tmp_path / "first").glob("*/metrics.jsonl")}
    assert runs == {"codec_model", "semantic", "coarse_acoustics", "fine_acoustics"} == set(report["steps"])
    assert json.loads((tmp_path / "first" / "steps.json").read_text()) == {"semantic": 20}

    metrics = {path: path.read_bytes() for path in (tmp_path / "first").glob("*/metrics.jsonl")}
    train(tmp_path / "first", SMOKE, seed=1)
    assert metrics == {path: path.read_bytes() for path in metrics}, "nothing is trained twice"
    # On from the model, in a folder that has its corpus. One transformer shows it, and most of the time is compilation.
    shutil.copytree(tmp_path / "first" / "speech", tmp_path / "second" / "speech")
    monkeypatch.setattr("bark_jax.training.recipes.tiny_voice.train.STAGES", ("fine_acoustics",))
    train(tmp_path / "second", SMOKE, seed=1, start=tmp_path / "first" / "model")
    started = read_settings(tmp_path / "second" / "fine_acoustics")["start"]
    assert started == fingerprint(bark.model.fine_acoustics)
    assert (tmp_path / "second" / "codec_model" / "metrics.jsonl").is_file()


def test_a_missing_flite_is_an_error_that_says_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="install flite"):
        speech.Flite(tmp_path)
