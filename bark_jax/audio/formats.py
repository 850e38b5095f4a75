"""The formats of audio files. A new one is a line here."""

import os
from pathlib import Path
from typing import NamedTuple

from bark_jax.errors import InputError, quoted


class Format(NamedTuple):
    """A format as libsndfile names it."""

    container: str
    coding: str
    takes_empty: bool  # whether libsndfile reads a file of no audio samples again
    media_type: str


# By the ending of a file's name.
FORMATS = {
    ".wav": Format("WAV", "PCM_16", True, "audio/wav"),
    ".flac": Format("FLAC", "PCM_16", False, "audio/flac"),
    ".ogg": Format("OGG", "VORBIS", True, "audio/ogg"),
    ".opus": Format("OGG", "OPUS", False, "audio/ogg"),
    ".mp3": Format("MP3", "MPEG_LAYER_III", False, "audio/mpeg"),
}
NAMES = tuple(ending.removeprefix(".") for ending in FORMATS)


def format_of(path: str | os.PathLike) -> Format:
    """The format that a file's ending names. Raises InputError for an unknown one."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"{quoted(str(path))} ends in {quoted(ending)}, expected one of {', '.join(FORMATS)}")
    return FORMATS[ending]


def format_named(name: str) -> Format:
    """The format of a name, "mp3". Raises InputError for an unknown one."""
    if not isinstance(name, str) or name.lower() not in NAMES:
        raise InputError(f"the audio format is {quoted(name)}, expected one of {', '.join(NAMES)}")
    return FORMATS[f".{name.lower()}"]
