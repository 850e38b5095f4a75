"""Services: the protocol of a model that speaks for many callers, and the one of a live engine."""

import asyncio
import concurrent.futures
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from bark_jax.batch.rows import TextRow
from bark_jax.batch.speech import Speaker
from bark_jax.errors import VoiceError
from bark_jax.generation.live import LiveEngine
from bark_jax.generation.rows import Row
from bark_jax.generation.seeds import row_keys
from bark_jax.generation.settings import SHARED_NAMES, resolve_settings
from bark_jax.serve.engine_thread import EngineThread
from bark_jax.serve.errors import ApiError
from bark_jax.serve.settings import Settings
from bark_jax.serve.speech import SpeechRequest
from bark_jax.serve.spoken import SpokenText
from bark_jax.voices.library import resolve_voice
from bark_jax.voices.voice import Voice

# Semantic tokens of the row that compiles the programs: 1.3 s in Bark, four coarse windows.
WARM_UP_TOKENS = 64
# Longest wait for the engine's thread when the server ends: a chunk of steps on a slow machine.
STOP_WITHIN_S = 10.0


class Speech(Protocol):
    """A text that is being spoken."""

    def __aiter__(self) -> AsyncIterator[np.ndarray]:
        """Yields audio samples, float32 [A] or [A, channels]: the whole at once, or parts of a streamed request.

        Raises:
          InputError: while iterating: there is no audio.
          BarkError: while iterating: the text cannot be spoken.
        """

    def close(self) -> None:
        """Ends the work; no more audio follows. Does nothing where it has ended."""

    @property
    def voice(self) -> Voice | None:
        """Voice of the first sentence that has audio, once it is spoken."""


class Usage(Protocol):
    """Slots taken and seconds of each stage."""

    n_semantic: int  # slots taken in the semantic stage
    n_coarse: int
    seconds: dict[str, float]  # that each stage has taken so far


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
    def words(self) -> Collection[str] | None:
        """All words that the model knows, in lower case; None for a model that reads any text."""

    @property
    def n_slots(self) -> int:
        """Sentences that are spoken at once."""

    @property
    def n_waiting(self) -> int:
        """Sentences that wait for a slot."""

    @property
    def usage(self) -> Usage:
        """Slots taken and seconds of each stage."""

    @property
    def is_ready(self) -> bool:
        """Whether its programs are compiled."""

    @property
    def fault(self) -> str | None:
        """Why the process should be replaced, or None."""

    async def speak(self, request: SpeechRequest) -> Speech:
        """Begins to speak.

        Raises:
          BarkError: the text, the voice or a setting is refused.
        """

    async def start(self) -> None:
        """Starts its thread, which compiles the programs; returns at once."""

    async def stop(self) -> None:
        """Ends its thread."""


class EngineService:
    """A service of one engine on this machine's devices; implements `Service`.

    Args:
      name: of the model.
      speaker: its engine is a `LiveEngine`.
      settings: the speaker's default settings.
    """

    def __init__(self, name: str, speaker: Speaker, settings: Mapping[str, Any] = MappingProxyType({})):
        assert isinstance(speaker.engine, LiveEngine)
        self.model, self.sample_rate = name, speaker.bark.sample_rate
        self.voices, self.words = speaker.bark.voices(), speaker.bark.processor.words
        self._speaker = speaker
        # One at a time: `open` catches Python's warnings, which is not safe among threads.
        self._opening = concurrent.futures.ThreadPoolExecutor(1, "bark-jax-open")
        self._reading = concurrent.futures.ThreadPoolExecutor(1, "bark-jax-voices")
        self.thread = EngineThread(speaker.engine, _warm_up_row(speaker, settings))

    @property
    def n_slots(self) -> int:
        """As `Service.n_slots`."""
        return self.thread.engine.n_slots

    @property
    def n_waiting(self) -> int:
        """As `Service.n_waiting`."""
        return len(self.thread.inbox)

    @property
    def usage(self) -> Usage:
        """As `Service.usage`."""
        return self.thread.engine.usage

    @property
    def is_ready(self) -> bool:
        """As `Service.is_ready`."""
        return self.thread.is_ready and self.fault is None

    @property
    def fault(self) -> str | None:
        """As `Service.fault`."""
        return self.thread.fault

    async def speak(self, request: SpeechRequest) -> Speech:
        """As `Service.speak`."""
        is_streamed = request.stream_format is not None
        if is_streamed and not self.thread.engine.can_stream:
            raise ApiError(400, "this model's codec cannot stream; leave out stream_format", param="stream_format")
        await self._read_voice(request.voice)
        row = TextRow(0, "", request.text, request.voice, request.seed, request.settings)
        try:
            text = await asyncio.get_running_loop().run_in_executor(self._opening, self._speaker.open, row)
        except VoiceError as error:
            if not isinstance(request.voice, Voice):  # a name: a fault in the model's own file is the server's
                raise
            raise ApiError(400, str(error), param="voice") from error
        speech = SpokenText(text, self._speaker, self.thread, is_streamed=is_streamed)
        speech.start()
        return speech

    async def _read_voice(self, voice: str | Voice | None) -> None:
        """Reads a voice's files at its first use. That may be a download, for which no other text waits."""
        processor = self._speaker.bark.processor
        if isinstance(voice, str) and not processor.library.is_read(voice):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._reading, processor.library.load, voice, processor.spaces)

    async def start(self) -> None:
        """As `Service.start`."""
        self.thread.start()

    async def stop(self) -> None:
        """As `Service.stop`."""
        for pool in (self._opening, self._reading):
            pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.thread.stop, STOP_WITHIN_S)


def open_service(settings: Settings) -> EngineService:
    """Loads the model of the settings; `Service.start` then starts it.

    Raises:
      BarkError: as `Bark.from_pretrained`; or the default voice or a default setting is not valid.
    """
    job = settings.job
    speaker = job.open_speaker(is_live=True)
    bark = speaker.bark
    # Now, and not at every request.
    resolve_voice(job.voice, bark.processor.library, bark.model.spaces)
    resolve_settings(job.settings, 1, bark.model.generation_config, bark.model.spaces)
    # A folder's name, as clients need not know where it is.
    name = os.path.basename(os.path.abspath(job.model)) if os.path.isdir(job.model) else str(job.model)
    return EngineService(name, speaker, job.settings)


def _warm_up_row(speaker: Speaker, given: Mapping[str, Any]) -> Row:
    """A row of a known length, whatever the text, with the settings that all rows share."""
    model = speaker.bark.model
    spaces = model.spaces
    shared = {name: given[name] for name in SHARED_NAMES & given.keys()}
    length = {"max_new_tokens": min(WARM_UP_TOKENS, spaces.max_semantic), "allow_early_stop": False}
    (settings,) = resolve_settings(shared | length, 1, model.generation_config, spaces)
    (key,) = row_keys(0, None, 1)
    return Row(np.full(1, spaces.text_offset + 1, np.int32), None, key, settings)
