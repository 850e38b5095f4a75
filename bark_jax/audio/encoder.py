"""Encodes audio part by part, for streams: bytes come out while samples go in, and none is taken back."""

from typing import Protocol

import numpy as np

from bark_jax.audio.files import to_pcm16, wav_stream_header
from bark_jax.audio.formats import Format


class Encoder(Protocol):
    """Encoder of one stream."""

    def encode(self, samples: np.ndarray) -> bytes:
        """Takes the next audio samples, float32 [A] or [A, channels]; returns the bytes that are ready, maybe none."""

    def finish(self) -> bytes:
        """Ends the stream and returns its last bytes."""


class PcmEncoder:
    """16-bit little-endian PCM; after the header of a WAV file of unknown length if `with_header`. Mono alone."""

    def __init__(self, sample_rate: int, *, with_header: bool):
        self._header = wav_stream_header(sample_rate) if with_header else b""

    def encode(self, samples: np.ndarray) -> bytes:
        """Takes samples, float32 [A] or [A, channels]; as `Encoder.encode`."""
        header, self._header = self._header, b""
        return header + to_pcm16(samples)

    def finish(self) -> bytes:
        """As `Encoder.finish`."""
        return self._header


class FileEncoder:
    """A format of libsndfile that can be read from a pipe: MP3, FLAC, Ogg Opus.

    A file's header gets its length when the file is closed. A stream keeps the header of unknown length that it began
    with, which players read until the end.
    """

    def __init__(self, sample_rate: int, n_channels: int, audio_format: Format):
        import soundfile

        self._file = _AppendedFile()
        self._sound = soundfile.SoundFile(
            self._file, "w", sample_rate, n_channels, format=audio_format.container, subtype=audio_format.coding
        )

    def encode(self, samples: np.ndarray) -> bytes:
        """Takes samples, float32 [A] or [A, channels]; as `Encoder.encode`."""
        self._sound.write(samples)
        return self._file.take()

    def finish(self) -> bytes:
        """As `Encoder.finish`."""
        self._sound.close()
        return self._file.take()


class _AppendedFile:
    """A file for libsndfile of which appended bytes are taken out; bytes that overwrite earlier ones are dropped."""

    def __init__(self) -> None:
        self._appended = bytearray()
        self._position = self._length = 0

    def take(self) -> bytes:
        """Returns the bytes appended since the last call."""
        taken = bytes(self._appended)
        self._appended.clear()
        return taken

    def write(self, data: bytes) -> int:
        n_old = max(0, self._length - self._position)
        self._position += len(data)
        self._length = max(self._length, self._position)
        self._appended += data[n_old:]
        return len(data)

    def read(self, n: int = -1) -> bytes:
        return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._length)[whence]
        return self._position

    def tell(self) -> int:
        return self._position
