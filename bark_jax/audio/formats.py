"""The formats of audio files: a table, FORMATS, and lookups by name and by a file's ending."""

import os
from pathlib import Path
from typing import NamedTuple

from bark_jax.errors import InputError, quoted


class Format(NamedTuple):
    """A format, by the names that libsndfile has for it."""

    container: str  # "WAV"
    coding: str  # "PCM_16", a subtype of libsndfile
    takes_empty: bool  # libsndfile can read back a file without audio samples
    media_type: str  # "audio/wav", for browsers


# Formats by the ending of a file's name; .opus files are Ogg files too.
FORMATS = {
    ".wav": Format("WAV", "PCM_16", True, "audio/wav"),
    ".flac": Format("FLAC", "PCM_16", False, "audio/flac"),
    ".ogg": Format("OGG", "VORBIS", True, "audio/ogg"),
    ".opus": Format("OGG", "OPUS", False, "audio/ogg"),
    ".mp3": Format("MP3", "MPEG_LAYER_III", False, "audio/mpeg"),
}
NAMES = tuple(ending.removeprefix(".") for ending in FORMATS)


def format_of(path: str | os.PathLike) -> Format:
    """Returns the format of a file's ending, ".mp3". Raises InputError for an unknown one."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"{quoted(str(path))} ends in {quoted(ending)}, expected one of {', '.join(FORMATS)}")
    return FORMATS[ending]


def format_named(name: str) -> Format:
    """Returns the format of a name, "mp3". Raises InputError for an unknown one."""
    if not isinstance(name, str) or name.lower() not in NAMES:
        raise InputError(f"the audio format is {quoted(name)}, expected one of {', '.join(NAMES)}")
    return FORMATS[f".{name.lower()}"]
