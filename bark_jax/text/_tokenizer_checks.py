"""What a tokenizer.json may ask of the library that runs it.

The library does what the file says: it can be told to make a thousand letters of each letter, again and again, until it
ends the process for want of memory; or to search for a pattern for hours. A tokenizer of word pieces needs none of it.
So the parts are of known kinds, their patterns take time in proportion to the text, and what they put in is bounded.

Source: tokenizers 0.23, the serialised form of each component.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bark_jax.errors import ConfigError, quoted

# fmt: off
_NORMALIZERS = (
    "Sequence", "BertNormalizer", "Lowercase", "Strip", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Replace",
)
_PRE_TOKENIZERS = (
    "Sequence", "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation", "Split",
    "UnicodeScripts", "Whitespace", "WhitespaceSplit",
)
# fmt: on
MAX_PARTS = 256
# How many times as long as the text what a tokenizer reads of it may be.
MAX_GROWTH = 64
# BERT's are 100 and "##". Longer ones take time, and copies, in the square of a word's length.
MAX_WORD_CHARACTERS = 200
MAX_PREFIX_CHARACTERS = 16
# A Unigram looks at every piece that begins at a place of the text; where they are all of equal letters, it copies the
# square of the longest. SentencePiece's have 16.
MAX_PIECE_CHARACTERS = 64

# Patterns that are searched for in one pass: characters and sets of them, one after the other; a repetition only at
# the end; several of them beside each other.
_SET = r"\[\^?(?:\\.|[^\\\[\]])+\]"
_CHARACTER = rf"(?:{_SET}|\\[pP]\{{\^?\w+\}}|\\[^pPkg\d]|[^\\\[\](){{}}*+?|])"
_PATTERN = re.compile(rf"{_CHARACTER}+[*+]?(?:\|{_CHARACTER}+[*+]?)*", re.DOTALL)
MAX_PATTERN_CHARACTERS = 1000


def check_tokenizer(values: Any, where: Any) -> None:
    """Raises ConfigError, naming `where`, for the content of a tokenizer.json that asks for more than it needs."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {quoted(values)}, expected a JSON object")
    normalizers = list(_parts(values.get("normalizer"), "normalizers", _NORMALIZERS, where))
    pre_tokenizers = list(_parts(values.get("pre_tokenizer"), "pretokenizers", _PRE_TOKENIZERS, where))
    for part in (*normalizers, *pre_tokenizers):
        if "pattern" in part:
            _check_pattern(part["pattern"], where)
    growth = _growth(normalizers, where)
    if growth > MAX_GROWTH:
        raise ConfigError(
            f"{where} replaces parts of a text by {growth:,} times as much, more than the {MAX_GROWTH} that are taken; "
            "do not use this tokenizer"
        )
    _check_model(values.get("model"), where)


def _parts(value: Any, list_name: str, known: tuple[str, ...], where: Any) -> Iterator[Mapping[str, Any]]:
    """The parts of a normalizer or a pre-tokenizer, sequences flattened."""
    waiting, n_parts = [value], 0
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        n_parts += 1
        if not isinstance(kind, str) or kind not in known or n_parts > MAX_PARTS:
            raise ConfigError(
                f"{where} has the part {quoted(part, 120)}, expected at most {MAX_PARTS} of {', '.join(known)}"
            )
        if kind != "Sequence":
            yield part
            continue
        inner = part.get(list_name)
        if not isinstance(inner, list):
            raise ConfigError(f"{where} has a Sequence of {quoted(inner)}, expected a list of {list_name}")
        waiting += reversed(inner)


def _check_pattern(pattern: Any, where: Any) -> None:
    text = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if text is None:
        return
    if not isinstance(text, str) or len(text) > MAX_PATTERN_CHARACTERS or not _PATTERN.fullmatch(text):
        raise ConfigError(
            f"{where} searches for the pattern {quoted(text, 120)}, which could take very long; taken are characters "
            "and sets of them, the last of which may repeat"
        )


def _growth(normalizers: list[Mapping[str, Any]], where: Any) -> int:
    """How many times as long a text can become at most, by its replacements.

    A plain pattern none of whose characters was put in before meets the text alone, so of such replacements only the
    longest counts. Any other may meet what those before it have made; and so may all where another kind of normalizer
    takes characters apart or puts them together.
    """
    put_in: set[str] = set()
    dependent, independent = 1, 1
    is_simple = all(part["type"] in ("Replace", "Lowercase", "Strip") for part in normalizers)
    for part in normalizers:
        if part["type"] != "Replace":
            continue
        content, pattern = part.get("content"), part.get("pattern")
        if not isinstance(content, str) or not isinstance(pattern, Mapping):
            raise ConfigError(f"{where} has the part {quoted(part, 120)}, expected a pattern and what takes its place")
        plain = pattern.get("String")
        if isinstance(plain, str) and plain and is_simple and not put_in.intersection(plain):
            independent = max(independent, len(content))
        elif len(content) > 1 or plain == "":
            dependent *= 1 + len(content)
        put_in.update(content, content.lower())
    return dependent * independent


def _check_model(model: Any, where: Any) -> None:
    if not isinstance(model, Mapping):
        raise ConfigError(f"{where} has the model {quoted(model)}, expected an object")
    longest = model.get("max_input_chars_per_word", 0)
    if not isinstance(longest, int) or longest > MAX_WORD_CHARACTERS:
        raise ConfigError(
            f"{where}: max_input_chars_per_word is {quoted(longest)}, expected at most {MAX_WORD_CHARACTERS}"
        )
    pieces = model.get("vocab")
    for piece in pieces if isinstance(pieces, list) else ():  # of a Unigram: [piece, score]
        if isinstance(piece, list) and piece and len(str(piece[0])) > MAX_PIECE_CHARACTERS:
            raise ConfigError(
                f"{where}: the vocabulary has {quoted(piece[0])} of {len(str(piece[0])):,} characters, expected at "
                f"most {MAX_PIECE_CHARACTERS}; do not use this tokenizer"
            )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(str(model.get(name) or "")) > MAX_PREFIX_CHARACTERS:
            raise ConfigError(
                f"{where}: {name} is {quoted(model[name])}, expected at most {MAX_PREFIX_CHARACTERS} characters"
            )
