"""A service whose models are replicas of a Ray Serve deployment, on any machines of a cluster."""

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from typing import Any

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from bark_jax.errors import BarkError, DeviceError
from bark_jax.serve.service import Service, Speech
from bark_jax.serve.speech import SpeechRequest
from bark_jax.voices.voice import Voice

# Replicas that a text is given to, one after the other as they die.
MAX_ATTEMPTS = 3

# A replica sends of a text: None once it has accepted it; audio samples, float32 [A] or [A, channels]; then the voice
# if that is asked for. Or an error, which is sent and not raised: Ray would write a raised one into its log, and the
# message may quote the text.
Item = np.ndarray | Voice | BarkError | None


@dataclasses.dataclass(frozen=True)
class Description:
    """Attributes of `Service` that are the same for all replicas of a model."""

    model: str
    sample_rate: int
    voices: Sequence[str]
    words: Collection[str] | None

    @classmethod
    def of(cls, service: Service) -> "Description":
        """Describes the model of a replica's own service."""
        return cls(service.model, service.sample_rate, list(service.voices), service.words)


@dataclasses.dataclass
class NoUsage:
    """Usage of a process that has no slots; implements `service.Usage`."""

    n_semantic: int = 0
    n_coarse: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


class RayService:
    """Speaks with the replicas behind a handle; implements `Service`.

    A text whose replica dies is given to another one. It speaks from the start again, with the same seed, and what the
    caller already has is left out: on devices of one kind he gets the audio that he would have had.

    Args:
      handle: of a deployment that has `speak`, as `ray_app.ModelReplica` has.
    """

    n_slots = n_waiting = 0  # the replicas have them
    usage = NoUsage()
    is_ready = True  # a replica compiles its programs before it takes part
    fault = None

    def __init__(self, handle: DeploymentHandle[Any], description: Description):
        self.model, self.sample_rate = description.model, description.sample_rate
        self.voices, self.words = description.voices, description.words
        self._handle = handle

    async def speak(self, request: SpeechRequest) -> Speech:
        """As `Service.speak`."""
        speech = _RaySpeech(self._handle, request)
        try:
            await speech.begin()
        except BaseException:  # also where the caller leaves meanwhile
            speech.close()
            raise
        return speech

    async def start(self) -> None:
        """As `Service.start`; Ray starts the replicas."""

    async def stop(self) -> None:
        """As `Service.stop`; Ray stops the replicas."""


class _RaySpeech:
    """A text that a replica speaks; implements `Speech`."""

    voice: Voice | None = None

    def __init__(self, handle: DeploymentHandle[Any], request: SpeechRequest):
        self._handle, self._request = handle.options(stream=True), request
        self._answer: DeploymentResponseGenerator[Any] | None = None
        self._n_given = 0  # audio samples that the caller has
        self._items = self._all_items()

    async def begin(self) -> None:
        """Waits until a replica speaks. Raises the replica's error where it refuses the text."""
        await anext(self._items, None)

    async def __aiter__(self) -> AsyncIterator[np.ndarray]:
        """As `Speech.__aiter__`. Raises DeviceError where MAX_ATTEMPTS replicas have died."""
        async for item in self._items:
            if item is not None:
                yield item

    def close(self) -> None:
        """As `Speech.close`."""
        if self._answer is not None:
            self._answer.cancel()

    async def _all_items(self) -> AsyncGenerator[np.ndarray | None]:
        """Yields None as often as a replica begins, and audio that the caller does not have yet."""
        for _ in range(MAX_ATTEMPTS):
            try:
                async for item in self._items_of_one_replica():
                    yield item
                return
            except (RayActorError, RayServeException):
                continue  # the replica has died, or was no longer there
        raise DeviceError(f"{MAX_ATTEMPTS} replicas have died while they spoke this text")

    async def _items_of_one_replica(self) -> AsyncIterator[np.ndarray | None]:
        n_left_out = self._n_given
        self._answer = self._handle.speak.remote(self._request)
        async for item in self._answer:
            if isinstance(item, BarkError):
                raise item
            if isinstance(item, Voice):
                self.voice = item
            elif item is None:
                yield None
            else:
                n_skipped = min(n_left_out, len(item))
                n_left_out -= n_skipped
                self._n_given += len(item) - n_skipped
                if n_skipped < len(item):
                    yield item[n_skipped:]
