"""Ctrl-C and SIGTERM: every command exits with 130 or 143, and leaves no partial files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_stub import run_stub, write_rows
from test_batch_runs import check_complete

HANG_S = 300  # for a busy machine; nothing here takes long
TESTS = Path(__file__).parent

# Waits in C, where Python runs no handlers, as while XLA compiles.
STUCK = """
import ctypes, sys, threading
from bark_jax import files
from bark_jax._system import stopping
stopping.install()

def write():
    with files.atomic_file("single.bin") as file, files.temporary_folder("."):
        file.write(b"half")
        held.release()
        threading.Event().wait()

held = threading.Semaphore(0)
threading.Thread(target=write, daemon=True).start()
held.acquire()
with files.atomic_folder("a/b/model") as folder, stopping.last_words("last words"):
    (folder / "weights.bin").write_bytes(b"half")
    sys.stdout.write("unflushed, ")
    print("ready", file=sys.stderr, flush=True)
    while True:
        ctypes.CDLL(None).pause()
"""

# The stub as `bark-jax batch` runs it, its speaker stuck in C. The third row is never done.
STUCK_BATCH = """
import ctypes, sys
from batch_stub import StubSpeaker, run_stub
from bark_jax._system import stopping
stopping.install()

class Stuck(StubSpeaker):
    def _spoken(self, row):
        while self.n_spoken == 2:
            ctypes.CDLL(None).pause()
        return super()._spoken(row)

run_stub(*sys.argv[1:], Stuck(1), on_event=lambda event: print(event["event"], flush=True))
"""


def start(code, *arguments, cwd, **environment):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    path = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, text=True, env=os.environ | path | environment, **pipes)


def wait_for(stream, word):
    while word not in (line := stream.readline()):
        assert line, f"the process ended before it said {word!r}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_python_cannot_interrupt_and_clears_away(tmp_path, number):
    process = start(STUCK, cwd=tmp_path)
    wait_for(process.stderr, "ready")
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, out, err) == (128 + number, "unflushed, ", "last words\n")
    assert list(tmp_path.rglob("*")) == []


def test_the_second_signal_ends_a_batch_that_is_stuck(tmp_path):
    rows, out = write_rows(tmp_path / "rows.jsonl", 12), tmp_path / "out"
    process = start(STUCK_BATCH, rows, out, cwd=tmp_path)
    wait_for(process.stdout, "row")
    process.send_signal(signal.SIGTERM)
    wait_for(process.stdout, "stopping")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=HANG_S)
    assert (process.returncode, err) == (130, "")
    assert run_stub(rows, out).left == 0
    check_complete(out, rows)


FILLS_THE_PIPE = """
import select
threading.Thread(target=sys.stdout.write, args=("x" * 2**20,), daemon=True).start()
while select.select([], [1], [], 0)[1]:
    pass
"""


def test_a_pipe_that_nobody_reads_does_not_keep_it(tmp_path):
    code = STUCK.replace("with files.atomic_folder", FILLS_THE_PIPE + "with files.atomic_folder")
    process = start(code.replace('sys.stdout.write("unflushed, ")', "pass"), cwd=tmp_path)
    wait_for(process.stderr, "ready")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=HANG_S) == 130
    process.stdout.close()
    process.stderr.close()
    assert list(tmp_path.rglob("*")) == []


COMMAND = "from bark_jax.cli import main; main()"
SAY = ("say", "Thank you very much.", "-m", "tiny", "-o", "a.wav")
COMMANDS = {
    "say": (SAY, "Compiling"),
    "say, loading": (SAY, "model tiny"),
    "batch": (("batch", "rows.jsonl", "out", "-m", "tiny"), "Compiling"),
    "bench": (("bench", "-m", "tiny", "--seconds", "1"), "Compiling"),
}


@pytest.mark.slow
@pytest.mark.parametrize("n_before", [1, 2, 4])
@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_ends_while_it_loads_or_compiles(tmp_path, what, n_before):
    """As often as there are programs to compile: `n_before` of them have begun."""
    arguments, word = COMMANDS[what]
    write_rows(tmp_path / "rows.jsonl", 40)
    compiles = {"JAX_LOG_COMPILES": "1", "HF_HOME": str(tmp_path / "hf"), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    process = start(COMMAND, *arguments, cwd=tmp_path, **compiles)
    for _ in range(1 if word != "Compiling" else n_before):
        wait_for(process.stderr, word)
    process.send_signal(signal.SIGINT)
    if what == "batch":
        wait_for(process.stderr, "stopping")
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    assert not (tmp_path / "a.wav").exists() and not list(tmp_path.glob("**/*.partial"))
