"""From recordings to a model that speaks, all by the command line, on a toy model."""

import json
import os
import re

import jax
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

pytest.importorskip("orbax.checkpoint")

from bark_jax.cli import main
from bark_jax.lora import load_lora
from bark_jax.model import BarkModel
from bark_jax.pipeline import Bark
from bark_jax.training.dataset import Dataset
from bark_jax.training.metrics import read_metrics

N_CLIPS, SECONDS = 10, 0.4
TRAINING = ("--steps", "2", "--batch-size", "2", "--eval-every", "1", "--eval-share", "0.2")


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Ten hums by two speakers."""
    folder = tmp_path_factory.mktemp("recordings")
    rng, lines = np.random.default_rng(0), []
    time_A = np.arange(round(SECONDS * 24_000)) / 24_000
    for n in range(N_CLIPS):
        soundfile.write(folder / f"{n}.wav", 0.3 * np.sin(2 * np.pi * (100 + 20 * n) * time_A), 24_000)
        semantic = rng.integers(0, 123, round(SECONDS * 50)).tolist()
        lines.append({"audio": f"{n}.wav", "text": f"hum {n}", "voice": "ab"[n % 2], "semantic": semantic})
    (folder / "hums.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder / "hums.jsonl"


@pytest.fixture(scope="module")
def data(manifest, toy_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "hums"
    result = run("prepare", manifest, folder, "-m", toy_folder, "--keep-audio", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == {"dataset": str(folder), "examples": N_CLIPS, "seconds": 4.0, "voices": ["a", "b"]}
    return folder


@pytest.fixture(scope="module")
def lora(data, toy_folder, tmp_path_factory):
    """A LoRA of two networks: its file, and what was told."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    networks = ("--network", "semantic", "--network", "coarse")
    result = run("train", data, folder, "-m", toy_folder, *networks, "--lora", "2", *TRAINING, "--json")
    assert result.exit_code == 0, result.output
    return folder / "lora.safetensors", json.loads(result.stdout)


def test_prepared_audio_is_that_of_the_recordings(data):
    dataset = Dataset.open(data)
    found = dataset.audio(1)
    assert dataset.has_audio and np.abs(found).max() == pytest.approx(0.3, abs=1e-3)


def test_check_tells_what_there_is_and_writes_nothing(manifest, toy_folder, tmp_path):
    result = run("prepare", manifest, tmp_path / "data", "-m", toy_folder, "--check")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{N_CLIPS} utterances, 4.0 s, voices: a, b" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_lora_is_a_file_that_say_takes(lora, toy_folder, tmp_path):
    file, told = lora
    assert told["output"] == str(file) and list(told["networks"]) == ["semantic", "coarse"]
    assert told["networks"]["coarse"]["steps"] == 2
    place = ("--seed", "1", "--max-seconds", "0.2", "-o", tmp_path / "hum.wav")
    result = run("say", "hum", "-m", toy_folder, "--lora", file, *place)
    assert result.exit_code == 0, result.output
    assert {path.parent.name for path in file.parent.glob("*/metrics.jsonl")} == {"semantic", "coarse_acoustics"}
    assert [record["step"] for record in read_metrics(file.parent / "semantic") if "loss" in record] == [1, 2]


def test_a_merged_lora_is_the_model_with_it(lora, toy_folder, tmp_path):
    result = run("merge", lora[0], tmp_path / "merged", "-m", toy_folder)
    assert result.exit_code == 0, result.output
    merged, apart = (BarkModel.from_pretrained(*model) for model in ((tmp_path / "merged",), (toy_folder,)))
    with_lora = BarkModel.from_pretrained(toy_folder, lora=lora[0])
    for model, is_equal in ((with_lora, True), (apart, False)):
        pairs = [
            np.array_equal(a.attention.qkv.kernel[...], b.attention.qkv.kernel[...])
            for a, b in zip(merged.semantic.blocks, model.semantic.blocks, strict=True)
        ]
        assert all(pairs) == is_equal
    assert Bark.from_pretrained(tmp_path / "merged").processor("hum").input_ids.any()


def test_the_same_command_again_goes_on_and_changes_nothing(data, lora, toy_folder):
    file, told = lora
    before = load_lora(file)
    networks = ("--network", "semantic", "--network", "coarse")
    result = run("train", data, file.parent, "-m", toy_folder, *networks, "--lora", "2", *TRAINING, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == told
    jax.tree.map(np.testing.assert_array_equal, load_lora(file), before)


def test_a_network_trained_whole_is_in_a_model_that_speaks(manifest, toy_folder, tmp_path):
    """From the manifest in one command."""
    result = run("train", manifest, tmp_path / "run", "-m", toy_folder, "--network", "fine", *TRAINING)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'run' / 'model'}\n"
    assert len(Dataset.open(tmp_path / "run" / "data")) == N_CLIPS
    trained, before = BarkModel.from_pretrained(tmp_path / "run" / "model"), BarkModel.from_pretrained(toy_folder)
    for name, is_equal in (("semantic", True), ("fine_acoustics", False)):
        kernels = [getattr(model, name).blocks[0].mlp.up.kernel[...] for model in (trained, before)]
        assert np.array_equal(*kernels) == is_equal
    place = ("--seed", "1", "--max-seconds", "0.2", "-o", tmp_path / "hum.wav")
    assert run("say", "hum", "-m", tmp_path / "run" / "model", *place).exit_code == 0


