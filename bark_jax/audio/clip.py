"""Results of generation: `Recording` is audio to save, play and plot, `Clip` also has the tokens that it came from."""

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

# Longest WAV in a notebook's player; a longer one is MP3. The notebook's file stores the player's audio as base64: 60 s
# are 3.8 MB as WAV, a tenth of that as MP3.
MAX_WAV_PLAYER_S = 60.0


class EmptyClipWarning(BarkWarning):
    """A clip has no audio, because the semantic stage drew its end token first. Another seed usually has audio."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recording(ByValue):
    """Audio that can be saved, played and plotted. In a notebook it shows a player.

    Two recordings are equal if they are of the same class and all of their values are.

    Attributes:
      samples: audio samples, float32 [A] in about -1..1, or [A, channels] of a stereo codec.
      sample_rate: audio samples per second: 24,000 in Bark.
    """

    samples: NDArray[np.float32]
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an audio file, atomically. Samples beyond -1..1 are clipped.

            recording.save("hello.mp3")

        Args:
          path: the file; its ending is the format: .wav, .flac (both 16-bit), .ogg (Vorbis), .opus or .mp3.

        Raises:
          InputError: another ending, a folder that does not exist, or an empty recording in a format other than wav and
            ogg, whose files cannot be empty.
          OutputError: the disk is full, or the path is not writable.
        """
        write_audio(path, self.samples, self.sample_rate)

    def to_bytes(self, format: str = "wav") -> bytes:
        """Returns the audio file that `save` writes, as bytes.

        Args:
          format: "wav" (default), "flac", "ogg", "opus" or "mp3".

        Raises:
          InputError: another format, or an empty recording in a format other than wav and ogg.
        """
        return encode(self.samples, self.sample_rate, format_named(format))

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Draws the waveform and the mel spectrogram over seconds.

        Args:
          path: a file to write the figure to, whose ending is the format, such as .png, .svg or .pdf; None writes none.

        Returns:
          A matplotlib figure, which Jupyter shows by itself.

        Raises:
          UnsupportedError: matplotlib is not installed.
          InputError: an ending that matplotlib does not know, or a folder that does not exist.
          OutputError: the disk is full, or the path is not writable.
        """
        from bark_jax.audio.plots import plot_audio, save_figure

        figure = plot_audio(self.samples, self.sample_rate)
        if path is not None:
            save_figure(figure, path)
        return figure

    def _repr_html_(self) -> str:
        """Returns the HTML player that Jupyter shows. The audio is embedded, so a saved notebook plays it."""
        name = "mp3" if self.duration_s > MAX_WAV_PLAYER_S else "wav"
        audio = base64.b64encode(self.to_bytes(name)).decode()
        return f'<audio controls preload="metadata" src="data:{format_named(name).media_type};base64,{audio}"></audio>'

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.duration_s:.2f} s at {self.sample_rate:,} Hz)"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Clip(Recording):
    """The result of `Bark.generate`: one utterance with its audio, and the tokens and codes of every stage.

        clip = bark.generate("Hello.", seed=0)
        clip.save("hello.wav")
        bark.generate("Bye.", voice=clip.as_voice())

    All arrays are empty (A, S and T are 0) if the semantic stage ended at once.

    Attributes:
      samples: audio samples, float32 [A] in about -1..1, or [A, channels] of a stereo codec.
      sample_rate: audio samples per second: 24,000 in Bark.
      text: the text that was spoken, in Unicode's form NFC.
      semantic: semantic tokens, int32 [S], 49.9 per second in Bark.
      coarse: codes of the first codebooks, int32 [n_coarse, T], 75 frames per second in Bark.
      fine: codes of all codebooks, int32 [n_fine, T], coarse codebooks first.
      semantic_logprob: log-probability of each semantic token, float32 [S], among the legal tokens at temperature 1.
      coarse_logprob: log-probability of each coarse code, float32 [n_coarse, T], within its codebook at temperature 1.
      seed: with it and the same text, voice and settings, `generate` gives the clip again.
      stats: wall-clock seconds of each stage, by its name, for the whole batch that the clip was part of.
    """

    text: str
    semantic: NDArray[np.int32]
    coarse: NDArray[np.int32]
    fine: NDArray[np.int32]
    semantic_logprob: NDArray[np.float32]
    coarse_logprob: NDArray[np.float32]
    seed: int
    stats: dict[str, float]

    @property
    def is_empty(self) -> bool:
        """True if there is no audio, because the semantic stage ended at once."""
        return not len(self.samples)

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of the semantic tokens and coarse codes, in nats per token; -inf for an empty clip.

        It measures how likely the clip is to the networks, not how good it sounds. `Bark.generate` ranks candidates by
        it (best_of). It is computed at temperature 1, so clips drawn with different settings can be compared.
        """
        logprobs = np.concatenate([self.semantic_logprob.ravel(), self.coarse_logprob.ravel()])
        return float(logprobs.mean(dtype=np.float64)) if not self.is_empty else -math.inf

    def as_voice(self) -> Voice:
        """Returns the clip as a voice, which makes other texts sound like it.

        Raises:
          VoiceError: the clip is empty.
        """
        if self.is_empty:
            raise VoiceError(
                f"the clip of {self.text[:60]!r} is empty, and a voice needs audio; generate it with another seed"
            )
        return Voice(semantic=self.semantic, coarse=self.coarse, fine=self.fine)

    @staticmethod
    def concatenate(clips: Sequence[Recording], silence_s: float = 0.0) -> Recording:
        """Concatenates recordings, such as clips, with silence between them.

            bark_jax.Clip.concatenate([clip, other], silence_s=0.5).save("both.wav")

        Args:
          clips: a list or tuple of at least one, all of one sample rate and number of channels.
          silence_s: seconds of silence between two that are not empty, 0 to 60; 0 by default.

        Raises:
          InputError: no recordings, recordings of different sample rates or channels, or silence_s is out of range.
        """
        samples, _ = join(clips, silence_s)
        return Recording(samples, clips[0].sample_rate)

    def __repr__(self) -> str:
        return f"Clip({self.text[:60]!r}, {self.duration_s:.2f} s at {self.sample_rate:,} Hz, seed={self.seed})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SpokenPart(Recording):
    """An item of `Bark.stream`: the next audio of a text that is being generated.

    Attributes:
      samples: audio samples, float32 [A] in about -1..1, or [A, channels] of a stereo codec.
      sample_rate: audio samples per second: 24,000 in Bark.
      text: the sentence that it is part of.
      start_s: seconds from the start of the audio to the start of this part.
    """

    text: str
    start_s: float


