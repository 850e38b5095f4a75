"""Output of `bark-jax say`: the audio file or stdout, and beside it voice, tokens and plot."""

import contextlib
import dataclasses
import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bark_jax._system import stopping
from bark_jax.audio.formats import format_of
from bark_jax.cli.paths import check_plot, check_writable
from bark_jax.cli.say_text import STANDARD_STREAM
from bark_jax.errors import InputError, quoted
from bark_jax.files import output_errors

if TYPE_CHECKING:
    from bark_jax.audio.clip import Clip, Recording, SpokenPart
    from bark_jax.text.sentences import LongClip

DEFAULT_OUTPUT = "bark.wav"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Paths of the files that a clip is written to, None for those not requested; checked before minutes of work."""

    audio: str | None  # "-" is stdout
    is_counted: bool  # the audio file is DEFAULT_OUTPUT, or its first free successor, see `free_name`
    plot: str | None
    save_voice: str | None
    save_tokens: str | None

    @classmethod
    def check(
        cls,
        audio: str | None,
        *,
        plot: str | None,
        save_voice: str | None,
        save_tokens: str | None,
        is_played: bool,
        as_json: bool,
    ) -> "Outputs":
        """Checks the paths that the options of these names give.

        Raises:
          InputError: a path that cannot be written, or a name with the wrong ending.
          UnsupportedError: a plot without matplotlib, or an audio format that is not known or not installed.
          click.UsageError: "-" for the audio, with --json or on a terminal.
        """
        is_counted = audio is None and not is_played
        audio = DEFAULT_OUTPUT if is_counted else audio
        _check_audio(audio, as_json=as_json)
        for option, path in (("save_voice", save_voice), ("save_tokens", save_tokens)):
            _check_npz(option, path)
        return cls(audio, is_counted, check_plot(plot), save_voice, save_tokens)

    def write(self, clip: "Clip | LongClip") -> str | None:
        """Writes all files; returns the name of the audio file, "-" for stdout, None for none."""
        with contextlib.ExitStack() as names:
            audio = names.enter_context(free_name(DEFAULT_OUTPUT)) if self.is_counted else self.audio
            if audio == STANDARD_STREAM:
                _write_stdout(clip)
            elif audio is not None:
                clip.save(audio)
            if self.save_voice is not None:
                clip.as_voice().save(self.save_voice)
            if self.save_tokens is not None:
                from bark_jax.voices.files import write_npz

                write_npz(self.save_tokens, {"semantic": clip.semantic, "coarse": clip.coarse, "fine": clip.fine})
            if self.plot is not None:
                clip.plot(self.plot)
        return audio


def stream_stdout(parts: "Iterable[SpokenPart]", sample_rate: int) -> None:
    """Writes a WAV of 16-bit samples to stdout, each part as it is generated, so that a player can start early."""
    from bark_jax.audio.files import to_pcm16, wav_stream_header

    sys.stdout.buffer.write(wav_stream_header(sample_rate))
    for part in parts:
        sys.stdout.buffer.write(to_pcm16(part.samples))
        sys.stdout.buffer.flush()


@contextlib.contextmanager
def free_name(name: str) -> Iterator[str]:
    """Yields `name`, or its first free successor (bark-2.wav, bark-3.wav, ...), for a file that the block writes.

    An empty file reserves the name meanwhile, so that two programs at once get two names. It is removed if the block
    fails or the process is ended.

    Raises:
      OutputError: the folder is not writable.
    """
    with output_errors(name):
        found = _take_free_name(Path(name))

    def give_back() -> None:
        with contextlib.suppress(OSError):
            if not found.stat().st_size:
                found.unlink()

    try:
        with stopping.cleaned_up(give_back):
            yield str(found)
    except BaseException:
        give_back()
        raise


def _take_free_name(path: Path) -> Path:
    """Creates an empty file under the first free name. O_EXCL makes that atomic: one of two processes gets it."""
    for number in itertools.count(1):
        found = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(found, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return found
    raise AssertionError("numbers do not end")


def _check_audio(audio: str | None, *, as_json: bool) -> None:
    if audio == STANDARD_STREAM:
        if as_json:
            raise click.UsageError("-o - and --json both write to stdout; give -o a file.")
        if sys.stdout.isatty():
            raise click.UsageError("-o - writes binary audio to a terminal; redirect stdout, or give -o a file.")
    elif audio is not None:
        format_of(audio)
        check_writable("output", audio)


def _check_npz(option: str, path: str | None) -> None:
    if path is not None:
        if not path.endswith(".npz"):
            raise InputError(f"--{option.replace('_', '-')} is {quoted(path)}, expected a name that ends in .npz")
        check_writable(option, path)


def _write_stdout(clip: "Recording") -> None:
    from bark_jax.audio.files import write_stream

    stream = io.BytesIO()  # the length in a WAV's header is written last, and a pipe cannot seek back to it
    write_stream(stream, clip.samples, clip.sample_rate)
    sys.stdout.buffer.write(stream.getvalue())
    sys.stdout.buffer.flush()
