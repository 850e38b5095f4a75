"""Command-line processes in odd environments: closed streams, ASCII locales, limits, dangling paths."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from batch_stub import run_stub, write_rows
from click.testing import CliRunner

from bark_jax.batch.run_folder import open_folder
from bark_jax.cli import main
from bark_jax.errors import OutputError

COMMAND = f'"{sys.executable}" -c "from bark_jax.cli import main; main()"'


def shell(line, cwd, **environment):
    """Runs a line of sh in which `bark` is the command."""
    path = {"PYTHONPATH": str(Path(__file__).parents[1]), "HF_HOME": str(cwd / "hf")}
    line = line.replace("bark ", f"{COMMAND} ")
    return subprocess.run(
        ["sh", "-c", line], cwd=cwd, env=os.environ | path | environment, capture_output=True, text=True, timeout=300
    )


STDOUT_CLOSED = "error: stdout is closed, expected a file or a pipe for results; give > /dev/null\n"
CLOSED = [
    ("voices -m ./nothing 2>&-", 3, ""),
    (
        "voices -m ./nothing >&-",
        1,
        STDOUT_CLOSED,
    ),
    ("voices -m ./nothing >&- 2>&- <&-", 1, ""),
    ("batch - out -m tiny <&- 2>&-", 2, ""),
    ("voices -m ./nothing 2>/dev/full", 3, ""),
    ("voices -m tiny >/dev/full", 1, "error: [Errno 28] No space left on device\n"),
]


@pytest.mark.parametrize(("line", "status", "message"), CLOSED, ids=[line for line, *_ in CLOSED])
def test_streams_that_are_closed_or_full_bring_a_line_and_a_status(tmp_path, line, status, message):
    done = shell(f"bark {line}", tmp_path)
    assert (done.returncode, done.stderr) == (status, message)


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path):
    code = "from bark_jax.cli import process; process.open_closed_streams(); print(open('a', 'w').fileno())"
    done = shell(f'"{sys.executable}" -c "{code}" 2>&- <&-', tmp_path)
    assert done.returncode == 0 and int(done.stdout) > 2


def test_garbage_is_collected_rarely_in_a_process_of_its_own_alone(tmp_path):
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_threshold()[0])); from bark_jax.cli import main"
    done = shell(f'"{sys.executable}" -c "{code}; main()" --version', tmp_path)
    assert done.returncode == 0 and int(done.stdout.splitlines()[-1]) >= 50_000
    before = gc.get_threshold()
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0
    assert gc.get_threshold() == before


@pytest.mark.parametrize("text", ["Größe.", "日本語です。"])
@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_arguments_and_paths_are_utf8_in_the_c_locale(tmp_path, locale, text):
    done = shell(f'bark say Hi. --voice "{text}.npz" -m tiny -o "{text}.wav"', tmp_path, **locale)
    assert done.returncode == 3 and text in done.stderr and "\\udc" not in done.stderr
    done = shell(f'bark say Hi. -m tiny -o "{text}/a.wav"', tmp_path, **locale)
    assert done.returncode == 2 and text in done.stderr


def test_arguments_whose_bytes_were_kept_are_decoded():
    broken = "Größe".encode().decode("ascii", "surrogateescape")
    result = CliRunner().invoke(main, ["voices", "-m", broken])
    assert result.exit_code == 3 and "Größe" in result.stderr
    result = CliRunner().invoke(main, ["voices", "-m", "half \udcff"])  # not UTF-8, and printed with escapes
    assert result.exit_code == 3 and result.stderr.count("\n") == 1


def loop(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    return "loop"


PATHS = {
    "loop": loop,
    "in a loop": lambda tmp_path: f"{loop(tmp_path)}/out",
    "nowhere": lambda _: "/proc/nowhere",
    "empty": lambda _: "",
    "too long": lambda _: "x" * 5000,
    "under a file": lambda _: "rows.jsonl/out",
}


@pytest.mark.parametrize("what", PATHS)
def test_an_out_that_cannot_be_is_one_line(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 1)
    result = CliRunner().invoke(main, ["batch", "rows.jsonl", PATHS[what](tmp_path), "-m", "tiny"])
    assert result.exit_code in (1, 2) and result.stderr.startswith("error: "), result.output
    assert result.stderr.count("\n") == 1 and (result.exception is None or isinstance(result.exception, SystemExit))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("can't start new thread"), OSError(24, "Too many open files")]
)
def test_limits_of_the_process_are_one_line(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("bark_jax.cli.voices.open_voices", fail)
    result = CliRunner().invoke(main, ["voices"])
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_descriptors_that_run_out_are_one_line(tmp_path):
    write_rows(tmp_path / "rows.jsonl", 1)
    done = shell("ulimit -n 6; exec bark batch rows.jsonl out -m tiny", tmp_path)
    assert (done.returncode in (1, 2, 3) and done.stderr.count("\n") <= 1) or "Too many open files" in done.stderr


def test_what_a_kill_left_of_a_file_is_cleared_by_the_next_start(tmp_path):
    out = tmp_path / "out"
    rows = write_rows(tmp_path / "rows.jsonl", 1)
    run_stub(rows, out)
    ours = [".run.json.0123abcd.partial", ".manifest.jsonl.0123abcd.partial", "audio/.row-0.wav.0123abcd.partial"]
    others = [".run.json.partial", ".notes.0123abcd.partial", "run.json.0123abcd.partial", "audio/.mine.partial"]
    for name in [*ours, *others]:
        (out / name).write_text("half")
    (out / "audio" / ".folder.0123abcd.partial").mkdir()
    with open_folder(out):
        pass
    assert not any((out / name).exists() for name in ours) and all((out / name).exists() for name in others)


def test_a_folder_that_is_a_circle_of_links_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written to"):
        run_stub(write_rows(tmp_path / "rows.jsonl", 1), tmp_path / loop(tmp_path))