def join(clips: Sequence[Recording], silence_s: float = 0.0) -> tuple[np.ndarray, list[float]]:
    """Concatenates recordings, with silence between them.

    Args:
      clips: a list or tuple of at least one, all of one sample rate and number of channels.
      silence_s: seconds of zeros between two recordings that are not empty, 0 to 60; an empty one adds nothing.

    Returns:
      The audio samples, float32 [A] or [A, channels], and the start of each recording in seconds.

    Raises:
      InputError: no recordings, recordings of different sample rates or channels, or silence_s is out of range.
    """
    if not isinstance(clips, (list, tuple)) or not all(isinstance(clip, Recording) for clip in clips):
        raise InputError(f"the clips to join are {quoted(clips)}, expected a list of clips")
    if not clips:
        raise InputError("there are no clips to join, expected one or more")
    shapes = {(clip.sample_rate, clip.samples.shape[1:]) for clip in clips}
    if len(shapes) > 1:
        raise InputError(f"the clips differ in sample rate and channels, {sorted(shapes)}; expected clips of one model")
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
    """Returns silence_s as a float. Raises InputError unless it is a number of seconds from 0 to 60."""
    is_number = isinstance(silence_s, (int, float, np.integer, np.floating)) and not isinstance(silence_s, bool)
    if not is_number or not 0 <= silence_s <= 60:
        raise InputError(f"silence_s is {quoted(silence_s)}, expected 0 to 60 seconds")
    return float(silence_s)
