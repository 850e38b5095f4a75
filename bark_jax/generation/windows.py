"""Window arithmetic of the coarse and the fine stage: number of windows of a row, and what each reads and adds.

Functions of integers, or of integer arrays [B] with one value for each row, numpy's or JAX's. The stages use them on
the device and the trainer on the host, so a network is trained on the windows that it will generate.

    coarse   a window adds coarse_window (60) tokens to the stream; it reads the semantic tokens around the present and
             the last n_coarse_history (630) tokens of the stream
    fine     a window reads fine_window (1,024) frames and starts n_fine_history (512) after the one before; the last
             ends where the row ends
"""

import functools
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.generation.tokens import TokenSpaces


class CoarseWindow(NamedTuple):
    """A window of the coarse stage; integers, or integer arrays [B]."""

    n_done: Any  # tokens of the stream generated before it; it adds coarse_window more
    first_semantic: Any  # first semantic token that it reads, counted from the start of a voice's history
    n_recent: Any  # tokens of the stream that it reads: the last of the voice's and the generated ones


class FineWindow(NamedTuple):
    """A window of the fine stage; integers, or integer arrays [B]. Frames count from the start of the history."""

    start: Any  # the first frame that it reads, of fine_window
    fill: Any  # the first frame whose codes it fills; those before are context


def count_coarse_windows(n_frames: Any, spaces: TokenSpaces) -> Any:
    """Coarse windows of `n_frames` frames: ceil(n_frames * n_coarse / coarse_window). In Bark 1,154 frames take 39."""
    return -(-n_frames * spaces.n_coarse // spaces.coarse_window)


def frames_per_coarse_window(spaces: TokenSpaces) -> int:
    """Frames that a coarse window adds: 30 in Bark, 0.4 s."""
    return spaces.coarse_window // spaces.n_coarse


def coarse_window(window: Any, n_history: Any, n_stream: Any, n_windows: int, spaces: TokenSpaces) -> CoarseWindow:
    """Coarse window number `window` of a row, from 0. In Bark, without a voice and with a full history:

        window            0    1    10   11   38          0    1    38
        n_done            0   60   600  660  2280         0   60  2280
        first_semantic    0    0     0   11   549         0   20   758
        n_recent          0   60   600  630   630       626  630   630

    Args:
      n_history, n_stream: semantic tokens and stream tokens of the voice's history (`coarse.trim_history`); 0 without.
      n_windows: an upper bound of `window`, static: the size of a table.

    Worked out for window 11 without a voice: 11 * 60 = 660 tokens are done, which cover round(660 * 499 / 1500) = 220
    semantic tokens; the first read is 220 - 209 = 11. Of the stream min(660, 630) = 630 tokens are read.
    """
    array = _library(window)
    n_done = window * spaces.coarse_window
    # The table has n_windows + 1 entries, as a row that has ended still asks for the window after its last.
    present = n_history + array.asarray(_semantic_tokens_done(n_windows, spaces))[window]
    first_semantic = array.maximum(present - spaces.max_semantic_history, 0)
    return CoarseWindow(n_done, first_semantic, array.minimum(n_stream + n_done, spaces.n_coarse_history))


def extends_previous(window: Any, n_history: Any, n_stream: Any, n_windows: int, spaces: TokenSpaces) -> Any:
    """Whether a window's prompt is the previous one's plus the tokens that that window added, so its KV cache serves.

    It holds while neither end of the prompt moves: the same first semantic token, and all of the stream still read. In
    Bark without a voice windows 1 to 10 do: from 11 on, semantic tokens and stream tokens leave at the front, so every
    token has another position and its keys and values change. Arguments are those of `coarse_window`.
    """
    before = coarse_window(_library(window).maximum(window - 1, 0), n_history, n_stream, n_windows, spaces)
    this = coarse_window(window, n_history, n_stream, n_windows, spaces)
    # True up to n_coarse_history tokens of stream; from then on its first ones are dropped.
    has_lost_none = this.n_recent == n_stream + this.n_done
    return (window > 0) & (before.first_semantic == this.first_semantic) & has_lost_none


def n_prompt_slots(spaces: TokenSpaces) -> int:
    """Tokens of a coarse window's longest prompt: in Bark 256 semantic, the infer token, 630 of the stream, 887."""
    return spaces.n_coarse_semantic + 1 + spaces.n_coarse_history


def count_fine_windows(n_frames: Any, n_history: Any, spaces: TokenSpaces) -> Any:
    """Fine windows of a row; 0 without frames.

    The first holds fine_window frames, history included, and each further one n_fine_history (512) new frames: 600
    frames take 1 without a voice, and 2 behind a history of 512, as 1,112 is more than 1,024.
    """
    array = _library(n_frames)
    n_beyond = padded_frames(n_frames, n_history, spaces) - spaces.fine_window
    return array.where(n_frames > 0, 1 - (-n_beyond // spaces.n_fine_history), 0)


def padded_frames(n_frames: Any, n_history: Any, spaces: TokenSpaces) -> Any:
    """Frames of history and row together, and at least one full window."""
    return _library(n_frames).maximum(n_history + n_frames, spaces.fine_window)


def n_new_fine_frames(spaces: TokenSpaces) -> int:
    """Frames that a fine window fills behind a full history: 512 in Bark."""
    return spaces.fine_window - spaces.n_fine_history


def fine_window(window: Any, n_frames: Any, n_history: Any, spaces: TokenSpaces) -> FineWindow:
    """Fine window number `window` of a row, from 0. The last one is moved back so as to end with the row. In Bark:

    n_frames    600   1154  1154    600   600   1154  1154  1154
    n_history     0      0     0    512   512    512   512   512
    window        0      0     1      0     1      0     1     2
    start         0      0   130      0    88      0   512   642
    fill          0      0   512    512   600    512  1024  1154

    Window 1 of 1,154 frames without a voice reads frames 130 to 1,153 and fills 512 to 1,153: of the frames that window
    0 filled too, 512 to 1,023 are overwritten, and 130 to 511 are context.
    """
    array = _library(window)
    n_total = padded_frames(n_frames, n_history, spaces)
    advanced = window * spaces.n_fine_history
    return FineWindow(
        array.minimum(advanced, n_total - spaces.fine_window),
        # At least the last n_fine_history frames are filled, so the last window overwrites codes that the one before
        # chose, as in Suno's code.
        array.minimum(n_history + advanced, n_total - spaces.n_fine_history),
    )


@functools.lru_cache
def _semantic_tokens_done(n_windows: int, spaces: TokenSpaces) -> np.ndarray:
    """Semantic tokens covered before each window, int32 [n_windows + 1].

    A table made on the host, as products with a rate's numerator can exceed int32 on the device.
    """
    return np.array(
        [spaces.n_semantic_done(window * spaces.coarse_window) for window in range(n_windows + 1)], np.int32
    )


def _library(value: Any) -> ModuleType:
    """jax.numpy for JAX arrays and tracers, numpy for integers and numpy arrays, which then compile nothing."""
    return jnp if isinstance(value, jax.Array) else np
