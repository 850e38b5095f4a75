"""Audio files. Written through soundfile (libsndfile), whole or not at all."""

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bark_jax.errors import InputError

# Ending -> libsndfile's container and coding.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def check_format(path: str | os.PathLike) -> tuple[str, str]:
    """libsndfile's container and coding for a file's ending. Raises InputError for an unknown one."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"{str(path)!r} ends in {ending!r}, expected one of {', '.join(FORMATS)}")
    return FORMATS[ending]


def write_audio(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Writes audio samples, float32 [A] or [A, channels] in -1..1, in the form that the path's ending names.

    The file gets its name once it is complete, so a full disk or a kill leaves no half of it.
    """
    container, coding = check_format(path)
    folder = Path(path).parent
    if not folder.is_dir():
        raise InputError(f"the folder {str(folder)!r} of {str(path)!r} does not exist; create it first")
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write_stream(file, samples, sample_rate, container, coding)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_stream(
    file: BinaryIO, samples: np.ndarray, sample_rate: int, container: str = "WAV", coding: str = "PCM_16"
) -> None:
    """Writes one complete audio file into an open binary stream, which has to be seekable."""
    import soundfile

    soundfile.write(file, samples, sample_rate, format=container, subtype=coding)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
