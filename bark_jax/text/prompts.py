"""Turns texts into prompts: checks, splits and tokenizes them. Faults are reported before a network is loaded."""

import dataclasses
import functools
import re
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bark_jax.errors import BarkWarning, ConfigError, InputError, quoted
from bark_jax.generation.padding import pad_rows
from bark_jax.generation.rows import Row
from bark_jax.generation.settings import RowSettings, check_count
from bark_jax.generation.tokens import TokenSpaces, text_tokens
from bark_jax.text.checks import as_nfc
from bark_jax.text.sentences import number_sentences, prompt_budget, split_text
from bark_jax.text.tokenizer import SPECIAL_TOKENS, as_tokenizer, config_errors, count_text_tokens
from bark_jax.text.vocabulary import UnknownWordsWarning, listed, unknown_words
from bark_jax.voices.voice import Voice

if TYPE_CHECKING:
    from tokenizers import Encoding

# A longer word becomes one unknown token in BERT's tokenizer (max_input_chars_per_word).
MAX_WORD_CHARACTERS = 100
MAX_CUT_CHARACTERS = 200  # of a truncated text's end, in a warning

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")


class TextCutWarning(BarkWarning):
    """A text was truncated because it did not fit one prompt.

    Args:
      message: what the text has too much of, and the limit.
      cut: the end that was cut off, also in the attribute `cut`.
    """

    def __init__(self, message: str, cut: str):
        super().__init__(message)
        self.cut = cut


class UnknownCharactersWarning(BarkWarning):
    """A text has words of which the tokenizer knows no character; the model gets one unknown token for each.

    Args:
      words: these words, also in the attribute `words`.
    """

    def __init__(self, words: tuple[str, ...]):
        super().__init__(
            f"the tokenizer cannot read {listed(words)}: the model gets an unknown token for each, and does not speak "
            "it. Write it in letters, or remove it."
        )
        self.words = words


