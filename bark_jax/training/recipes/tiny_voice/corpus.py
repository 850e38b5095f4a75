"""The corpus of the built-in voice: texts of a small grammar, spoken by flite's voices, as a dataset with audio.

Its codes are zeros, because the codec is trained on this corpus first. `prepare.recode` then makes the codes.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bark_jax.generation.tokens import TokenSpaces
from bark_jax.text.processor import BarkProcessor
from bark_jax.training.dataset import Dataset, Example, open_writer
from bark_jax.training.recipes.tiny_voice import texts
from bark_jax.training.recipes.tiny_voice.speech import Flite, Utterance


@dataclasses.dataclass(frozen=True)
class Share:
    """Number of texts that one of flite's voices speaks."""

    voice: str
    digits: int  # number of digit strings
    sentences: int  # number of sentences


def make_corpus(
    flite: Flite, folder: Path, shares: tuple[Share, ...], processor: BarkProcessor, *, seed: int
) -> Dataset:
    """Speaks the texts and writes the dataset with its audio into `folder`; opens it if the folder exists."""
    if folder.is_dir():
        return Dataset.open(folder, spaces=processor.spaces)
    voices = [share.voice for share in shares]
    with open_writer(folder, processor.spaces, voices, with_audio=True) as writer:
        for utterance in _speak(flite, shares, seed):
            example, samples = _as_example(utterance, voices.index(utterance.voice), processor)
            writer.add(example, samples)
    return Dataset.open(folder, spaces=processor.spaces)


def _speak(flite: Flite, shares: tuple[Share, ...], seed: int) -> Iterator[Utterance]:
    for number, share in enumerate(shares):
        for kind in ("digits", "sentences"):
            chosen = texts.draw(kind, getattr(share, kind), seed=seed + number)
            yield from flite.speak_all(chosen, share.voice)


def _as_example(utterance: Utterance, voice: int, processor: BarkProcessor) -> tuple[Example, np.ndarray]:
    spaces: TokenSpaces = processor.spaces
    ids = processor(utterance.text, padding="longest")["input_ids"][0]
    codes_QT = np.zeros((spaces.n_fine, spaces.n_frames(len(utterance.semantic))), np.int32)
    return Example(ids, utterance.semantic, codes_QT, voice), utterance.audio
