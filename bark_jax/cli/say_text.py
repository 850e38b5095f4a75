"""The text that `bark-jax say` speaks: as given, from stdin, or its own."""

import io
import sys

from bark_jax import tiny
from bark_jax.errors import InputError

DEFAULT_TEXT = "Hello! My name is Bark, and I can speak, laugh and sing."
STANDARD_STREAM = "-"


def find_text(text: str | None, model: str, *, is_long: bool) -> str:
    """The text as given, else what stdin has, else a sentence that the model knows."""
    if text == STANDARD_STREAM:
        return read_stdin(is_long=is_long)
    if text is not None:
        return text
    is_piped = sys.stdin is not None and not sys.stdin.isatty()
    return (is_piped and read_stdin(is_long=is_long)) or (tiny.EXAMPLE if model == tiny.NAME else DEFAULT_TEXT)


def read_stdin(*, is_long: bool) -> str:
    """Returns the text on stdin, without the white space around it.

    Raises:
      InputError: it is not UTF-8, or longer than what one text may have.
    """
    from bark_jax.text import checks, sentences

    limit = sentences.MAX_CHARACTERS if is_long else checks.MAX_CHARACTERS
    if sys.stdin is None:
        raise InputError("stdin is closed, expected a text there")
    stream = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig")
    try:
        text = stream.read(limit + 1)  # of an endless stream no more
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not UTF-8 ({error.reason}); convert it, as with iconv") from error
    finally:
        stream.detach()
    if len(text) > limit:
        remedy = "split it into several files" if is_long else f"add --long, which takes {sentences.MAX_CHARACTERS:,}"
        raise InputError(f"the text on stdin has more than {limit:,} characters; {remedy}")
    return text.strip()
