"""Windows of the coarse and the fine stage: how many a row takes, where each begins, what it reads and what it adds.

Plain functions of integers, or of arrays of them with one a row, numpy's or JAX's. The stages gather by them on the
device, the trainer on the host, so a network is trained on the windows that it generates.

    coarse   coarse_window tokens of the stream are added at a time; each window reads the semantic tokens around the
             present and the last n_coarse_history tokens of the stream
    fine     fine_window frames are read at a time, n_fine_history further each time; the last window ends with the row
"""

import functools
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.generation.tokens import TokenSpaces


class CoarseWindow(NamedTuple):
    """One window of the coarse stage; integers, or arrays with one a row."""

    n_done: Any  # tokens of the stream generated before it; it adds coarse_window more
    first_semantic: Any  # its first semantic token, counted from the start of a voice's history
    n_recent: Any  # tokens of the stream that it reads, the last of a voice's and of those generated


class FineWindow(NamedTuple):
    """One window of the fine stage; integers, or arrays with one a row. Frames count from the start of the history."""

    start: Any  # the first frame that it reads, of fine_window
    fill: Any  # the first frame whose codes it fills; those before are context


def count_coarse_windows(n_frames: Any, spaces: TokenSpaces) -> Any:
    """Windows that `n_frames` frames take."""
    return -(-n_frames * spaces.n_coarse // spaces.coarse_window)


def frames_per_coarse_window(spaces: TokenSpaces) -> int:
    """Frames that a window adds."""
    return spaces.coarse_window // spaces.n_coarse


def coarse_window(window: Any, n_history: Any, n_stream: Any, n_windows: int, spaces: TokenSpaces) -> CoarseWindow:
    """A window of a row, the first is 0. In Bark, for a row without a voice and for one with a full history:

        window            0    1    10   11   38          0    1    38
        n_done            0   60   600  660  2280         0   60  2280
        first_semantic    0    0     0   11   549         0   20   758
        n_recent          0   60   600  630   630       628  630   630

    Args:
      n_history, n_stream: semantic tokens and tokens of the stream that a voice brings (`coarse.trim_history`).
      n_windows: the largest `window` there can be.
    """
    array = _library(window)
    n_done = window * spaces.coarse_window
    present = n_history + array.asarray(_semantic_tokens_done(n_windows, spaces))[window]
    first_semantic = array.maximum(present - spaces.max_semantic_history, 0)
    return CoarseWindow(n_done, first_semantic, array.minimum(n_stream + n_done, spaces.n_coarse_history))


def extends_previous(window: Any, n_history: Any, n_stream: Any, n_windows: int, spaces: TokenSpaces) -> Any:
    """Whether a window reads what the one before it read and added, so that its cache holds already; as above."""
    before = coarse_window(_library(window).maximum(window - 1, 0), n_history, n_stream, n_windows, spaces)
    this = coarse_window(window, n_history, n_stream, n_windows, spaces)
    has_lost_none = this.n_recent == n_stream + this.n_done
    return (window > 0) & (before.first_semantic == this.first_semantic) & has_lost_none


def n_prompt_slots(spaces: TokenSpaces) -> int:
    """Tokens that the longest prompt of a coarse window has: semantic tokens, the infer token, the stream."""
    return spaces.n_coarse_semantic + 1 + spaces.n_coarse_history


def count_fine_windows(n_frames: Any, n_history: Any, spaces: TokenSpaces) -> Any:
    """Windows that a row takes; none without frames.

    The first holds fine_window frames with the history, each other n_fine_history new ones.
    """
    array = _library(n_frames)
    n_beyond = padded_frames(n_frames, n_history, spaces) - spaces.fine_window
    return array.where(n_frames > 0, 1 - (-n_beyond // spaces.n_fine_history), 0)


def padded_frames(n_frames: Any, n_history: Any, spaces: TokenSpaces) -> Any:
    """Frames of history and row, padded to one whole window where they are fewer."""
    return _library(n_frames).maximum(n_history + n_frames, spaces.fine_window)


def n_new_fine_frames(spaces: TokenSpaces) -> int:
    """Frames that one window fills behind a full history."""
    return spaces.fine_window - spaces.n_fine_history


def fine_window(window: Any, n_frames: Any, n_history: Any, spaces: TokenSpaces) -> FineWindow:
    """A window of a row, the first is 0. In Bark:

    n_frames    600   1154  1154    600   600   1154  1154  1154
    n_history     0      0     0    512   512    512   512   512
    window        0      0     1      0     1      0     1     2
    start         0      0   130      0    88      0   512   642
    fill          0      0   512    512   600    512  1024  1154
    """
    array = _library(window)
    n_total = padded_frames(n_frames, n_history, spaces)
    advanced = window * spaces.n_fine_history
    return FineWindow(
        array.minimum(advanced, n_total - spaces.fine_window),
        array.minimum(n_history + advanced, n_total - spaces.n_fine_history),
    )


@functools.lru_cache
def _semantic_tokens_done(n_windows: int, spaces: TokenSpaces) -> np.ndarray:
    """Semantic tokens that are spoken before each window. A table, as a rate's exact fraction may not fit in int32."""
    return np.array(
        [spaces.n_semantic_done(window * spaces.coarse_window) for window in range(n_windows + 1)], np.int32
    )


def _library(value: Any) -> ModuleType:
    return jnp if isinstance(value, jax.Array) else np
