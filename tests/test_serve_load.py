"""The server as a process: it ends on SIGTERM, needs its extra, and stands a short load run."""

import http.client
import json
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from deadlines import HANG_S

from bark_jax.cli import main
from bark_jax.errors import InputError
from bark_jax.serve.settings import LOOPBACK_NAMES
from benchmarks.callers import ask, get
from benchmarks.load import make_requests, run_load
from benchmarks.serve import running, voices_of


@pytest.mark.slow
def test_a_short_load_run_finds_no_wrong_answer_and_leaves_nothing_open():
    with running("-m", "tiny", "--slots", "4", "--max-requests", "6", "--max-characters", "500") as url:
        requests = make_requests([None, *voices_of(url)], "tiny", max_seconds=0.8)
        report = run_load(url, requests, seconds=6, n_callers=8)
    assert (report.wrong, report.left_open) == ([], 0.0)
    assert {asked for asked, _ in report.answers} == {"good", "bad", "leaving"}
    assert report.answers["good", 200] > 0 and report.audio_s > 0


@pytest.mark.slow
def test_sigterm_finishes_what_runs_and_takes_no_more():
    command = [sys.executable, "-m", "bark_jax", "serve", "-m", "tiny", "--port", "0", "--slots", "4"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        url = next(line.split()[-1] for line in process.stderr if " at http://" in line)
        reader = threading.Thread(target=process.stderr.read, daemon=True)
        reader.start()
        # Sent before it is ready: the request waits for the programs.
        body = json.dumps({"model": "tiny", "input": "one two three four five.", "stream_format": "audio", "seed": 1})
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=HANG_S)
        connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200 and response.read1(10) and get(url, "/ready")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert len(response.read()) > 1000  # to the end of its chunks, or an error
        connection.close()
        assert process.wait(HANG_S) == 0
        reader.join(HANG_S)
    with pytest.raises(ConnectionError):
        ask(url, {})


@pytest.mark.slow
def test_a_second_signal_ends_the_server_at_once():
    """While its programs compile."""
    command = [sys.executable, "-m", "bark_jax", "serve", "-m", "tiny", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert next(line for line in process.stderr if " at http://" in line)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) in (0, 143)


def test_options_are_checked_before_a_model_is_loaded():
    for arguments, message in (
        (["--timeout", "0"], "timeout_s is 0.0"),
        (["--api-key", ""], "API key is empty"),
        (["--cors-origin", "*"], "is no origin"),
        (["--port", "0", "--host", "no such host"], "host is 'no such host', expected an address of this machine"),
        (["--port", "0", "--host", "a" * 64], "host is 'aaa"),  # longer than a name may be
        (["--greedy", "--top-k", "5"], "draws nothing"),
    ):
        result = CliRunner().invoke(main, ["serve", "-m", "no/such-model", *arguments])
        assert result.exit_code == 2 and message in result.output, result.output
    # A variable that was to be filled from another one, which is not set.
    result = CliRunner().invoke(main, ["serve", "-m", "no/such-model"], env={"BARK_JAX_API_KEY": ""})
    assert result.exit_code == 2 and "BARK_JAX_API_KEY is empty" in result.output


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        ([], LOOPBACK_NAMES),
        (["--host", "127.0.0.2"], (*LOOPBACK_NAMES, "127.0.0.2")),
        (["--host", "0.0.0.0"], None),
        (["--host", "0.0.0.0", "--allow-host", "speech.example"], ("speech.example",)),
    ],
)
def test_a_server_answers_to_the_address_that_it_listens_on(arguments, hosts, monkeypatch):
    seen = []

    def open_service(settings):
        seen.append(settings.hosts)
        raise InputError("seen")

    monkeypatch.setattr("bark_jax.serve.open_service", open_service)
    CliRunner().invoke(main, ["serve", "-m", "tiny", "--port", "0", *arguments])
    assert seen and (seen[0] if hosts is None else set(seen[0])) == (None if hosts is None else set(hosts))


def test_without_its_extra_the_command_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("bark_jax.serve", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    result = CliRunner().invoke(main, ["serve", "-m", "tiny"])
    assert result.exit_code == 1 and "pip install 'bark-jax[serve]'" in result.output
