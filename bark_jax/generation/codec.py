"""The codec stage: codes to audio samples."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from bark_jax.networks.codec.encodec import Codec

# Frames are padded to a multiple of this, so that clips of all lengths run few programs: 256 frames are 3.4 s of Bark's
# audio, and its longest clip, 1,154 frames, takes five.
FRAMES_STEP = 256


def decode_codes(
    model: Codec, codes: Sequence[np.ndarray], decode: Callable[..., jax.Array] | None = None
) -> list[np.ndarray]:
    """Decodes rows of unequal length to audio samples. A row's audio does not depend on the others.

    Args:
      codes: each row's codes [Q, T]; T may be 0.
      decode: `decode_padded` as compiled by the caller, for several devices for instance; None takes it as it is.

    Returns:
      Each row's audio, float32 [T * hop_length] for a mono codec, [T * hop_length, channels] for a stereo one.
    """
    config = model.config
    n_frames = [codes_QT.shape[1] for codes_QT in codes]
    if max(n_frames) == 0:
        audio = [np.zeros((0, config.audio_channels), np.float32) for _ in codes]
    # Weight norm is part of the weights. The other norm, time_group_norm, takes statistics over all frames, pads too.
    elif config.use_causal_conv and config.norm_type == "weight_norm":
        audio = _decode_together(model, codes, decode or decode_padded)
    else:  # the codec looks ahead (is not causal), so padding would change a row's end: row by row, a program a length
        audio = [np.asarray(decode_padded(model, codes_QT[None]))[0] for codes_QT in codes]
    audio = [samples[: n * config.hop_length].astype(np.float32) for samples, n in zip(audio, n_frames, strict=True)]
    return [samples[:, 0] for samples in audio] if config.audio_channels == 1 else audio


def _decode_together(model: Codec, codes: Sequence[np.ndarray], decode: Callable[..., jax.Array]) -> list[np.ndarray]:
    n_frames = [codes_QT.shape[1] for codes_QT in codes]
    width = -(-max(n_frames) // FRAMES_STEP) * FRAMES_STEP
    # Padded with code 0, as the codec has no pad id. A causal codec's samples before it stay as they are.
    codes_BQT = np.zeros((len(codes), codes[0].shape[0], width), np.int32)
    for b, codes_QT in enumerate(codes):
        codes_BQT[b, :, : codes_QT.shape[1]] = codes_QT
    return list(np.asarray(decode(model, codes_BQT, np.array(n_frames, np.int32))))


@jax.jit
def decode_padded(model: Codec, codes_BQT: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
    """Decodes codes [B, Q, T] to audio [B, T * hop_length, channels], zeros past lengths_B frames of a row."""
    return model.decode(codes_BQT, lengths_B)
