"""Texts of open English: random strings of frequent words to learn from, sentences to measure with, and pairs of texts.

The frequent words are those to which PocketSphinx's own language model of English gives the highest probability, and
which its pronouncing dictionary holds (both under a BSD licence). So every word of the texts is one that the recogniser
knows, and a word error is not the recogniser's ignorance of the word. `english.txt` was written for this recipe.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bark_jax.errors import InputError, UnsupportedError
from bark_jax.files import write_atomically
from bark_jax.training.recipes.tiny_voice import texts

N_WORDS = 9_000
# Words of one or two letters: the language model also holds letters and fragments, which are no words.
_SHORT = "a i of to in it is on be so he my we as if do at or me no up an oh by go us am hi ok"
SHORT_WORDS = frozenset(_SHORT.split())
MAX_CHARACTERS = 60  # of a string of words; two of them and the space between fit a prompt
MIN_STRING, MAX_STRING = 3, 9  # words
N_PARTS = 60  # texts of each kind that held-out pairs are made of


def frequent_words(count: int = N_WORDS) -> tuple[str, ...]:
    """The most frequent words of English that PocketSphinx knows, the most frequent first.

    Raises:
      UnsupportedError: PocketSphinx is not installed.
    """
    try:
        from pocketsphinx import Decoder, get_model_path
    except ImportError as error:
        raise UnsupportedError("the frequent words come from PocketSphinx: pip install pocketsphinx") from error
    model = Decoder(loglevel="FATAL").get_lm("_default")  # the search that a decoder starts with
    lines = Path(get_model_path("en-us/cmudict-en-us.dict")).read_text(encoding="utf-8").splitlines()
    known = [word for word in dict.fromkeys(line.split()[0] for line in lines if line) if _is_word(word)]
    # Stable, so that words of equal probability stay in the dictionary's order.
    return tuple(sorted(known, key=lambda word: -model.prob([word]))[:count])


def read_words(path: Path) -> tuple[str, ...]:
    """The frequent words from a file with one a line; makes the file if it does not exist.

    Raises:
      UnsupportedError: there is no such file, and PocketSphinx is not installed.
    """
    if not path.is_file():
        write_atomically(path, ("\n".join(frequent_words()) + "\n").encode())
    return tuple(path.read_text(encoding="utf-8").split())


def draw_strings(vocabulary: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Draws `count` different strings of MIN_STRING to MAX_STRING words, with punctuation, as sentences have it.

    Half of the words are drawn evenly, so that rare words occur; half by 1 / rank, so that common ones occur often.
    """
    rng = np.random.default_rng([seed, len(vocabulary)])
    found: dict[str, None] = {}
    measured = set(english())
    while len(found) < count:
        text = _string(vocabulary, rng)
        if len(text) <= MAX_CHARACTERS and text not in measured:
            found[text] = None
    return list(found)


def draw_pairs(parts: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Draws `count` different prompts of two texts each, "the first. the second."

    Args:
      parts: texts of at most MAX_CHARACTERS characters; longer ones are not used.

    Raises:
      InputError: the parts make too few pairs.
    """
    short = [text for text in parts if len(text) <= MAX_CHARACTERS]
    if len(short) * (len(short) - 1) < 2 * count:
        raise InputError(f"{count} pairs were asked for, and only {len(short)} texts are short enough to pair")
    rng = np.random.default_rng([seed, len(parts)])
    found: dict[str, None] = {}
    while len(found) < count:
        first, second = rng.choice(len(short), 2, replace=False)
        found[f"{_ended(short[first])} {_ended(short[second])}"] = None
    return list(found)


@functools.cache
def english() -> tuple[str, ...]:
    """Sentences of open English in lower case, for measuring alone: no text of the training data is among them."""
    path = Path(__file__).with_name("english.txt")
    return tuple(line.lower() for line in path.read_text(encoding="utf-8").splitlines())


def draw_english(count: int, *, seed: int) -> list[str]:
    """Draws `count` different sentences of `english`.

    Raises:
      InputError: there are fewer.
    """
    every = english()
    if count > len(every):
        raise InputError(f"{count} different sentences were asked for, english.txt has {len(every)}")
    return [every[index] for index in np.random.default_rng([seed, 1]).permutation(len(every))[:count]]


def draw_held_out(kind: str, count: int, *, seed: int) -> list[str]:
    """Draws `count` different texts that are held out of training.

    Args:
      kind: "digits", "sentences", "pairs" (two of either in a prompt) or "open" (`english`).

    Raises:
      InputError: there are not so many.
    """
    if kind == "open":
        return draw_english(count, seed=seed)
    if kind != "pairs":
        return texts.draw(kind, count, seed=seed, held_out=True)
    # Every part is held out, so no pair has a text that was trained on, alone or in another pair.
    parts = [text for part in ("sentences", "digits") for text in texts.draw(part, N_PARTS, seed=seed, held_out=True)]
    return draw_pairs(parts, count, seed=seed)


def _is_word(text: str) -> bool:
    is_spelt = re.fullmatch(r"[a-z]+(?:'[a-z]+)?", text) is not None
    return is_spelt and (len(text) > 2 or text in SHORT_WORDS) and texts.words(text) == [text]


def _string(vocabulary: Sequence[str], rng: np.random.Generator) -> str:
    n_words = int(rng.integers(MIN_STRING, MAX_STRING + 1))
    even = rng.integers(len(vocabulary), size=n_words)
    by_rank = np.exp(rng.uniform(0, np.log(len(vocabulary)), n_words)).astype(int)
    chosen = [vocabulary[index] for index in np.where(rng.random(n_words) < 0.5, even, by_rank)]
    if n_words >= 5 and rng.random() < 0.3:
        chosen[n_words // 2 - 1] += ","
    return " ".join(chosen) + rng.choice([".", ".", ".", "?", "!"])


def _ended(text: str) -> str:
    return text if text[-1] in ".?!" else f"{text}."
