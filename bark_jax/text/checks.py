"""What can be spoken: a text is normalised to NFC and checked before it is tokenized.

The tokenizer drops what it does not know, or turns it into one unknown token, without a word. A text that would reach
the model as nothing, or as something else than its author sees, is refused here instead.

Unicode writes many letters in two ways: "ö" is one character, or "o" and a combining mark. BERT's vocabulary has the
first of them only, so text in the second form, as macOS writes file names and some keyboards type Korean, would lose
its words. The tokenizer that Suno's code used normalises to NFC, and so does this.

Source: Unicode Standard Annex #15, "Unicode Normalization Forms".
"""

import itertools
import re
import unicodedata
from typing import Any

from bark_jax.errors import InputError, quoted

# 256 tokens are some 1,000 characters; beyond this a text is a file given by mistake.
MAX_CHARACTERS = 100_000
# Written languages need up to five (Hebrew points with cantillation); Unicode's stream-safe format allows 30.
MAX_COMBINING_MARKS = 10

# Tab, line feed and carriage return are white space; the tokenizer drops all other control characters, which glues the
# words beside them together.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# Letters and symbols by category that show nothing: Hangul fillers, the blank of Braille.
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0\ufffc\ufffd")


def check_texts(text: Any) -> list[str]:
    """Returns the rows of a batch, a string alone or a list or tuple of strings, each as `check_text` returns it."""
    if isinstance(text, str):
        return [check_text(text, "text")]
    if not isinstance(text, (list, tuple)):
        raise InputError(f"text is {quoted(text)}, expected a string or a list of strings{_how_to_convert(text)}")
    if not text:
        raise InputError("text is an empty list, expected one string or more")
    return [check_text(each, f"text[{row}]") for row, each in enumerate(text)]


def as_nfc(text: str) -> str:
    """Returns the text in Unicode's form NFC, the one that tokenizers' vocabularies are written in."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def check_text(text: Any, what: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Returns the text in NFC, to which the positions in messages refer.

    Args:
      what: how messages name the text, such as "text[3]".

    Raises:
      InputError: anything but a string with something to speak in it.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} is {quoted(text)}, expected a string{_how_to_convert(text)}")
    if len(text) > max_characters:
        raise InputError(
            f"{what} has {len(text):,} characters, at most {max_characters:,} are taken; "
            "one prompt holds some 1,000, generate_long splits longer texts"
        )
    if not text.isascii():
        _check_marks(text, what)  # first, as normalising takes the square of their number
        text = as_nfc(text)
    if found := _SURROGATE.search(text):
        raise InputError(
            f"{what} has the lone surrogate {found[0]!r} at position {found.start()}, which is half a character; "
            "decode the text again, as UTF-8"
        )
    if found := _CONTROL.search(text):
        raise InputError(f"{what} has the control character {found[0]!r} at position {found.start()}; take it out")
    if not any(is_visible(character) for character in text):
        raise InputError(f"{what} is {quoted(text)}, in which there is nothing to speak")
    return text


def _how_to_convert(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return "; decode the bytes, as in text.decode('utf-8')"
    return "; call its tolist()" if hasattr(value, "tolist") else ""


def is_visible(character: str) -> bool:
    """Whether a character shows something: white space, marks on their own and control characters do not."""
    return unicodedata.category(character)[0] in "LNPS" and character not in _BLANK


def _check_marks(text: str, what: str) -> None:
    """Refuses marks heaped on one letter, which the tokenizer takes for one unknown word."""
    is_mark = (unicodedata.category(character)[0] == "M" for character in text)
    longest = max((len(list(run)) for mark, run in itertools.groupby(is_mark) if mark), default=0)
    if longest > MAX_COMBINING_MARKS:
        raise InputError(
            f"{what} has {longest:,} combining marks in a row, at most {MAX_COMBINING_MARKS} are taken; "
            "no language writes so many on one letter"
        )
