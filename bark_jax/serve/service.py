"""What the application asks of a model: to speak a checked request, and to say how it is."""

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Protocol

import numpy as np

from bark_jax.bark import Bark
from bark_jax.serve.settings import Settings
from bark_jax.serve.speech import SpeechRequest


class Speech(Protocol):
    """A text that is being spoken."""

    def __aiter__(self) -> AsyncIterator[np.ndarray]:
        """Yields audio samples, float32 [A] or [A, channels]: the whole at once, or parts of a streamed request.

        Raises:
          BarkError: while iterating, if the text cannot be spoken.
        """

    def close(self) -> None:
        """Ends the work; no more audio follows. Does nothing where it has ended."""


class Service(Protocol):
    """A model that speaks for many callers."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def sample_rate(self) -> int:
        """Audio samples a second."""

    @property
    def voices(self) -> Sequence[str]:
        """Names that a request's `voice` may have."""

    @property
    def is_ready(self) -> bool:
        """Whether its programs are compiled."""

    async def speak(self, request: SpeechRequest) -> Speech:
        """Begins to speak.

        Raises:
          BarkError: the text, the voice or a setting cannot be spoken.
        """

    async def start(self) -> None:
        """Starts its thread and compiles its programs; returns before they are compiled."""

    async def stop(self) -> None:
        """Ends its thread."""


class _Plain:
    """Speaks one request after the other."""

    def __init__(self, bark: Bark, settings: Settings):
        self._bark, self._settings = bark, settings
        self.model, self.sample_rate = str(settings.job.model), bark.sample_rate
        self.voices, self.is_ready = bark.voices(), True
        self._thread = concurrent.futures.ThreadPoolExecutor(1)

    async def speak(self, request: SpeechRequest) -> Speech:
        options = {"voice": request.voice, "seed": request.seed, **request.settings}

        def parts() -> Iterator[np.ndarray]:
            if request.stream_format is None:
                yield self._bark.generate_long(request.text, **options).samples
            else:
                for part in self._bark.stream(request.text, **options):
                    yield part.samples

        return _PlainSpeech(parts(), self._thread)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self._thread.shutdown()


class _PlainSpeech:
    def __init__(self, parts: Iterator[np.ndarray], thread: concurrent.futures.Executor):
        self._parts, self._thread = parts, thread

    async def __aiter__(self) -> AsyncIterator[np.ndarray]:
        loop = asyncio.get_running_loop()
        while (part := await loop.run_in_executor(self._thread, next, self._parts, None)) is not None:
            yield part

    def close(self) -> None:
        pass


def open_service(settings: Settings) -> Service:
    """Loads the model of the settings; `Service.start` then starts it.

    Raises:
      BarkError: as `Bark.from_pretrained`.
    """
    job = settings.job
    return _Plain(Bark.from_pretrained(str(job.model), revision=job.revision, dtype=job.dtype), settings)
