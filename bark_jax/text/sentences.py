"""Text of any length: into pieces that make good prompts, and their clips into one recording.

Bark speaks up to 15 s a prompt; it was trained on such clips and hurries, or drops the end, where a prompt holds more.
A very short prompt is as bad: it tends to ramble on. So sentences are put together up to a budget of tokens, and a
sentence beyond it is cut where a speaker would breathe. Other models speak longer or shorter, and tokens of another
tokenizer, such as characters, are spoken faster: the budget follows from both.
"""

import bisect
import dataclasses
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import sentencex

from bark_jax.audio.clip import Clip, Recording
from bark_jax.errors import InputError, quoted
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.text.checks import check_text, is_visible
from bark_jax.voices.voice import Voice

# 30 words, which are read aloud in 12 s at English's usual 150 words a minute: a measure of how fast the tokens of a
# tokenizer are spoken. BERT's multilingual one makes about 1.3 tokens of a word with its punctuation, so 3.3 a second.
# The words of Bark's other languages take more tokens each, so that their prompts are shorter.
_MEASURE = (
    "Every morning the people of the village carried their baskets down to the river, where older women washed "
    "clothes, told stories, and said that winter would come from the north."
)
_MEASURE_S = 12
# Of a model's longest utterance. What is left is room for slow speakers.
_BUDGET_SHARE = Fraction("0.85")

# 18 hours of English speech, whose audio samples take 6 GB.
MAX_CHARACTERS = 1_000_000

# A line of a dialogue: whose voice, and what it says.
Line = tuple[Any, str]


class Sentence(NamedTuple):
    """One prompt of a long text; `Bark.generate(text, voice=voice, seed=clip.seed)` speaks it again.

    It gives the same tokens in a batch of as many rows; in others, float rounding may turn a draw that is all but even.
    """

    text: str
    voice: Voice | None  # what conditioned it
    clip: Clip
    start_s: float  # where it starts in the recording


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LongClip(Recording):
    """A long text spoken. `samples` holds its sentences one after the other, with silence between."""

    sentences: list[Sentence]
    seed: int  # what the sentences' seeds derive from

    def __repr__(self) -> str:
        return f"LongClip({len(self.sentences)} sentences, {self.duration_s:.2f} s at {self.sample_rate:,} Hz)"


def check_lines(text: Any, voice: Any) -> list[Line]:
    """The lines of a dialogue, or of a text, which is a dialogue of one line; in NFC.

    Raises:
      InputError: neither a text nor (voice, text) pairs, or a text with nothing to speak in it.
    """
    if isinstance(text, str):
        return [(voice, check_text(text, "text", MAX_CHARACTERS))]
    if not isinstance(text, (list, tuple)) or not text:
        raise InputError(f"text is {quoted(text)}, expected a string or a list of (voice, text) pairs")
    lines = []
    for index, line in enumerate(text):
        if not isinstance(line, (list, tuple)) or len(line) != 2:
            raise InputError(f"text[{index}] is {quoted(line)}, expected a pair (voice, text)")
        spoken = check_text(line[1], f"text[{index}][1]", MAX_CHARACTERS)
        lines.append((voice if line[0] is None else line[0], spoken))
    return lines


def prompt_budget(count_tokens: Callable[[str], int], spaces: TokenSpaces) -> int:
    """Most text tokens of a good prompt: those that take 0.85 of the longest utterance to say, if that many are read.

    Some 40 in Bark, which are 13 s.
    """
    longest_s = spaces.max_semantic / spaces.semantic_rate
    n_tokens = int(_BUDGET_SHARE * longest_s * count_tokens(_MEASURE) / _MEASURE_S)
    return max(1, min(n_tokens, spaces.n_text))


def split_text(
    text: str,
    count_tokens: Callable[[str], int],
    max_tokens: int,
    language: str = "en",
    max_sentences: int | None = None,
) -> list[str]:
    """Cuts a text into prompts of at most `max_tokens` tokens, at the ends of sentences where it can.

    A sentence that is longer is cut near its middle, again and again: behind a comma or the like, else between words,
    in text without spaces between characters. Never inside a word or a cue such as [clears throat]: where one of
    these alone has more tokens, so has its piece.

    Args:
      count_tokens: how many tokens a piece has.
      language: whose abbreviations do not end a sentence, such as "de".
      max_sentences: most sentences of a prompt; None for as many as its tokens allow.

    Returns:
      Pieces with white space as single spaces; without white space they are, in order, the text.
    """
    pieces = [
        (number, piece)
        for number, sentence in number_sentences(text, language)
        for piece in _cut(sentence, count_tokens, max_tokens)
    ]
    return _merge(pieces, count_tokens, max_tokens, math.inf if max_sentences is None else max_sentences)


