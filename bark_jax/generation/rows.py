"""Rows: what is generated and what it becomes, and the arrays of callers that rows are made of."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from bark_jax._system.by_value import ByValue
from bark_jax.errors import InputError, quoted
from bark_jax.generation.settings import RowSettings
from bark_jax.generation.tokens import TokenSpaces

MAX_ROWS = 1024  # of one call of `BarkModel.generate`; their caches alone are 100 GB of a large Bark


class Conditioning(Protocol):
    """Tokens of every stage that rows are conditioned on; `voices.voice.Voice` is one."""

    @property
    def semantic(self) -> np.ndarray: ...  # [S]

    @property
    def coarse(self) -> np.ndarray: ...  # [n_coarse, T]

    @property
    def fine(self) -> np.ndarray: ...  # [n_fine, T]


@dataclasses.dataclass(frozen=True)
class Row:
    """One utterance to generate."""

    text: np.ndarray  # text tokens in the semantic network's vocabulary (`tokens.text_tokens`), at most n_text
    voice: Conditioning | None
    key: np.ndarray  # uint32 [2], what every draw of the row derives from (`sampling.key_data`)
    settings: RowSettings


@dataclasses.dataclass(frozen=True, eq=False)
class Utterance(ByValue):
    """What one row became. T frames; no frames at all where the semantic stage ended at once."""

    semantic: np.ndarray  # int32 [S] semantic tokens
    coarse: np.ndarray  # int32 [n_coarse, T] codes
    fine: np.ndarray  # int32 [n_fine, T] codes
    samples: np.ndarray  # float32 [A] audio samples, or [A, channels] of a stereo codec
    semantic_logprob: np.ndarray  # float32 [S], of each token among the legal ones at temperature 1
    coarse_logprob: np.ndarray  # float32 [n_coarse, T], of each code within its codebook at temperature 1


def check_rows(n_rows: int) -> None:
    """Raises InputError for more rows than a call takes."""
    if n_rows > MAX_ROWS:
        raise InputError(
            f"that is {n_rows:,} rows at once, and a call takes {MAX_ROWS:,}; make several calls, or hand texts by "
            "the thousand to bark_jax.batch"
        )


def check_ids(
    input_ids: Any, attention_mask: Any, spaces: TokenSpaces, input_vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenizer ids and their mask, integers [B, T]. Raises InputError where they are no texts for such a model."""
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
    """One voice a row from one for all or a list. Raises InputError for a list of another length."""
    if not isinstance(voice, (list, tuple)):
        return [voice] * n_rows
    if len(voice) != n_rows:
        raise InputError(f"{name} has {len(voice)} voices for {n_rows} rows; give one or None a row")
    return voice


def as_array(name: str, values: Any, what: str = "") -> np.ndarray:
    try:
        return np.asarray(values)
    except Exception as error:  # rows of unequal length; arrays that were deleted, or are traced by jax.jit
        raise InputError(f"{name} is no array{what}: {quoted(str(error), 200)}") from error


def as_integers(name: str, values: Any, axes: str = "[rows, tokens]") -> np.ndarray:
    """The values as int64. Raises InputError, naming them, where they are no array of integers; `axes` says of what."""
    if values is None:
        raise InputError(f"{name} is None, expected integers {axes}")
    array = as_array(name, values, f" of integers {axes}, all rows of one length")
    if array.dtype.kind not in "iub":
        raise InputError(f"{name} has dtype {array.dtype}, expected integers")
    return array.astype(np.int64)
