"""Splits text of any length into prompts, and holds the clips of a long text as one recording.

Bark speaks up to 15 s per prompt. It was trained on such clips: with a longer text it hurries, or drops the end; with a
very short one it tends to ramble past the end of the text. So sentences are merged up to a budget of tokens, and a
longer sentence is split where a speaker would breathe. The budget depends on the model's longest utterance and on its
tokenizer: a token that is a character is spoken faster than a word piece.
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

# 30 words, read aloud in 12 s at English's usual 150 words a minute. The tokens of it, divided by 12 s, are the rate at
# which a tokenizer's tokens are spoken: BERT's multilingual one makes about 1.3 tokens per word with its punctuation,
# 3.3 per second. Words of Bark's other languages take more tokens each, so their prompts are shorter than 13 s.
_MEASURE = (
    "Every morning the people of the village carried their baskets down to the river, where older women washed "
    "clothes, told stories, and said that winter would come from the north."
)
_MEASURE_S = 12
# Part of a model's longest utterance that a prompt should fill. The rest is room for slow speakers.
_BUDGET_SHARE = Fraction("0.85")

# 18 hours of English speech, whose float32 samples at 24 kHz take 6 GB of memory.
MAX_CHARACTERS = 1_000_000

# A line of a dialogue: (voice, text).
Line = tuple[Any, str]


class Sentence(NamedTuple):
    """A prompt of a long text, with its clip; an item of `LongClip.sentences`.

    `bark.generate(sentence.text, voice=sentence.voice, seed=sentence.clip.seed)`, with the same settings, speaks it
    again. The tokens are the same in a batch of as many rows. In a batch of another size the programs round floats
    differently, which may change a draw between tokens of all but equal probability.

    Attributes:
      text: the prompt, one or more sentences or a part of one.
      voice: the voice that conditioned it, or None.
      clip: its audio and tokens.
      start_s: seconds from the start of the recording to its start.
    """

    text: str
    voice: Voice | None
    clip: Clip
    start_s: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LongClip(Recording):
    """The result of `Bark.generate_long`: one recording of all sentences, with silence between them.

    It is saved, played and plotted as any `Recording`.

    Attributes:
      samples: audio, float32 [A] in about -1..1, or [A, channels] of a stereo codec.
      sample_rate: audio samples per second: 24,000 in Bark.
      sentences: the prompts in order, each with its text, voice, clip and start.
      seed: the seed that the sentences' seeds derive from.
    """

    sentences: list[Sentence]
    seed: int

    def __repr__(self) -> str:
        return f"LongClip({len(self.sentences)} sentences, {self.duration_s:.2f} s at {self.sample_rate:,} Hz)"


def check_lines(text: Any, voice: Any) -> list[Line]:
    """Returns the lines of a dialogue, checked and in NFC; a plain text is a dialogue of one line.

    Args:
      text: a string, or a list or tuple of (voice, text) pairs.
      voice: the voice of a plain text, and of lines whose voice is None.

    Raises:
      InputError: neither a text nor such pairs, or a text that is not speakable.
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
    """Returns the text tokens that a prompt should have at most: what is spoken in 0.85 of the longest utterance.

    About 40 in Bark, which are 13 s. Never more than spaces.n_text, the tokens of one prompt.

    Args:
      count_tokens: counts the tokens of a text.
      spaces: the model's token spaces.
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
    """Splits a text into prompts of at most `max_tokens` tokens, at the ends of sentences where possible.

        split_text("Hello there. How are you, my old friend?", count_words, max_tokens=4)
        ->  ["Hello there.", "How are you,", "my old friend?"]

    A longer sentence is split near its middle, recursively: after the end of a clause, else between words; in Chinese
    and Japanese, which have no spaces, between characters. Words and cues such as [clears throat] are never split: one
    that alone has more tokens than max_tokens becomes a prompt of its own.

    Args:
      text: the text.
      count_tokens: counts the tokens of a text.
      max_tokens: tokens per prompt at most.
      language: a code such as "en" (default) or "de", whose abbreviations do not end a sentence.
      max_sentences: sentences per prompt at most; None for no limit.

    Returns:
      The prompts, with white space as single spaces. Joined without white space, they are the text.
    """
    pieces = [
        (number, piece)
        for number, sentence in number_sentences(text, language)
        for piece in _cut(sentence, count_tokens, max_tokens)
    ]
    return _merge(pieces, count_tokens, max_tokens, math.inf if max_sentences is None else max_sentences)


def number_sentences(text: str, language: str = "en") -> list[tuple[int, str]]:
    """Returns the text's sentences with their numbers, from 0. Joined, the sentences are the text.

    A sentence without a letter or a figure, such as an emoticon, has the number of the one before.

    Args:
      text: the text.
      language: a code such as "en", whose abbreviations do not end a sentence.
    """
    number, numbered = -1, []
    for sentence in _sentences(text, language):
        number += any(unicodedata.category(character)[0] in "LN" for character in sentence)
        numbered.append((max(number, 0), sentence))
    return numbered


def _sentences(text: str, language: str) -> list[str]:
    # sentencex panics at some white space beyond ASCII, such as a no-break space after an initial. Each is replaced by
    # one space, so that offsets stay.
    plain = re.sub(r"[^\S\n]", " ", text)
    return sentencex.segment(language, plain)


def _cut(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> list[str]:
    """Splits a text near its middle, recursively, until each part has at most max_tokens or cannot be split."""
    if count_tokens(_spoken(text)) <= max_tokens:
        return [text]
    position = _break_near_middle(text)
    if position is None:
        return [text]
    return [part for half in (text[:position], text[position:]) for part in _cut(half, count_tokens, max_tokens)]


def _merge(
    pieces: Sequence[tuple[int, str]], count_tokens: Callable[[str], int], max_tokens: int, max_sentences: float
) -> list[str]:
    """Merges neighbours while they fit one prompt. A piece without visible characters always joins a neighbour.

    Args:
      pieces: parts of the text, each with the number of its sentence.
      count_tokens: counts the tokens of a text.
      max_tokens: tokens per prompt at most.
      max_sentences: sentences per prompt at most; math.inf for no limit.

    Returns:
      The prompts, with white space as single spaces.
    """

    def count(text: str) -> int:
        return count_tokens(text) if any(is_visible(character) for character in text) else 0

    merged, merged_count, first = [""], 0, 0  # first: the number of the latest prompt's first sentence
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
    """Returns the text as a prompt: white space as single spaces, none at the ends."""
    return " ".join(text.split())


# End of a clause: punctuation followed by white space, or full-width punctuation, which no space follows.
_CLAUSE_END = re.compile(r"([,;:!?…)\]»”—–।]|\.{2,})['\"’”»)\]]*\s+|[、，；：。！？…）」』】]+\s*")
_SPACE = re.compile(r"\s+")
_CUE = re.compile(r"\[[^\[\]]{1,40}\]")
# Chinese and Japanese characters and their punctuation; Korean has spaces.
_UNSPACED = re.compile(
    r"[\u3001-\u303f\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Characters that belong to the one before, so no piece starts with them.
# Source: JIS X 4051, characters that do not start a line.
_NEVER_FIRST = frozenset(
    "、。，．・：；？！ー〜～…‥）」』】〕〉》］｝々〻ゝゞヽヾぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"
)
_NEVER_LAST = frozenset("（「『【〔〈《［｛")


def _break_near_middle(text: str) -> int | None:
    """Returns the offset to split a text at, or None if it is a single word or cue.

    It is the end of the clause nearest to the middle if that is in the middle half of the text, else the gap between
    words, or between Chinese or Japanese characters, nearest to the middle.
    """
    quarter = len(text) // 4
    clauses = [match.end() for match in _CLAUSE_END.finditer(text)]
    position = _nearest_to_middle(text, [position for position in clauses if quarter < position < len(text) - quarter])
    if position is None:
        position = _nearest_to_middle(text, [match.end() for match in _SPACE.finditer(text)] + _unspaced_breaks(text))
    return position


def _nearest_to_middle(text: str, positions: list[int]) -> int | None:
    """Returns the offset nearest to the middle that is not inside a cue and leaves text on both sides."""
    cues = [match.span() for match in _CUE.finditer(text)]
    for position in sorted(positions, key=lambda position: abs(2 * position - len(text))):
        if not _is_inside(position, cues) and text[:position].strip() and text[position:].strip():
            return position
    return None


def _unspaced_breaks(text: str) -> list[int]:
    """Returns the offsets beside Chinese and Japanese characters at which a text may be split."""
    positions = {
        position for match in _UNSPACED.finditer(text) for position in match.span() if 0 < position < len(text)
    }
    return [position for position in positions if _may_part(text[position - 1], text[position])]


def _may_part(before: str, after: str) -> bool:
    """Whether a piece may end with one character and the next start with the other."""
    if before in _NEVER_LAST or after in _NEVER_FIRST or before.isspace() or after.isspace():
        return False
    return unicodedata.category(after)[0] not in "MC"  # marks and joiners


def _is_inside(position: int, spans: list[tuple[int, int]]) -> bool:
    index = bisect.bisect_left(spans, (position,)) - 1  # the last span that starts before the position
    return index >= 0 and position < spans[index][1]
