"""The scripts in examples run as they stand, in processes of their own, with the built-in voice."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
MAX_LINES = 40
SAMPLE_RATE = 24_000


def run(name, out):
    """Runs an example and returns what it prints; fails with its stderr, also where it warns."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(out.parent / "hf")}
    command = [sys.executable, str(EXAMPLES / name), str(out)]
    done = subprocess.run(command, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "Warning:" not in done.stderr, done.stderr
    return done.stdout


def seconds_of(path):
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == SAMPLE_RATE and np.isfinite(samples).all() and np.abs(samples).max() > 0.05, path
    return len(samples) / rate


def test_each_is_short_and_says_what_it_does():
    paths = sorted(EXAMPLES.glob("*.py"))
    assert len(paths) == 4
    for path in paths:
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= MAX_LINES, path
        assert f"python examples/{path.name} OUT" in ast.get_docstring(ast.parse(source)), path


@pytest.mark.slow
def test_first_sound(tmp_path):
    out = tmp_path / "out"
    printed = run("first_sound.py", out)
    assert 0.5 < seconds_of(out / "hello.wav") < 5.2 and 0.5 < seconds_of(out / "thanks.flac") < 5.2
    assert printed.count("semantic tokens") == 2


@pytest.mark.slow
def test_change_tokens_between_stages(tmp_path):
    out = tmp_path / "out"
    run("change_tokens_between_stages.py", out)
    plain, slower = seconds_of(out / "plain.wav"), seconds_of(out / "slower.wav")
    assert slower == pytest.approx(1.5 * plain, abs=0.1)
    assert seconds_of(out / "coarse_only.wav") == plain
    with np.load(out / "tokens.npz") as tokens:
        assert len(tokens["slower"]) > len(tokens["plain"])
        assert seconds_of(out / "spliced.wav") == pytest.approx(tokens["spliced_codes"].shape[1] / 75)
        np.testing.assert_array_equal(tokens["coarse_only_codes"][:2], tokens["plain_codes"][:2])


@pytest.mark.slow
def test_batch_of_lines(tmp_path):
    out = tmp_path / "out"
    assert run("batch_of_lines.py", out).startswith("4 finished, 0 failed\n")
    entries = [json.loads(line) for line in (out / "speech" / "manifest.jsonl").read_text().splitlines()]
    assert {(entry["id"], entry["voice"], entry["seed"]) for entry in entries} == {
        ("door", "slt", 1),
        ("train", "rms", 2),
        ("number", "slt", 3),
        ("letter", "rms", 4),
    }
    for entry in entries:
        assert seconds_of(out / "speech" / entry["file"]) == pytest.approx(entry["seconds"], abs=0.01)


@pytest.mark.slow
def test_fine_tune(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    out = tmp_path / "out"
    assert run("fine_tune.py", out).splitlines()[-1].startswith("8 steps, best evaluation loss ")
    assert 0 < (out / "lora.safetensors").stat().st_size < 2**20
    assert seconds_of(out / "tuned.wav") > 0.3
    steps = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("loss" in line for line in steps)
