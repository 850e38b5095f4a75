"""`bark-jax say`: one text, one audio file."""

import contextlib
import io
import itertools
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bark_jax import tiny
from bark_jax._system import stopping
from bark_jax.cli.group import Verb
from bark_jax.cli.options import (
    DTYPES,
    json_option,
    model_option,
    revision_option,
    sampling_options,
    sampling_settings,
)
from bark_jax.cli.paths import check_place, check_plot
from bark_jax.cli.player import find_player, play
from bark_jax.cli.progress import Progress
from bark_jax.errors import InputError, ModelNotFoundError, quoted
from bark_jax.files import told_as_output_error
from bark_jax.text.checks import check_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bark_jax.audio.clip import Clip, Recording, SpokenPart
    from bark_jax.bark import Bark
    from bark_jax.text.processor import BarkProcessor
    from bark_jax.text.sentences import LongClip

DEFAULT_TEXT = "Hello! My name is Bark, and I can speak, laugh and sing."
DEFAULT_OUTPUT = "bark.wav"
STANDARD_STREAM = "-"
# Options that long texts alone have, as `generate_long` names them.
LONG_SETTINGS = ("silence_s", "max_tokens", "voice_mode", "language")

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
@click.argument("text", default=None, required=False, metavar="[TEXT or -]")
@model_option
@revision_option
@click.option("--voice", help="A voice's name (see `bark-jax voices`) or .npz file.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Random seed; printed if you leave it out.")
@click.option(
    "-o",
    "--output",
    help="Audio file (.wav, .flac, .ogg, .opus, .mp3), replaced if it exists; - is WAV on stdout.  "
    f"[default: {DEFAULT_OUTPUT}, or the first free name of bark-2.wav, bark-3.wav, ...]",
)
@click.option("--play", "is_played", is_flag=True, help="Play the audio; without -o no file is written.")
@click.option("--long", "is_long", is_flag=True, help="Text of any length: spoken sentence by sentence and joined.")
@click.option("--stream", "is_streamed", is_flag=True, help="WAV on stdout (-o -) while it is made; any length.")
@click.option("--best-of", type=click.IntRange(1), help="Generate N candidates and keep the most likely one.")
@click.option("--silence", "silence_s", type=float, help="With --long or --stream: seconds between sentences.")
@click.option("--max-tokens", type=click.IntRange(1), help="With --long or --stream: most text tokens of a sentence.")
@click.option("--language", help='With --long or --stream: whose abbreviations do not end sentences, such as "de".')
@click.option(
    "--voice-mode",
    type=click.Choice(["fixed", "carry"]),
    help="With --long: speak every sentence in the voice itself, or carry on from the sentence before.",
)
@sampling_options
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the networks.")
@click.option("--attn-implementation", type=click.Choice(["auto", "xla", "cudnn"]), default="auto", show_default=True)
@click.option("--lora", metavar="FILE", help="Changes to the networks, a file that training made.")
@click.option("--tokenizer", help="A tokenizer's file or folder, for models that bring none.")
@click.option("--plot", metavar="PNG", help="Draw waveform and mel spectrogram; also .svg and .pdf.")
@click.option("--save-voice", metavar="NPZ", help="Keep the clip as a voice, for --voice.")
@click.option("--save-tokens", metavar="NPZ", help="Keep the tokens of all stages: semantic, coarse, fine.")
@json_option
@click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Say nothing on stderr but errors.")
def command(
    text: str | None, is_played: bool, is_long: bool, is_streamed: bool, as_json: bool, is_quiet: bool, **options: Any
) -> None:
    """Speak TEXT, or the text on stdin, into an audio file; print the file's name.

    Stdin is read where TEXT is - or left out; on a terminal, a default sentence is spoken instead. Settings that are
    not given come from the model's generation_config.json.
    """
    settings = sampling_settings(options)
    how = _spoken_how(options, is_long=is_long, is_streamed=is_streamed)
    is_named = options["output"] is not None
    output = _check_output(options.pop("output"), is_played, as_json)
    save = {name: _check_npz(name, options.pop(name)) for name in ("save_voice", "save_tokens")}
    save["plot"] = check_plot(options.pop("plot"))
    if (is_long or is_streamed) and (save["save_voice"] or save["save_tokens"]):
        raise click.UsageError("--save-voice and --save-tokens take one clip; leave out --long and --stream.")
    if is_streamed and (output != STANDARD_STREAM or is_played or save["plot"]):
        raise click.UsageError("--stream writes to stdout alone: give -o -, and neither --play nor --plot.")
    player = find_player() if is_played else None
    text = _find_text(text, options["model"], is_long=is_long or is_streamed)
    seed = options.pop("seed")
    seed = secrets.randbits(32) if seed is None else seed
    tell = (lambda line: None) if is_quiet else (lambda line: click.echo(line, err=True))
    tell(_introduction(options["model"], seed))

    is_one = not is_long and bool("best_of" in how or save["save_voice"] or save["save_tokens"])
    if is_quiet:
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    bark = open_bark(text, settings, how=how, is_long=is_long or is_streamed, is_one=is_one, **options)
    if not (is_long or is_streamed or is_one or bark.processor.holds(text)):
        is_long = True
        tell("more sentences than this model speaks of one prompt: spoken as with --long")
    ask = dict(voice=options["voice"], seed=seed, **how, **settings)
    if is_streamed:
        _stream(bark.stream(text, **ask), bark.sample_rate)
        return
    speak = bark.generate_long if is_long else bark.generate
    started = time.perf_counter()
    with Progress(is_quiet=is_quiet) as progress:
        clip = speak(text, on_stage=progress, on_progress=progress.on_progress, **ask)
    took_s = time.perf_counter() - started
    with contextlib.ExitStack() as names:
        if output == DEFAULT_OUTPUT and not is_named:
            output = names.enter_context(free_name(output))
        _write(clip, output, **save)
    tell(_conclusion(clip, output, took_s))
    if as_json:
        click.echo(json.dumps(_description(clip, options, output), ensure_ascii=False))
    elif output not in (None, STANDARD_STREAM):
        click.echo(output)
    if player is not None:
        play(player, clip.samples, clip.sample_rate)


