"""Ragged rows as one padded array, and back: the form in which stages that are called on arrays take and give rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bark_jax.config import EncodecConfig
from bark_jax.errors import InputError, quoted


def pad_rows(rows: Sequence[np.ndarray], pad: int, width: int | None = None) -> np.ndarray:
    """Pads rows [..., T] of integers to one array, int32 [B, ..., width], with `pad` past each row's end.

    pad_rows([[1, 2], [3]], pad=9)   ->   [[1, 2],
                                           [3, 9]]
    """
    width = max(row.shape[-1] for row in rows) if width is None else width
    array = np.full((len(rows), *rows[0].shape[:-1], width), pad, np.int32)
    for padded, row in zip(array, rows, strict=True):
        padded[..., : row.shape[-1]] = row
    return array


def pad_audio(rows: Sequence[np.ndarray], n_samples: int) -> np.ndarray:
    """Pads rows of audio samples [A] or [A, channels] with zeros to one array, float32 [B, n_samples, ...]."""
    array = np.zeros((len(rows), n_samples, *rows[0].shape[1:]), np.float32)
    for padded, row in zip(array, rows, strict=True):
        padded[: len(row)] = row
    return array


def split_rows(name: str, tokens_BT: np.ndarray, limit: int, pads: Sequence[int]) -> list[np.ndarray]:
    """Undoes `pad_rows` for tokens: each row up to its first pad.

    Args:
      name: the array's name in messages.
      tokens_BT: integers, in [0, limit) up to a row's end and one of `pads` from there on.

    Raises:
      InputError: the shape is not [B, T], a token is out of range, or a token follows a pad.
    """
    if tokens_BT.ndim != 2 or not len(tokens_BT):
        raise InputError(f"{name} has shape {tokens_BT.shape}, expected [rows, tokens] with at least one row")
    rows = []
    for index, tokens_T in enumerate(tokens_BT):
        is_pad_T = np.isin(tokens_T, pads)
        length = int(is_pad_T.argmax()) if is_pad_T.any() else len(tokens_T)
        if not is_pad_T[length:].all():
            raise InputError(f"{name}[{index}] has tokens after its end, which is at {length}")
        check_range(f"{name}[{index}]", tokens_T[:length], limit)
        rows.append(tokens_T[:length])
    return rows


def check_codes(codes_BQT: np.ndarray, lengths: Any, pad: int, config: EncodecConfig) -> list[np.ndarray]:
    """Checks codes for a codec of this config and returns each row's own, integers [Q, T].

    Args:
      codes_BQT: integers, `pad` past each row's end.
      lengths: frames of each row, integers [B]; None takes the frames before the first pad.
      pad: the id that pads; codes are below it.

    Raises:
      InputError: the shape is wrong, a length is not in [0, T], or a code is out of range.
    """
    n_held = config.num_quantizers
    if codes_BQT.ndim != 3 or not len(codes_BQT) or not 1 <= codes_BQT.shape[1] <= n_held:
        raise InputError(
            f"fine_output has shape {codes_BQT.shape}, expected [rows, codebooks, frames] with at least one row and 1 "
            f"to {n_held} codebooks"
        )
    lengths_B = _lengths(codes_BQT, pad) if lengths is None else np.asarray(lengths)
    n_frames = codes_BQT.shape[2]
    is_one_per_row = lengths_B.shape == codes_BQT.shape[:1] and lengths_B.dtype.kind in "iu"
    if not is_one_per_row or not ((lengths_B >= 0) & (lengths_B <= n_frames)).all():
        raise InputError(f"output_lengths is {quoted(lengths)}, expected frames of each row, 0 to {n_frames}")
    rows = [codes_QT[:, :length] for codes_QT, length in zip(codes_BQT, lengths_B.tolist(), strict=True)]
    for index, codes_QT in enumerate(rows):
        check_range(f"fine_output[{index}]", codes_QT, min(pad, config.codebook_size))
    return rows


def _lengths(codes_BQT: np.ndarray, pad: int) -> np.ndarray:
    """Frames of each row before the first that is padding in every codebook, integers [B]."""
    is_pad_BT = (codes_BQT == pad).all(axis=1)
    return np.cumprod(~is_pad_BT, axis=1).sum(axis=1)


def check_range(name: str, values: np.ndarray, limit: int) -> None:
    """Raises InputError, naming the array, for values outside [0, limit)."""
    wrong = values[(values < 0) | (values >= limit)]
    if wrong.size:
        raise InputError(f"{name} holds {wrong.flat[0]}, expected 0 to {limit - 1}")
