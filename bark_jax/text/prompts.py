"""Texts to prompts: checked, cut and tokenized, with all that is wrong with them told before a network is loaded."""

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
MAX_CUT_CHARACTERS = 200

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")


class TextCutWarning(BarkWarning):
    """The end of a text was cut off because it did not fit the prompt; `cut` is that end, whole."""

    def __init__(self, message: str, cut: str):
        super().__init__(message)
        self.cut = cut


class UnknownCharactersWarning(BarkWarning):
    """The tokenizer knows no character of some words, which reach the model as one unknown token; `words` are these."""

    def __init__(self, words: tuple[str, ...]):
        super().__init__(
            f"the tokenizer cannot read {listed(words)}: the model gets an unknown token for each, and does not say "
            "it. Write it in letters, or take it out."
        )
        self.words = words


class Script(NamedTuple):
    """Texts to speak, each with its row. All is checked; `Bark.speak`, `speak_long` and `stream_script` speak it."""

    texts: list[str]
    rows: list[Row]


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Texts that were checked, what a model reads of each, and whose voice speaks it: as many of each."""

    texts: list[str]  # in NFC
    ids: list[list[int]]  # tokenizer ids, none of them padding
    voices: list[Voice | None]

    def script(self, keys: Sequence[np.ndarray], settings: Sequence[RowSettings], spaces: TokenSpaces) -> Script:
        """The texts with their rows, given a key and the resolved settings for each."""
        tokens = [text_tokens(np.array(ids), np.ones(len(ids)), spaces) for ids in self.ids]
        tokens_BT = pad_rows(tokens, spaces.text_pad, spaces.n_text)
        rows = [Row(*row) for row in zip(tokens_BT, self.voices, keys, settings, strict=True)]
        return Script(self.texts, rows)


class PromptReader:
    """Makes tokenizer ids of texts, and prompts of long ones; the base of `BarkProcessor`, whose arguments it takes."""

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
                f"the tokenizer has {n_tokens:,} tokens, the model room for {n_fitting:,}: it is another model's"
            )

    def split(self, text: str, *, max_tokens: int | None = None, language: str = "en") -> list[str]:
        """Cuts a text of any length into prompts, at the ends of sentences where it can; see `sentences.split_text`.

        Args:
          max_tokens: most tokens of a prompt, 1 to spaces.n_text; None for `sentences.prompt_budget`.
          language: whose abbreviations do not end sentences, such as "de".
        """
        if not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
            raise InputError(f"language is {quoted(language)}, expected a code such as 'en' or 'de'")
        n_text = self.spaces.n_text
        if max_tokens is None:
            max_tokens = prompt_budget(self._count_tokens, self.spaces)
        elif check_count("max_tokens", max_tokens) > n_text:
            raise InputError(f"max_tokens is {max_tokens}, expected at most the {n_text} that a prompt has room for")
        return split_text(as_nfc(text), self._count_tokens, max_tokens, language, self.max_sentences)

    def is_within_sentence_limit(self, text: str) -> bool:
        """Whether a prompt holds as many sentences as the text has: always, where the model sets no limit."""
        limit = self.max_sentences
        return limit is None or all(number < limit for number, _ in number_sentences(text))

    def _read(
        self, texts: list[str], names: list[str], max_length: int, *, truncation: bool = False, is_split: bool = False
    ) -> tuple[list[str], list[list[int]]]:
        """Checked texts, cut where that was asked for, and the ids of each; messages begin with its name.

        Warnings are told as those of whoever called the caller, so comprehensions, which may be frames, are left out.
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
        """The text, or as many sentences of it as the model speaks of one prompt; messages begin with `what`."""
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
        """A text's tokens, of which the model can say some; messages begin with `what`."""
        for name in self._control_tokens:
            if name in text:
                raise InputError(f"{what} names the tokenizer's own {name}; write it otherwise or take it out")
        encoding = self._encode(text, what)
        if not encoding.ids:
            raise InputError(
                f"{what} is {quoted(text)}, of which the tokenizer leaves nothing; expected letters that it knows"
            )
        _check_words(encoding, text, what)
        if {token for token in encoding.tokens if token.strip()} == {self._unknown_token}:
            raise InputError(
                f"{what} is {quoted(text)}, of which the tokenizer knows no word: the model would get unknown tokens "
                "alone; expected letters that it knows"
            )
        return encoding

    def _fit(self, encoding: "Encoding", text: str, what: str, max_length: int, truncation: bool) -> list[int]:
        """The text's ids, at most max_length; messages begin with `what`."""
        ids = encoding.ids
        if len(ids) <= max_length:
            return ids
        cut = text[encoding.offsets[max_length][0] :]
        had = f"{what} has {len(ids)} tokens"
        _cut_or_refuse(cut, had, f"at most {max_length} are read", f"of which {max_length} are read", truncation)
        return ids[:max_length]

    def _encode(self, text: str, what: str) -> "Encoding":
        with config_errors(f"the tokenizer cannot read {what}, {quoted(text)}"):  # such as one without [UNK]
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        n_fitting = self.spaces.text_pad - self.spaces.text_offset
        if encoding.ids and max(encoding.ids) >= n_fitting:
            raise ConfigError(
                f"the tokenizer gives {what} the id {max(encoding.ids)}, the model knows {n_fitting:,}: it is another "
                "model's"
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
        """What the tokenizer makes of a word that it does not know; None where it has none, and raises."""
        return getattr(self.tokenizer.model, "unk_token", None)


def _cut_or_refuse(cut: str, had: str, limit: str, kept: str, truncation: bool) -> None:
    """Warns of the end of a text that is cut off, where that was asked for.

    Args:
      cut: that end.
      had, limit, kept: what the text has too much of, and the limit, as the refusal and the warning say it.

    Raises:
      InputError: it was not asked for.
    """
    if not truncation:
        raise InputError(
            f"{had}, {limit}: {quoted(cut)} would be lost. Split the text, use Bark.generate_long (bark-jax say "
            "--long), or cut it with truncation=True."
        )
    message = f"{had}, {kept}; cut off: {quoted(cut, MAX_CUT_CHARACTERS)}"
    warnings.warn(TextCutWarning(message, cut), stacklevel=5)


def _check_words(encoding: "Encoding", text: str, what: str) -> None:
    """Refuses a word so long that the tokenizer makes one unknown token of it."""
    for start, end in encoding.offsets:
        if end - start > MAX_WORD_CHARACTERS:
            raise InputError(
                f"{what} has a word of {end - start:,} characters, {quoted(text[start:end], 40)}, which the model "
                f"would not see; at most {MAX_WORD_CHARACTERS} go without a space"
            )
