"""The server with a model: callers at once get what each would get alone, and leave no trace when they go."""

import concurrent.futures
import dataclasses
import json
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

import jax  # noqa: E402
from deadlines import HANG_S  # noqa: E402
from serve_stub import RATE, serving, settings  # noqa: E402
from test_batch_engine import replace_function  # noqa: E402
from test_serve_http import decode, until  # noqa: E402

from bark_jax.bark import Bark  # noqa: E402
from bark_jax.batch.speech import Speaker  # noqa: E402
from bark_jax.errors import DeviceError, VoiceNotFoundError  # noqa: E402
from bark_jax.generation.live import LiveEngine  # noqa: E402
from bark_jax.serve.service import EngineService  # noqa: E402
from bark_jax.serve.spoken import SpokenText  # noqa: E402
from bark_jax.serve.voices import voice_from_json, voice_to_json  # noqa: E402
from bark_jax.text.processor import BarkProcessor  # noqa: E402
from bark_jax.voices.library import VoiceLibrary  # noqa: E402

# Compiling the engine's programs takes most of this file's time. `test_live_engine` has the engine among fast tests.
pytestmark = pytest.mark.slow

LONG = "One two three. Four five six! Seven eight nine?"
VOICES = ("high", "low")
LONGEST_S = 1.4


@pytest.fixture(scope="module")
def bark(toy_model, toy_folder):
    plain = Bark(toy_model, BarkProcessor.from_pretrained(toy_folder))
    clips = [plain.generate("a voice", seed=seed, max_seconds=1.5, allow_early_stop=False) for seed in (1, 2)]
    voices = [
        type(clip.as_voice())(**vars(clip.as_voice()) | {"name": name})
        for name, clip in zip(VOICES, clips, strict=True)
    ]
    processor = plain.processor
    return Bark(
        toy_model, BarkProcessor(processor.tokenizer, VoiceLibrary.from_voices(voices), spaces=processor.spaces)
    )


def make_service(bark, n_slots=4):
    return EngineService("toy", Speaker(bark, LiveEngine(bark.model, n_slots), max_tokens=20))


@pytest.fixture(scope="module")
def served(bark):
    with serving(make_service(bark), settings(max_requests=64)) as found:
        with httpx.Client(base_url=found.url, timeout=HANG_S) as http:
            until(lambda: http.get("/ready").status_code == 200)
        yield found


@pytest.fixture
def utterances(monkeypatch):
    """What the engine gave, by seed and number of the sentence."""
    found, receive = {}, SpokenText.receive

    def record(self, event):
        if utterance := getattr(event, "utterance", None):
            found[self._text.row.seed, event.tag[1]] = utterance
        receive(self, event)

    monkeypatch.setattr(SpokenText, "receive", record)
    return found


