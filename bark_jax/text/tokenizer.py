"""Finds and reads a model's tokenizer: BERT's word pieces (WordPiece), cased and multilingual in Bark.

The Rust library `tokenizers` runs it. Files are tokenizer.json, or vocab.txt with one word piece per line; options of
tokenizer_config.json override those of tokenizer.json.

Source: transformers 5.23, models/bert/tokenization_bert.py (how its files are read).
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bark_jax.config import read_json
from bark_jax.errors import ConfigError, InputError, ModelNotFoundError, quoted
from bark_jax.hub.source import Source, UnreachableError
from bark_jax.text._tokenizer_checks import check_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocab.txt"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
BARK_TOKENIZER = "bert-base-multilingual-cased"  # what suno's code and checkpoints use

# Bark's tokenizer.json has 3 MB.
MAX_FILE_BYTES = 64 * 2**20

# Control tokens of BERT, by their names in tokenizer_config.json.
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# Field of tokenizer_config.json -> argument of BertNormalizer, and the default where the file has no such field.
_NORMALIZER_OPTIONS = {
    "do_lower_case": ("lowercase", False),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


def find_tokenizer(source: Source) -> "Tokenizer":
    """Returns the tokenizer of a model: from its own files, or Bark's from the Hub if it has none.

    Raises:
      ModelNotFoundError: neither the model's tokenizer nor Bark's is on this machine or on the Hub.
      ConfigError: a file of the tokenizer is damaged.
      InputError: a file is a link that leads out of the model's folder.
    """
    tokenizer = _read_source(source)
    return _bark_tokenizer(source) if tokenizer is None else tokenizer


def as_tokenizer(tokenizer: Any) -> "Tokenizer":
    """Returns a tokenizer without padding and truncation; the one given is not modified.

    Args:
      tokenizer: a `tokenizers.Tokenizer`; a tokenizer of transformers; or the path of a tokenizer.json, of a vocab.txt
        or of a folder that has one.

    Raises:
      InputError: it is none of these.
      ModelNotFoundError: the path does not exist, or the folder has no tokenizer.
      ConfigError: the file is damaged.
    """
    from tokenizers import Tokenizer

    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = _read_path(Path(tokenizer))
    tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        raise InputError(
            f"{quoted(tokenizer)} is no tokenizer; give a tokenizers.Tokenizer, or the path of {TOKENIZER_FILE}, of "
            f"{VOCABULARY_FILE} or of their folder"
        )
    if tokenizer.padding is None and tokenizer.truncation is None:
        return tokenizer
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy: the caller's is not modified
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def with_control_tokens(tokenizer: Any, names: Sequence[str]) -> "Tokenizer":
    """Returns a tokenizer with more control tokens, such as "<s>"; the one given is not modified.

    Args:
      tokenizer: as for `as_tokenizer`.
      names: the tokens. Those that the tokenizer lacks get ids after its own.

    Raises:
      InputError: no tokenizer.
      ModelNotFoundError: the tokenizer's file does not exist.
      ConfigError: the tokenizer's file is damaged.
    """
    tokenizer = as_tokenizer(tokenizer)
    if not names:
        return tokenizer
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.add_special_tokens(list(names))
    return tokenizer


def count_text_tokens(tokenizer: "Tokenizer") -> int:
    """Counts the tokens that a text can become.

    Control tokens that are not word pieces do not count: a text that contains one is refused.
    """
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    added = tokenizer.get_added_tokens_decoder().values()
    return len(pieces) + sum(not token.special and token.content not in pieces for token in added)


def transformers_config(tokenizer: "Tokenizer") -> dict[str, Any]:
    """Returns the content of a tokenizer_config.json with which transformers tokenizes as this tokenizer does."""
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer

    special = {name: token for name, token in SPECIAL_TOKENS.items() if tokenizer.token_to_id(token) is not None}
    normalizer = tokenizer.normalizer
    if not isinstance(tokenizer.model, WordPiece) or not isinstance(normalizer, BertNormalizer):
        return {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    options = {name: getattr(normalizer, argument) for name, (argument, _) in _NORMALIZER_OPTIONS.items()}
    return {"tokenizer_class": "BertTokenizer", **options, **special}


def _read_source(source: Source) -> "Tokenizer | None":
    """Reads a model's own tokenizer; None if it has none, or if it is not in the cache and the Hub is unreachable.

    Raises:
      ConfigError: a file is damaged.
    """
    config = _find_or_none(source, TOKENIZER_CONFIG_FILE)
    options = {} if config is None else read_json(config)
    if not isinstance(options, Mapping):
        raise ConfigError(f"{config} is {quoted(options)}, expected a JSON object")
    if file := _find_or_none(source, TOKENIZER_FILE):
        return _read_json_tokenizer(file, options)
    if file := _find_or_none(source, VOCABULARY_FILE):
        return _read_vocabulary(file, options)
    return None


def _find_or_none(source: Source, path: str) -> Path | None:
    try:
        return source.find(path)
    except UnreachableError:
        return None


def _bark_tokenizer(source: Source) -> "Tokenizer":
    """Reads Bark's tokenizer from the Hub. Raises ModelNotFoundError, with the remedy, if it is unreachable."""
    tokenizer = None if source.name == BARK_TOKENIZER else _read_source(_hub_source(source))
    if tokenizer is None:
        raise ModelNotFoundError(
            f"neither {TOKENIZER_FILE} nor {VOCABULARY_FILE} of {source.name} is found, and those of {BARK_TOKENIZER}, "
            f"which Bark uses, are not on this machine. With a connection, run: hf download {BARK_TOKENIZER} "
            f"{TOKENIZER_FILE} {TOKENIZER_CONFIG_FILE}. Without one, pass tokenizer= a folder that has them."
        )
    return tokenizer


