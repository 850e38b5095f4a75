"""Driver of single stages for any number of rows: batch after batch, each on one device or divided among several."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bark_jax.errors import InputError, quoted
from bark_jax.generation.padding import check_range
from bark_jax.generation.placement import Placement, placement_of
from bark_jax.generation.rows import Row, as_array
from bark_jax.generation.runner import Networks, run_coarse, run_codec, run_fine, run_semantic
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.networks.platform import Devices

# (placement, slice of the rows) -> the results of these rows.
RunBatch = Callable[[Placement, slice], list[Any]]


def semantic_tokens(networks: Networks, rows: Sequence[Row], max_rows: int, devices: Devices) -> list[np.ndarray]:
    """Runs the semantic stage in batches of max_rows on each device: semantic tokens, int32 [S], of each row, in order.

    Raises:
      InputError, UnsupportedError: devices are not of this process, or the networks are offloaded.
      BarkError: as `runner.run_semantic`.
    """

    def run(where: Placement, batch: slice) -> list[np.ndarray]:
        found = run_semantic(networks.semantic, rows[batch], networks.spaces, where)
        return [tokens for tokens, _ in found]

    return _in_batches(networks, len(rows), run, max_rows, devices)


def all_codes(
    networks: Networks,
    rows: Sequence[Row],
    tokens: Sequence[np.ndarray],
    max_rows: int,
    devices: Devices,
) -> list[np.ndarray]:
    """Runs the coarse and fine stages on semantic tokens [S]: codes, int32 [n_fine, T], of each row.

    Raises as `semantic_tokens`.
    """

    def run(where: Placement, batch: slice) -> list[np.ndarray]:
        coded = run_coarse(networks.coarse_acoustics, rows[batch], list(tokens[batch]), networks.spaces, where)
        codes = [codes for codes, _ in coded]
        return run_fine(networks.fine_acoustics, rows[batch], codes, networks.spaces, where)

    return _in_batches(networks, len(rows), run, max_rows, devices)


def audio_samples(networks: Networks, codes: Sequence[np.ndarray], max_rows: int, devices: Devices) -> list[np.ndarray]:
    """Runs the codec on codes [n_fine, T]: audio, float32 [A] or [A, channels], of each row.

    Raises as `semantic_tokens`.
    """

    def run(where: Placement, batch: slice) -> list[np.ndarray]:
        return run_codec(networks.codec_model, list(codes[batch]), where)

    return _in_batches(networks, len(codes), run, max_rows, devices)


def _in_batches(networks: Networks, n_rows: int, run: RunBatch, max_rows: int, devices: Devices) -> list[Any]:
    where = placement_of(networks, devices)
    n_at_once = max_rows * where.n_devices
    batches = [slice(start, start + n_at_once) for start in range(0, n_rows, n_at_once)]
    return [row for batch in batches for row in run(where, batch)]


def check_tokens(tokens: Any, spaces: TokenSpaces) -> tuple[list[np.ndarray], bool]:
    """Checks semantic tokens: one row [S], an array [B, S] or a list of rows [S].

    Returns:
      The rows, int64 [S] each, and whether a single row was given.

    Raises:
      InputError: a wrong shape or dtype, a token out of [0, semantic_vocab), or a row longer than max_semantic.
    """
    rows, is_one = _as_rows("tokens", tokens, 1, "semantic tokens [S]")
    for index, row_S in enumerate(rows):
        check_range(f"tokens[{index}]", row_S, spaces.semantic_vocab)
        if len(row_S) > spaces.max_semantic:
            raise InputError(f"tokens[{index}] has {len(row_S)} tokens, expected at most {spaces.max_semantic}")
    return rows, is_one


def check_codes(codes: Any, spaces: TokenSpaces) -> tuple[list[np.ndarray], bool]:
    """Checks codes: one row [n_fine, T], an array [B, n_fine, T] or a list of rows.

    Returns:
      The rows, int64 [n_fine, T] each, and whether a single row was given.

    Raises:
      InputError: a wrong shape or dtype, or a code out of [0, codebook_size).
    """
    rows, is_one = _as_rows("codes", codes, 2, f"codes [{spaces.n_fine}, T]")
    for index, row_QT in enumerate(rows):
        if len(row_QT) != spaces.n_fine:
            raise InputError(f"codes[{index}] has shape {row_QT.shape}, expected [{spaces.n_fine}, frames]")
        check_range(f"codes[{index}]", row_QT, spaces.codebook_size)
    return rows, is_one


def _as_rows(name: str, values: Any, n_axes: int, what: str) -> tuple[list[np.ndarray], bool]:
    """Returns the rows of one row, an array of rows or a list of rows, and whether it was one row."""
    if isinstance(values, (list, tuple)):
        is_one = bool(values) and not hasattr(values[0], "ndim") and _depth(values) == n_axes
    else:
        is_one = np.ndim(values) != n_axes + 1
    rows = [values] if is_one else list(values)
    if not rows:
        raise InputError(f"{name} is {quoted(values)}, expected {what}, or a list of one row or more")
    return [_as_integers(f"{name}[{index}]", row, n_axes, what) for index, row in enumerate(rows)], is_one


def _depth(values: Any) -> int:
    """Depth of nested lists: 2 for [[1, 2], [3]]."""
    return 1 + _depth(values[0]) if isinstance(values, (list, tuple)) and values else 0


def _as_integers(name: str, row: Any, n_axes: int, what: str) -> np.ndarray:
    array = as_array(name, row, f", expected {what}")
    if array.ndim != n_axes or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{name} has shape {array.shape} and dtype {array.dtype}, expected {what}, integers")
    return array.astype(np.int64)