def make_cases(n):
    """Requests of own texts, voices, seeds, lengths, formats, streamed and not, and now and then of many sentences."""
    for seed in range(n):
        yield {
            "model": "toy",
            "input": LONG if seed % 5 == 4 else f"This is text {seed}.",
            "voice": (None, *VOICES)[seed % 3],
            "seed": seed,
            "response_format": ("pcm", "flac", "wav", "mp3", "opus")[(seed + seed // 5) % 5],
            "stream_format": (None, "audio")[seed // 2 % 2],
            "max_seconds": (0.3, LONGEST_S, 0.8)[seed % 3],
            "temperature": (0.7, 1.2)[seed % 2],
        } | ({"top_k": 20} if seed % 7 == 6 else {})


def speak(served, case):
    with httpx.Client(base_url=served.url, timeout=HANG_S) as http:
        answer = http.post("/v1/audio/speech", json=case)
        assert answer.status_code == 200, answer.text
        return answer.content


def ask_at_once(served, cases):
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        return list(pool.map(lambda case: speak(served, case), cases))


def assert_as_alone(bark, case, data, utterances):
    given = {name: case[name] for name in ("voice", "seed", "max_seconds", "temperature", "top_k") if name in case}
    if case["input"] == LONG:
        long = bark.generate_long(LONG, max_tokens=20, **given)
        clips, samples = [sentence.clip for sentence in long.sentences], long.samples
    else:
        clips = [bark.generate(case["input"], **given)]
        samples = clips[0].samples
    is_streamed = case["stream_format"] is not None
    for number, clip in enumerate(clips):
        found = utterances[case["seed"], number]
        np.testing.assert_array_equal(found.semantic, clip.semantic)
        np.testing.assert_array_equal(found.coarse, clip.coarse)
        if not is_streamed:
            np.testing.assert_array_equal(found.fine, clip.fine)
    if is_streamed:
        parts = bark.stream(case["input"], max_tokens=20, **given)
        samples = np.concatenate([part.samples for part in parts])
    if (name := case["response_format"]) in ("pcm", "flac", "wav"):
        if name == "flac" and is_streamed:  # of unknown length, which libsndfile's reader does not take
            data = data[:22] + len(samples).to_bytes(4) + data[26:]
        np.testing.assert_allclose(decode(data, name), samples, atol=3e-4)
    else:
        assert data[:4] == b"OggS" if name == "opus" else data[:1] == b"\xff"


def test_callers_at_once_get_what_each_gets_alone(served, bark, utterances):
    cases = list(make_cases(7))
    for case, data in zip(cases, ask_at_once(served, cases), strict=True):
        assert_as_alone(bark, case, data, utterances)


def test_64_callers_at_once_get_what_each_gets_alone(bark, utterances):
    cases = list(make_cases(64))
    with serving(make_service(bark, 16), settings(max_requests=64)) as served:
        for case, data in zip(cases, ask_at_once(served, cases), strict=True):
            assert_as_alone(bark, case, data, utterances)


def test_a_caller_who_leaves_frees_his_slots(served, utterances):
    """Before his sentences end: not one of the later ones is finished."""
    thread = served.service.thread
    with httpx.Client(base_url=served.url, timeout=HANG_S) as http:
        case = {"model": "toy", "input": LONG, "voice": "high", "max_seconds": LONGEST_S, "allow_early_stop": False}
        case |= {"seed": 77}
        with http.stream("POST", "/v1/audio/speech", json=case | {"stream_format": "audio"}) as answer:
            assert next(answer.iter_raw())
        until(lambda: not len(thread.inbox) and served.service.usage.n_semantic == served.service.usage.n_coarse == 0)
    assert thread.inbox.take_all() == []
    assert len(utterances) < 3


def test_a_failing_device_is_a_503_and_the_server_goes_on(served, monkeypatch):
    engine = served.service.thread.engine
    right, calls = engine._programs.functions.run_coarse, []

    def run_coarse(*rows, **options):
        calls.append(rows)
        if len(calls) == 1:
            raise jax.errors.JaxRuntimeError("INTERNAL: device lost")
        return right(*rows, **options)

    replace_function(monkeypatch, engine, run_coarse=run_coarse)
    case = {"model": "toy", "input": "One.", "max_seconds": 0.3, "response_format": "pcm", "seed": 1}
    with httpx.Client(base_url=served.url, timeout=HANG_S) as http:
        answer = http.post("/v1/audio/speech", json=case)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "device_error"
        assert http.post("/v1/audio/speech", json=case).status_code == http.get("/health").status_code == 200


def test_a_bug_in_the_engine_is_a_500_and_the_server_goes_on(served, monkeypatch):
    engine = served.service.thread.engine
    with monkeypatch.context() as patch:
        replace_function(patch, engine, run_semantic=None)
        case = {"model": "toy", "input": "One.", "max_seconds": 0.3, "response_format": "pcm", "seed": 1}
        with httpx.Client(base_url=served.url, timeout=HANG_S) as http:
            assert http.post("/v1/audio/speech", json=case).status_code == 500
    assert speak(served, case)


def test_what_the_tokenizer_and_the_settings_refuse_is_a_400(served):
    refused = [
        {"input": ""},
        {"input": "\u0000"},
        {"input": " \u200b"},
        {"temprature": 1},
        {"temperature": -1},
        {"temperature": [1, 2]},
        {"sliding_window_len": 30},
        {"max_seconds": 1e9},
        {"max_new_tokens": 10, "max_seconds": 1},
    ]
    with httpx.Client(base_url=served.url, timeout=HANG_S) as http:
        for fields in refused:
            answer = http.post("/v1/audio/speech", json={"model": "toy", "input": "One."} | fields)
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), fields


# An audit hook cannot be removed, so it is one for all tests, and off outside of a test that reads it.
_touched, _is_watching = [], threading.Event()


def _watch(event, arguments):
    if _is_watching.is_set() and "canary" in repr(arguments):
        _touched.append((event, arguments))


def test_a_path_as_voice_touches_no_file(served, bark, tmp_path):
    """The canary is a voice that would do, were a path taken."""
    canary = tmp_path / "canary.npz"
    bark.generate("a voice", seed=1, max_seconds=0.3).as_voice().save(canary)
    sys.addaudithook(_watch)
    _is_watching.set()
    try:
        with httpx.Client(base_url=served.url, timeout=HANG_S) as http:
            for voice in (
                str(canary),
                f"file://{canary}",
                "../canary.npz",
                f"{tmp_path}/x/../canary.npz",
                {"id": str(canary)},
            ):
                for stream_format in (None, "audio"):
                    case = {"model": "toy", "input": "One.", "voice": voice, "stream_format": stream_format}
                    assert http.post("/v1/audio/speech", json=case).status_code == 400
        assert _touched == []
        canary.read_bytes()
        assert _touched  # the hook sees what it should
    finally:
        _is_watching.clear()


def test_a_voice_that_is_being_downloaded_holds_up_no_other_caller(served, monkeypatch):
    may_end, load = threading.Event(), VoiceLibrary.load

    def load_slowly(self, name, spaces):
        if name == "high":
            assert may_end.wait(HANG_S)
            raise VoiceNotFoundError("voice 'high' is not on this machine and the Hub cannot be reached")
        return load(self, name, spaces)

    monkeypatch.setattr(VoiceLibrary, "load", load_slowly)
    monkeypatch.setattr(VoiceLibrary, "is_read", lambda self, name: name != "high")
    case = {"model": "toy", "input": "One.", "max_seconds": 0.3, "seed": 1}
    with concurrent.futures.ThreadPoolExecutor(1) as pool, httpx.Client(base_url=served.url, timeout=HANG_S) as http:
        waiting = pool.submit(http.post, "/v1/audio/speech", json=case | {"voice": "high"})
        assert speak(served, case | {"voice": "low"}) and not waiting.done()
        may_end.set()
        answer = waiting.result()
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "voice_unreachable"
    assert "Hub cannot be reached" in answer.json()["error"]["message"]


def test_a_server_whose_first_programs_failed_is_ready_once_it_has_spoken(bark):
    service = make_service(bark)
    service.thread.engine.warm_up = lambda row: (_ for _ in ()).throw(DeviceError("no memory"))
    case = {"model": "toy", "input": "One.", "max_seconds": 0.3, "seed": 1}
    with serving(service, settings()) as served, httpx.Client(base_url=served.url, timeout=HANG_S) as http:
        until(lambda: http.get("/health").status_code == 503)
        assert speak(served, case)
        assert http.get("/health").status_code == http.get("/ready").status_code == 200


def test_voices_are_those_of_the_model(served):
    with httpx.Client(base_url=served.url, timeout=HANG_S) as http:
        assert [voice["id"] for voice in http.get("/v1/audio/voices").json()["voices"]] == list(VOICES)
    assert served.service.sample_rate == RATE


def test_the_voice_of_a_clip_comes_with_its_last_event_and_speaks_another_text(served, bark):
    first = {"model": "toy", "input": LONG, "seed": 5, "max_seconds": 0.8, "response_format": "pcm"}
    events = speak(served, first | {"stream_format": "sse", "include": ["voice"]}).decode().split("\n\n")
    sent = json.loads(events[-2].removeprefix("data: "))["voice"]
    voice, spoken = voice_from_json(sent["npz"]), bark.generate_long(LONG, max_tokens=20, seed=5, max_seconds=0.8)
    np.testing.assert_array_equal(voice.semantic, spoken.sentences[0].clip.semantic)
    np.testing.assert_array_equal(voice.coarse, spoken.sentences[0].clip.coarse)
    second = {"model": "toy", "input": "This is text 1.", "seed": 6, "max_seconds": 0.8, "response_format": "pcm"}
    clip = bark.generate(second["input"], voice=voice, seed=6, max_seconds=0.8)
    np.testing.assert_allclose(decode(speak(served, second | {"voice": sent}), "pcm"), clip.samples, atol=3e-4)
    other = voice_to_json(dataclasses.replace(voice, semantic=voice.semantic + 100_000))
    with httpx.Client(base_url=served.url, timeout=HANG_S) as http:
        refused = http.post("/v1/audio/speech", json=second | {"voice": other})
    assert refused.status_code == 400 and "another model's" in refused.json()["error"]["message"]
