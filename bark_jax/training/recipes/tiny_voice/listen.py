"""Intelligibility of speech: word error rates by PocketSphinx, a speech recogniser with models of its own.

Digit strings are recognised with a grammar of the ten digits in any number and order. Sentences are recognised with
PocketSphinx's language model of general English, which has no knowledge of the recipe's grammar. A digit grammar
recognises words even in noise, so every figure comes with controls: the same audio scored against another text, and
noise.
"""

import functools
import itertools
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import soxr

from bark_jax.errors import UnsupportedError
from bark_jax.training.recipes.tiny_voice.texts import DIGITS, words

HEARING_RATE = 16_000  # Hz, sample rate of the recogniser's models
SILENCE_S = 0.25  # silence padded before and after a clip
ROWS_PER_PROCESS = 8  # a process takes seconds to start
DIGIT_GRAMMAR = f"#JSGF V1.0; grammar digits; public <digits> = ( {' | '.join(DIGITS)} )+ ;"


class Hearing(NamedTuple):
    """Result of a recognition. Word error rates are shares: 0 is all correct; insertions can take them above 1."""

    word_error: float
    other_text: float  # control: scored against the text of another row
    heard: tuple[str, ...]  # recognised text of each row


class Listener:
    """Speech recogniser for one kind of text.

    Args:
      kind: "digits" for digit strings; any other for sentences.

    Raises:
      UnsupportedError: PocketSphinx is not installed.
    """

    def __init__(self, kind: str):
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise UnsupportedError("listening needs PocketSphinx: pip install pocketsphinx") from error
        self._decoder: Any = Decoder(loglevel="FATAL")
        if kind == "digits":
            self._decoder.add_jsgf_string("digits", DIGIT_GRAMMAR)
            self._decoder.activate_search("digits")

    def hear(self, samples: np.ndarray, sample_rate: int) -> str:
        """Recognises mono audio, float32 [A] at sample_rate Hz. Returns the words, "" if there are none."""
        resampled = soxr.resample(np.asarray(samples, np.float32), sample_rate, HEARING_RATE)
        pcm = np.round(np.clip(np.pad(resampled, round(SILENCE_S * HEARING_RATE)), -1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return "" if hypothesis is None else hypothesis.hypstr


def listen(kind: str, texts: Sequence[str], audio: Sequence[np.ndarray], sample_rate: int) -> Hearing:
    """Recognises rows of audio, float32 [A] each, and scores them: errors of all rows divided by words of all rows.

    Many rows are recognised by several processes.
    """
    n_processes = min(os.cpu_count() or 1, len(audio) // ROWS_PER_PROCESS)
    if n_processes < 2:
        listener = Listener(kind)
        heard = tuple(listener.hear(samples, sample_rate) for samples in audio)
    else:
        pool = _processes(n_processes)
        heard = tuple(pool.map(_hear, itertools.repeat(kind), audio, itertools.repeat(sample_rate), chunksize=2))
    return Hearing(word_error(texts, heard), word_error([*texts[1:], texts[0]], heard), heard)


@functools.cache
def _processes(n_processes: int) -> ProcessPoolExecutor:
    # spawn: a forked copy of a process that has run JAX may hang.
    return ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn"))


def _hear(kind: str, samples: np.ndarray, sample_rate: int) -> str:
    return _listener(kind).hear(samples, sample_rate)


_listener = functools.cache(Listener)


def word_error(texts: Sequence[str], heard: Sequence[str]) -> float:
    """Word error rate: words inserted, deleted and substituted, divided by the number of words of the texts."""
    pairs = [(words(text), each.split()) for text, each in zip(texts, heard, strict=True)]
    return sum(edit_distance(*pair) for pair in pairs) / sum(len(said) for said, _ in pairs)


def edit_distance(said: Sequence[str], heard: Sequence[str]) -> int:
    """Levenshtein distance of two word lists: minimum number of insertions, deletions and substitutions."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]
