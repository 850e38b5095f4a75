"""Runs a few thousand fuzzing cases in a subprocess, and checks that the fuzzer detects planted faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from deadlines import HANG_S

ROOT = Path(__file__).parents[2]
CASES = 2000

# Forbidden actions that the guard must detect, each done inside a reader.
OFFENCES = {
    "a command": "os.system('true')",
    "a process": "subprocess.run(['true'])",
    "an import": "import wave",
    "another file": "open('/etc/hostname')",
    "writing": "open(folder / 'x', 'w')",
    "a new folder": "os.mkdir(folder / 'y')",
    "removing": "os.remove(folder / 'good')",
    "a socket": "socket.create_connection(('127.0.0.1', 9))",
    "a name looked up": "socket.getaddrinfo('localhost', 80)",
    "a pickle": "pickle.loads(b'cposix\\ngetpid\\n.')",
    "code": "exec('1')",
    "memory": "bytearray(200 * 2**20)",
    "no end": "[0 for _ in iter(int, 1)]",
}
BEFORE = """
import os, pathlib, pickle, socket, subprocess, sys, tempfile
from tests.fuzz import guard
folder = pathlib.Path(tempfile.mkdtemp()).resolve()
(folder / "good").write_text("good")
guard.install()
guard.LIMIT_S = 1.0
with guard.watched(folder):
    assert open(folder / "good").read() == "good"
"""
EACH = """
def offend():
    {line}
try:
    with guard.measured_memory(0), guard.watched(folder):
        offend()
    print("missed: {name}")
except (guard.ForbiddenError, guard.SlowError):
    pass
"""


def run(*command: str, timeout_s: float) -> subprocess.CompletedProcess:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s
    )


@pytest.mark.parametrize("n_cases", [CASES, pytest.param(10 * CASES, marks=pytest.mark.slow)])
def test_strange_files_are_read_or_refused_and_nothing_else_happens(n_cases):
    done = run("-m", "tests.fuzz", "--cases", str(n_cases), "--seed", "0", timeout_s=4 * HANG_S)
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout


def test_the_guard_notices_every_offence():
    script = BEFORE + "".join(EACH.format(name=name, line=line) for name, line in OFFENCES.items())
    done = run("-c", script + "print('all tried')", timeout_s=HANG_S)
    assert done.stdout.split("\n") == ["all tried", ""], done.stdout + done.stderr[-3000:]
