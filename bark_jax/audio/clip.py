"""What comes back: audio that can be saved, played and plotted, with the tokens that it was made from."""

import base64
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bark_jax._system.by_value import ByValue
from bark_jax.audio.files import encode, write_audio
from bark_jax.audio.formats import format_named
from bark_jax.errors import BarkWarning, InputError, VoiceError, quoted
from bark_jax.voices.voice import Voice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A notebook keeps what its players hold: 60 s are 3.8 MB of base64 as WAV, and a tenth of that as MP3.
MAX_WAV_PLAYER_S = 60.0


class EmptyClipWarning(BarkWarning):
    """A text came back without audio because the semantic network ended at once."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recording(ByValue):
    """Audio. In a notebook it shows a player. Two recordings are equal where their kind and their values are."""

    samples: NDArray[np.float32]  # [A] audio samples in about -1..1, or [A, channels] of a stereo codec
    sample_rate: int  # audio samples a second

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an audio file; its ending says which kind: wav, flac, ogg, opus or mp3.

        Raises:
          InputError: another ending, a folder that does not exist, or no audio where the kind cannot be empty: wav and
            ogg files can.
        """
        write_audio(path, self.samples, self.sample_rate)

    def to_bytes(self, format: str = "wav") -> bytes:
        """The audio file that `save` writes, as bytes.

        Args:
          format: "wav", "flac", "ogg", "opus" or "mp3".

        Raises:
          InputError: another format, or no audio where the format cannot be empty: wav and ogg can.
        """
        return encode(self.samples, self.sample_rate, format_named(format))

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Draws waveform and mel spectrogram; returns the figure, and with a path writes it as PNG, SVG or PDF.

        Raises:
          UnsupportedError: matplotlib is not installed.
          InputError: an ending that matplotlib does not write, or a folder that does not exist.
        """
        from bark_jax.audio.plots import plot_audio, save_figure

        figure = plot_audio(self.samples, self.sample_rate)
        if path is not None:
            save_figure(figure, path)
        return figure

    def _repr_html_(self) -> str:
        """The player that Jupyter shows; the audio is inside, so that it plays without this package or its files."""
        name = "mp3" if self.duration_s > MAX_WAV_PLAYER_S else "wav"
        audio = base64.b64encode(self.to_bytes(name)).decode()
        return f'<audio controls preload="metadata" src="data:{format_named(name).media_type};base64,{audio}"></audio>'

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.duration_s:.2f} s at {self.sample_rate:,} Hz)"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Clip(Recording):
    """One utterance: its audio, and the tokens of every stage. T frames; none where the model ended at once."""

    text: str
    semantic: NDArray[np.int32]  # [S] semantic tokens
    coarse: NDArray[np.int32]  # [n_coarse, T] codes
    fine: NDArray[np.int32]  # [n_fine, T] codes
    semantic_logprob: NDArray[np.float32]  # [S], of each token among the legal ones at temperature 1
    coarse_logprob: NDArray[np.float32]  # [n_coarse, T], of each code within its codebook at temperature 1
    seed: int  # with it, and the clip's text, voice and settings, `generate` gives the clip again
    stats: dict[str, float]  # seconds each stage took, for the whole batch of the clip

    @property
    def is_empty(self) -> bool:
        return not len(self.samples)

    @property
    def mean_logprob(self) -> float:
        """The mean log-probability of the semantic tokens and coarse codes, nats a token; -inf for an empty clip.

        It says how expected the clip is to the networks, not how good it sounds. Settings do not enter: clips of
        different temperatures can be compared.
        """
        logprobs = np.concatenate([self.semantic_logprob.ravel(), self.coarse_logprob.ravel()])
        return float(logprobs.mean(dtype=np.float64)) if not self.is_empty else -math.inf

    def as_voice(self) -> Voice:
        """The clip as a voice: what is generated with it sounds like it.

        Raises:
          VoiceError: the clip is empty.
        """
        if self.is_empty:
            raise VoiceError(
                f"the clip of {self.text[:60]!r} is empty, and a voice is made of audio; generate it with another seed"
            )
        return Voice(semantic=self.semantic, coarse=self.coarse, fine=self.fine)

    @staticmethod
    def concatenate(clips: Sequence[Recording], silence_s: float = 0.0) -> Recording:
        """Clips one after the other, with `silence_s` seconds of silence between two; see `join`."""
        samples, _ = join(clips, silence_s)
        return Recording(samples, clips[0].sample_rate)

    def __repr__(self) -> str:
        return f"Clip({self.text[:60]!r}, {self.duration_s:.2f} s at {self.sample_rate:,} Hz, seed={self.seed})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SpokenPart(Recording):
    """The next piece of a text that is being spoken."""

    text: str  # the sentence that it belongs to
    start_s: float  # where it starts in the whole


def join(clips: Sequence[Recording], silence_s: float = 0.0) -> tuple[np.ndarray, list[float]]:
    """Lays recordings one after the other.

    Args:
      clips: at least one, all of one sample rate and number of channels.
      silence_s: seconds of zeros between two recordings that are not empty; an empty one adds nothing.

    Returns:
      The audio samples, float32 [A] or [A, channels], and where each recording starts, in seconds.

    Raises:
      InputError: no recordings, unequal ones, or a silence that is no duration.
    """
    if not isinstance(clips, (list, tuple)) or not all(isinstance(clip, Recording) for clip in clips):
        raise InputError(f"the clips to join are {quoted(clips)}, expected a list of them")
    if not clips:
        raise InputError("there are no clips to join, expected one or more")
    shapes = {(clip.sample_rate, clip.samples.shape[1:]) for clip in clips}
    if len(shapes) > 1:
        raise InputError(
            f"the clips have sample rates and channels {sorted(shapes)}, expected one kind; clips of one model have"
        )
    rate, channels = shapes.pop()
    silence = np.zeros((round(check_silence(silence_s) * rate), *channels), np.float32)
    parts: list[np.ndarray] = []
    starts_s, n_samples = [], 0
    for clip in clips:
        if len(clip.samples) and parts:
            parts.append(silence)
            n_samples += len(silence)
        starts_s.append(n_samples / rate)
        if len(clip.samples):
            parts.append(clip.samples)
            n_samples += len(clip.samples)
    return np.concatenate(parts) if parts else clips[0].samples, starts_s


def check_silence(silence_s: Any) -> float:
    """A duration from 0 to 60 s; raises InputError for anything else."""
    is_number = isinstance(silence_s, (int, float, np.integer, np.floating)) and not isinstance(silence_s, bool)
    if not is_number or not 0 <= silence_s <= 60:
        raise InputError(f"silence_s is {quoted(silence_s)}, expected 0 to 60 seconds")
    return float(silence_s)
