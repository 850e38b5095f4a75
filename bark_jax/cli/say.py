"""`bark-jax say`: speaks one text into one audio file."""

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
from bark_jax.cli.say_speech import SayOptions, prepare
from bark_jax.cli.say_text import STANDARD_STREAM, find_text

if TYPE_CHECKING:
    from bark_jax.audio.clip import Clip, Recording
    from bark_jax.text.sentences import LongClip

# Options that have an effect with --long or --stream alone.
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
    """The verb `say`, with a hint for a TEXT that begins with a dash, which click takes for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = 'A text that begins with a dash goes after --, as in: bark-jax say -- "-5 degrees"'
            raise click.UsageError(f"{error.format_message()} {hint}", ctx) from error


@click.command("say", cls=_SayVerb, epilog=EXAMPLES, short_help="Speak a text into one audio file.")
@options_of(SayOptions)
def command(**options: Any) -> None:
    """Speak TEXT, or the text on stdin, into an audio file; print the file's name.

    If TEXT is left out or -, it is read from stdin; if it is left out on a terminal, a default sentence is spoken.
    Settings that are not given come from the model's generation_config.json.
    """
    _say(SayOptions.of(options))


def _say(options: SayOptions) -> None:
    outputs, player = _check(options), find_player() if options.is_played else None
    text = find_text(options.text, options.model, is_long=options.is_of_any_length)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    report = (lambda line: None) if options.is_quiet else (lambda line: click.echo(line, err=True))
    report(_introduction(options.model, seed))
    if options.is_quiet:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    speech = prepare(text, options)
    if speech.is_long and not options.is_of_any_length:
        report("the text has more sentences than this model speaks in one prompt: spoken as with --long")
    bark = speech.load()
    if options.is_streamed:
        stream_stdout(speech.stream(bark, seed), bark.sample_rate)
        return
    started = time.perf_counter()
    with Progress(is_quiet=options.is_quiet) as progress:
        clip = speech.speak(bark, seed, progress)
    took_s = time.perf_counter() - started
    audio = outputs.write(clip)
    report(_conclusion(clip, audio, took_s))
    _print(clip, options, audio)
    if player is not None:
        play(player, clip.samples, clip.sample_rate)


def _check(options: SayOptions) -> Outputs:
    """Refuses options that exclude each other and files that cannot be written, before a model is loaded."""
    _check_idle(options)
    outputs = Outputs.check(
        options.output,
        plot=options.plot,
        save_voice=options.save_voice,
        save_tokens=options.save_tokens,
        is_played=options.is_played,
        as_json=options.as_json,
    )
    _check_long(options)
    return outputs


def _check_idle(options: SayOptions) -> None:
    """Refuses options that would have no effect."""
    if options.is_of_any_length:
        idle = ("best_of", "voice_mode") if options.is_streamed else ("best_of",)
        if options.is_streamed and options.devices is not None:
            raise click.UsageError("--devices has no effect: --stream speaks one sentence after the other.")
        remedy = "it is for one prompt; leave out --long and --stream" if options.best_of else "it is for --long alone"
    else:
        idle, remedy = LONG_OPTIONS, "it is for longer texts; add --long"
    for name in options.given(*idle):
        option = "--" + name.removesuffix("_s").replace("_", "-")
        raise click.UsageError(f"{option} has no effect: {remedy}.")


def _check_long(options: SayOptions) -> None:
    """Refuses outputs that --long or --stream cannot write."""
    if options.is_of_any_length and (options.save_voice or options.save_tokens):
        raise click.UsageError("--save-voice and --save-tokens take one clip; leave out --long and --stream.")
    if options.is_streamed and (options.output != STANDARD_STREAM or options.is_played or options.plot):
        raise click.UsageError("--stream writes to stdout alone: give -o -, and neither --play nor --plot.")


def _introduction(model: str, seed: int) -> str:
    line = f"model {model[:200]}, seed {seed}"
    if model == tiny.NAME:
        line += (
            f"\n{tiny.NAME} is a small demonstration model that knows few words; for any text, use -m suno/bark-small"
        )
    return line


def _conclusion(clip: "Recording", audio: str | None, took_s: float) -> str:
    target = {None: "", STANDARD_STREAM: "stdout: "}.get(audio, f"{audio}: ")
    return f"{target}{clip.duration_s:.2f} s of audio in {took_s:.1f} s"


def _print(clip: "Clip | LongClip", options: SayOptions, audio: str | None) -> None:
    """Prints on stdout the clip's description as JSON, or the name of its file."""
    if options.as_json:
        click.echo(json.dumps(_description(clip, options, audio), ensure_ascii=False))
    elif audio not in (None, STANDARD_STREAM):
        click.echo(audio)


def _description(clip: "Clip | LongClip", options: SayOptions, audio: str | None) -> dict[str, Any]:
    shared = {
        "seed": clip.seed,
        "voice": options.voice,
        "model": options.model,
        "revision": options.revision,
        "lora": options.lora,
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
