"""Formats of an answer's audio, by OpenAI's names for them."""

import numpy as np

from bark_jax.audio.encoder import Encoder, FileEncoder, PcmEncoder
from bark_jax.audio.files import encode, to_pcm16
from bark_jax.audio.formats import format_named

# "pcm" is 16-bit little-endian without a header, at the model's sample rate: 24 kHz in Bark, as in OpenAI's API.
MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


def encode_all(samples: np.ndarray, sample_rate: int, name: str) -> bytes:
    """Returns a complete file of audio samples, float32 [A] or [A, channels]; `name` is one of MEDIA_TYPES."""
    return to_pcm16(samples) if name == "pcm" else encode(samples, sample_rate, format_named(name))


def make_encoder(sample_rate: int, n_channels: int, name: str) -> Encoder:
    """Returns the encoder of a stream; `name` is one of MEDIA_TYPES."""
    if name in ("wav", "pcm") and n_channels == 1:
        return PcmEncoder(sample_rate, with_header=name == "wav")
    return FileEncoder(sample_rate, n_channels, format_named(name))