def number_sentences(text: str, language: str = "en") -> list[tuple[int, str]]:
    """The text's sentences, which joined are the text, each with its number from 0.

    One without a letter or a figure, such as a smile, has the number of the one before.
    """
    number, numbered = -1, []
    for sentence in _sentences(text, language):
        number += any(unicodedata.category(character)[0] in "LN" for character in sentence)
        numbered.append((max(number, 0), sentence))
    return numbered


def _sentences(text: str, language: str) -> list[str]:
    # The library panics at some white space beyond ASCII, such as a no-break space behind an initial.
    plain = re.sub(r"[^\S\n]", " ", text)
    return sentencex.segment(language, plain)


def _cut(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> list[str]:
    if count_tokens(_spoken(text)) <= max_tokens:
        return [text]
    place = _break_near_middle(text)
    if place is None:
        return [text]
    return [part for half in (text[:place], text[place:]) for part in _cut(half, count_tokens, max_tokens)]


def _merge(
    pieces: Sequence[tuple[int, str]], count_tokens: Callable[[str], int], max_tokens: int, max_sentences: float
) -> list[str]:
    """Puts neighbours together while they fit; what has no tokens of its own goes with a neighbour in any case.

    Args:
      pieces: each with the number of its sentence.
    """

    def count(text: str) -> int:
        return count_tokens(text) if any(is_visible(character) for character in text) else 0

    merged, merged_count, first = [""], 0, 0
    for number, piece in pieces:
        both, piece_count = merged[-1] + piece, count(_spoken(piece))
        both_count = count(_spoken(both))
        fits = both_count <= max_tokens and number - first < max_sentences
        if not merged_count or not piece_count or fits:
            first = first if merged_count else number
            merged[-1], merged_count = both, both_count
        else:
            merged.append(piece)
            merged_count, first = piece_count, number
    return [_spoken(piece) for piece in merged]


def _spoken(text: str) -> str:
    return " ".join(text.split())


# What ends a clause: a comma or the like with white space behind it, or one of the full-width kind.
_CLAUSE_END = re.compile(r"([,;:!?…)\]»”—–।]|\.{2,})['\"’”»)\]]*\s+|[、，；：。！？…）」』】]+\s*")
_SPACE = re.compile(r"\s+")
_CUE = re.compile(r"\[[^\[\]]{1,40}\]")
# Chinese and Japanese characters and their punctuation; Korean has spaces.
_UNSPACED = re.compile(
    r"[\u3001-\u303f\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# No piece starts with these: they belong to the character before. Source: JIS X 4051, characters not starting a line.
_NEVER_FIRST = frozenset(
    "、。，．・：；？！ー〜～…‥）」』】〕〉》］｝々〻ゝゞヽヾぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"
)
_NEVER_LAST = frozenset("（「『【〔〈《［｛")


def _break_near_middle(text: str) -> int | None:
    """Where to cut: behind the clause nearest to the middle, if it is within the middle half; else between words."""
    quarter = len(text) // 4
    clauses = [match.end() for match in _CLAUSE_END.finditer(text)]
    place = _nearest_to_middle(text, [place for place in clauses if quarter < place < len(text) - quarter])
    if place is None:
        place = _nearest_to_middle(text, [match.end() for match in _SPACE.finditer(text)] + _unspaced_breaks(text))
    return place


def _nearest_to_middle(text: str, places: list[int]) -> int | None:
    cues = [match.span() for match in _CUE.finditer(text)]
    for place in sorted(places, key=lambda place: abs(2 * place - len(text))):
        if not _is_inside(place, cues) and text[:place].strip() and text[place:].strip():
            return place
    return None


def _unspaced_breaks(text: str) -> list[int]:
    places = {place for match in _UNSPACED.finditer(text) for place in match.span() if 0 < place < len(text)}
    return [place for place in places if _may_part(text[place - 1], text[place])]


def _may_part(before: str, after: str) -> bool:
    """Whether a piece may end with one character and the next start with the other."""
    if before in _NEVER_LAST or after in _NEVER_FIRST or before.isspace() or after.isspace():
        return False
    return unicodedata.category(after)[0] not in "MC"  # marks and joiners


def _is_inside(place: int, spans: list[tuple[int, int]]) -> bool:
    index = bisect.bisect_left(spans, (place,)) - 1  # the last span that starts before the place
    return index >= 0 and place < spans[index][1]
