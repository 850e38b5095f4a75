"""`bark-jax prepare` and `train`: from recordings to a model that speaks, with a toy model."""

import json
import re
import sys
from dataclasses import asdict, fields

import jax
import jitted
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

pytest.importorskip("orbax.checkpoint")

from bark_jax.bark import Bark
from bark_jax.checkpoints.load import save_networks
from bark_jax.checkpoints.lora import load_lora, merge, save_lora
from bark_jax.checkpoints.model_folder import NETWORKS
from bark_jax.cli import main, train
from bark_jax.model import BarkModel
from bark_jax.training.codec_training import OPTIMIZER as CODEC_OPTIMIZER
from bark_jax.training.codec_training import CodecSettings
from bark_jax.training.dataset import Dataset
from bark_jax.training.loop import RunSettings
from bark_jax.training.metrics import MetricsLog, read_metrics
from bark_jax.training.optimizer import OptimizerSettings
from bark_jax.training.stage_training import StageSettings, fingerprint, with_networks

N_CLIPS, SECONDS = 10, 0.4
TRAINING = ("--steps", "2", "--batch-size", "2", "--eval-every", "1", "--eval-share", "0.2")
# Two networks, with changes large enough to be seen.
LORA = ("--network", "semantic", "--network", "coarse", "--lora", "2", "--learning-rate", "0.1", "--remat", *TRAINING)


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
    report = json.loads(result.stdout)
    assert report == {"dataset": str(folder), "examples": N_CLIPS, "seconds": 4.0, "voices": ["a", "b"]}
    return folder


