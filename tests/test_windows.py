"""Positions of windows: tables written by hand, and traced against integer arithmetic."""

import jax
import numpy as np
import pytest

from bark_jax.generation.tokens import TokenSpaces
from bark_jax.generation.windows import (
    coarse_window,
    count_coarse_windows,
    count_fine_windows,
    extends_previous,
    fine_window,
)

BARK = TokenSpaces()
NO_VOICE, FULL_VOICE = (0, 0), (209, 628)  # (semantic tokens, codes of the stream)
LAST = 38


def test_the_longest_utterance_takes_39_windows():
    assert BARK.n_frames(768) == 1154
    assert count_coarse_windows(1154, BARK) == LAST + 1


@pytest.mark.parametrize(("n_frames", "n_windows"), [(0, 0), (1, 1), (29, 1), (30, 1), (31, 2), (60, 2), (61, 3)])
def test_coarse_windows_at_their_edges(n_frames, n_windows):
    assert count_coarse_windows(n_frames, BARK) == n_windows


@pytest.mark.parametrize(
    ("voice", "window", "n_done", "first_semantic", "n_recent"),
    [
        (NO_VOICE, 0, 0, 0, 0),
        (NO_VOICE, 10, 600, 0, 600),
        (NO_VOICE, 11, 660, 11, 630),
        (NO_VOICE, LAST, 2280, 549, 630),
        (FULL_VOICE, 0, 0, 0, 628),
        (FULL_VOICE, 1, 60, 20, 630),
        (FULL_VOICE, LAST, 2280, 758, 630),
    ],
)
def test_a_coarse_window_reads_the_semantic_tokens_around_the_present(voice, window, n_done, first_semantic, n_recent):
    assert coarse_window(window, *voice, LAST, BARK) == (n_done, first_semantic, n_recent)


@pytest.mark.parametrize(
    ("n_frames", "n_history", "starts", "fills"),
    [
        (0, 512, [], []),
        (1, 0, [0], [0]),
        (600, 0, [0], [0]),
        (1024, 0, [0], [0]),
        (1025, 0, [0, 1], [0, 512]),
        (1154, 0, [0, 130], [0, 512]),
        (512, 512, [0], [512]),
        (600, 512, [0, 88], [512, 600]),
        (1154, 512, [0, 512, 642], [512, 1024, 1154]),
    ],
)
def test_fine_windows_advance_by_a_history_and_end_with_the_row(n_frames, n_history, starts, fills):
    n_windows = count_fine_windows(n_frames, n_history, BARK)
    found = [fine_window(window, n_frames, n_history, BARK) for window in range(n_windows)]
    assert found == list(zip(starts, fills, strict=True))


def test_arrays_have_the_windows_of_each_of_their_integers(rng):
    n_rows = 200
    window_B, n_history_B = rng.integers(0, LAST + 1, n_rows), rng.integers(0, 210, n_rows)
    n_stream_B, n_frames_B = rng.integers(0, 629, n_rows), rng.integers(0, 1155, n_rows)
    n_stream_B[::2] = n_history_B[::2] = 0

    def found(window, n_history, n_stream, n_frames):
        return (
            *coarse_window(window, n_history, n_stream, LAST, BARK),
            extends_previous(window, n_history, n_stream, LAST, BARK),
            count_coarse_windows(n_frames, BARK),
            *fine_window(window % 3, n_frames, n_history, BARK),
            count_fine_windows(n_frames, n_history, BARK),
        )

    columns = window_B, n_history_B, n_stream_B, n_frames_B
    expected = np.array([found(*map(int, row)) for row in zip(*columns, strict=True)]).T
    np.testing.assert_array_equal(np.array(found(*columns)), expected)
    np.testing.assert_array_equal(np.array(jax.jit(found)(*columns)), expected)
