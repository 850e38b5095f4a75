"""What is HTTP of the server, with a service without a model: OpenAI's client, errors, limits, access and metrics."""

import base64
import io
import json
import logging
import socket
import time

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
openai, httpx = pytest.importorskip("openai"), pytest.importorskip("httpx")

import soundfile  # noqa: E402
from deadlines import HANG_S  # noqa: E402
from serve_stub import PART, RATE, StubService, noise, serving, settings  # noqa: E402

from bark_jax.errors import InputError  # noqa: E402
from bark_jax.serve.formats import MEDIA_TYPES, encode_all  # noqa: E402


@pytest.fixture(scope="module")
def served():
    with serving(StubService(), settings()) as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def http(served):
    with httpx.Client(base_url=served.url, timeout=HANG_S) as found:
        yield found


N_STREAMED = 2 * PART  # audio samples of the text "held"


def body(**fields):
    return {"model": "stub", "input": "2 parts", "response_format": "pcm", "seed": 1} | fields


def speak(http, headers=None, **fields):
    return http.post("/v1/audio/speech", json=body(**fields), headers=headers)


def until(condition):
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def decode(data, name):
    """Reads as a player does, until the end, whatever length the header says."""
    if name == "pcm":
        return np.frombuffer(data, "<i2") / 32768
    if name == "flac" and not any(data[22:26]):
        # Players take a stream of unknown length; libsndfile does not, so it is told the length.
        data = data[:22] + N_STREAMED.to_bytes(4) + data[26:]
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.samplerate == RATE
        blocks = [file.read(1000)]
        while len(blocks[-1]):
            blocks.append(file.read(1000))
        return np.concatenate(blocks)


@pytest.mark.parametrize("name", list(MEDIA_TYPES))
def test_openais_client_gets_a_complete_file(client, name):
    answer = client.audio.speech.create(
        model="stub", voice="slt", input="3 parts", response_format=name, extra_body={"seed": 7}
    )
    assert answer.response.headers["content-type"] == MEDIA_TYPES[name]
    # Not the bytes: each Ogg file has a random number.
    np.testing.assert_array_equal(decode(answer.read(), name), decode(encode_all(noise(7, 3), RATE, name), name))


@pytest.mark.parametrize("name", list(MEDIA_TYPES))
def test_openais_client_gets_a_stream_before_its_end(served, client, name):
    served.call(served.service.release.clear)
    with client.audio.speech.with_streaming_response.create(
        model="stub", voice="slt", input="held", response_format=name, stream_format="audio", extra_body={"seed": 7}
    ) as answer:
        pieces = answer.iter_bytes()
        data = next(pieces)
        assert not served.service.speeches[-1].has_ended
        served.call(served.service.release.set)
        data += b"".join(pieces)
    samples, expected = decode(data, name), noise(7, 2)
    assert abs(len(samples) - len(expected)) <= (2 * 576 + 1105 if name == "mp3" else 0)
    if name in ("wav", "pcm", "flac"):
        np.testing.assert_allclose(samples, expected, atol=1e-4)


def test_events_hold_the_stream(http):
    with http.stream("POST", "/v1/audio/speech", json=body(input="3 parts", stream_format="sse")) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 3 + ["speech.audio.done"]
    data = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert data == encode_all(noise(1, 3), RATE, "pcm")


def test_defaults_are_openais(served, http):
    answer = http.post("/v1/audio/speech", json={"model": "tts-1", "input": "2 parts", "voice": {"id": "slt"}})
    request = served.service.requests[-1]
    assert answer.headers["content-type"] == "audio/mpeg"
    assert (request.voice, request.settings, request.stream_format) == ("slt", {}, None)
    # The seed that was drawn gives the same again.
    assert http.post(
        "/v1/audio/speech", json=body(seed=int(answer.headers["x-seed"]), response_format="mp3")
    ).content == (answer.content)


def test_settings_have_their_own_names(served, http):
    speak(http, temperature=0.6, coarse_top_k=50, speed=1.0, instructions="")
    assert served.service.requests[-1].settings == {"temperature": 0.6, "coarse_top_k": 50}