def open_bark(
    text: str,
    settings: dict[str, Any],
    *,
    how: dict[str, Any],
    is_long: bool = False,
    is_one: bool = False,
    model: str,
    revision: str | None,
    voice: str | None,
    tokenizer: str | None,
    lora: str | None,
    dtype: str | None,
    attn_implementation: str,
) -> "Bark":
    """Loads a model once text, voice and settings are known to be right for it, as loading can take minutes.

    A text of more sentences than the model speaks of one prompt is long, unless it has to be one clip (`is_one`).
    """
    if lora is not None:
        from bark_jax.checkpoints.lora import load_lora

        load_lora(lora)
    processor = _open_processor(model, revision, tokenizer)
    if is_long or not (is_one or processor.holds(check_text(text, "text"))):
        processor(_prompts(processor, text, how), voice_preset=voice, is_split=True)
    else:
        processor(text, voice_preset=voice)

    from bark_jax.bark import Bark
    from bark_jax.checkpoints.find import find_model
    from bark_jax.checkpoints.load import read_configs
    from bark_jax.generation.settings import resolve_settings
    from bark_jax.model import BarkModel

    folder = find_model(model, revision=revision)
    _, generation_config = read_configs(folder)
    resolve_settings(settings, 1, generation_config, processor.spaces)
    networks = BarkModel.from_pretrained(str(folder), dtype=dtype, attn_implementation=attn_implementation, lora=lora)
    return Bark(networks, processor)


def _open_processor(model: str, revision: str | None, tokenizer: str | None) -> "BarkProcessor":
    from bark_jax.text.processor import BarkProcessor

    try:
        return BarkProcessor.from_pretrained(model, revision=revision, tokenizer=tokenizer)
    except ModelNotFoundError:
        from bark_jax.checkpoints.find import find_model

        find_model(model, revision=revision)  # where the model is missing as well, that is what to tell
        raise


def _prompts(processor: "BarkProcessor", text: str, how: dict[str, Any]) -> list[str]:
    """What a long text is spoken as."""
    from bark_jax.text.sentences import check_lines

    ((_, text),) = check_lines(text, None)
    return processor.split(text, max_tokens=how.get("max_tokens"), language=how.get("language", "en"))


def _spoken_how(options: dict[str, Any], *, is_long: bool, is_streamed: bool) -> dict[str, Any]:
    """Takes out of `options` what is an argument of `generate`, `generate_long` or `stream`, as its name there."""
    how = {name: options.pop(name) for name in ("best_of", *LONG_SETTINGS)}
    how = {name: value for name, value in how.items() if value is not None}
    if is_long or is_streamed:
        idle = {"best_of"} | ({"voice_mode"} if is_streamed else set())
        remedy = "it is for one prompt; leave out --long and --stream" if "best_of" in how else "it is for --long alone"
    else:
        idle, remedy = set(LONG_SETTINGS), "it is for longer texts; add --long"
    if found := [name for name in how if name in idle]:
        option = "--" + found[0].removesuffix("_s").replace("_", "-")
        raise click.UsageError(f"{option} has no effect: {remedy}.")
    return how


