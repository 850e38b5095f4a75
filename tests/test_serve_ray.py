"""`bark-jax serve` on Ray Serve: replicas that die under load."""

import asyncio
import concurrent.futures
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from deadlines import HANG_S
from test_batch_ray import QUIET

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from serve_stub import StubService, StubSpeech, noise, settings, voice_of

from bark_jax.audio.files import to_pcm16
from bark_jax.errors import InputError
from bark_jax.serve.voices import voice_from_json

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

# Ray Serve gives its proxy some seconds to start, which a busy machine does not have.
PATIENT = {f"RAY_SERVE_PROXY_{check}_CHECK_TIMEOUT_S": str(HANG_S) for check in ("READY", "HEALTH")}


class Opener:
    """Opens a service in the process of a replica."""

    def __init__(self, journal):
        self._journal = journal

    def __call__(self, its_settings):
        return NotedService(self._journal)


class NotedService(StubService):
    """A stub that takes its time, and lists in a file which process has begun which seed, and which callers left."""

    def __init__(self, journal):
        super().__init__()
        self._journal = journal

    async def speak(self, request):
        await super().speak(request)
        self.note(f"{os.getpid()} {request.seed}")
        return NotedSpeech(self, request)

    def note(self, line):
        with open(self._journal, "a") as file:
            file.write(line + "\n")


class NotedSpeech(StubSpeech):
    async def __aiter__(self):
        async for part in super().__aiter__():
            await asyncio.sleep(0.2)
            yield part

    def close(self):
        if not self.has_ended:
            self._service.note(f"left {self._request.seed}")


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """The file of `NotedService`."""
    return tmp_path_factory.mktemp("ray") / "journal"


@pytest.fixture(scope="module")
def address(journal):
    """Address of an application with two replicas."""
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install '.[ray]'")
    import ray
    from ray import serve

    from bark_jax.serve.ray_app import make_application

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (QUIET | PATIENT).items():
            patch.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        its_settings = settings(api_key="secret")
        serve.run(make_application(its_settings, n_replicas=2, opener=Opener(journal)), name="bark")
        yield f"http://127.0.0.1:{port}"
        ray.shutdown()  # and with it all of Ray Serve, whose own end would wait for half a minute


def asking(address, path, fields=None):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer secret"}
    request = urllib.request.Request(address + path, json.dumps(fields).encode() if fields else None, headers)
    return urllib.request.urlopen(request, timeout=HANG_S)


def speaking(address, seed, text="Hello.", **fields):
    fields = {"model": "stub", "response_format": "pcm", "stream_format": "audio"} | fields
    return asking(address, "/v1/audio/speech", fields | {"input": text, "seed": seed})


def speak(address, seed, **fields):
    """Status and body of an answer."""
    try:
        with speaking(address, seed, **fields) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def wait_for(condition):
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes(journal):
    return {line.split()[0] for line in journal.read_text().splitlines()} - {"left"}


def pcm_of(seed):
    return to_pcm16(noise(seed, 2))


def test_the_page_and_the_lists_are_those_of_one_server(address):
    assert b"<!doctype html>" in asking(address, "/").read()
    assert json.load(asking(address, "/v1/models"))["data"][0]["id"] == "stub"
    voices = json.load(asking(address, "/v1/audio/voices"))["voices"]
    assert [voice["id"] for voice in voices] == ["v2/de_speaker_3", "slt"]


def test_files_events_and_errors_come_through(address):
    assert speak(address, 1, stream_format=None) == (200, pcm_of(1))
    status, body = speak(address, 2, stream_format="sse", include=["voice"])
    done = json.loads(body.decode().strip().rpartition("data: ")[2])
    assert status == 200 and voice_from_json(done["voice"]["npz"]) == voice_of(2)
    status, body = speak(address, 3, temperature=0)
    assert status == 400 and "expected 0.001" in json.loads(body)["error"]["message"]
    status, body = speak(address, 3, voice="/etc/passwd")
    assert status == 400


def test_a_caller_who_leaves_ends_the_work_of_the_replica(address, journal):
    with speaking(address, 77, text="held") as answer:
        assert answer.read(10) == pcm_of(77)[:10]
    wait_for(lambda: "left 77" in journal.read_text())


def test_a_replica_that_is_killed_under_load_loses_no_text(address, journal):
    Path(journal).write_text("")
    seeds = range(100, 124)
    with concurrent.futures.ThreadPoolExecutor(12) as callers:
        answers = [callers.submit(speak, address, seed) for seed in seeds]
        wait_for(lambda: len(processes(journal)) == 2)
        os.kill(int(min(processes(journal))), signal.SIGKILL)
        found = [answer.result() for answer in answers]
    assert found == [(200, pcm_of(seed)) for seed in seeds]
    begun = [line for line in journal.read_text().splitlines() if not line.startswith("left")]
    assert len(begun) > len(seeds), "the killed replica spoke some, which another one has begun again"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({}, "model is missing"), ({"model": "m", "replica": "2"}, "'replica'"), ({"model": "m", "gpus": "one"}, "'one'")],
)
def test_wrong_arguments_of_serve_run_are_refused(arguments, message):
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install '.[ray]'")
    from bark_jax.serve.ray_app import app

    with pytest.raises(InputError, match=message):
        app(arguments)


@pytest.mark.parametrize(
    ("given", "key", "hosts"),
    [
        (None, None, ("localhost", "127.0.0.1", "[::1]")),
        (None, "key", None),
        ("a.example,b.example", None, ("a.example", "b.example")),
        ("*", None, None),
    ],
)
def test_without_a_key_only_this_machines_names_are_answered(given, key, hosts, monkeypatch):
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install '.[ray]'")
    from bark_jax.serve import ray_app

    monkeypatch.delenv("BARK_JAX_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("BARK_JAX_API_KEY", key)
    made = []
    monkeypatch.setattr(ray_app, "make_application", lambda settings, **_: made.append(settings))
    ray_app.app({"model": "m"} | ({} if given is None else {"hosts": given}))
    assert (made[0].hosts, made[0].api_key) == (hosts, key)
