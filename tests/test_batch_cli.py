"""The command `bark-jax batch`, with the toy model instead of the built-in voice."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from batch_engine import PlainEngine
from batch_stub import write_rows
from click.testing import CliRunner

from bark_jax import tiny
from bark_jax.bark import Bark
from bark_jax.cli import main
from bark_jax.text.processor import BarkProcessor

SHORT = ("--max-seconds", "0.2")


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "unused"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plain_engine(monkeypatch, toy_model):
    """Replaces the slot engine, which takes long to compile, and uses the session's networks."""
    monkeypatch.setattr("bark_jax.generation.engine.Engine", lambda model, n_slots=3, devices=None: PlainEngine(model))
    monkeypatch.setattr("bark_jax.model.BarkModel.from_found", lambda *_, **__: toy_model)


def batch(*args, model="tiny", **kwargs):
    return CliRunner().invoke(main, ["batch", *map(str, args), *(["-m", model] if model else [])], **kwargs)


def entries(out="out"):
    with open(f"{out}/manifest.jsonl") as file:
        return {entry["id"]: entry for entry in map(json.loads, file)}


def test_rows_become_the_audio_of_generate(tmp_path, plain_engine, toy_model, toy_folder):
    write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "One two.", "seed": 3}, {"id": "b", "text": "Three."}])
    result = batch("rows.jsonl", "out", *SHORT)
    assert result.exit_code == 0, result.output
    assert result.stdout == "out\n" and "2 of 2 rows" in result.stderr
    bark = Bark(toy_model, BarkProcessor.from_pretrained(toy_folder))
    for name, entry in entries().items():
        clip = bark.generate({"a": "One two.", "b": "Three."}[name], seed=entry["seed"], max_seconds=0.2)
        samples, rate = soundfile.read(f"out/{entry['file']}", dtype="float32")
        assert rate == clip.sample_rate and np.abs(samples - np.clip(clip.samples, -1, 1)).max() < 1e-4
        assert entry["model"] == "tiny" and entry["seconds"] == round(clip.duration_s, 6)


def test_rows_that_fail_make_exit_code_4_until_they_are_mended(tmp_path, plain_engine):
    write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "One."}, {"id": "b", "text": ""}])
    result = batch("rows.jsonl", "out", *SHORT)
    assert result.exit_code == 4
    assert "row b: text is ''" in result.stderr and "1 of 2 rows have failed" in result.stderr
    assert batch("rows.jsonl", "out", *SHORT).exit_code == 4
    write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "One."}, {"id": "b", "text": "Two."}])
    assert batch("rows.jsonl", "out", *SHORT).exit_code == 0


def test_json_is_one_event_a_line(tmp_path, plain_engine):
    result = batch("-", "out", "--json", "--quiet", "--audio", "flac", *SHORT, input="One.\nTwo.\n")
    assert result.exit_code == 0 and result.stderr == ""
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == ["start", "row", "row", "end"]
    assert {event["file"] for event in events[1:3]} == {f"audio/line-{n:09d}.flac" for n in (1, 2)}


def test_shards_and_merge(tmp_path, plain_engine):
    write_rows(tmp_path / "rows.jsonl", [{"id": name, "text": "One."} for name in "abcde"])
    for index in range(2):
        assert batch("rows.jsonl", "out", "--shard", f"{index}/2", *SHORT).exit_code == 0
    result = batch("merge", "out", "--json", model=None)
    assert result.exit_code == 0 and json.loads(result.stdout)["rows"] == 5
    assert sorted(entries()) == list("abcde")
    assert batch("merge", "out", "--verify", model=None).stdout == "out/manifest.jsonl\n"
    unsharded = batch("rows.jsonl", "out", *SHORT)
    assert unsharded.exit_code == 2 and "has the merged shards of a batch; give --shard I/2" in unsharded.stderr


def test_faults_have_a_line_each(tmp_path):
    write_rows(
        tmp_path / "rows.jsonl", [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}, {"id": "b/c", "text": "z"}]
    )
    first, *faults = batch("rows.jsonl", "out").stderr.splitlines()
    assert first == "error: rows.jsonl has 2 faults in its ids; nothing was started:"
    assert [fault.split(":")[0] for fault in faults] == ["  line 2", "  line 3"]


REFUSED = [
    (("missing.jsonl", "out"), "missing.jsonl"),
    (("rows.jsonl", "out", "--shard", "2/2"), "--shard"),
    (("rows.jsonl", "out", "--temperature", "-1"), "temperature"),
    (("rows.jsonl", "out", "--silence", "100"), "silence_s"),
    (("rows.jsonl", "out", "--audio", "aac"), "aac"),
    (("rows.jsonl", "out", "--ray-actors", "2"), "--engine ray"),
    (("rows.jsonl", "out", "--devices", "99"), "--devices is 99"),
    (("rows.jsonl", "s3://bucket/out"), "address"),
    (("twice.jsonl", "out"), "that of line 1 too"),
    (("merge", "."), "no shards"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_usage_is_refused_before_anything_is_written(tmp_path, args, message, monkeypatch):
    def load(*_, **__):
        raise AssertionError("networks were loaded")

    monkeypatch.setattr("bark_jax.checkpoints.load.load_networks", load)
    write_rows(tmp_path / "rows.jsonl", 1)
    write_rows(tmp_path / "twice.jsonl", [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}])
    result = batch(*args, model=None if args[0] == "merge" else "tiny")
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert not (tmp_path / "out").exists()


def test_a_model_or_voice_that_is_not_there_is_exit_code_3(tmp_path):
    write_rows(tmp_path / "rows.jsonl", 1)
    assert batch("rows.jsonl", "out", model="no/such-model").exit_code == 3
    assert batch("rows.jsonl", "out", "--voice", "nobody").exit_code == 3
    assert not (tmp_path / "out").exists()


def test_other_settings_for_a_folder_are_refused(tmp_path, plain_engine):
    write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "One."}])
    assert batch("rows.jsonl", "out", *SHORT).exit_code == 0
    result = batch("rows.jsonl", "out", *SHORT, "--top-k", "5")
    assert result.exit_code == 2 and "settings.top_k: None there, 5 here" in result.stderr
    assert batch("rows.jsonl", "out", *SHORT, "--top-k", "5", "--force").exit_code == 0


def test_an_out_that_is_named_like_the_model_does_not_hide_it(tmp_path, plain_engine, toy_folder):
    write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "One."}])
    assert batch("rows.jsonl", "tiny", *SHORT).exit_code == 0
    again = batch("rows.jsonl", "tiny", *SHORT)
    assert again.exit_code == 0 and "0 of 1 rows to do" in again.stderr, again.output
    shutil.copytree(toy_folder, tmp_path / "tiny", dirs_exist_ok=True)  # now it is a model's folder
    assert tiny.folder_of("tiny") == "tiny"


def test_the_public_names_load_no_jax():
    code = "import bark_jax.batch as b, sys; [getattr(b, name) for name in b.__all__]; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_tells_of_both_forms():
    assert "IN OUT" in batch("--help", model=None).stdout
    assert "batch merge [OPTIONS] OUT" in batch("merge", "--help", model=None).stdout
