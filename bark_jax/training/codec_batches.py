"""Batches for the codec: random crops of audio, all of one length.

A batch is a dict of numpy arrays, as in `batches`, and a pure function of the step:

    audio [B, n_frames * samples_per_frame]    float32, about -1..1
    step []                                    int32, the step itself; selects the program, see `codec_training`

A row draws an utterance in proportion to its length, then a crop that starts at any of its frames. Utterances shorter
than a crop are padded with silence on the right.
"""

from collections.abc import Sequence

import numpy as np

from bark_jax.errors import InputError
from bark_jax.training.batches import Batch, MakeBatch
from bark_jax.training.dataset import Dataset, samples_per_frame


def codec_batches(
    dataset: Dataset, *, batch_size: int, n_frames: int, seed: int, gain: Sequence[float] = (1.0, 1.0)
) -> MakeBatch:
    """Batches for `CodecTraining`.

    Args:
      dataset: prepared with its audio (keep_audio).
      batch_size: rows of a batch; may exceed the number of utterances.
      n_frames: length of a crop, in frames.
      seed: seeds every draw.
      gain: bounds of the random factor that a crop is multiplied by, so that the codec learns different loudness.

    Raises:
      InputError: the dataset holds no audio, or batch_size, n_frames, seed or gain is out of range.
    """
    if not dataset.has_audio:
        raise InputError("the dataset holds no audio; prepare it again with keep_audio=True (--keep-audio)")
    for name, value, least in (("batch_size", batch_size, 1), ("n_frames", n_frames, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} is {value}, expected {least} or more")
    check_gain(gain)
    frames_N = dataset.frame_lengths
    ends_N = np.cumsum(frames_N)
    per_frame = samples_per_frame(dataset.spaces)

    def draw_piece(step: int, row: int) -> np.ndarray:
        rng = np.random.default_rng((seed, step, row))
        # A random frame of the corpus, and the utterance that it is in: with lengths 10 and 30, one in four rows is of
        # the first. side="right", as frame 10 is the second's first.
        index = int(np.searchsorted(ends_N, rng.integers(ends_N[-1]), side="right"))
        start = int(rng.integers(max(frames_N[index] - n_frames, 0) + 1))
        piece_A = dataset.audio(index)[start * per_frame : (start + n_frames) * per_frame]
        return np.pad(piece_A, (0, n_frames * per_frame - len(piece_A))) * np.float32(rng.uniform(*gain))

    def make(step: int) -> Batch:
        return {
            "audio": np.stack([draw_piece(step, row) for row in range(batch_size)]),
            "step": np.int32(step),
        }

    return make


def check_gain(gain: Sequence[float]) -> None:
    """Raises InputError unless gain is (low, high) with 0 < low <= high <= 10."""
    if len(gain) != 2 or not 0 < gain[0] <= gain[1] <= 10:
        raise InputError(f"gain is {gain!r}, expected two numbers above 0 and at most 10, the smaller first")