def test_the_codec_is_trained_on_audio(data, toy_folder, tmp_path):
    result = run("train", data, tmp_path / "run", "-m", toy_folder, "--network", "codec", "--steps", "1")
    assert result.exit_code == 0, result.output
    trained, before = BarkModel.from_pretrained(tmp_path / "run" / "model"), BarkModel.from_pretrained(toy_folder)
    kernels = [model.codec_model.encoder.layers[0].conv.kernel[...] for model in (trained, before)]
    assert np.array_equal(*kernels), "the decoder alone, as the codes have to stay what they are"


def make(folder, what):
    """Something at folder / "x" that is not what it is taken for."""
    place = folder / "x"
    if what == "binary":
        place.write_bytes(os.urandom(2000))
    elif what == "empty":
        place.write_bytes(b"")
    elif what == "letters":
        place.mkdir()
        (place / "letter.txt").write_text("dear")
    elif what == "no audio":
        place.write_text('{"audio": "nowhere.wav", "text": "hum", "semantic": [1]}\n{"text": ""}\n')
    return place


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (None, "does not exist"),
        ("letters", "is no file"),
        ("empty", "is empty"),
        ("binary", "line 1: it is not"),
        ("no audio", r"line 1: .*nowhere.wav' does not exist.*line 2: audio is missing"),
    ],
)
def test_a_manifest_that_is_none_is_told_with_its_lines(what, message, toy_folder, tmp_path):
    place = make(tmp_path, what)
    for options in ([], ["--check"]):
        result = run("prepare", place, tmp_path / "data", "-m", toy_folder, *options)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output
        assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--steps", "0"], 2, "n_steps is 0"),
        (["--steps", "many"], 2, "not a valid integer"),
        ([], 2, "Missing option '--steps'"),
        (["--steps", "2", "--network", "voice"], 2, "'voice' is not one of"),
        (["--steps", "2", "--network", "codec", "--network", "fine"], 2, "trained by itself"),
        (["--steps", "2", "--network", "codec", "--lora", "2"], 2, "trained whole"),
        (["--steps", "2", "--network", "codec", "--dtype", "bfloat16"], 2, "--dtype has no effect"),
        (["--steps", "2", "--codec-parts", "all"], 2, "for --network codec"),
        (["--steps", "2", "--lora", "0"], 2, "--lora is 0"),
        (["--steps", "2", "--lora-alpha", "3"], 2, "--lora-alpha is for --lora"),
        (["--steps", "2", "--lora", "2", "--lora-alpha", "nan"], 2, "alpha nan"),
        (["--steps", "2", "--batch-size", "0"], 2, "batch_size is 0"),
        (["--steps", "2", "--batch-size", "100"], 2, "batch size is 100"),
        (["--steps", "2", "--learning-rate", "-1"], 2, "learning_rate is -1"),
        (["--steps", "2", "--history-share", "2"], 2, "history_share is 2"),
        (["--steps", "2", "--eval-share", "1"], 2, "eval_share is 1"),
        (["--steps", "2", "--seed", "-1"], 2, "seed"),
        (["--steps", "2", "--devices", "99"], 2, "--devices is '99'"),
        (["--steps", "2", "-m", "nowhere/at-all"], 3, "nowhere/at-all"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    options, code, message, data, toy_folder, tmp_path
):
    result = run("train", data, tmp_path / "run", "-m", toy_folder, *options)
    assert result.exit_code == code and message in result.stderr, result.output
    assert not (tmp_path / "run").exists()


def test_data_and_runs_of_something_else_are_refused(data, toy_folder, tmp_path):
    result = run("train", tmp_path / "nowhere", tmp_path / "run", "-m", toy_folder, *TRAINING)
    assert result.exit_code == 2 and "does not exist" in result.stderr
    result = run("train", make(tmp_path, "letters"), tmp_path / "run", "-m", toy_folder, *TRAINING)
    assert result.exit_code == 2 and "is no dataset" in result.stderr
    (tmp_path / "run" / "fine_acoustics").mkdir(parents=True)
    (tmp_path / "run" / "fine_acoustics" / "letter.txt").write_text("dear")
    result = run("train", data, tmp_path / "run", "-m", toy_folder, "--network", "fine", *TRAINING)
    assert result.exit_code == 2 and "holds no run" in result.stderr
    result = run("merge", tmp_path / "nowhere", tmp_path / "merged", "-m", toy_folder)
    assert result.exit_code == 3 and not (tmp_path / "merged").exists()
