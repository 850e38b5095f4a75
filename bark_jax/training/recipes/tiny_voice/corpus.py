"""The corpus of the built-in voice: texts that flite's voices speak, as a dataset with audio.

Its codes are zeros, because the codec is trained on this corpus first. `prepare.recode` then makes the codes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bark_jax.generation.tokens import TokenSpaces
from bark_jax.text.processor import BarkProcessor
from bark_jax.training.dataset import Dataset, Example, open_writer
from bark_jax.training.recipes.tiny_voice import open_texts, texts
from bark_jax.training.recipes.tiny_voice.speech import Flite, Utterance


@dataclasses.dataclass(frozen=True)
class Share:
    """Number of texts of each kind that one of flite's voices speaks."""

    voice: str
    digits: int  # digit strings
    sentences: int  # sentences of the grammar
    strings: int = 0  # random strings of frequent words
    pairs: int = 0  # prompts of two of all these

    def draw(self, words: Sequence[str], *, seed: int) -> list[str]:
        """Draws the texts; none is held out for evaluation."""
        singles = [
            *texts.draw("digits", self.digits, seed=seed),
            *texts.draw("sentences", self.sentences, seed=seed),
            *(open_texts.draw_strings(words, self.strings, seed=seed) if self.strings else ()),
        ]
        return [*singles, *(open_texts.draw_pairs(singles, self.pairs, seed=seed) if self.pairs else ())]


def make_corpus(
    flite: Flite, folder: Path, shares: tuple[Share, ...], processor: BarkProcessor, words: Sequence[str], *, seed: int
) -> Dataset:
    """Speaks the texts and writes the dataset with its audio into `folder`; opens it if the folder exists.

    An utterance of more semantic tokens than the model can make is left out.

    Args:
      words: the words of `Share.strings`, the most frequent first.
    """
    if folder.is_dir():
        return Dataset.open(folder, spaces=processor.spaces)
    voices = [share.voice for share in shares]
    with open_writer(folder, processor.spaces, voices, with_audio=True) as writer:
        for utterance in _speak(flite, shares, words, seed):
            if len(utterance.semantic) <= processor.spaces.max_semantic:
                example, samples = _as_example(utterance, voices.index(utterance.voice), processor)
                writer.add(example, samples)
    return Dataset.open(folder, spaces=processor.spaces)


def _speak(flite: Flite, shares: tuple[Share, ...], words: Sequence[str], seed: int) -> Iterator[Utterance]:
    for number, share in enumerate(shares):
        yield from flite.speak_all(share.draw(words, seed=seed + number), share.voice)


def _as_example(utterance: Utterance, voice: int, processor: BarkProcessor) -> tuple[Example, np.ndarray]:
    spaces: TokenSpaces = processor.spaces
    ids = processor(utterance.text, padding="longest")["input_ids"][0]
    codes_QT = np.zeros((spaces.n_fine, spaces.n_frames(len(utterance.semantic))), np.int32)
    return Example(ids, utterance.semantic, codes_QT, voice), utterance.audio