REFUSED = {
    "not json": (b"{", 400, None),
    "no object": (b"[]", 400, None),
    "twice": (b'{"model": "stub", "input": "a", "input": "b"}', 400, None),
    "deep": (b"[" * 5000, 400, None),
    "no model": (body(model=None), 400, "model"),
    "another model": (body(model="bark-xl"), 404, "model"),
    "no input": (body(input=None), 400, "input"),
    "a number as input": (body(input=5), 400, "input"),
    "a long input": (body(input="a" * 4097), 400, "input"),
    "aac": (body(response_format="aac"), 400, "response_format"),
    "ogg": (body(response_format="ogg"), 400, "response_format"),
    "a list as format": (body(response_format=["wav"]), 400, "response_format"),
    "a stream format": (body(stream_format="chunked"), 400, "stream_format"),
    "slow": (body(speed=0.5), 400, "speed"),
    "speed true": (body(speed=True), 400, "speed"),
    "instructions": (body(instructions="whisper"), 400, "instructions"),
    "a negative seed": (body(seed=-1), 400, "seed"),
    "a float as seed": (body(seed=1.5), 400, "seed"),
    "a huge seed": (body(seed=2**64), 400, "seed"),
    "another voice": (body(voice="alloy"), 400, "voice"),
    "a path as voice": (body(voice="../../canary.npz"), 400, "voice"),
    "a list as voice": (body(voice=["a.npy", "b.npy", "c.npy"]), 400, "voice"),
    "an address as voice": (body(voice="http://127.0.0.1:9/canary.npz"), 400, "voice"),
    "arrays as voice": (body(voice={"semantic_prompt": [1]}), 400, "voice"),
    "a path as id": (body(voice={"id": "/etc/passwd"}), 400, "voice"),
    "a setting out of range": (body(temperature=0), 400, None),
    "no audio": (body(input="silent"), 422, "seed"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_wrong_request_is_answered_in_openais_form(served, http, case):
    content, status, param = REFUSED[case]
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    answer = http.post("/v1/audio/speech", content=data, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert error["message"] and len(error["message"]) < 500


def test_openais_client_knows_the_errors(client):
    create = client.audio.speech.create
    with pytest.raises(openai.BadRequestError, match="no voice is called 'alloy'"):
        create(model="stub", voice="alloy", input="2 parts")
    with pytest.raises(openai.NotFoundError, match="not served here"):
        create(model="bark-xl", voice="slt", input="2 parts")
    with pytest.raises(openai.InternalServerError, match="device failed"):
        create(model="stub", voice="slt", input="device")
    assert create(model="stub", voice="slt", input="2 parts").read()


def test_lists_and_unknown_routes(client, http):
    assert [model.id for model in client.models.list()] == ["stub"] and client.models.retrieve("stub").id == "stub"
    assert http.get("/v1/audio/voices").json()["voices"][0] == {
        "id": "v2/de_speaker_3",
        "name": "v2/de_speaker_3",
        "language": "de",
    }
    for method, path, status in (("GET", "/v1/models/x", 404), ("GET", "/v1/x", 404), ("GET", "/v1/audio/speech", 405)):
        answer = http.request(method, path)
        assert answer.status_code == status and "message" in answer.json()["error"]


def test_a_device_that_fails_within_a_stream_cuts_it(http):
    with pytest.raises(httpx.RemoteProtocolError):
        speak(http, input="late device", stream_format="audio")
    events = speak(http, input="late device", stream_format="sse").text
    assert json.loads(events.split("data: ")[-1])["error"]["code"] == "device_error"
    assert speak(http).status_code == 200


def test_a_bug_is_a_500_and_neither_answer_nor_log_has_its_message(http, caplog):
    answer = speak(http, input="bug")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert "ZeroDivisionError" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("stream_format", [None, "audio", "sse"])
def test_a_client_that_leaves_ends_its_work(served, http, stream_format):
    served.call(served.service.release.clear)
    n_before = len(served.service.speeches)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        data = json.dumps(body(input="held", stream_format=stream_format)).encode()
        head = "POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        until(lambda: len(served.service.speeches) > n_before)
    until(lambda: served.service.speeches[-1].is_closed)
    assert not served.service.speeches[-1].has_ended
    until(lambda: "bark_jax_requests_open 0.0" in http.get("/metrics").text)


def test_a_reader_who_does_not_read_holds_no_place():
    """Its audio is megabytes, more than sockets hold; the one place for texts is free again meanwhile."""
    with serving(StubService(), settings(max_requests=1)) as served, httpx.Client(base_url=served.url) as http:
        with http.stream("POST", "/v1/audio/speech", json=body(input="2000 parts", stream_format="audio")):
            until(lambda: served.service.speeches[0].has_ended)
            until(lambda: speak(http).status_code == 200)
        until(lambda: served.service.speeches[0].is_closed)


def test_too_many_requests_are_told_when_to_come_again():
    with serving(StubService(), settings(max_requests=2)) as served, httpx.Client(base_url=served.url) as http:
        held = body(input="held", stream_format="audio")
        with http.stream("POST", "/v1/audio/speech", json=held), http.stream("POST", "/v1/audio/speech", json=held):
            answer = speak(http)
            assert answer.status_code == 429 and answer.json()["error"]["type"] == "rate_limit_error"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert 'outcome="busy"} 1.0' in http.get("/metrics").text
            served.call(served.service.release.set)
        until(lambda: speak(http).status_code == 200)


def test_a_request_that_takes_too_long_ends():
    with serving(StubService(), settings(timeout_s=0.5)) as served, httpx.Client(base_url=served.url) as http:
        answer = speak(http, input="held")
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        with pytest.raises(httpx.RemoteProtocolError):
            speak(http, input="held", stream_format="audio")
        assert all(speech.is_closed for speech in served.service.speeches)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_long_body_is_refused_before_it_is_read(served, http, is_chunked):
    sent = []

    def pieces():
        for number in range(10_000):
            sent.append(number)
            yield b" " * 65_536

    content = pieces() if is_chunked else b" " * 10_000_000
    headers = {"content-type": "application/json"}
    try:
        status = http.post("/v1/audio/speech", content=content, headers=headers).status_code
    except httpx.TransportError:  # the server closes while the client still sends
        status = 413
    assert status == 413 and len(sent) < 1000


def test_a_key_is_asked_of_all_but_health():
    with serving(StubService(), settings(api_key="k1")) as served, httpx.Client(base_url=served.url) as http:
        right, wrong = {"authorization": "Bearer k1"}, {"authorization": "Bearer k2"}
        for headers in ({}, wrong, {"authorization": "Basic k1"}, {"authorization": "Bearer"}):
            for path in ("/v1/models", "/v1/audio/voices", "/metrics"):
                assert http.get(path, headers=headers).status_code == 401
            answer = speak(http, headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert not served.service.requests
        assert speak(http, right).status_code == http.get("/metrics", headers=right).status_code == 200
        assert http.get("/health").status_code == http.get("/ready").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),  # DNS rebinding: the name is another site's, the address this machine's
        ({"host": "localhost.evil.example:8000"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost"}, 403),  # another port, another server
        ({"content-type": "text/plain"}, 415),  # what a form or a page may send without asking
        ({"host": "localhost:9", "origin": "http://localhost:9"}, 200),
        ({"host": "[::1]:9"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_use_the_server(served, http, headers, status):
    n_before = len(served.service.requests)
    assert speak(http, headers).status_code == status
    assert len(served.service.requests) - n_before == (status == 200)


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_probe_may_call_the_machine_by_any_name(http, path):
    assert http.get(path, headers={"host": "10.0.0.7:8000"}).status_code == 200
    for other in ("/v1/models", f"/v1/models{path}"):
        assert http.get(other, headers={"host": "10.0.0.7:8000"}).status_code == 421


def test_a_page_that_is_named_may_use_the_server():
    page = {"origin": "https://app.example"}
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,authorization"}
    with (
        serving(StubService(), settings(cors_origins=("https://app.example",), hosts=None)) as served,
        httpx.Client(base_url=served.url) as http,
    ):
        assert http.options("/v1/audio/speech", headers=page | asks).status_code == 200
        assert speak(http, page).headers["access-control-allow-origin"] == "https://app.example"
        assert speak(http, {"origin": "https://evil.example"}).status_code == 403
        assert speak(http, {"host": "any.example"}).status_code == 200


def test_no_text_is_logged_unless_asked(http, caplog):
    with caplog.at_level(logging.DEBUG):
        speak(http, input="4 parts of a secret")
        speak(http, input="a secret", voice="secret")
        until(lambda: "refused" in caplog.text)
        assert "secret" not in caplog.text and "19 characters" in caplog.text
        with serving(StubService(), settings(logs_text=True)) as served, httpx.Client(base_url=served.url) as other:
            speak(other, input="4 parts of a secret\n")
            until(lambda: "'4 parts of a secret\\n'" in caplog.text)


def test_metrics_count_outcomes_and_audio():
    with serving(StubService(), settings()) as served, httpx.Client(base_url=served.url) as http:
        speak(http, input="5 parts")
        speak(http, input="5 parts", stream_format="audio")
        speak(http, input="device")
        speak(http, voice="alloy")
        text = http.get("/metrics").text
        for line in (
            'bark_jax_requests_total{outcome="ok"} 2.0',
            'bark_jax_requests_total{outcome="failed"} 1.0',
            "bark_jax_audio_seconds_total 2.0",
            'bark_jax_first_audio_seconds_count{kind="stream"} 1.0',
            'bark_jax_slots_in_use{stage="coarse"} 0.0',
            'bark_jax_stage_seconds_total{stage="fine"} 0.0',
            "bark_jax_slots 2.0",
        ):
            assert line in text.splitlines()


def test_health_and_ready_say_what_the_service_says(served, http):
    assert http.get("/ready").json() == {"status": "ready"}
    served.service.fault, served.service.is_ready = "the device has failed 3 times in a row", False
    try:
        assert http.get("/health").status_code == http.get("/ready").status_code == 503
    finally:
        served.service.fault, served.service.is_ready = None, True
    assert http.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": ""},
        {"api_key": "a\nb"},
        {"max_requests": 0},
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"cors_origins": ("*",)},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        settings(**options)


def test_a_key_is_not_shown():
    assert "k1-secret" not in repr(settings(api_key="k1-secret"))
