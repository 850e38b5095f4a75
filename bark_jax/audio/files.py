"""Audio files. Written through soundfile (libsndfile), whole or not at all."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bark_jax.errors import InputError, quoted
from bark_jax.files import as_path, told_as_output_error, whole_file

# Ending -> libsndfile's container and coding.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}

# Of these kinds libsndfile cannot read a file of no audio samples, not even its own.
_NEVER_EMPTY = (("FLAC", "PCM_16"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"))

# Audio samples that libsndfile is given at once: its version 1.2 crashes on minutes of Vorbis written in one call.
_BLOCK = 2**16


def check_format(path: str | os.PathLike) -> tuple[str, str]:
    """libsndfile's container and coding for a file's ending. Raises InputError for an unknown one."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise InputError(f"{quoted(str(path))} ends in {quoted(ending)}, expected one of {', '.join(FORMATS)}")
    return FORMATS[ending]


def write_audio(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Writes audio samples, float32 [A] or [A, channels] in -1..1, in the form that the path's ending names.

    Samples beyond -1..1 are clipped. The file gets its name once it is complete, so a full disk or a kill leaves no
    half of it.

    Raises:
      InputError: an unknown ending, no such folder, or what `write_stream` refuses.
      OutputError: the disk is full, or the place may not be written to.
    """
    path = as_path(path, "the audio file")
    container, coding = check_format(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} of {str(path)!r} does not exist; create it first")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the name of a file in it")
    with told_as_output_error(path), whole_file(path) as file:
        write_stream(file, samples, sample_rate, container, coding)


def write_stream(
    file: BinaryIO, samples: np.ndarray, sample_rate: int, container: str = "WAV", coding: str = "PCM_16"
) -> None:
    """Writes one complete audio file into an open binary stream, which has to be seekable.

    Raises:
      InputError: a kind that takes no empty audio, or not this sample rate or number of channels.
      OSError: the stream takes no more.
    """
    import soundfile

    if not len(samples) and (container, coding) in _NEVER_EMPTY:
        kind = coding if container == "OGG" else container
        raise InputError(f"the audio is empty, which no {kind} file can be; .wav and .ogg can")
    n_channels = 1 if samples.ndim == 1 else samples.shape[1]
    watched = _Watched(file)
    try:
        with soundfile.SoundFile(watched, "w", sample_rate, n_channels, format=container, subtype=coding) as sound:
            for start in range(0, len(samples), _BLOCK):
                sound.write(samples[start : start + _BLOCK])
    except Exception as error:  # AssertionError and others, where the file took no more
        if watched.error is not None:
            raise watched.error from error
        if not isinstance(error, soundfile.LibsndfileError):
            raise
        raise InputError(
            f"{coding} does not take {n_channels} channel(s) at {sample_rate} Hz ({error.error_string}); .wav does"
        ) from error
    if watched.error is not None:
        raise watched.error


class _Watched:
    """A file that libsndfile writes to, through callbacks in which Python drops errors; `error` is the first."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: Exception | None = None

    def write(self, data: bytes) -> int:
        return self._tried(self._file.write, data)

    def read(self, n: int = -1) -> bytes:
        return self._tried(self._file.read, n) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._tried(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._tried(self._file.tell)

    def _tried(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self.error is None:
            try:
                return function(*arguments)
            except Exception as error:
                self.error = error
        return 0


def open_wav(sample_rate: int) -> bytes:
    """The header of a mono 16-bit WAV of unknown length, for a pipe: what follows is audio until the end.

    Players and converters take the sizes' highest value for "to the end", as ffmpeg writes it.
    """
    unknown = 0xFFFFFFFF
    layout = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)  # PCM, one channel
    riff = b"RIFF" + struct.pack("<I", unknown) + b"WAVE"
    return riff + b"fmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", unknown)


def as_pcm(samples: np.ndarray) -> bytes:
    """Mono audio samples in -1..1 as what follows such a header; what is louder is clipped."""
    return np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
