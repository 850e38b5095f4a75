"""Writes audio files atomically, with soundfile (libsndfile)."""

import io
import os
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from bark_jax.audio.formats import FORMATS, Format, format_of
from bark_jax.errors import InputError
from bark_jax.files import as_path, atomic_file, output_errors

# Audio samples per call of libsndfile: version 1.2 crashes if minutes of Vorbis are written in one call.
_BLOCK = 2**16


def write_audio(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Writes an audio file, atomically: a full disk or a killed process leaves no half-written file.

    Args:
      path: the file; its ending is the format, one of FORMATS.
      samples: audio samples, float32 [A] or [A, channels]; those beyond -1..1 are clipped.
      sample_rate: audio samples per second.

    Raises:
      InputError: an unknown ending, no such folder, no audio in a format that cannot be empty, or a sample rate or
        number of channels that the format does not support.
      OutputError: the disk is full, or the path is not writable.
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
    """Writes a complete audio file to an open binary stream.

    Args:
      file: the stream; it must be seekable.
      samples: audio samples, float32 [A] or [A, channels]; those beyond -1..1 are clipped.
      sample_rate: audio samples per second.
      audio_format: the format, WAV by default.

    Raises:
      InputError: no audio in a format that cannot be empty, or a sample rate or number of channels that the format does
        not support.
      OSError: the stream fails, such as on a full disk.
    """
    import soundfile

    container, coding = audio_format.container, audio_format.coding
    if not len(samples) and not audio_format.takes_empty:
        kind = coding if container == "OGG" else container
        raise InputError(f"the audio is empty, which no {kind} file can be; .wav and .ogg files can")
    n_channels = 1 if samples.ndim == 1 else samples.shape[1]
    watched = _Watched(file)
    try:
        # soundfile switches on libsndfile's clipping. Without it, samples beyond -1..1 wrap around to the other sign.
        with soundfile.SoundFile(watched, "w", sample_rate, n_channels, format=container, subtype=coding) as sound:
            for start in range(0, len(samples), _BLOCK):
                sound.write(samples[start : start + _BLOCK])
    except Exception as error:  # of any type: soundfile asserts that all was written
        if watched.error is not None:
            raise watched.error from error
        if not isinstance(error, soundfile.LibsndfileError):
            raise
        raise InputError(
            f"{coding} does not support {n_channels} channel(s) at {sample_rate} Hz ({error.error_string}); .wav does"
        ) from error
    if watched.error is not None:
        raise watched.error


def encode(samples: np.ndarray, sample_rate: int, audio_format: Format) -> bytes:
    """Returns a complete audio file as bytes.

    Args:
      samples: audio samples, float32 [A] or [A, channels]; those beyond -1..1 are clipped.
      sample_rate: audio samples per second.
      audio_format: the format.

    Raises:
      InputError: as for `write_stream`.
    """
    stream = io.BytesIO()
    write_stream(stream, samples, sample_rate, audio_format)
    return stream.getvalue()


class _Watched:
    """A file for libsndfile that keeps the first error of the real file in `error`.

    libsndfile calls it through C callbacks, from which Python cannot raise: without this, a full disk goes unnoticed.
    """

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
        # The C callbacks expect a count. 0 bytes written is less than libsndfile asked for, so it stops.
        return 0


def wav_stream_header(sample_rate: int) -> bytes:
    """Returns the header of a mono 16-bit WAV file of unknown length, to write to a pipe before `to_pcm16` audio.

    Both sizes have the highest value, which players and converters read as "until the end"; ffmpeg writes the same.
    """
    unknown = 0xFFFFFFFF
    layout = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)  # PCM, one channel
    riff = b"RIFF" + struct.pack("<I", unknown) + b"WAVE"
    return riff + b"fmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", unknown)


def to_pcm16(samples: np.ndarray) -> bytes:
    """Returns mono audio samples [A] as 16-bit little-endian PCM; samples beyond -1..1 are clipped."""
    return np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
