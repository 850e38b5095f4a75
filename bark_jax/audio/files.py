"""Audio files. Written through soundfile (libsndfile), whole or not at all."""

import io
import os
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from bark_jax.audio.formats import FORMATS, Format, format_of
from bark_jax.errors import InputError
from bark_jax.files import as_path, atomic_file, output_errors

# Audio samples that libsndfile is given at once: its version 1.2 crashes on minutes of Vorbis written in one call.
_BLOCK = 2**16


def write_audio(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Writes audio samples, float32 [A] or [A, channels] in -1..1, in the form that the path's ending names.

    Samples beyond -1..1 are clipped. The file gets its name once it is complete, so a full disk or a kill leaves no
    half of it.

    Raises:
      InputError: an unknown ending, no such folder, or what `write_stream` refuses.
      OutputError: the disk is full, or the place may not be written to.
    """
    path = as_path(path, "the audio file")
    audio_format = format_of(path)
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} of {str(path)!r} does not exist; create it first")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the name of a file in it")
    with output_errors(path), atomic_file(path) as file:
        write_stream(file, samples, sample_rate, audio_format)


def write_stream(file: BinaryIO, samples: np.ndarray, sample_rate: int, audio_format: Format = FORMATS[".wav"]) -> None:
    """Writes one complete audio file into an open binary stream, which has to be seekable.

    Raises:
      InputError: a kind that takes no empty audio, or not this sample rate or number of channels.
      OSError: the stream takes no more.
    """
    import soundfile

    container, coding = audio_format.container, audio_format.coding
    if not len(samples) and not audio_format.takes_empty:
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


def encode(samples: np.ndarray, sample_rate: int, audio_format: Format) -> bytes:
    """One complete audio file as bytes. Arguments and errors as for `write_stream`."""
    stream = io.BytesIO()
    write_stream(stream, samples, sample_rate, audio_format)
    return stream.getvalue()


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


def wav_stream_header(sample_rate: int) -> bytes:
    """The header of a mono 16-bit WAV of unknown length, for a pipe: what follows is audio until the end.

    Players and converters take the sizes' highest value for "to the end", as ffmpeg writes it.
    """
    unknown = 0xFFFFFFFF
    layout = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)  # PCM, one channel
    riff = b"RIFF" + struct.pack("<I", unknown) + b"WAVE"
    return riff + b"fmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", unknown)


def to_pcm16(samples: np.ndarray) -> bytes:
    """Mono audio samples in -1..1 as what follows such a header; what is louder is clipped."""
    return np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
