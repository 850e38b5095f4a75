"""Texts of the whole-job benchmark, and how long each takes to say, estimated from its characters."""

import functools
from pathlib import Path
from typing import NamedTuple

# Characters that are read aloud in a second, at some five syllables a second. Scripts write a syllable with more or
# fewer characters: an alphabet with about three, hangul and kana with one, a Chinese character is one.
CHARACTERS_PER_S = {"zh": 4.5, "ja": 7.0, "ko": 6.5, "hi": 12.0}
OTHER_CHARACTERS_PER_S = 14.5
LEAST_S, LONGEST_S = 0.8, 13.5  # a prompt of Bark makes 15.4 s at most


class Text(NamedTuple):
    """A sentence to speak."""

    language: str
    text: str

    @property
    def seconds(self) -> float:
        """Estimated length of its speech."""
        rate = CHARACTERS_PER_S.get(self.language, OTHER_CHARACTERS_PER_S)
        return round(min(max(len(self.text) / rate, LEAST_S), LONGEST_S), 2)


@functools.cache
def texts() -> tuple[Text, ...]:
    """All sentences of texts.txt."""
    lines = Path(__file__).with_name("texts.txt").read_text(encoding="utf-8").splitlines()
    return tuple(Text(*line.split(" | ", 1)) for line in lines if not line.startswith("#"))


def mean_seconds() -> float:
    """Mean length of the speech of a sentence."""
    return sum(text.seconds for text in texts()) / len(texts())