def _hub_source(source: Source) -> Source:
    return Source(
        BARK_TOKENIZER, token=source.token, cache_dir=source.cache_dir, local_files_only=source.local_files_only
    )


def _read_path(path: Path) -> "Tokenizer":
    if os.path.isdir(path):
        tokenizer = _read_source(Source(str(path)))
        if tokenizer is None:
            raise ModelNotFoundError(f"the folder {path} has neither {TOKENIZER_FILE} nor {VOCABULARY_FILE}")
        return tokenizer
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise ModelNotFoundError(
            f"the tokenizer {quoted(str(path), 400)} does not exist; give {TOKENIZER_FILE} or {VOCABULARY_FILE}"
        )
    return _read_json_tokenizer(path, {}) if path.suffix == ".json" else _read_vocabulary(path, {})


def _read_json_tokenizer(path: Path, options: Mapping[str, Any]) -> "Tokenizer":
    """Reads a tokenizer.json. Options of tokenizer_config.json override its BertNormalizer's, as in transformers.

    Raises:
      ConfigError: the file is damaged, hostile, or of a newer version of `tokenizers`.
    """
    from tokenizers import Tokenizer
    from tokenizers.normalizers import BertNormalizer

    check_tokenizer(read_json(path), path)
    with config_errors(f"{path} is damaged or of a newer `tokenizers`"):
        tokenizer = Tokenizer.from_file(str(path))
    # A tokenizer.json may ask for both: padding would add tokens to the prompt, truncation silently cut the text.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, BertNormalizer):
        current = {name: getattr(normalizer, argument) for name, (argument, _) in _NORMALIZER_OPTIONS.items()}
        tokenizer.normalizer = _normalizer({**current, **options}, normalizer.clean_text)
    return tokenizer


def _read_vocabulary(path: Path, options: Mapping[str, Any]) -> "Tokenizer":
    """Builds BERT's tokenizer from a vocab.txt with one word piece per line. Raises ConfigError for another file."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    _check_size(path)
    unknown = SPECIAL_TOKENS["unk_token"]
    with config_errors(f"{path} is no list of word pieces"):
        vocabulary = models.WordPiece.read_file(str(path))
    if unknown not in vocabulary:
        raise ConfigError(f"{path} has {len(vocabulary)} word pieces but no {unknown}; it is no vocabulary of BERT's")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = _normalizer(options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([token for token in SPECIAL_TOKENS.values() if token in vocabulary])
    return tokenizer


@contextlib.contextmanager
def config_errors(what: str) -> Iterator[None]:
    """Turns errors of the library `tokenizers` into a ConfigError that begins with `what`.

    The library raises plain Exception, and a panic of its Rust code is a BaseException.

    Raises:
      ConfigError: the block raised such an error.
    """
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # of pyo3, a BaseException that no module exports
        if not isinstance(error, Exception) and not is_panic:
            raise
        raise ConfigError(f"{what}: {quoted(str(error), 200)}") from error


def _normalizer(options: Mapping[str, Any], clean_text: bool = True) -> Any:
    """Builds a BertNormalizer from options of tokenizer_config.json. Raises ConfigError for one that is no boolean."""
    from tokenizers.normalizers import BertNormalizer

    arguments = {}
    for name, (argument, default) in _NORMALIZER_OPTIONS.items():
        value = options.get(name, default)
        if not isinstance(value, bool) and not (value is None and name == "strip_accents"):
            raise ConfigError(f"{TOKENIZER_CONFIG_FILE}: {name} is {quoted(value)}, expected true or false")
        arguments[argument] = value
    return BertNormalizer(clean_text=clean_text, **arguments)


def _check_size(path: Path) -> None:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ConfigError(
            f"{path} has {path.stat().st_size:,} bytes, expected at most {MAX_FILE_BYTES:,} of a tokenizer"
        )
