"""The words that a model of few words knows, so that it can say which it does not.

Bark reads any text. A small model, trained on few words, mumbles others; its folder lists what it knows in `words.txt`,
one word a line, in lower case.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from bark_jax.errors import BarkWarning, ConfigError, quoted
from bark_jax.hub.source import Source

WORDS_FILE = "words.txt"
MAX_LISTED_WORDS = 10

# With an apostrophe inside, as in "don't".
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def listed(words: Sequence[str]) -> str:
    """The first MAX_LISTED_WORDS words as a message shows them, and how many more there are."""
    names = ", ".join(quoted(word, 40) for word in words[:MAX_LISTED_WORDS])
    return names + (f" and {len(words) - MAX_LISTED_WORDS} more" if len(words) > MAX_LISTED_WORDS else "")


class UnknownWordsWarning(BarkWarning):
    """A text has words that the model was not trained on; `words` are these."""

    def __init__(self, words: tuple[str, ...], n_known: int):
        super().__init__(
            f"this model knows {n_known} words, and not {listed(words)}: what it makes of them may not be understood. "
            f"Its words are in its folder's {WORDS_FILE}"
        )
        self.words = words


def read_words(source: Source) -> frozenset[str] | None:
    """The words of a model's folder; None for a model that does not list any, and for those of the Hub."""
    file = source.find(WORDS_FILE) if source.is_folder else None
    if file is None:
        return None
    try:
        words = frozenset(file.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error}") from error
    if not words:
        raise ConfigError(f"{file} is empty, expected one word a line; remove it if the model knows all words")
    return words


def unknown_words(
    texts: Iterable[str], known: Collection[str], normalize: Callable[[str], str] = str
) -> tuple[str, ...]:
    """The words of texts that are not among the known ones, each once, in their order.

    Args:
      normalize: what the tokenizer makes of a word before it reads it: of "7" perhaps "seven"; of a word in another
        script perhaps nothing, which is not known either.
    """

    def is_known(word: str) -> bool:
        read = _WORD.findall(normalize(word))
        return bool(read) and all(part in known for part in read)

    words = (word for text in texts for word in _WORD.findall(text.lower()))
    return tuple(dict.fromkeys(word for word in words if not is_known(word)))