class Script(NamedTuple):
    """Checked texts, each with its row: the input of `Bark.speak`, `speak_long` and `stream_script`."""

    texts: list[str]
    rows: list[Row]


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Checked texts with their token ids and voices: three lists of one length."""

    texts: list[str]  # in NFC
    ids: list[list[int]]  # tokenizer ids without padding, at most n_text
    voices: list[Voice | None]

    def script(self, keys: Sequence[np.ndarray], settings: Sequence[RowSettings], spaces: TokenSpaces) -> Script:
        """Makes a row of each text.

        Args:
          keys: a key per text, uint32 [2].
          settings: resolved settings per text.
          spaces: the model's token spaces.

        Returns:
          The texts with their rows; a row's text tokens are int32 [n_text], padded.
        """
        tokens = [text_tokens(np.array(ids), np.ones(len(ids)), spaces) for ids in self.ids]
        tokens_BT = pad_rows(tokens, spaces.text_pad, spaces.n_text)
        rows = [Row(*row) for row in zip(tokens_BT, self.voices, keys, settings, strict=True)]
        return Script(self.texts, rows)


class PromptReader:
    """Tokenizes texts and splits long ones into prompts: the part of `BarkProcessor` without voices.

    Args:
      tokenizer: a `tokenizers.Tokenizer`, a tokenizer of transformers, or the path of a tokenizer's file or folder.
      spaces: the model's token spaces.
      words: all words that the model knows, in lower case; None for any word.
      max_sentences: sentences per prompt at most; None for no limit.

    Raises:
      InputError: no tokenizer, or max_sentences is no count.
      ModelNotFoundError: the tokenizer's file does not exist.
      ConfigError: the tokenizer is damaged, or has more tokens than the model.
    """

    def __init__(
        self,
        tokenizer: Any,
        spaces: TokenSpaces,
        words: Collection[str] | None = None,
        max_sentences: int | None = None,
    ):
        self.max_sentences = None if max_sentences is None else check_count("max_sentences", max_sentences)
        self.words = None if words is None else frozenset(words)
        self.tokenizer = as_tokenizer(tokenizer)
        self.spaces = spaces
        added = self.tokenizer.get_added_tokens_decoder().values()
        self._control_tokens = {*SPECIAL_TOKENS.values(), *(token.content for token in added if token.special)}
        self._pad_id = self.tokenizer.token_to_id(SPECIAL_TOKENS["pad_token"]) or 0
        n_tokens, n_fitting = count_text_tokens(self.tokenizer), spaces.text_pad - spaces.text_offset
        if n_tokens > n_fitting:
            raise ConfigError(
                f"the tokenizer has {n_tokens:,} tokens, the model's vocabulary {n_fitting:,}: it is another model's"
            )

    def split(self, text: str, *, max_tokens: int | None = None, language: str = "en") -> list[str]:
        """Splits a text of any length into prompts, at the ends of sentences where possible.

            processor.split(open("chapter.txt").read())  # a list of strings, each for one call of generate

        Args:
          text: the text.
          max_tokens: text tokens per prompt at most, 1 to spaces.n_text (256 in Bark); None for about 40 in Bark,
            which are 13 s (`sentences.prompt_budget`).
          language: a code such as "en" (default) or "de", whose abbreviations do not end a sentence.

        Returns:
          The prompts in order, with white space as single spaces; see `sentences.split_text`.

        Raises:
          InputError: max_tokens or language has no such value.
          ConfigError: the tokenizer cannot read the text.
        """
        if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
            raise InputError(f"language is {quoted(language)}, expected a code such as 'en' or 'de'")
        n_text = self.spaces.n_text
        if max_tokens is None:
            max_tokens = prompt_budget(self._count_tokens, self.spaces)
        elif check_count("max_tokens", max_tokens) > n_text:
            raise InputError(f"max_tokens is {max_tokens}, expected at most {n_text}, the tokens of one prompt")
        return split_text(as_nfc(text), self._count_tokens, max_tokens, language, self.max_sentences)

    def is_within_sentence_limit(self, text: str) -> bool:
        """Whether the text has at most max_sentences sentences; always True for a model without this limit."""
        limit = self.max_sentences
        return limit is None or all(number < limit for number, _ in number_sentences(text))

    def _read(
        self, texts: list[str], names: list[str], max_length: int, *, truncation: bool = False, is_split: bool = False
    ) -> tuple[list[str], list[list[int]]]:
        """Tokenizes checked texts.

        Warnings are attributed to the caller's caller by a fixed `stacklevel`. There are no comprehensions around the
        calls that warn: before Python 3.12 a comprehension is a frame of its own, which would shift it.

        Args:
          texts: texts that `check_texts` returned.
          names: their names, with which messages begin.
          max_length: tokens per text at most.
          truncation: True truncates a text that is too long, with a TextCutWarning.
          is_split: True leaves out the count of sentences.

        Returns:
          The texts, truncated where needed, and their tokenizer ids.

        Raises:
          InputError: a text is too long, names a control token, or has nothing that the tokenizer knows.
          ConfigError: the tokenizer cannot read a text.
        """
        kept, encodings, rows = [], [], []
        for text, name in zip(texts, names, strict=True):
            kept.append(text if is_split else self._limit_sentences(text, name, truncation))
            encodings.append(self._tokenize(kept[-1], name))
        self._warn_of_unknown_words(kept)
        self._warn_of_unknown_characters(encodings, kept)
        for encoding, text, name in zip(encodings, kept, names, strict=True):
            rows.append(self._fit(encoding, text, name, max_length, truncation))
        return kept, rows

    def _limit_sentences(self, text: str, what: str, truncation: bool) -> str:
        """Returns the text, truncated to max_sentences sentences if asked for. Raises InputError if not asked for."""
        limit = self.max_sentences
        if limit is None:
            return text
        numbered = number_sentences(text)
        n_sentences = numbered[-1][0] + 1
        if n_sentences <= limit:
            return text
        start = sum(len(sentence) for number, sentence in numbered if number < limit)
        had = f"{what} has {n_sentences} sentences"
        _cut_or_refuse(
            text[start:], had, f"of which this model speaks {limit} a prompt", f"of which {limit} are read", truncation
        )
        return text[:start]

    def _tokenize(self, text: str, what: str) -> "Encoding":
        """Tokenizes a text. Raises InputError, beginning with `what`, if the model would get nothing to speak."""
        for name in self._control_tokens:
            if name in text:
                raise InputError(f"{what} names the tokenizer's control token {name}; rephrase or remove it")
        encoding = self._encode(text, what)
        if not encoding.ids:
            raise InputError(
                f"{what} is {quoted(text)}, of which the tokenizer makes no token; expected letters that it knows"
            )
        _check_words(encoding, text, what)
        if {token for token in encoding.tokens if token.strip()} == {self._unknown_token}:
            raise InputError(
                f"{what} is {quoted(text)}, of which the tokenizer knows no word: the model would get nothing but "
                "unknown tokens; expected letters that it knows"
            )
        return encoding

    def _fit(self, encoding: "Encoding", text: str, what: str, max_length: int, truncation: bool) -> list[int]:
        """Returns the text's ids, truncated to max_length if asked for. Raises InputError if not asked for."""
        ids = encoding.ids
        if len(ids) <= max_length:
            return ids
        # Offsets count characters, not bytes of UTF-8, of the text as it was before normalization.
        cut = text[encoding.offsets[max_length][0] :]
        had = f"{what} has {len(ids)} tokens"
        _cut_or_refuse(cut, had, f"at most {max_length} are read", f"of which {max_length} are read", truncation)
        return ids[:max_length]

    def _encode(self, text: str, what: str) -> "Encoding":
        """Tokenizes a text. Raises ConfigError if the tokenizer fails, or gives an id beyond the model's vocabulary."""
        with config_errors(f"the tokenizer cannot read {what}, {quoted(text)}"):  # such as one without [UNK]
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        n_fitting = self.spaces.text_pad - self.spaces.text_offset
        if encoding.ids and max(encoding.ids) >= n_fitting:
            raise ConfigError(
                f"the tokenizer gives {what} the id {max(encoding.ids)}, expected ids below {n_fitting:,}: it is "
                "another model's"
            )
        return encoding

    def _count_tokens(self, text: str) -> int:
        return len(self._encode(text, "the text").ids)

    def _warn_of_unknown_words(self, texts: list[str]) -> None:
        if self.words is None:
            return
        normalizer = self.tokenizer.normalizer
        with config_errors("the tokenizer cannot read the text"):
            unknown = unknown_words(texts, self.words, str if normalizer is None else normalizer.normalize_str)
        if unknown:
            warnings.warn(UnknownWordsWarning(unknown, len(self.words)), stacklevel=4)

    def _warn_of_unknown_characters(self, encodings: "list[Encoding]", texts: list[str]) -> None:
        words = (
            text[start:end]
            for encoding, text in zip(encodings, texts, strict=True)
            for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)
            if token == self._unknown_token
        )
        if unknown := tuple(dict.fromkeys(words)):
            warnings.warn(UnknownCharactersWarning(unknown), stacklevel=4)

    @functools.cached_property
    def _unknown_token(self) -> str | None:
        """The token of a word that the tokenizer does not know; None if it raises an error for such a word."""
        return getattr(self.tokenizer.model, "unk_token", None)


