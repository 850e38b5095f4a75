"""POST /v1/audio/speech: reads the request, has it spoken, and sends the audio as a file, a stream or events."""

import asyncio
import base64
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send

from bark_jax.errors import InputError
from bark_jax.serve.errors import ApiError, as_api_error, without_message
from bark_jax.serve.formats import MEDIA_TYPES, encode_all, make_encoder
from bark_jax.serve.limits import HANG_UP, Admission, Ticket, read_body
from bark_jax.serve.metrics import Metrics
from bark_jax.serve.service import Service, Speech
from bark_jax.serve.settings import Settings
from bark_jax.serve.speech import SpeechRequest, parse_speech
from bark_jax.serve.voices import voice_to_json

# Longest wait for a body of some kilobytes.
BODY_WITHIN_S = 30.0

_log = logging.getLogger(__name__)


class SpeechEndpoint:
    """The ASGI application of the route."""

    def __init__(self, service: Service, settings: Settings, admission: Admission, metrics: Metrics):
        self._service, self._settings, self._admission, self._metrics = service, settings, admission, metrics
        self._voices = frozenset(service.voices)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, whatever happens, and counts how it ended."""
        exchange = _Exchange(send)
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                exchange.asked = asked = await self._read(Request(scope, receive))
                with self._admission.enter() as ticket:
                    await _unless_gone(receive, self._speak(asked, ticket, exchange))
            exchange.outcome = "ok"
        except ClientDisconnect:
            exchange.outcome = "left"
        except asyncio.CancelledError:
            exchange.outcome = "left"
            raise
        except Exception as error:
            await self._refuse(exchange, error)
        finally:
            self._count(exchange)

    async def _read(self, request: Request) -> SpeechRequest:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ApiError(415, f"the content type is {media_type[:80]!r}, expected application/json")
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await read_body(request, self._settings.max_body_bytes)
        except TimeoutError as error:
            message = f"the body has not come within {BODY_WITHIN_S:.0f} s"
            raise ApiError(408, message, headers=HANG_UP) from error
        return parse_speech(
            body, model=self._service.model, voices=self._voices, max_characters=self._settings.max_characters
        )

    async def _speak(self, asked: SpeechRequest, ticket: Ticket, exchange: "_Exchange") -> None:
        speech = await self._service.speak(asked)
        encoded: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        encoding = asyncio.create_task(self._encode(speech, asked, encoded, exchange))
        encoding.add_done_callback(lambda task: ticket.end_speaking())
        try:
            await _send(asked, speech, _drained(encoded), exchange)
        finally:
            speech.close()
            encoding.cancel()

    async def _encode(
        self,
        speech: Speech,
        asked: SpeechRequest,
        encoded: "asyncio.Queue[bytes | Exception | None]",
        exchange: "_Exchange",
    ) -> None:
        """Encodes audio as it comes, whether or not the client reads; ends with None or an error in the queue."""
        try:
            async for data in self._encoded(speech, asked, exchange):
                encoded.put_nowait(data)
        except Exception as error:
            encoded.put_nowait(error)
        else:
            encoded.put_nowait(None)
            self._admission.observe(exchange.seconds)

    async def _encoded(self, speech: Speech, asked: SpeechRequest, exchange: "_Exchange") -> AsyncIterator[bytes]:
        rate, name, encoder = self._service.sample_rate, asked.response_format, None
        async for samples in _with_audio(speech):
            exchange.receive(len(samples) / rate)
            if asked.stream_format is None:
                yield await asyncio.to_thread(encode_all, samples, rate, name)
            else:
                encoder = encoder or make_encoder(rate, 1 if samples.ndim == 1 else samples.shape[1], name)
                if data := await asyncio.to_thread(encoder.encode, samples):
                    yield data
        if encoder is not None and (data := await asyncio.to_thread(encoder.finish)):
            yield data

    async def _refuse(self, exchange: "_Exchange", error: Exception) -> None:
        """Answers with the error; ends an answer that has begun so that the client notices."""
        refused = as_api_error(error)
        if refused.status == 500:
            _log.error("%s failed", exchange.id, exc_info=without_message(error))
        usual = "refused" if refused.status < 500 else "failed"
        exchange.outcome = {429: "busy", 504: "timeout"}.get(refused.status, usual)
        with contextlib.suppress(OSError):  # the client left meanwhile
            await exchange.fail(refused)

    def _count(self, exchange: "_Exchange") -> None:
        metrics, asked = self._metrics, exchange.asked
        metrics.requests.labels(exchange.outcome).inc()
        metrics.audio_seconds.inc(exchange.audio_s)
        if asked is not None and exchange.first_audio_s is not None:
            kind = "file" if asked.stream_format is None else "stream"
            metrics.first_audio.labels(kind).observe(exchange.first_audio_s)
            metrics.duration.labels(kind).observe(exchange.seconds)
            metrics.characters.inc(len(asked.text))
        described = "" if asked is None else f"{len(asked.text)} characters as {asked.response_format}, "
        line = f"{exchange.id} {exchange.status} {exchange.outcome}: {described}{exchange.audio_s:.2f} s of audio"
        text = f": {asked.text!r}" if asked is not None and self._settings.logs_text else ""
        _log.info("%s in %.2f s%s", line, exchange.seconds, text)


class _Exchange:
    """A request and its answer: sends status, headers and body, and keeps the figures that are counted."""

    def __init__(self, send: Send):
        self.id = uuid.uuid4().hex
        self.asked: SpeechRequest | None = None
        self.outcome, self.status = "failed", 0
        self.audio_s = 0.0
        self.first_audio_s: float | None = None
        self.is_events = False
        self._send, self._started = send, time.perf_counter()
        self._has_begun = False

    @property
    def seconds(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self._started

    def receive(self, audio_s: float) -> None:
        """Counts audio."""
        self.audio_s += audio_s
        if self.first_audio_s is None:
            self.first_audio_s = self.seconds

    async def begin(self, media_type: str, *, length: int | None = None) -> None:
        """Sends the status and the headers; without a length the body is sent in chunks."""
        assert self.asked is not None
        headers = {"content-type": media_type, "x-request-id": self.id, "x-seed": str(self.asked.seed)}
        if length is not None:
            headers["content-length"] = str(length)
        self.is_events = media_type.startswith("text/event-stream")
        self.status, self._has_begun = 200, True
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Sends a piece of the body; waits for a client that reads slowly."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def fail(self, error: ApiError) -> None:
        """Sends an error. Of audio that has begun the rest is left out, and the connection ends without its end."""
        if not self._has_begun:
            self.status = error.status
            error.headers["X-Request-Id"] = self.id
            await error.response()({"type": "http"}, _never, self._send)
        elif self.is_events:
            await self.write(_event({"type": "error", **error.body()}), is_last=True)


async def _never() -> Message:
    raise NotImplementedError("an answer reads nothing")


async def _send(asked: SpeechRequest, speech: Speech, encoded: AsyncIterator[bytes], exchange: _Exchange) -> None:
    """Sends what is encoded, once there is a first piece: until then an error is answered as one."""
    media_type, first = MEDIA_TYPES[asked.response_format], await anext(encoded)
    if asked.stream_format is None:
        await exchange.begin(media_type, length=len(first))
        await exchange.write(first, is_last=True)
    elif asked.stream_format == "audio":
        await exchange.begin(media_type)
        await exchange.write(first)
        async for data in encoded:
            await exchange.write(data)
        await exchange.write(b"", is_last=True)
    else:
        await exchange.begin("text/event-stream; charset=utf-8")
        await exchange.write(_delta(first))
        async for data in encoded:
            await exchange.write(_delta(data))
        await exchange.write(await _done(speech if asked.wants_voice else None), is_last=True)


async def _with_audio(speech: Speech) -> AsyncIterator[np.ndarray]:
    """Yields the speech's audio. Raises ApiError 422 where there is none: another seed may have some."""
    try:
        async for samples in speech:
            yield samples
    except InputError as error:
        raise ApiError(422, str(error), param="seed", code="no_audio") from error


async def _drained(queue: "asyncio.Queue[bytes | Exception | None]") -> AsyncIterator[bytes]:
    while (item := await queue.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Awaits work. Raises ClientDisconnect, and cancels it, if the client leaves before its end."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnection(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnection(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _delta(data: bytes) -> bytes:
    return _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})


async def _done(speech: Speech | None) -> bytes:
    """Returns the last event, with the voice of a speech."""
    content: dict[str, object] = {"type": "speech.audio.done"}
    if speech is not None and (voice := speech.voice) is not None:
        content["voice"] = await asyncio.to_thread(voice_to_json, voice)
    return _event(content)


def _event(content: dict[str, object]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
