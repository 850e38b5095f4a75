"""The tokenizer: BERT's word pieces, cased and multilingual in Bark, by the Rust library `tokenizers`.

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

# The real one has 3 MB.
MAX_FILE_BYTES = 64 * 2**20

# By their names in tokenizer_config.json.
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# tokenizer_config.json -> argument of BertNormalizer, and its value where the file is silent.
_NORMALIZER_OPTIONS = {
    "do_lower_case": ("lowercase", False),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


def find_tokenizer(source: Source) -> "Tokenizer":
    """The tokenizer of a model: its own files, or where it has none Bark's, from the Hub.

    Raises:
      ModelNotFoundError: there is none, or it cannot be had.
      ConfigError: its files are damaged.
    """
    tokenizer = _read_source(source)
    return _bark_tokenizer(source) if tokenizer is None else tokenizer


def as_tokenizer(tokenizer: Any) -> "Tokenizer":
    """A tokenizer that neither pads nor cuts.

    Args:
      tokenizer: a `tokenizers.Tokenizer`; a tokenizer of transformers; or the path of a tokenizer.json, of a vocab.txt
        or of a folder that has one.
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
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # the caller's stays as it is
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def with_control_tokens(tokenizer: Any, names: Sequence[str]) -> "Tokenizer":
    """The tokenizer with these control tokens too; those that it lacks get ids past its own. The given one stays."""
    tokenizer = as_tokenizer(tokenizer)
    if not names:
        return tokenizer
    tokenizer = type(tokenizer).from_str(tokenizer.to_str())
    tokenizer.add_special_tokens(list(names))
    return tokenizer


def count_text_tokens(tokenizer: "Tokenizer") -> int:
    """Tokens that a text can become: all but control tokens that are no word pieces, as no text may hold them."""
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    added = tokenizer.get_added_tokens_decoder().values()
    return len(pieces) + sum(not token.special and token.content not in pieces for token in added)


def transformers_config(tokenizer: "Tokenizer") -> dict[str, Any]:
    """The tokenizer_config.json with which transformers reads this tokenizer's tokenizer.json as we do."""
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer

    special = {name: token for name, token in SPECIAL_TOKENS.items() if tokenizer.token_to_id(token) is not None}
    normalizer = tokenizer.normalizer
    if not isinstance(tokenizer.model, WordPiece) or not isinstance(normalizer, BertNormalizer):
        return {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    options = {name: getattr(normalizer, argument) for name, (argument, _) in _NORMALIZER_OPTIONS.items()}
    return {"tokenizer_class": "BertTokenizer", **options, **special}


def _read_source(source: Source) -> "Tokenizer | None":
    """A model's own tokenizer; None where it has none, or none on this machine while the Hub cannot be reached."""
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
    tokenizer = None if source.name == BARK_TOKENIZER else _read_source(_hub_source(source))
    if tokenizer is None:
        raise ModelNotFoundError(
            f"neither {TOKENIZER_FILE} nor {VOCABULARY_FILE} of {source.name} is there, nor are those of "
            f"{BARK_TOKENIZER}, which Bark uses, on this machine. With a connection, run: hf download {BARK_TOKENIZER} "
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
    if not os.path.isfile(path):  # also for a name that no system takes
        raise ModelNotFoundError(
            f"the tokenizer {quoted(str(path), 400)} does not exist; give {TOKENIZER_FILE} or {VOCABULARY_FILE}"
        )
    return _read_json_tokenizer(path, {}) if path.suffix == ".json" else _read_vocabulary(path, {})


def _read_json_tokenizer(path: Path, options: Mapping[str, Any]) -> "Tokenizer":
    """Reads a tokenizer.json. What tokenizer_config.json says of BERT's normalizer counts more, as in transformers."""
    from tokenizers import Tokenizer
    from tokenizers.normalizers import BertNormalizer

    check_tokenizer(read_json(path), path)
    with config_errors(f"{path} is damaged or of a newer `tokenizers`"):
        tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, BertNormalizer):
        current = {name: getattr(normalizer, argument) for name, (argument, _) in _NORMALIZER_OPTIONS.items()}
        tokenizer.normalizer = _normalizer({**current, **options}, normalizer.clean_text)
    return tokenizer


def _read_vocabulary(path: Path, options: Mapping[str, Any]) -> "Tokenizer":
    """Makes BERT's tokenizer of a vocab.txt, one word piece a line."""
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
    """Errors of the library as a ConfigError that begins with `what`. It raises plain Exception, or panics."""
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # of Rust; no Exception, and importable from nowhere
        if not isinstance(error, Exception) and not is_panic:
            raise
        raise ConfigError(f"{what}: {quoted(str(error), 200)}") from error


def _normalizer(options: Mapping[str, Any], clean_text: bool = True) -> Any:
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
        raise ConfigError(f"{path} has {path.stat().st_size:,} bytes, more than the {MAX_FILE_BYTES:,} of a tokenizer")
