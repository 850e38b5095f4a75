"""Rows to audio: each text is cut as `Bark.generate_long` cuts it, its sentences go through the engine, and are joined.

A text of one sentence becomes what `Bark.generate` makes of it with the row's voice and seed, one of several what
`Bark.generate_long` does. Where such a text has no voice, its first sentence is spoken alone and is the others' voice.
"""

import collections
import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bark_jax._system.by_value import ByValue
from bark_jax.audio.clip import Recording, join
from bark_jax.batch.rows import TextRow
from bark_jax.errors import BarkError, InputError
from bark_jax.generation.settings import SHARED_NAMES, without_draws
from bark_jax.text.checks import MAX_CHARACTERS, check_text

if TYPE_CHECKING:
    from bark_jax.bark import Bark
    from bark_jax.generation.engine import Engine, Finished, Request
    from bark_jax.generation.rows import Row


@dataclasses.dataclass(frozen=True, eq=False)
class Spoken(ByValue):
    """What a row became: audio, or an error."""

    row: TextRow
    samples: np.ndarray | None  # float32 [A] or [A, channels]; None with an error
    sample_rate: int
    seconds_taken: float  # from its first sentence's start to its last one's end, among all others
    warnings: tuple[str, ...] = ()
    error: str | None = None


class Speaks(Protocol):
    """What a batch needs of a model; `Speaker` is it."""

    def speak(self, rows: Iterable[TextRow], done: Callable[[Spoken], None]) -> None:
        """Speaks rows, which are taken one by one as there is room for them, and calls `done` for each, in any order.

        A row that cannot be spoken is one with an error. What is raised stops all rows.
        """


class Speaker:
    """Rows through a Bark and its engine.

    Args:
      voice: of rows that have none: a name, the path of a .npz file, or None.
      settings: of `generate`, for rows that do not say otherwise.
      silence_s: seconds between the sentences of a text.
      max_tokens: most text tokens of a sentence; None for the model's own.
    """

    def __init__(
        self,
        bark: "Bark",
        engine: "Engine",
        *,
        voice: str | None = None,
        settings: Mapping[str, Any] | None = None,
        silence_s: float = 0.25,
        max_tokens: int | None = None,
    ):
        self.bark, self._engine = bark, engine
        self._voice, self._settings = voice, dict(settings or {})
        self._silence_s, self._max_tokens = silence_s, max_tokens

    def speak(self, rows: Iterable[TextRow], done: Callable[[Spoken], None]) -> None:
        """See `Speaks`. Texts that are open at once are as many as the engine holds sentences."""
        texts = _Texts(self, iter(rows), done)
        while True:
            # Where rows end while a voice is still being found, the engine ends too: once more for the rest.
            with contextlib.closing(self._engine.run(texts.requests())) as spoken:
                for finished in spoken:
                    texts.receive(finished)
            if not texts.n_waiting:
                return

    def open(self, row: TextRow) -> "_Text":
        """A row as the sentences that it is spoken in. Raises BarkError for one that cannot be spoken."""
        if row.error is not None:
            raise InputError(row.error)
        text = check_text(row.text, "text", MAX_CHARACTERS)
        if ours := sorted(SHARED_NAMES & row.settings.keys()):
            raise InputError(f"{ours[0]} is a setting of all rows of a run, expected none in a row")
        from bark_jax.generation.sampling import key_data

        key, voice = key_data(row.seed), self._voice if row.voice is None else row.voice
        settings = without_draws(self._settings, row.settings) | row.settings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            pieces, rows = self.bark.sentences(text, voice, key, self._max_tokens, None, settings)
            if len(pieces) == 1:  # as `generate` has it, with the text's own white space
                pieces, rows = [text], self.bark.rows(text, voice, [key], settings, is_split=True)
        return _Text(row, pieces, rows, tuple(dict.fromkeys(" ".join(str(each.message).split()) for each in caught)))

    def close(self, text: "_Text") -> Spoken:
        """A text whose sentences are all spoken."""
        empty = [piece for piece, samples in zip(text.pieces, text.samples, strict=True) if not len(samples)]
        if len(empty) == len(text.pieces):
            raise InputError(
                f"there is no audio: with seed {text.row.seed} the semantic network ended at once. Give the row "
                "another seed, or min_eos_p null."
            )
        rate = self.bark.sample_rate
        samples, _ = join([Recording(each, rate) for each in text.samples], self._silence_s)
        told = tuple(f"the sentence {piece[:60]!r} has no audio" for piece in empty)
        return Spoken(text.row, samples, rate, time.perf_counter() - text.started, text.warnings + told)


