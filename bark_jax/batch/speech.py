"""Rows to audio: splits each text into sentences, speaks them with the engine (continuous batching), joins the audio.

A text of one sentence sounds as `Bark.generate` speaks it with the row's voice and seed, a longer one as
`Bark.generate_long` does. In a longer text without a voice, the first sentence is spoken alone and becomes the voice of
the others.
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
    """Result of a row: audio, or an error."""

    row: TextRow
    samples: np.ndarray | None  # float32 [A] or [A, channels]; None with an error
    sample_rate: int
    seconds_taken: float  # from the start of its first sentence to the end of its last; other rows share that time
    warnings: tuple[str, ...] = ()
    error: str | None = None


class Speaks(Protocol):
    """Protocol of a batch's model: `Speaker` on this machine, `ray_engine.RaySpeaker` on a cluster."""

    def speak(self, rows: Iterable[TextRow], done: Callable[[Spoken], None]) -> None:
        """Speaks rows, taken from the iterable one by one as slots come free; calls `done` for each, in any order.

        A row that cannot be spoken gets an error in its `Spoken`. An exception that is raised stops all rows.
        """


class Speaker:
    """Speaks rows with a Bark (tokenizer, voices) and an engine of its networks; implements `Speaks`.

    Args:
      voice: of rows that name none: a preset's name, the path of a .npz file, or None.
      settings: default settings of `generate`; a row's own settings win.
      silence_s: seconds of silence between the sentences of a text.
      max_tokens: maximum number of text tokens of a sentence; None for the model's default.
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
        self.bark, self.engine = bark, engine
        self._voice, self._settings = voice, dict(settings or {})
        self.silence_s, self._max_tokens = silence_s, max_tokens

    def speak(self, rows: Iterable[TextRow], done: Callable[[Spoken], None]) -> None:
        """Speaks rows and calls `done` for each, as `Speaks` says.

        As many texts are open at once as the engine holds sentences, so memory does not grow with the number of rows.
        """
        texts = _Texts(self, iter(rows), done)
        while True:
            # The engine ends when it gets no more requests. A text without a voice gives its other sentences only after
            # the first is spoken; if the rows have ended by then, the engine runs once more for them.
            with contextlib.closing(self.engine.run(texts.requests())) as spoken:
                for finished in spoken:
                    texts.receive(finished)
            if not texts.n_waiting:
                return

    def open(self, row: TextRow) -> "OpenText":
        """Splits a row into the sentences to speak. Raises BarkError for a row that cannot be spoken."""
        if row.error is not None:
            raise InputError(row.error)
        text = check_text(row.text, "text", MAX_CHARACTERS)
        # A shared setting compiles a program of its own; the engine has one for all rows.
        if shared := sorted(SHARED_NAMES & row.settings.keys()):
            raise InputError(f"{shared[0]} is a setting of all rows of a run, expected none in a row")
        from bark_jax.generation.sampling import key_data

        key, voice = key_data(row.seed), self._voice if row.voice is None else row.voice
        settings = without_draws(self._settings, row.settings) | row.settings
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            pieces, rows = self.bark.sentences(text, voice, key, self._max_tokens, None, settings)
            if len(pieces) == 1:  # the tokens of `generate`, which keeps the white space that splitting changes
                pieces, rows = [text], self.bark.rows(text, voice, [key], settings, is_split=True)
        return OpenText(row, pieces, rows, tuple(dict.fromkeys(" ".join(str(each.message).split()) for each in caught)))

    def close(self, text: "OpenText") -> Spoken:
        """Joins the sentences of a text, which are all spoken. Raises InputError if none has any audio."""
        empty = [piece for piece, samples in zip(text.pieces, text.samples, strict=True) if not len(samples)]
        if len(empty) == len(text.pieces):
            raise InputError(
                f"there is no audio: with seed {text.row.seed} the semantic network ended at once. Give the row "
                "another seed, or min_eos_p null."
            )
        rate = self.bark.sample_rate
        samples, _ = join([Recording(each, rate) for each in text.samples], self.silence_s)
        silent = tuple(f"the sentence {piece[:60]!r} has no audio" for piece in empty)
        return Spoken(text.row, samples, rate, time.perf_counter() - text.started, text.warnings + silent)


@dataclasses.dataclass(eq=False)
class OpenText:
    """A row that is being spoken: its sentences and how many of them are done.

    The engine gets its sentences from `take_requests`, first and whenever `receive` asks for it.
    """

    row: TextRow
    pieces: list[str]  # its sentences
    rows: "list[Row]"  # the engine's row of each sentence
    warnings: tuple[str, ...]
    started: float = dataclasses.field(default_factory=time.perf_counter)
    n_requested: int = 0  # sentences given to the engine
    n_spoken: int = 0
    has_failed: bool = False  # one of its sentences has failed; the others are dropped

    def __post_init__(self):
        self.samples: list[Any] = [None] * len(self.rows)
        self.has_voice = self.rows[0].voice is not None

    def take_requests(self) -> "Iterator[Request]":
        """Yields the sentences that can be spoken now: all, or the next one if the text has no voice yet.

        A request's tag is (this text, number of the sentence).
        """
        from bark_jax.generation.engine import Request

        end = len(self.rows) if self.has_voice else self.n_requested + 1
        for index in range(self.n_requested, end):
            yield Request((self, index), self.rows[index])
        self.n_requested = end

    def receive(self, index: int, utterance: Any) -> bool:
        """Takes a spoken sentence. Returns whether `take_requests` has more sentences now.

        Without a voice, the first sentence that has audio becomes the voice of those after it; after an empty one the
        next sentence is tried.
        """
        from bark_jax.voices.voice import Voice

        self.samples[index] = utterance.samples
        self.n_spoken += 1
        if not self.has_voice and len(utterance.samples) and len(self.rows) > 1:
            found = Voice(semantic=utterance.semantic, coarse=utterance.coarse, fine=utterance.fine)
            self.rows[index + 1 :] = [dataclasses.replace(row, voice=found) for row in self.rows[index + 1 :]]
            self.has_voice = True
            return self.n_requested < len(self.rows)
        return not self.has_voice and self.n_requested < len(self.rows)

    @property
    def is_spoken(self) -> bool:
        """Whether all sentences are spoken."""
        return self.n_spoken == len(self.rows)


class _Texts:
    """Texts that are open: turns rows into the engine's requests, and its results into finished texts."""

    def __init__(self, speaker: Speaker, rows: Iterator[TextRow], done: Callable[[Spoken], None]):
        self._speaker, self._rows, self._done = speaker, rows, done
        self._requests: collections.deque[Request] = collections.deque()

    @property
    def n_waiting(self) -> int:
        """Number of sentences that the engine has not been given yet."""
        return len(self._requests)

    def requests(self) -> "Iterator[Request]":
        """Yields sentences, those of open texts before those of new rows. The engine takes one when a slot is free."""
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
        """Takes a result of the engine; an error of one sentence fails its text."""
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

    def _close(self, text: OpenText) -> None:
        try:
            spoken = self._speaker.close(text)
        except BarkError as error:
            self._fail(text.row, error)
        else:
            self._done(spoken)

    def _fail(self, row: TextRow, error: BarkError) -> None:
        self._done(Spoken(row, None, self._speaker.bark.sample_rate, 0.0, error=str(error)))
