"""Voices that travel with requests and answers: a .npz file as text, {"npz": "UEsDBBQ..."}, in base64.

A client keeps the voice of a clip, or has a file of his own. The server keeps nothing of it, so any process that serves
the model can speak the next request in that voice.
"""

import base64
import binascii
import io
from typing import Any

import numpy as np

from bark_jax.errors import VoiceError, quoted
from bark_jax.voices.files import parse_npz
from bark_jax.voices.voice import PROMPT_KEYS, Voice

# The longest clip of Bark, 15.4 s as int64 without compression, has 0.1 MB, and so have Suno's published voices.
MAX_NPZ_BYTES = 2**17
MAX_NPZ_CHARACTERS = 4 * -(-MAX_NPZ_BYTES // 3)


def voice_to_json(voice: Voice) -> dict[str, str]:
    """Returns a voice in the form that `voice_from_json` reads."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **voice.to_dict())
    return {"npz": base64.b64encode(stream.getvalue()).decode()}


def voice_from_json(npz: Any) -> Voice:
    """Reads the voice of a request; not checked for any model.

    Args:
      npz: the field's value: a .npz file in base64.

    Raises:
      VoiceError: it is no string, too long, no base64, or no voice.
    """
    if not isinstance(npz, str):
        raise VoiceError(f"the voice's npz is {quoted(npz)}, expected a .npz file in base64")
    if len(npz) > MAX_NPZ_CHARACTERS:
        raise VoiceError(f"the voice's npz has {len(npz):,} characters, expected at most {MAX_NPZ_CHARACTERS:,}")
    try:
        data = base64.b64decode(npz, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: characters beyond ASCII
        raise VoiceError(f"the voice's npz is no base64 ({error}), expected a .npz file in base64") from error
    return Voice.from_dict(parse_npz(data, "the voice's npz", PROMPT_KEYS), spaces=None)
