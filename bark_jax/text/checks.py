"""Checks that a text can be spoken, and normalises it to Unicode's form NFC, before it is tokenized.

The tokenizer silently drops characters that it does not know, or makes one unknown token of a word. A text that would
reach the model empty, or as something else than its author sees, raises InputError here instead.

Unicode has two forms of many letters: "ö" is one character, or "o" followed by a combining mark. BERT's vocabulary has
the first form only, so the words of text in the second form, in which macOS writes file names and some keyboards type
Korean, would be lost. The tokenizer that Suno's code used normalises to NFC, and so does this.

Source: Unicode Standard Annex #15, "Unicode Normalization Forms".
"""

import itertools
import re
import unicodedata
from typing import Any

from bark_jax.errors import InputError, quoted

# A prompt of 256 tokens is about 1,000 characters. A text of more than this is a file given by mistake.
MAX_CHARACTERS = 100_000
# Written languages need up to five (Hebrew points with cantillation); Unicode's stream-safe format allows 30.
MAX_COMBINING_MARKS = 10

# Tab, line feed and carriage return are white space. The tokenizer drops all other control characters, which joins the
# words on both sides into one.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Letters and symbols by category that are invisible: Hangul fillers, the blank of Braille.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0\ufffc\ufffd")


def check_texts(text: Any) -> list[str]:
    """Returns the texts of a batch, checked and in NFC.

    Args:
      text: a string, or a list or tuple of strings.

    Raises:
      InputError: neither of them, an empty list, or a text that `check_text` refuses.
    """
    if isinstance(text, str):
        return [check_text(text, "text")]
    if not isinstance(text, (list, tuple)):
        raise InputError(f"text is {quoted(text)}, expected a string or a list of strings{_how_to_convert(text)}")
    if not text:
        raise InputError("text is an empty list, expected one string or more")
    return [check_text(each, f"text[{row}]") for row, each in enumerate(text)]


def as_nfc(text: str) -> str:
    """Returns the text in Unicode's form NFC, in which tokenizers' vocabularies are written."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def check_text(text: Any, what: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Returns the text in NFC. Positions in messages count characters of this form.

    Args:
      text: the text.
      what: the text's name in messages, such as "text[3]".
      max_characters: length limit in characters.

    Raises:
      InputError: no string, too long, without a visible character, or with a control character, a lone surrogate or
        too many combining marks.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} is {quoted(text)}, expected a string{_how_to_convert(text)}")
    if len(text) > max_characters:
        raise InputError(
            f"{what} has {len(text):,} characters, expected at most {max_characters:,}; "
            "one prompt holds about 1,000, generate_long splits longer texts"
        )
    # ASCII has no combining marks and is in NFC already.
    if not text.isascii():
        _check_marks(text, what)  # before normalising, which takes time quadratic in the number of marks
        text = as_nfc(text)
    if found := _SURROGATE.search(text):
        raise InputError(
            f"{what} has the lone surrogate {found[0]!r} at position {found.start()}, which is half a character; "
            "decode the text again, as UTF-8"
        )
    if found := _CONTROL.search(text):
        raise InputError(f"{what} has the control character {found[0]!r} at position {found.start()}; remove it")
    if not any(is_visible(character) for character in text):
        raise InputError(f"{what} is {quoted(text)}: there is nothing to speak; expected letters or figures")
    return text


def _how_to_convert(value: Any) -> str:
    """Returns the end of a message that says how to make a string, or a list of strings, of bytes or an array."""
    if isinstance(value, (bytes, bytearray)):
        return "; decode the bytes, as in text.decode('utf-8')"
    return "; call its tolist()" if hasattr(value, "tolist") else ""


def is_visible(character: str) -> bool:
    """Whether a character is a letter, figure, punctuation or symbol that is visible.

    White space, control characters and combining marks on their own are not.
    """
    return unicodedata.category(character)[0] in "LNPS" and character not in _BLANK


def _check_marks(text: str, what: str) -> None:
    """Raises InputError for more combining marks on one letter than any language has: one unknown word to BERT."""
    is_mark = (unicodedata.category(character)[0] == "M" for character in text)
    longest = max((len(list(run)) for mark, run in itertools.groupby(is_mark) if mark), default=0)
    if longest > MAX_COMBINING_MARKS:
        raise InputError(
            f"{what} has {longest:,} combining marks in a row, expected at most {MAX_COMBINING_MARKS}; "
            "no language writes so many on one letter"
        )
