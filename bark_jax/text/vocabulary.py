"""The word list of a model that was trained on few words, and a warning for words that are not on it.

Bark reads any text. A small model speaks words that it was not trained on unintelligibly. Its folder lists its words in
`words.txt`, one per line, in lower case.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from bark_jax.errors import BarkWarning, ConfigError, quoted
from bark_jax.hub.source import Source

WORDS_FILE = "words.txt"
MAX_LISTED_WORDS = 10

# Letters and figures, with apostrophes inside, as in "don't".
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def listed(words: Sequence[str]) -> str:
    """Formats words for a message: the first MAX_LISTED_WORDS, quoted, and the number of others."""
    names = ", ".join(quoted(word, 40) for word in words[:MAX_LISTED_WORDS])
    return names + (f" and {len(words) - MAX_LISTED_WORDS} more" if len(words) > MAX_LISTED_WORDS else "")


class UnknownWordsWarning(BarkWarning):
    """A text has words that the model was not trained on, so it may speak them unintelligibly.

    Args:
      words: these words, also in the attribute `words`.
      n_known: number of words on the model's list.
    """

    def __init__(self, words: tuple[str, ...], n_known: int):
        super().__init__(
            f"this model knows {n_known} words, and not {listed(words)}: it may speak them unintelligibly. "
            f"Its words are in its folder's {WORDS_FILE}"
        )
        self.words = words


def read_words(source: Source) -> frozenset[str] | None:
    """Reads the word list of a model's folder; None for a folder without one, and for a Hub repository.

    Raises:
      ConfigError: the list is empty or not UTF-8.
      InputError: the file is a link that leads out of the folder.
    """
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
    """Returns the words of texts that are not known, in lower case, each once, in the order of the texts.

    Args:
      texts: the texts.
      known: the model's words, in lower case.
      normalize: the tokenizer's normalizer, which a word passes first: it may turn "7" into "seven", or a word in
        another script into an empty string, which counts as unknown.
    """

    def is_known(word: str) -> bool:
        read = _WORD.findall(normalize(word))
        return bool(read) and all(part in known for part in read)

    words = (word for text in texts for word in _WORD.findall(text.lower()))
    return tuple(dict.fromkeys(word for word in words if not is_known(word)))