@contextlib.contextmanager
def free_name(name: str) -> "Iterator[str]":
    """Gives `name`, or its first free successor (bark-2.wav, bark-3.wav, ...), for a file that the block writes.

    An empty file holds the name meanwhile, so that two programs at once take two; it goes where the block fails.

    Raises:
      OutputError: the folder takes no files.
    """
    with told_as_output_error(name):
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
    for number in itertools.count(1):
        found = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(found, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return found
    raise AssertionError("numbers do not end")


def _check_output(output: str | None, is_played: bool, as_json: bool) -> str | None:
    """The audio file to write, None for none. Refuses now what would fail after minutes of work."""
    from bark_jax.audio.formats import format_of

    if output is None:
        output = None if is_played else DEFAULT_OUTPUT
    if output == STANDARD_STREAM:
        if as_json:
            raise click.UsageError("-o - and --json both write to stdout; give -o a file.")
        if sys.stdout.isatty():
            raise click.UsageError("-o - writes binary audio to a terminal; redirect stdout, or give -o a file.")
    elif output is not None:
        format_of(output)
        check_place("output", output)
    return output


def _check_npz(option: str, path: str | None) -> str | None:
    if path is not None:
        if not path.endswith(".npz"):
            raise InputError(f"--{option.replace('_', '-')} is {quoted(path)}, expected a name that ends in .npz")
        check_place(option, path)
    return path


def _find_text(text: str | None, model: str, *, is_long: bool) -> str:
    """The text to speak: as given, else what stdin has, else a sentence that the model knows."""
    if text == STANDARD_STREAM:
        return read_stdin(is_long=is_long)
    if text is not None:
        return text
    is_piped = sys.stdin is not None and not sys.stdin.isatty()
    return (is_piped and read_stdin(is_long=is_long)) or (tiny.EXAMPLE if model == tiny.NAME else DEFAULT_TEXT)


def read_stdin(*, is_long: bool) -> str:
    """Returns the text on stdin, without the white space around it.

    Raises:
      InputError: it is not UTF-8, or longer than what one text may have.
    """
    from bark_jax.text import checks, sentences

    limit = sentences.MAX_CHARACTERS if is_long else checks.MAX_CHARACTERS
    if sys.stdin is None:
        raise InputError("stdin is closed, expected a text there")
    stream = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig")
    try:
        text = stream.read(limit + 1)  # of an endless stream no more
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not UTF-8 ({error.reason}); convert it, as with iconv") from error
    finally:
        stream.detach()
    if len(text) > limit:
        remedy = "split it into several files" if is_long else f"add --long, which takes {sentences.MAX_CHARACTERS:,}"
        raise InputError(f"the text on stdin has more than {limit:,} characters; {remedy}")
    return text.strip()


def _introduction(model: str, seed: int) -> str:
    line = f"model {model[:200]}, seed {seed}"
    if model == tiny.NAME:
        line += f"\n{tiny.NAME} is a small demonstration, which knows few words. Any text: -m suno/bark-small"
    return line


def _conclusion(clip: "Recording", output: str | None, took_s: float) -> str:
    place = {None: "", STANDARD_STREAM: "stdout: "}.get(output, f"{output}: ")
    return f"{place}{clip.duration_s:.2f} s of audio in {took_s:.1f} s"


def _stream(parts: "Iterator[SpokenPart]", sample_rate: int) -> None:
    """Writes each part as it comes."""
    from bark_jax.audio.files import as_pcm, open_wav

    sys.stdout.buffer.write(open_wav(sample_rate))
    for part in parts:
        sys.stdout.buffer.write(as_pcm(part.samples))
        sys.stdout.buffer.flush()


def _write(
    clip: "Clip | LongClip", output: str | None, *, save_voice: str | None, save_tokens: str | None, plot: str | None
) -> None:
    if output == STANDARD_STREAM:
        _write_stdout(clip)
    elif output is not None:
        clip.save(output)
    if save_voice is not None:
        clip.as_voice().save(save_voice)
    if save_tokens is not None:
        from bark_jax.voices.files import write_npz

        write_npz(save_tokens, {"semantic": clip.semantic, "coarse": clip.coarse, "fine": clip.fine})
    if plot is not None:
        clip.plot(plot)


def _write_stdout(clip: "Recording") -> None:
    from bark_jax.audio.files import write_stream

    stream = io.BytesIO()  # a WAV's header is written last, and a pipe cannot go back
    write_stream(stream, clip.samples, clip.sample_rate)
    sys.stdout.buffer.write(stream.getvalue())
    sys.stdout.buffer.flush()


def _description(clip: "Clip | LongClip", options: dict[str, Any], output: str | None) -> dict[str, Any]:
    shared = {
        "seed": clip.seed,
        "voice": options["voice"],
        "model": options["model"],
        "revision": options["revision"],
        "lora": options["lora"],
        "seconds": clip.duration_s,
        "sample_rate": clip.sample_rate,
        "output": output,
    }
    if hasattr(clip, "sentences"):
        sentences = [{"start_s": part.start_s, **_tokens(part.clip)} for part in clip.sentences]
        return shared | {"sentences": sentences}
    return shared | _tokens(clip) | {"stats": clip.stats}


def _tokens(clip: "Clip") -> dict[str, Any]:
    lengths = {"semantic": len(clip.semantic), "frames": clip.fine.shape[1], "samples": len(clip.samples)}
    return {"text": clip.text, "seed": clip.seed, "lengths": lengths}
