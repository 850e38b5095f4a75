"""Checks of an untrusted tokenizer.json, before the library `tokenizers` runs it.

The library does what the file says. A hostile file can replace each letter by a thousand, several times over, until the
process runs out of memory; or search with a regular expression that backtracks for hours. No tokenizer of word pieces
needs this. So only known components are accepted, with patterns that take linear time and replacements of bounded size.

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
# Longest text that the normalizers may make, as a multiple of the text's own length.
MAX_GROWTH = 64
# BERT's are 100 and "##". WordPiece takes time and memory quadratic in the length of a word.
MAX_WORD_CHARACTERS = 200
MAX_PREFIX_CHARACTERS = 16
# A Unigram model tries every piece that starts at a position of the text. Where all letters are equal it copies as many
# characters as the square of the longest piece. SentencePiece's pieces have at most 16.
MAX_PIECE_CHARACTERS = 64

# Regular expressions without backtracking: a sequence of characters and character sets, of which only the last may
# repeat; or alternatives of such sequences.
_SET = r"\[\^?(?:\\.|[^\\\[\]])+\]"
_CHARACTER = rf"(?:{_SET}|\\[pP]\{{\^?\w+\}}|\\[^pPkg\d]|[^\\\[\](){{}}*+?|])"
_PATTERN = re.compile(rf"{_CHARACTER}+[*+]?(?:\|{_CHARACTER}+[*+]?)*", re.DOTALL)
MAX_PATTERN_CHARACTERS = 1000


def check_tokenizer(values: Any, where: Any) -> None:
    """Raises ConfigError for a tokenizer.json that could take unbounded time or memory.

    Args:
      values: the file's content, parsed.
      where: the file, for messages.

    Raises:
      ConfigError: an unknown component, a pattern that may backtrack, replacements or pieces that are too large.
    """
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
            f"{where} can make a text {growth:,} times as long, expected at most {MAX_GROWTH} times; do not use this "
            "tokenizer"
        )
    _check_model(values.get("model"), where)


def _parts(value: Any, list_name: str, known: tuple[str, ...], where: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the components of a normalizer or a pre-tokenizer, with sequences flattened.

    Raises:
      ConfigError: an unknown component, or more than MAX_PARTS of them.
    """
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
    """Raises ConfigError for a regular expression that may backtrack."""
    text = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if text is None:
        return
    if not isinstance(text, str) or len(text) > MAX_PATTERN_CHARACTERS or not _PATTERN.fullmatch(text):
        raise ConfigError(
            f"{where} searches for the pattern {quoted(text, 120)}, which could take very long; expected characters "
            "and sets of characters, of which only the last repeats"
        )


def _growth(normalizers: list[Mapping[str, Any]], where: Any) -> int:
    """Returns an upper bound of how many times longer the replacements can make a text.

    A replacement whose plain pattern has no character that an earlier one inserted matches the original text alone. Of
    such replacements only the longest counts, as each character of the text is replaced once. Any other can match what
    earlier ones inserted, so that lengths multiply; and so can all, where another kind of normalizer splits or merges
    characters. Examples, with MAX_GROWTH 64:

        "a" -> "bb", "c" -> "ddd"                   grows 3 times: they are independent
        "a" -> "bb", "b" -> "cc", "c" -> "dd"       the last two match what was inserted: 2 * 3 * 3 = 18 times

    Raises:
      ConfigError: a replacement without a pattern or a content.
    """
    inserted: set[str] = set()
    dependent, independent = 1, 1
    is_simple = all(part["type"] in ("Replace", "Lowercase", "Strip") for part in normalizers)
    for part in normalizers:
        if part["type"] != "Replace":
            continue
        content, pattern = part.get("content"), part.get("pattern")
        if not isinstance(content, str) or not isinstance(pattern, Mapping):
            raise ConfigError(f"{where} has the part {quoted(part, 120)}, expected a pattern and its replacement")
        plain = pattern.get("String")
        if isinstance(plain, str) and plain and is_simple and not inserted.intersection(plain):
            independent = max(independent, len(content))
        elif len(content) > 1 or plain == "":
            dependent *= 1 + len(content)
        inserted.update(content, content.lower())
    return dependent * independent


def _check_model(model: Any, where: Any) -> None:
    """Raises ConfigError for a model whose words, pieces or affixes are too long."""
    if not isinstance(model, Mapping):
        raise ConfigError(f"{where} has the model {quoted(model)}, expected an object")
    longest = model.get("max_input_chars_per_word", 0)
    if not isinstance(longest, int) or longest > MAX_WORD_CHARACTERS:
        raise ConfigError(
            f"{where}: max_input_chars_per_word is {quoted(longest)}, expected at most {MAX_WORD_CHARACTERS}"
        )
    pieces = model.get("vocab")
    for piece in pieces if isinstance(pieces, list) else ():  # a Unigram's: [piece, score]
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
