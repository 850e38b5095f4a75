"""Rows: what is generated and what it becomes, and the arrays of callers that rows are made of."""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from bark_jax._system.by_value import ByValue
from bark_jax._system.forks import check_process
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.errors import InputError, quoted
from bark_jax.generation.sampling import KEY_IMPLEMENTATION, key_data
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


@under_own_config
def row_keys(seed: int | Sequence[int] | None, key: jax.Array | None, n_rows: int) -> list[np.ndarray]:
    """One key a row, uint32 [2], from what a caller gave; see `BarkModel.generate`."""
    check_process()
    if seed is not None and key is not None:
        raise InputError("give seed or key, not both")
    if key is not None:
        return _spread_keys(key, n_rows)
    if seed is None:
        seed = [secrets.randbits(32) for _ in range(n_rows)]
    is_one = not isinstance(seed, (list, tuple, np.ndarray)) or np.ndim(seed) == 0
    seeds = [seed] * n_rows if is_one else list(seed)
    if len(seeds) != n_rows:
        raise InputError(f"seed has {len(seeds)} values for {n_rows} rows; give one a row, or a single one for all")
    return [key_data(value) for value in seeds]


def _spread_keys(key: jax.Array, n_rows: int) -> list[np.ndarray]:
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise InputError(f"key is {quoted(key)}, expected a key of JAX, jax.random.key(0); an integer goes into seed")
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        if jax.random.key_impl(key) != KEY_IMPLEMENTATION:
            raise InputError(
                f"key is of generator {jax.random.key_impl(key)}, expected {KEY_IMPLEMENTATION}; give seed=, or a key "
                f"that jax.random.key(seed, impl={KEY_IMPLEMENTATION!r}) makes"
            )
        key = jax.random.key_data(key)
    data = _as_numpy("key", key)
    if data.dtype != np.uint32 or data.shape not in ((2,), (n_rows, 2)):
        raise InputError(f"key has shape {data.shape} and dtype {data.dtype}, expected one key, or {n_rows} of them")
    return list(np.broadcast_to(data, (n_rows, 2)))


def _as_numpy(name: str, values: Any, what: str = "") -> np.ndarray:
    try:
        return np.asarray(values)
    except Exception as error:  # rows of unequal length; arrays that were deleted, or are traced by jax.jit
        raise InputError(f"{name} is no array{what}: {quoted(str(error), 200)}") from error


def as_integers(name: str, values: Any, axes: str = "[rows, tokens]") -> np.ndarray:
    """The values as int64. Raises InputError, naming them, where they are no array of integers; `axes` says of what."""
    if values is None:
        raise InputError(f"{name} is None, expected integers {axes}")
    array = _as_numpy(name, values, f" of integers {axes}, all rows of one length")
    if array.dtype.kind not in "iub":
        raise InputError(f"{name} has dtype {array.dtype}, expected integers")
    return array.astype(np.int64)
