"""Voices that travel with requests and answers, and what the list of models says for a page."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from deadlines import HANG_S  # noqa: E402
from serve_stub import StubService, serving, settings, voice_of  # noqa: E402

from bark_jax.batch.job import Job  # noqa: E402
from bark_jax.serve import Settings  # noqa: E402
from bark_jax.serve.voices import MAX_NPZ_CHARACTERS, voice_from_json, voice_to_json  # noqa: E402
from bark_jax.voices.voice import Voice  # noqa: E402


@pytest.fixture(scope="module")
def served():
    with serving(StubService(), settings()) as found:
        yield found


@pytest.fixture
def speak(served):
    def speak(**fields):
        body = {"model": "stub", "input": "2 parts", "seed": 3, "response_format": "pcm"} | fields
        return httpx.post(f"{served.url}/v1/audio/speech", json=body, timeout=HANG_S)

    return speak


def last_event(answer):
    return json.loads(answer.text.rstrip().rpartition("data: ")[2])


def as_npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return base64.b64encode(stream.getvalue()).decode()


def bomb():
    """An archive of some 50 kB that claims 48 MB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("semantic_prompt", "coarse_prompt", "fine_prompt"):
            archive.writestr(f"{name}.npy", bytes(2**24))
    return base64.b64encode(stream.getvalue()).decode()


def test_a_voice_comes_with_the_last_event_if_it_is_asked_for(speak):
    done = last_event(speak(stream_format="sse", include=["voice"]))
    assert done["type"] == "speech.audio.done" and voice_from_json(done["voice"]["npz"]) == voice_of(3)
    assert last_event(speak(stream_format="sse")) == {"type": "speech.audio.done"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"include": ["voice"]}, "stream_format sse"),
        ({"include": ["voice"], "stream_format": "audio"}, "stream_format sse"),
        ({"include": "voice", "stream_format": "sse"}, "expected"),
        ({"include": ["logprobs"], "stream_format": "sse"}, "expected"),
    ],
)
def test_what_cannot_be_included_is_refused(speak, fields, message):
    answer = speak(**fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "include")
    assert message in answer.json()["error"]["message"]


def test_a_request_brings_its_own_voice(served, speak):
    assert speak(voice=voice_to_json(voice_of(8))).status_code == 200
    assert served.service.requests[-1].voice == voice_of(8)


def test_the_longest_clip_of_bark_fits_even_as_a_file_of_suno():
    codes_QT = np.zeros((8, 1155), np.int64)
    arrays = {"semantic_prompt": np.zeros(768, np.int64), "coarse_prompt": codes_QT[:2], "fine_prompt": codes_QT}
    npz = as_npz(**arrays)
    assert voice_from_json(npz) == Voice.from_dict(arrays)
    assert len(npz) < Settings(Job("stub")).max_body_bytes


HOSTILE = {
    "a path": "/etc/passwd",
    "a number": 7,
    "nothing": None,
    "no base64": "UEsDBBQ*",
    "beyond ASCII": "é♪",
    "empty": "",
    "a pickle": base64.b64encode(b"\x80\x04K\x01.").decode(),
    "objects": as_npz(semantic_prompt=np.array([{}], object)),
    "an array is missing": as_npz(semantic_prompt=np.array([1])),
    "a bomb": bomb(),
    "too long": "A" * (MAX_NPZ_CHARACTERS + 4),
}


@pytest.mark.parametrize("npz", list(HOSTILE.values()), ids=list(HOSTILE))
def test_what_is_no_voice_is_refused(served, speak, npz):
    n_before = len(served.service.requests)
    answer = speak(voice={"npz": npz})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "voice") and len(error["message"]) < 500
    assert len(served.service.requests) == n_before


@pytest.mark.parametrize(
    ("voice", "described"), [(None, None), ("slt", "slt"), ("/home/somebody/secret/mine.npz", "mine")]
)
def test_the_model_says_what_a_page_needs_and_not_where_files_lie(voice, described):
    with serving(StubService({"hello", "a"}), Settings(Job("stub", voice=voice), max_characters=99)) as served:
        (model,) = httpx.get(f"{served.url}/v1/models", timeout=HANG_S).json()["data"]
    assert (model["words"], model["sample_rate"], model["max_characters"]) == (["a", "hello"], 24_000, 99)
    assert model["default_voice"] == described
