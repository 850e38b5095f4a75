"""Audio and events to a client."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import numpy as np
from starlette.responses import Response, StreamingResponse

from bark_jax.serve.errors import ApiError
from bark_jax.serve.formats import MEDIA_TYPES, encode_all, make_encoder
from bark_jax.serve.service import Service
from bark_jax.serve.speech import SpeechRequest


async def answer(service: Service, asked: SpeechRequest) -> Response:
    """Returns the answer to a request, once its first audio is there."""
    speech = await service.speak(asked)
    parts = aiter(speech)
    first = await anext(parts, None)
    headers = {"X-Seed": str(asked.seed)}
    if first is None:
        raise ApiError(422, f"there is no audio with seed {asked.seed}; try another seed", code="no_audio")
    name = asked.response_format
    if asked.stream_format is None:
        data = await asyncio.to_thread(encode_all, first, service.sample_rate, name)
        return Response(data, headers=headers, media_type=MEDIA_TYPES[name])
    chunks = _encoded(first, parts, service.sample_rate, name)
    if asked.stream_format == "audio":
        return StreamingResponse(chunks, headers=headers, media_type=MEDIA_TYPES[name])
    return StreamingResponse(_events(chunks), headers=headers, media_type="text/event-stream")


async def _encoded(
    first: np.ndarray, parts: AsyncIterator[np.ndarray], sample_rate: int, name: str
) -> AsyncIterator[bytes]:
    encoder = make_encoder(sample_rate, 1 if first.ndim == 1 else first.shape[1], name)
    part: np.ndarray | None = first
    while part is not None:
        if data := await asyncio.to_thread(encoder.encode, part):
            yield data
        part = await anext(parts, None)
    if data := await asyncio.to_thread(encoder.finish):
        yield data


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for data in chunks:
        yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
    yield _event({"type": "speech.audio.done"})


def _event(content: dict[str, object]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