@pytest.fixture(scope="module")
def lora(data, toy_folder, tmp_path_factory):
    """A LoRA of two networks: its file, and the JSON report of `train`."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    result = run("train", data, folder, "-m", toy_folder, *LORA, "--json")
    assert result.exit_code == 0, result.output
    return folder / "lora.safetensors", json.loads(result.stdout)


@pytest.fixture(scope="module")
def all_loras(data, toy_folder, tmp_path_factory):
    """The file with changes of all three transformers, trained by two commands; large enough to be seen."""
    folder = tmp_path_factory.mktemp("runs") / "all"
    for networks in (("semantic",), ("coarse", "fine")):
        options = [option for name in networks for option in ("--network", name)]
        options += ["--lora", "2", "--learning-rate", "0.1"]
        result = run("train", data, folder, "-m", toy_folder, *options, *TRAINING)
        assert result.exit_code == 0, result.output
    return folder / "lora.safetensors"


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # `bark-jax convert` sets it, and it is undone here


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
    file, report = lora
    assert report["output"] == str(file) and list(report["networks"]) == ["semantic", "coarse"]
    assert report["networks"]["coarse"]["steps"] == 2
    options = ("--seed", "1", "--max-seconds", "0.2", "-o", tmp_path / "hum.wav")
    result = run("say", "hum", "-m", toy_folder, "--lora", file, *options)
    assert result.exit_code == 0, result.output
    assert {path.parent.name for path in file.parent.glob("*/metrics.jsonl")} == {"semantic", "coarse_acoustics"}
    assert [record["step"] for record in read_metrics(file.parent / "semantic") if "loss" in record] == [1, 2]


def test_a_converted_lora_is_the_model_with_it(lora, toy_folder, tmp_path, on_cpu):
    result = run("convert", toy_folder, tmp_path / "merged", "--lora", lora[0])
    assert result.exit_code == 0, result.output
    merged, with_lora = (
        BarkModel.from_pretrained(tmp_path / "merged"),
        BarkModel.from_pretrained(toy_folder, lora=lora[0]),
    )
    for name in NETWORKS:
        assert fingerprint(getattr(merged, name)) == fingerprint(getattr(with_lora, name))
    before = BarkModel.from_pretrained(toy_folder)
    assert fingerprint(merged.semantic) != fingerprint(before.semantic)
    assert Bark.from_pretrained(tmp_path / "merged").processor("hum").input_ids.any()


def test_transformers_computes_the_logits_of_a_model_with_a_lora(lora, toy_folder, tmp_path, on_cpu):
    assert_transformers_computes_its_logits(lora[0], ("semantic", "coarse_acoustics"), toy_folder, tmp_path)


@pytest.mark.slow
def test_so_it_does_where_two_commands_trained_all_three_networks(all_loras, toy_folder, tmp_path, on_cpu):
    assert_transformers_computes_its_logits(
        all_loras, ("semantic", "coarse_acoustics", "fine_acoustics"), toy_folder, tmp_path
    )


def assert_transformers_computes_its_logits(file, names, toy_folder, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    result = run("convert", toy_folder, tmp_path / "for-torch", "--lora", file, "--to", "transformers")
    assert result.exit_code == 0, result.output
    theirs = transformers.BarkModel.from_pretrained(tmp_path / "for-torch").eval()
    ours, before = BarkModel.from_pretrained(toy_folder, lora=file), BarkModel.from_pretrained(toy_folder)
    tokens = np.random.default_rng(1).integers(0, 100, (2, 30))
    for name in names:
        found, unchanged = (logits_of(getattr(model, name), name, tokens) for model in (ours, before))
        with torch.no_grad():
            inputs = torch.from_numpy(tokens)
            args = (3, inputs[..., None].expand(-1, -1, 8)) if name == "fine_acoustics" else (inputs,)
            expected = getattr(theirs, name)(*args).logits.numpy()
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
        assert np.abs(found - unchanged).max() > 1e-3, "a LoRA that changes nothing"


def logits_of(network, name, tokens):
    if name == "fine_acoustics":
        return np.asarray(jitted.fine_logits(network, np.broadcast_to(tokens[..., None], (*tokens.shape, 8)), 3))
    return np.asarray(jitted.logits(network, tokens))


def test_a_lora_of_another_model_is_refused(lora, toy_folder, tmp_path, on_cpu):
    other = BarkModel.from_pretrained(toy_folder)
    changed = merge(other.semantic, load_lora(lora[0])["semantic"])
    with_networks(other, {"semantic": changed}).save_pretrained(tmp_path / "other")
    for options, code in (
        (["--lora", lora[0]], 1),
        (["--lora", tmp_path / "nowhere"], 3),
        (["--lora", lora[0], "--size", "small"], 2),
    ):
        result = run("convert", tmp_path / "other", tmp_path / "merged", *options)
        assert result.exit_code == code and len(result.stderr.splitlines()) == 1, result.output
    assert "other weights of semantic" in run("convert", tmp_path / "other", tmp_path / "x", "--lora", lora[0]).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_same_command_again_goes_on_and_changes_nothing(data, lora, toy_folder):
    file, report = lora
    before = load_lora(file)
    result = run("train", data, file.parent, "-m", toy_folder, *LORA, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == report
    jax.tree.map(np.testing.assert_array_equal, load_lora(file), before)


@pytest.mark.slow
def test_fully_trained_networks_are_in_a_model_that_speaks(manifest, toy_folder, tmp_path):
    """From the manifest, by one command a network."""
    for network in ("fine", "semantic"):
        result = run("train", manifest, tmp_path / "run", "-m", toy_folder, "--network", network, *TRAINING)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{tmp_path / 'run' / 'model'}\n"
    assert len(Dataset.open(tmp_path / "run" / "data")) == N_CLIPS
    trained, before = BarkModel.from_pretrained(tmp_path / "run" / "model"), BarkModel.from_pretrained(toy_folder)
    changed = [name for name in NETWORKS if fingerprint(getattr(trained, name)) != fingerprint(getattr(before, name))]
    assert changed == ["semantic", "fine_acoustics"]
    options = ("--seed", "1", "--max-seconds", "0.2", "-o", tmp_path / "hum.wav")
    assert run("say", "hum", "-m", tmp_path / "run" / "model", *options).exit_code == 0

    other = manifest.with_name("fewer.jsonl")
    other.write_text("".join(manifest.read_text().splitlines(keepends=True)[:5]))
    result = run("train", other, tmp_path / "run", "-m", toy_folder, *TRAINING)
    assert result.exit_code == 2 and "prepared from other lines" in result.stderr


def test_a_run_that_was_stopped_says_how_to_go_on_and_does(data, lora, toy_folder, tmp_path, monkeypatch):
    """To the same numbers as one that was not."""
    command = ("train", data, tmp_path / "run", "-m", toy_folder, *LORA[4:], "--network", "semantic")
    command += ("--save-every", "1")

    def stop(log, records, write=MetricsLog.write):
        if records[-1]["step"] == 2:
            raise KeyboardInterrupt
        write(log, records)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", stop)
        result = run(*command)
    assert result.exit_code == 130 and "re-run the command to resume" in result.stderr
    assert not (tmp_path / "run" / "lora.safetensors").exists()
    result = run(*command)
    assert result.exit_code == 0, result.output
    losses = [
        [(record["step"], record["loss"]) for record in read_metrics(folder / "semantic") if "loss" in record]
        for folder in (tmp_path / "run", lora[0].parent)
    ]
    assert len(losses[0]) == 2 and losses[0] == losses[1]


@pytest.mark.slow
def test_the_codec_is_trained_on_audio(data, toy_folder, tmp_path):
    result = run("train", data, tmp_path / "run", "-m", toy_folder, "--network", "codec", "--steps", "1")
    assert result.exit_code == 0, result.output
    trained, before = BarkModel.from_pretrained(tmp_path / "run" / "model"), BarkModel.from_pretrained(toy_folder)
    kernels = [model.codec_model.encoder.layers[0].conv.kernel[...] for model in (trained, before)]
    assert np.array_equal(*kernels), "the decoder alone, as the codes have to stay what they are"


def make(folder, what):
    """Makes folder / "x", a file or folder that is no manifest and no dataset."""
    path = folder / "x"
    if what == "binary":
        path.write_bytes(np.random.default_rng(0).bytes(2000))
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "letters":
        path.mkdir()
        (path / "letter.txt").write_text("dear")
    elif what == "no audio":
        path.write_text('{"audio": "nowhere.wav", "text": "hum", "semantic": [1]}\n{"text": ""}\n')
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (None, "^error: .* does not exist\n$"),
        ("letters", "^error: .* is no file\n$"),
        ("empty", "^error: .* is empty, expected .*\n$"),
        ("binary", r"x:1: it is not UTF-8 [\s\S]*\nerror: .* faults; nothing was prepared\.\n$"),
        ("no audio", "^.*x:1: .*nowhere.wav' does not exist\n.*x:2: audio is missing.*\nerror: .* has 2 faults"),
    ],
)
def test_a_file_that_is_no_manifest_is_reported_with_its_lines(what, message, toy_folder, tmp_path, no_networks):
    path = make(tmp_path, what)
    for verb in (["prepare"], ["prepare", "--check"], ["train", *TRAINING]):
        result = run(*verb, path, tmp_path / "new", "-m", toy_folder)
        if verb[0] == "train" and what in (None, "letters"):
            assert result.exit_code == 2 and "error: " in result.stderr
            continue
        assert result.exit_code == 2 and result.stdout == "", result.output
        assert re.search(message, result.stderr), result.stderr
    assert not (tmp_path / "new").exists()


@pytest.fixture
def no_networks(monkeypatch):
    """Fails the test if networks are loaded."""

    def load(*_, **__):
        raise AssertionError("networks were loaded")

    monkeypatch.setattr("bark_jax.checkpoints.load.load_networks", load)


def test_missing_packages_are_reported_with_how_to_install_them(data, toy_folder, tmp_path, monkeypatch, no_networks):
    for name in ("checkpoints", "loop", "codec_training", "stage_training"):
        monkeypatch.delitem(sys.modules, f"bark_jax.training.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    result = run("train", data, tmp_path / "run", "-m", toy_folder, *TRAINING)
    assert result.exit_code == 1 and "pip install 'bark-jax[train]'" in result.stderr, result.output
    assert not (tmp_path / "run").exists()


def test_defaults_in_the_help_are_those_of_the_settings():
    defaults = {
        field.name: field.default for kind in (RunSettings, StageSettings, OptimizerSettings) for field in fields(kind)
    }
    codec = {field.name: field.default for field in fields(CodecSettings)} | asdict(CODEC_OPTIMIZER)
    for option in train.command.params:
        default = re.search(r"\[default: (\S+?)(?:; codec (\S+))?\]", getattr(option, "help", None) or "")
        if default and option.name in defaults and defaults[option.name] is not None:
            is_number = not isinstance(defaults[option.name], str)
            assert (float(default[1]) if is_number else default[1]) == defaults[option.name], option.name
            if option.name in codec and is_number:
                assert float(default[2] or default[1]) == codec[option.name], option.name


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
        (["--steps", "2", "--network", "codec", "--remat"], 2, "--remat has no effect"),
        (["--steps", "2", "--codec-parts", "all"], 2, "for --network codec"),
        (["--steps", "2", "--lora", "0"], 2, "--lora is 0"),
        (["--steps", "2", "--lora-alpha", "3"], 2, "--lora-alpha is for --lora"),
        (["--steps", "2", "--lora", "2", "--lora-alpha", "nan"], 2, "alpha nan"),
        (["--steps", "2", "--batch-size", "0"], 2, "batch_size is 0"),
        (["--steps", "2", "--batch-size", "3", "--accumulate", "2"], 2, "a multiple of 2"),
        (["--steps", "2", "--batch-size", "100"], 2, "batch size is 100"),
        (["--steps", "2", "--learning-rate", "-1"], 2, "learning_rate is -1"),
        (["--steps", "2", "--history-share", "2"], 2, "history_share is 2"),
        (["--steps", "2", "--eval-share", "1"], 2, "eval_share is 1"),
        (["--steps", "2", "--seed", "-1"], 2, "seed"),
        (["--steps", "2", "--devices", "99"], 2, "--devices is '99'"),
        (["--steps", "2", "--devices", "none"], 2, "--devices is 'none'"),
        (["--steps", "2", "--devices", "9" * 5000], 2, "--devices is '999"),
        (["--steps", "2", "--patience", "0"], 2, "patience is 0"),
        (["--steps", "2", "--dtype", "float16"], 2, "'float16' is not one of"),
        (["--steps", "2", "-m", "nowhere/at-all"], 3, "nowhere/at-all"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    options, code, message, data, toy_folder, tmp_path
):
    result = run("train", data, tmp_path / "run", "-m", toy_folder, *options)
    assert result.exit_code == code and message in result.stderr, result.output
    assert not (tmp_path / "run").exists()


def test_data_and_runs_of_something_else_are_refused(data, lora, toy_folder, tmp_path, no_networks):
    def refuses(data, folder, message, *options):
        result = run("train", data, folder, "-m", toy_folder, *TRAINING, *options)
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output
        assert message in result.stderr

    refuses(tmp_path / "nowhere", tmp_path / "run", "does not exist")
    letters = make(tmp_path, "letters")
    refuses(letters, tmp_path / "run", "is no dataset")
    assert not (tmp_path / "run").exists()
    refuses(data, letters / "letter.txt", "letter.txt is not writable (it is a file)")
    refuses(data, letters / "letter.txt" / "run", "letter.txt is not writable (it is a file)")
    refuses(data, "/proc/run", "/proc is not writable")
    (tmp_path / "a" / "fine_acoustics").mkdir(parents=True)
    (tmp_path / "a" / "fine_acoustics" / "letter.txt").write_text("dear")
    refuses(data, tmp_path / "a", "holds no run")
    (tmp_path / "b" / "model").mkdir(parents=True)
    (tmp_path / "b" / "model" / "letter.txt").write_text("dear")
    refuses(data, tmp_path / "b", "is not a model folder")
    refuses(data, lora[0].parent, "settings.lora.rank was 2, now 3", "--lora", "3", "--learning-rate", "0.1")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["fine_acoustics"]


def test_codes_of_another_codec_are_refused(data, toy_folder, tmp_path):
    model = BarkModel.from_pretrained(toy_folder)
    codec = jax.tree.map(lambda array: np.asarray(array) * np.float32(1.01), model.codec_model)
    Bark(with_networks(model, {"codec_model": codec}), Bark.from_pretrained(toy_folder).processor).save_pretrained(
        tmp_path / "other"
    )
    result = run("train", data, tmp_path / "run", "-m", tmp_path / "other", *TRAINING)
    assert result.exit_code == 2 and "another codec" in result.stderr, result.output
    assert not (tmp_path / "run").exists()


def test_a_model_stored_in_halves_stays_one_that_computes_in_float32(lora, toy_folder, tmp_path, on_cpu):
    """With its words; and a change that a half has no room for is kept."""
    model = BarkModel.from_pretrained(toy_folder)
    halves = {name: getattr(model, name) for name in NETWORKS}
    halves = jax.tree.map(lambda array: np.asarray(array, np.float16), halves)
    save_networks(tmp_path / "halves", model.config, model.generation_config, halves, dtype="float32")
    (tmp_path / "halves" / "words.txt").write_text("hum\n")
    save_lora(tmp_path / "lora", load_lora(lora[0]))
    for name, options in (("copy", []), ("merged", ["--lora", tmp_path / "lora"])):
        result = run("convert", tmp_path / "halves", tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        assert (tmp_path / name / "words.txt").read_text() == "hum\n"
        expected = BarkModel.from_pretrained(tmp_path / "halves", lora=tmp_path / "lora" if options else None)
        found = BarkModel.from_pretrained(tmp_path / name)
        for network in NETWORKS:
            assert fingerprint(getattr(found, network)) == fingerprint(getattr(expected, network))
    assert run("convert", tmp_path / "halves", tmp_path / "b", "--dtype", "bfloat16").exit_code == 0
    assert BarkModel.from_pretrained(tmp_path / "b").semantic.head.kernel.dtype == "bfloat16"
