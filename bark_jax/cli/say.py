"""`bark-jax say`: one text, one audio file."""

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import click

from bark_jax import tiny
from bark_jax.cli.group import Verb
from bark_jax.cli.options import options_of
from bark_jax.cli.player import find_player, play
from bark_jax.cli.progress import Progress
from bark_jax.cli.say_audio import Outputs, stream_stdout
from bark_jax.cli.say_speech import Ask, prepare
from bark_jax.cli.say_text import STANDARD_STREAM, find_text

if TYPE_CHECKING:
    from bark_jax.audio.clip import Clip, Recording
    from bark_jax.text.sentences import LongClip

# Options that long texts alone have.
LONG_OPTIONS = ("silence_s", "max_tokens", "voice_mode", "language")

EXAMPLES = """\b
Examples:
  bark-jax say "Hello, my dog is cute [laughs]" --voice v2/en_speaker_6 -o hello.wav
  bark-jax say "Thank you very much, my good friend." -m tiny --voice rms -o thanks.wav
  echo "Guten Tag." | bark-jax say --voice v2/de_speaker_3 --seed 7 -o tag.flac --json
  bark-jax say --long --voice v2/en_speaker_6 -o chapter.mp3 < chapter.txt
  bark-jax say --stream -o - < chapter.txt | ffplay -
  bark-jax say -o cold.wav -- "-5 degrees tonight."
"""


class _SayVerb(Verb):
    """The verb, whose TEXT may be taken for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = 'A text that begins with a dash goes after --, as in: bark-jax say -- "-5 degrees"'
            raise click.UsageError(f"{error.format_message()} {hint}", ctx) from error


@click.command("say", cls=_SayVerb, epilog=EXAMPLES, short_help="Text to one audio file.")
@options_of(Ask)
def command(**options: Any) -> None:
    """Speak TEXT, or the text on stdin, into an audio file; print the file's name.

    Stdin is read where TEXT is - or left out; on a terminal, a default sentence is spoken instead. Settings that are
    not given come from the model's generation_config.json.
    """
    _say(Ask.of(options))


def _say(ask: Ask) -> None:
    outputs, player = _check(ask), find_player() if ask.is_played else None
    text = find_text(ask.text, ask.model, is_long=ask.is_of_any_length)
    seed = secrets.randbits(32) if ask.seed is None else ask.seed
    tell = (lambda line: None) if ask.is_quiet else (lambda line: click.echo(line, err=True))
    tell(_introduction(ask.model, seed))
    if ask.is_quiet:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    speech = prepare(text, ask)
    if speech.is_long and not ask.is_of_any_length:
        tell("more sentences than this model speaks of one prompt: spoken as with --long")
    bark = speech.load()
    if ask.is_streamed:
        stream_stdout(speech.stream(bark, seed), bark.sample_rate)
        return
    started = time.perf_counter()
    with Progress(is_quiet=ask.is_quiet) as progress:
        clip = speech.speak(bark, seed, progress)
    took_s = time.perf_counter() - started
    audio = outputs.write(clip)
    tell(_conclusion(clip, audio, took_s))
    _print(clip, ask, audio)
    if player is not None:
        play(player, clip.samples, clip.sample_rate)


def _check(ask: Ask) -> Outputs:
    """Refuses options that do not go together, and files that cannot be written."""
    _check_idle(ask)
    outputs = Outputs.check(
        ask.output,
        plot=ask.plot,
        save_voice=ask.save_voice,
        save_tokens=ask.save_tokens,
        is_played=ask.is_played,
        as_json=ask.as_json,
    )
    _check_long(ask)
    return outputs


def _check_idle(ask: Ask) -> None:
    """Refuses options that would have no effect."""
    if ask.is_of_any_length:
        idle = ("best_of", "voice_mode") if ask.is_streamed else ("best_of",)
        remedy = "it is for one prompt; leave out --long and --stream" if ask.best_of else "it is for --long alone"
    else:
        idle, remedy = LONG_OPTIONS, "it is for longer texts; add --long"
    for name in ask.given(*idle):
        option = "--" + name.removesuffix("_s").replace("_", "-")
        raise click.UsageError(f"{option} has no effect: {remedy}.")


def _check_long(ask: Ask) -> None:
    """Refuses what --long and --stream cannot do."""
    if ask.is_of_any_length and (ask.save_voice or ask.save_tokens):
        raise click.UsageError("--save-voice and --save-tokens take one clip; leave out --long and --stream.")
    if ask.is_streamed and (ask.output != STANDARD_STREAM or ask.is_played or ask.plot):
        raise click.UsageError("--stream writes to stdout alone: give -o -, and neither --play nor --plot.")


def _introduction(model: str, seed: int) -> str:
    line = f"model {model[:200]}, seed {seed}"
    if model == tiny.NAME:
        line += f"\n{tiny.NAME} is a small demonstration, which knows few words. Any text: -m suno/bark-small"
    return line


def _conclusion(clip: "Recording", audio: str | None, took_s: float) -> str:
    place = {None: "", STANDARD_STREAM: "stdout: "}.get(audio, f"{audio}: ")
    return f"{place}{clip.duration_s:.2f} s of audio in {took_s:.1f} s"


def _print(clip: "Clip | LongClip", ask: Ask, audio: str | None) -> None:
    """The clip's description, or the name of its file."""
    if ask.as_json:
        click.echo(json.dumps(_description(clip, ask, audio), ensure_ascii=False))
    elif audio not in (None, STANDARD_STREAM):
        click.echo(audio)


def _description(clip: "Clip | LongClip", ask: Ask, audio: str | None) -> dict[str, Any]:
    shared = {
        "seed": clip.seed,
        "voice": ask.voice,
        "model": ask.model,
        "revision": ask.revision,
        "lora": ask.lora,
        "seconds": clip.duration_s,
        "sample_rate": clip.sample_rate,
        "output": audio,
    }
    if hasattr(clip, "sentences"):
        sentences = [{"start_s": part.start_s, **_tokens(part.clip)} for part in clip.sentences]
        return shared | {"sentences": sentences}
    return shared | _tokens(clip) | {"stats": clip.stats}


def _tokens(clip: "Clip") -> dict[str, Any]:
    lengths = {"semantic": len(clip.semantic), "frames": clip.fine.shape[1], "samples": len(clip.samples)}
    return {"text": clip.text, "seed": clip.seed, "lengths": lengths}