def _cut_or_refuse(cut: str, had: str, limit: str, kept: str, truncation: bool) -> None:
    """Gives a TextCutWarning for a text that is truncated.

    Args:
      cut: the end that is cut off.
      had: what the text has too much of, for both messages.
      limit: the limit, for the error.
      kept: the limit, for the warning.
      truncation: whether the caller asked for truncation.

    Raises:
      InputError: truncation is False.
    """
    if not truncation:
        raise InputError(
            f"{had}, {limit}: {quoted(cut)} would be lost. Split the text, use Bark.generate_long (bark-jax say "
            "--long), or cut it with truncation=True."
        )
    message = f"{had}, {kept}; cut off: {quoted(cut, MAX_CUT_CHARACTERS)}"
    warnings.warn(TextCutWarning(message, cut), stacklevel=5)


def _check_words(encoding: "Encoding", text: str, what: str) -> None:
    """Raises InputError for a word so long that the tokenizer makes one unknown token of it."""
    for start, end in encoding.offsets:
        if end - start > MAX_WORD_CHARACTERS:
            raise InputError(
                f"{what} has a word of {end - start:,} characters, {quoted(text[start:end], 40)}, of which the model "
                f"would see nothing; expected at most {MAX_WORD_CHARACTERS} without a space"
            )
