"""The codec stage for streaming: the next frames of a clip to audio samples, with a state between calls."""

import jax
import numpy as np

from bark_jax.generation.codec import decode_codes
from bark_jax.networks.codec.encodec import Codec, DecodeState

# Frames of one call of the codec, 0.2 s of Bark's audio. A fixed number makes a clip run two programs, the first
# call's and the later ones'.
# 30 frames are a coarse window, so a window gives two full steps.
FRAMES_PER_STEP = 15


def frames_per_step(model: Codec) -> int:
    """Frames of one call: FRAMES_PER_STEP, or the smallest multiple of it with which the codec can start."""
    # Bark's codec starts with 7 frames: its first convolution, of width 7, mirrors 6.
    return FRAMES_PER_STEP * -(-model.min_first_frames // FRAMES_PER_STEP)


def decode_next(model: Codec, codes_QT: np.ndarray, state: DecodeState) -> tuple[np.ndarray, DecodeState]:
    """Decodes the next frames of a clip: the samples that `decode_codes` of all its codes has there, to rounding.

    Args:
      codes_QT: a multiple of `frames_per_step` frames; in the clip's last call any number.
      state: from `model.init_decode_state(1)`, which refuses a codec that looks ahead, or from the previous call.

    Returns:
      (audio float32 [A] or [A, channels], state for the next call). After the last call the state is useless: it has
      read padding.
    """
    n_frames, size = codes_QT.shape[1], frames_per_step(model)
    if n_frames == 0 or (not state.started and n_frames < model.min_first_frames):
        return decode_codes(model, [codes_QT])[0], state  # a clip shorter than the first step needs
    # Padding comes after every sample that is kept, and a causal codec does not let it change them.
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
