"""Semantic tokens of recordings: loads and calls a semantic tokenizer, and checks tokens that are given or made.

A semantic tokenizer turns recorded speech into the tokens that the semantic network learns to predict and the coarse
network reads. Suno did not publish the tokenizer that its networks were trained with, so this package takes any
callable as a plug-in, such as

    def tokenize(samples: np.ndarray, sample_rate: int, text: str) -> np.ndarray:
        return np.searchsorted(EDGES, loudness(samples, every=sample_rate / 49.9))

named on the command line as "my_package.my_module:tokenize".
"""

import importlib
from typing import Any, Protocol

import numpy as np

from bark_jax.errors import InputError, quoted
from bark_jax.generation.tokens import TokenSpaces

# Maximum difference in length between audio and its semantic tokens; 5 tokens in Bark. Tokenizers round, and their
# windows drop the ends. A larger difference means tokens of other audio, or of another token rate.
MAX_DIFFERENCE_S = 0.1

WHERE_FROM = (
    'Semantic tokens are given in the manifest ("semantic": a list, or the path of a .npy file) or made by a tokenizer '
    "(semantic_tokenizer=, --semantic-tokenizer package.module:name). Suno never released the tokenizer that its own "
    "networks were trained with. To fine-tune them, use one that was trained to imitate it (HuBERT features and a "
    "small classifier); its tokens are near Suno's, not equal to them. To train from scratch, any tokenizer will do, "
    "if all data and all stages share it."
)


class SemanticTokenizer(Protocol):
    """Interface of a semantic tokenizer: speech to semantic tokens, spaces.semantic_rate of them a second."""

    def __call__(self, samples: np.ndarray, sample_rate: int, text: str) -> np.ndarray:
        """Integers [S] in [0, spaces.semantic_vocab). samples: mono, float32 [A], about -1..1; sample_rate in Hz."""
        ...


def load_tokenizer(spec: str) -> SemanticTokenizer:
    """Imports the semantic tokenizer that "package.module:name" names. A class is instantiated without arguments.

    Importing runs the module's code: name only modules that you trust.

    Raises:
      InputError: the spec is malformed, the import or the class fails, or the result is not callable.
    """
    module_name, _, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if not module_name or not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f"the semantic tokenizer is {quoted(spec)}, expected package.module:name")
    try:
        found = getattr(importlib.import_module(module_name), name)
        tokenizer = found() if isinstance(found, type) else found
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise InputError(
            f"the semantic tokenizer {spec} cannot be loaded ({type(error).__name__}: {quoted(str(error), 200)}); is "
            "its package installed, or its folder on PYTHONPATH?"
        ) from error
    if not callable(tokenizer):
        raise InputError(f"the semantic tokenizer {spec} is {quoted(tokenizer)}, expected a callable")
    return tokenizer


def make_semantic(
    tokenizer: SemanticTokenizer, samples: np.ndarray, text: str, spaces: TokenSpaces, what: str
) -> np.ndarray:
    """Runs a semantic tokenizer on mono audio, float32 [A] at spaces.sample_rate: checked tokens, int32 [S].

    Raises:
      InputError: the tokenizer fails, or its tokens do not pass `check_semantic`. The message begins with `what`.
    """
    try:
        tokens = tokenizer(samples, spaces.sample_rate, text)
    except Exception as error:  # the user's code, which may raise anything
        raise InputError(
            f"{what}: the semantic tokenizer failed ({type(error).__name__}: {quoted(str(error), 200)})"
        ) from error
    return check_semantic(tokens, len(samples) / spaces.sample_rate, spaces, what)


def check_semantic(tokens: Any, seconds: float | None, spaces: TokenSpaces, what: str) -> np.ndarray:
    """Checks semantic tokens and returns them as int32 [S].

    Args:
      seconds: length of the audio they belong to; None skips the check of the length.
      what: begins the error's message.

    Raises:
      InputError: not integers on one axis, out of range, too many, or of another length than the audio.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or not tokens.size:
        raise InputError(
            f"{what}: the semantic tokens have shape {tokens.shape} and type {tokens.dtype}, expected integers on one "
            "axis, one or more"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= spaces.semantic_vocab:
        wrong = low if low < 0 else high
        raise InputError(f"{what}: the semantic tokens hold {wrong}, expected 0 to {spaces.semantic_vocab - 1}")
    if len(tokens) > spaces.max_semantic:
        raise InputError(
            f"{what}: there are {len(tokens)} semantic tokens, at most {spaces.max_semantic} are generated"
        )
    token_seconds = float(len(tokens) / spaces.semantic_rate)
    if seconds is not None and abs(token_seconds - seconds) > MAX_DIFFERENCE_S:
        raise InputError(
            f"{what}: {len(tokens)} semantic tokens last {token_seconds:.2f} s at {float(spaces.semantic_rate):g} a "
            f"second, the audio {seconds:.2f} s; expected a difference of at most {MAX_DIFFERENCE_S} s"
        )
    return tokens.astype(np.int32)
