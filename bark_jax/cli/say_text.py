"""Text of `bark-jax say`: the argument, stdin, or a default sentence."""

import io
import sys

from bark_jax import tiny
from bark_jax.errors import InputError

DEFAULT_TEXT = "Hello! My name is Bark, and I can speak, laugh and sing."
STANDARD_STREAM = "-"


def find_text(text: str | None, model: str, *, is_long: bool) -> str:
    """Returns the argument TEXT, else the text on stdin, else a default sentence that the model knows.

    Stdin is read if TEXT is "-", or if TEXT is left out and stdin is no terminal. In the second case an empty stdin,
    as under cron, gives the default sentence.

    Raises:
      InputError: as `read_stdin`.
    """
    if text == STANDARD_STREAM:
        return read_stdin(is_long=is_long)
    if text is not None:
        return text
    is_piped = sys.stdin is not None and not sys.stdin.isatty()
    return (is_piped and read_stdin(is_long=is_long)) or (tiny.EXAMPLE if model == tiny.NAME else DEFAULT_TEXT)


def read_stdin(*, is_long: bool) -> str:
    """Returns the text on stdin, without the white space around it.

    Raises:
      InputError: stdin is closed, it is not UTF-8, or it is longer than one text may be.
    """
    from bark_jax.text import checks, sentences

    limit = sentences.MAX_CHARACTERS if is_long else checks.MAX_CHARACTERS
    if sys.stdin is None:
        raise InputError("stdin is closed, expected a text there")
    stream = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig")
    try:
        text = stream.read(limit + 1)  # bounds the memory where stdin is endless, such as /dev/zero
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not UTF-8 ({error.reason}); convert it, as with iconv") from error
    finally:
        stream.detach()  # otherwise the wrapper closes sys.stdin
    if len(text) > limit:
        remedy = "split it into several files" if is_long else f"add --long, which takes {sentences.MAX_CHARACTERS:,}"
        raise InputError(f"the text on stdin has more than {limit:,} characters; {remedy}")
    return text.strip()
