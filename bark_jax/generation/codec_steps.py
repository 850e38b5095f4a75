"""The codec stage for codes that are still coming: the next frames to audio samples."""

import jax
import numpy as np

from bark_jax.generation.codec import decode_codes
from bark_jax.networks.codec.encodec import Codec, DecodeState

# Frames of one call, so that a clip runs two programs: the first call's and the later ones'. 0.2 s of Bark's.
FRAMES_PER_STEP = 15


def frames_per_step(model: Codec) -> int:
    """FRAMES_PER_STEP, or the least multiple of it that the codec can start with."""
    return FRAMES_PER_STEP * -(-model.min_first_frames // FRAMES_PER_STEP)


def decode_next(model: Codec, codes_QT: np.ndarray, state: DecodeState) -> tuple[np.ndarray, DecodeState]:
    """Decodes the next frames of one clip, as `decode_codes` would within the whole.

    Args:
      codes_QT: a multiple of `frames_per_step` frames; in the clip's last call any number.
      state: from `model.init_decode_state(1)`, which refuses a codec that looks ahead, or from the previous call.

    Returns:
      (audio samples as `decode_codes` gives them, state for the next call); after the last call the state is of no use.
    """
    n_frames, size = codes_QT.shape[1], frames_per_step(model)
    if n_frames == 0 or (not state.started and n_frames < model.min_first_frames):
        return decode_codes(model, [codes_QT])[0], state  # too short as a whole to start with
    # What pads the end comes after all that is kept, and the codec does not look ahead.
    padded_QT = np.pad(codes_QT, ((0, 0), (0, -n_frames % size)))
    pieces = []
    for first in range(0, n_frames, size):
        audio_BAC, state = _decode_step(model, padded_QT[None, :, first : first + size], state)
        pieces.append(audio_BAC)
    samples = np.concatenate(jax.device_get(pieces), axis=1)[0, : n_frames * model.config.hop_length].astype(np.float32)
    return (samples[:, 0] if model.config.audio_channels == 1 else samples), state


@jax.jit
def _decode_step(model: Codec, codes_BQT: jax.Array, state: DecodeState) -> tuple[jax.Array, DecodeState]:
    return model.decode_step(codes_BQT, state)
