"""Rows: one utterance to generate, the utterance it becomes, and checks of the arrays that callers give."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from bark_jax._system.by_value import ByValue
from bark_jax.errors import InputError, quoted
from bark_jax.generation.settings import RowSettings
from bark_jax.generation.tokens import TokenSpaces

MAX_ROWS = 1024  # rows of one call of `BarkModel.generate`; of the large Bark their KV caches alone take 100 GB


class Conditioning(Protocol):
    """Tokens of every stage that rows are conditioned on; `voices.voice.Voice` is one."""

    @property
    def semantic(self) -> np.ndarray:
        """Semantic tokens [S], in [0, semantic_vocab)."""

    @property
    def coarse(self) -> np.ndarray:
        """Codes [n_coarse, T] of the first codebooks, in [0, codebook_size)."""

    @property
    def fine(self) -> np.ndarray:
        """Codes [n_fine, T] of all codebooks, in [0, codebook_size)."""


@dataclasses.dataclass(frozen=True)
class Row:
    """An utterance to generate: text, voice, key and settings."""

    text: np.ndarray  # [T] text tokens in the semantic network's vocabulary (`tokens.text_tokens`), T <= n_text
    voice: Conditioning | None
    key: np.ndarray  # uint32 [2], from which every draw of the row derives (`sampling.key_data`)
    settings: RowSettings


@dataclasses.dataclass(frozen=True, eq=False)
class Utterance(ByValue):
    """The generated utterance of a row, with T frames; T is 0 where the semantic stage chose its end token at once."""

    semantic: np.ndarray  # int32 [S] semantic tokens
    coarse: np.ndarray  # int32 [n_coarse, T] codes
    fine: np.ndarray  # int32 [n_fine, T] codes
    samples: np.ndarray  # float32 [A] audio samples, or [A, channels] of a stereo codec
    semantic_logprob: np.ndarray  # float32 [S], of each token among the legal ones at temperature 1
    coarse_logprob: np.ndarray  # float32 [n_coarse, T], of each code within its codebook at temperature 1


def check_rows(n_rows: int) -> None:
    """Raises InputError for more than MAX_ROWS rows."""
    if n_rows > MAX_ROWS:
        raise InputError(
            f"that is {n_rows:,} rows at once, and a call takes {MAX_ROWS:,}; make several calls, or hand texts by "
            "the thousand to bark_jax.batch"
        )


def check_ids(
    input_ids: Any, attention_mask: Any, spaces: TokenSpaces, input_vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Checks a processor's output and returns ids and mask, int64 [B, T].

    Args:
      input_ids: tokenizer ids in [0, input_vocab_size - text_offset).
      attention_mask: 0 and 1, or None for all 1.

    Raises:
      InputError: a wrong shape, dtype, id or mask; a text of more than n_text tokens, or of none; padding (id 0)
        without a mask.
    """
    ids_BT = as_integers("input_ids", input_ids)
    if ids_BT.ndim != 2 or 0 in ids_BT.shape:
        raise InputError(f"input_ids has shape {ids_BT.shape}, expected [rows, tokens] with at least one of each")
    check_rows(len(ids_BT))
    if ids_BT.shape[1] > spaces.n_text:
        raise InputError(
            f"input_ids has {ids_BT.shape[1]} tokens a row, and the prompt has room for {spaces.n_text}; "
            "split the text or cut it"
        )
    mask_BT = np.ones_like(ids_BT) if attention_mask is None else as_integers("attention_mask", attention_mask)
    if mask_BT.shape != ids_BT.shape or not np.isin(mask_BT, (0, 1)).all():
        raise InputError(
            f"attention_mask has shape {mask_BT.shape} and values {np.unique(mask_BT)[:5].tolist()}, expected "
            f"0 and 1 in the shape of input_ids, {ids_BT.shape}"
        )
    if not mask_BT.any(1).all():
        raise InputError(f"attention_mask is all 0 in row {mask_BT.any(1).argmin()}: there is nothing to speak")
    # Id 0 is BERT's [PAD]. transformers without a mask reads it as the text token 0 + 10,048 instead of Bark's pad,
    # 129,595, and speaks something else without an error.
    if attention_mask is None and (ids_BT == 0).any():
        raise InputError(
            "input_ids has padding (id 0) and there is no attention_mask, so the padding would be read as text; "
            "pass the mask that the processor gives"
        )
    n_ids = input_vocab_size - spaces.text_offset
    unmasked = ids_BT[mask_BT == 1]
    if unmasked.size and not ((unmasked >= 0) & (unmasked < n_ids)).all():
        wrong = unmasked[(unmasked < 0) | (unmasked >= n_ids)][0]
        raise InputError(f"input_ids holds {wrong}, expected tokenizer ids from 0 to {n_ids - 1}")
    return ids_BT, mask_BT


def spread_prompts(voice: Any, n_rows: int, name: str = "history_prompt") -> Sequence[Any]:
    """Returns one voice for each row, given one for all or a list. Raises InputError for a list of another length."""
    if not isinstance(voice, (list, tuple)):
        return [voice] * n_rows
    if len(voice) != n_rows:
        raise InputError(f"{name} has {len(voice)} voices for {n_rows} rows; give one or None a row")
    return voice


def as_array(name: str, values: Any, what: str = "") -> np.ndarray:
    """Converts values to a numpy array of any shape.

    Raises:
      InputError: they are no array: ragged rows, deleted JAX arrays, tracers. The message starts with `name`, and
        `what` continues "is no array".
    """
    try:
        return np.asarray(values)
    except Exception as error:  # each of these raises another type
        raise InputError(f"{name} is no array{what}: {quoted(str(error), 200)}") from error


def as_integers(name: str, values: Any, axes: str = "[rows, tokens]") -> np.ndarray:
    """Converts values to an int64 array of any shape; `axes` is the expected one, for messages.

    Raises:
      InputError: values is None or no array of integers; the message starts with `name`.
    """
    if values is None:
        raise InputError(f"{name} is None, expected integers {axes}")
    array = as_array(name, values, f" of integers {axes}, all rows of one length")
    if array.dtype.kind not in "iub":
        raise InputError(f"{name} has dtype {array.dtype}, expected integers")
    return array.astype(np.int64)