@dataclasses.dataclass(eq=False)
class _Text:
    """A row that is being spoken."""

    row: TextRow
    pieces: list[str]
    rows: "list[Row]"  # a sentence each
    warnings: tuple[str, ...]
    started: float = dataclasses.field(default_factory=time.perf_counter)
    n_asked: int = 0
    n_spoken: int = 0
    has_failed: bool = False

    def __post_init__(self):
        self.samples: list[Any] = [None] * len(self.rows)
        self.has_voice = self.rows[0].voice is not None

    def take_requests(self) -> "Iterator[Request]":
        """The sentences that can be spoken now: all, or the next one where a voice is still to be found."""
        from bark_jax.generation.engine import Request

        end = len(self.rows) if self.has_voice else self.n_asked + 1
        for index in range(self.n_asked, end):
            yield Request((self, index), self.rows[index])
        self.n_asked = end

    def receive(self, index: int, utterance: Any) -> bool:
        """Takes a sentence; True where that lets more of them be spoken."""
        from bark_jax.voices.voice import Voice

        self.samples[index] = utterance.samples
        self.n_spoken += 1
        if not self.has_voice and len(utterance.samples) and len(self.rows) > 1:
            found = Voice(semantic=utterance.semantic, coarse=utterance.coarse, fine=utterance.fine)
            self.rows[index + 1 :] = [dataclasses.replace(row, voice=found) for row in self.rows[index + 1 :]]
            self.has_voice = True
            return self.n_asked < len(self.rows)
        return not self.has_voice and self.n_asked < len(self.rows)

    @property
    def is_spoken(self) -> bool:
        return self.n_spoken == len(self.rows)


class _Texts:
    """Texts on their way through the engine: what it asks for, what it gives."""

    def __init__(self, speaker: Speaker, rows: Iterator[TextRow], done: Callable[[Spoken], None]):
        self._speaker, self._rows, self._done = speaker, rows, done
        self._requests: collections.deque[Request] = collections.deque()

    @property
    def n_waiting(self) -> int:
        """Sentences that the engine has not been given."""
        return len(self._requests)

    def requests(self) -> "Iterator[Request]":
        """The next sentences, of texts that are open before others. The engine asks as it has room."""
        while True:
            while not self._requests:
                row = next(self._rows, None)
                if row is None:
                    return
                self._open(row)
            request = self._requests.popleft()
            if not request.tag[0].has_failed:
                yield request

    def receive(self, finished: "Finished") -> None:
        text, index = finished.tag
        if text.has_failed:
            return
        if finished.error is not None:
            text.has_failed = True
            self._fail(text.row, finished.error)
            return
        if text.receive(index, finished.utterance):
            self._requests.extend(text.take_requests())
        if text.is_spoken:
            self._close(text)

    def _open(self, row: TextRow) -> None:
        try:
            text = self._speaker.open(row)
        except BarkError as error:
            self._fail(row, error)
        else:
            self._requests.extend(text.take_requests())

    def _close(self, text: _Text) -> None:
        try:
            spoken = self._speaker.close(text)
        except BarkError as error:
            self._fail(text.row, error)
        else:
            self._done(spoken)

    def _fail(self, row: TextRow, error: BarkError) -> None:
        self._done(Spoken(row, None, self._speaker.bark.sample_rate, 0.0, error=str(error)))
