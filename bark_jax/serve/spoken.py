"""A text between the engine's thread, which speaks its sentences, and the event loop, which sends them."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import numpy as np

from bark_jax.batch.speech import OpenText, Speaker
from bark_jax.errors import BarkError
from bark_jax.generation.engine import Finished
from bark_jax.generation.live import LiveRequest, Part
from bark_jax.generation.rows import Utterance
from bark_jax.serve.engine_thread import EngineThread
from bark_jax.voices.voice import Voice


class SpokenText:
    """A text that the engine speaks; implements `service.Speech` and `engine_thread.Caller`.

    Nothing here waits for the reader: audio that is not read yet is kept. The limit on characters bounds it.

    Args:
      is_streamed: True gives the audio in parts, in the order of the sentences; False all at once.
    """

    def __init__(self, text: OpenText, speaker: Speaker, thread: EngineThread, *, is_streamed: bool):
        self._text, self._speaker, self._thread, self._is_streamed = text, speaker, thread, is_streamed
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Queue[np.ndarray | BarkError | None] = asyncio.Queue()  # None at the end
        self._parts: dict[int, list[np.ndarray]] = {}  # of sentences after the one that is being sent
        self._sentence = 0  # the one that is being sent
        self._finished: set[int] = set()
        self._n_samples = 0
        # Held while sentences are handed over, so that none comes after the text was given up.
        self._lock, self._is_closed = threading.Lock(), False
        self._first: tuple[int, Utterance] | None = None  # the first sentence that has audio, and its number

    @property
    def voice(self) -> Voice | None:
        """As `Speech.voice`."""
        if self._first is None:
            return None
        _, spoken = self._first
        return Voice(semantic=spoken.semantic, coarse=spoken.coarse, fine=spoken.fine)

    def start(self) -> None:
        """Hands the first sentences to the engine."""
        self._request()

    async def __aiter__(self) -> AsyncIterator[np.ndarray]:
        """As `Speech.__aiter__`."""
        while True:
            item = await self._ready.get()
            if item is None:
                break
            if isinstance(item, BarkError):
                raise item
            yield item
        if not self._is_streamed or not self._n_samples:  # without audio `close` raises the error that says so
            spoken = await asyncio.to_thread(self._speaker.close, self._text)
            assert spoken.samples is not None
            yield spoken.samples

    def close(self) -> None:
        """As `Speech.close`."""
        with self._lock:
            self._is_closed = True
            self._thread.cancel(self)

    def receive(self, event: Finished | Part) -> None:
        """As `Caller.receive`."""
        number = event.tag[1]
        if isinstance(event, Part):
            self._receive_part(number, event)
        elif event.error is not None:
            self.fail(event.error)
        else:
            self._finish(number, event)

    def fail(self, error: BarkError) -> None:
        """As `Caller.fail`."""
        self.close()
        self._send(error)

    def _receive_part(self, number: int, event: Part) -> None:
        samples = event.part.samples
        if number == self._sentence:
            self._send_part(samples, is_first=event.part.first_frame == 0)
        else:
            self._parts.setdefault(number, []).append(samples)

    def _finish(self, number: int, event: Finished) -> None:
        assert event.utterance is not None
        if len(event.utterance.samples) and (self._first is None or number < self._first[0]):
            self._first = number, event.utterance
        if self._text.receive(number, event.utterance):
            self._request()
        self._finished.add(number)
        while self._sentence in self._finished:
            self._sentence += 1
            for index, samples in enumerate(self._parts.pop(self._sentence, ())):
                self._send_part(samples, is_first=index == 0)
        if self._text.is_spoken:
            self._send(None)

    def _send_part(self, samples: np.ndarray, *, is_first: bool) -> None:
        if is_first and self._n_samples:
            # Before the sentence and not after the last one, so that no silence trails.
            n_silent = round(self._speaker.silence_s * self._speaker.bark.sample_rate)
            samples = np.concatenate([np.zeros((n_silent, *samples.shape[1:]), np.float32), samples])
        self._n_samples += len(samples)
        self._send(samples)

    def _request(self) -> None:
        with self._lock:
            if not self._is_closed:
                requests = self._text.take_requests()
                self._thread.submit(self, [LiveRequest(*request, self._is_streamed) for request in requests])

    def _send(self, item: np.ndarray | BarkError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._ready.put_nowait, item)
