"""`bark-jax batch` as a process with the built-in voice: killed, sharded, on several devices and through Ray."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from compilations import xla_flags
from deadlines import HANG_S

from bark_jax.batch.manifest import read_entries

pytestmark = pytest.mark.slow

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero")
COMMAND = [sys.executable, "-c", "from bark_jax.cli import main; main()", "batch"]
OPTIONS = ["-m", "tiny", "--quiet", "--max-seconds", "0.3", "--batch-size", "8"]
N_ROWS, N_KILLS = 30, 4


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The run's folder of compiled programs is inherited, so that a kill costs seconds."""
    return os.environ | {"HF_HOME": str(tmp_path_factory.mktemp("home")), "RAY_USAGE_STATS_ENABLED": "0"}


def write_digits(path, n_rows):
    """Rows of one to seven words; one in seven is of two sentences."""
    draw = random.Random(0)
    with open(path, "w") as file:
        for number in range(n_rows):
            words = [draw.choice(WORDS) for _ in range(draw.randint(1, 7))]
            text = " ".join(words[:6]) + "." + (" " + " ".join(words[6:]) + "." if len(words) > 6 else "")
            voice = {"voice": "rms"} if number % 3 else {}
            file.write(json.dumps({"id": f"row-{number}", "text": text.capitalize(), **voice}) + "\n")
    return path


def start(environment, *args, **kwargs):
    return subprocess.Popen([*COMMAND, *map(str, args)], env=environment, **kwargs)


def finish(environment, *args):
    process = start(environment, *args, stderr=subprocess.PIPE, text=True)
    _, stderr = process.communicate(timeout=900)
    assert process.returncode == 0, stderr


def entries_of(out):
    return {entry["id"]: entry for entry in read_entries(out / "manifest.jsonl")}


def samples_of(out):
    found = {}
    for name, entry in entries_of(out).items():
        data = (out / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        found[name], rate = soundfile.read(out / entry["file"], dtype="float32")
        assert len(found[name]) == round(entry["seconds"] * rate) > 0
    return found


def check_same(out, reference):
    found, expected = samples_of(out), samples_of(reference)
    assert len(list(read_entries(out / "manifest.jsonl"))) == len(expected)
    assert sorted(found) == sorted(expected)
    for name, samples in expected.items():
        assert len(found[name]) == len(samples) and np.abs(found[name] - samples).max() < 2e-3, name


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("rows") / "rows.jsonl", N_ROWS)


@pytest.fixture(scope="module")
def reference(rows, tmp_path_factory, environment):
    """Output folder of an uninterrupted run of the rows."""
    out = tmp_path_factory.mktemp("reference") / "out"
    finish(environment, rows, out, *OPTIONS)
    assert len(entries_of(out)) == N_ROWS
    return out


def test_kills_lose_and_repeat_nothing(rows, reference, environment, tmp_path):
    out, draw, n_kills = tmp_path / "out", random.Random(0), 0
    while n_kills < N_KILLS:
        process = start(environment, rows, out, *OPTIONS)
        n_before, deadline = len(entries_of(out)), time.monotonic() + HANG_S
        wanted = n_before + draw.randint(0, 7)
        while len(entries_of(out)) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() in (None, 0)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        n_kills += 1
    finish(environment, rows, out, *OPTIONS)
    check_same(out, reference)


def test_shards_make_the_same(rows, reference, environment, tmp_path):
    for index in range(2):
        finish(environment, rows, tmp_path / "out", *OPTIONS, "--shard", f"{index}/2")
    finish(environment, "merge", tmp_path / "out", "--verify")
    check_same(tmp_path / "out", reference)


def test_eight_devices_make_the_same(rows, reference, environment, tmp_path):
    flags = {"XLA_FLAGS": xla_flags(8)}
    finish(environment | flags, rows, tmp_path / "out", *OPTIONS)
    check_same(tmp_path / "out", reference)


RAY = """
import functools, ray
from bark_jax.batch import ray_engine
from bark_jax.cli import main
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
ray_engine.RaySpeaker = functools.partial(ray_engine.RaySpeaker, rows_per_task=5)  # some for each of the two
main()
"""


def test_two_ray_actors_of_which_one_dies_make_the_same(rows, reference, environment, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    options = [*OPTIONS, "--engine", "ray", "--ray-actors", "2"]
    driver = subprocess.Popen([sys.executable, "-c", RAY, "batch", rows, out, *options], env=environment)
    try:
        deadline = time.monotonic() + HANG_S
        while not entries_of(out) and time.monotonic() < deadline and driver.poll() is None:
            time.sleep(0.1)
        actors = find_actors(driver.pid)
        assert len(actors) == 2 and len(entries_of(out)) < N_ROWS // 2
        os.kill(actors[0], signal.SIGKILL)
        assert driver.wait(timeout=900) == 0
    finally:
        driver.kill()
    check_same(out, reference)


def find_actors(driver):
    """Process ids of the driver's Ray workers that hold an actor of ours."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read()
        except OSError:
            continue
        if command.startswith(b"ray::") and b"MapWorker" in command and driver in ancestors(int(name)):
            found.append(int(name))
    return found


def ancestors(pid):
    found = []
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found
