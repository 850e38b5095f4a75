"""`bark-jax say`: one text, one audio file."""

import io
import json
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from bark_jax import tiny
from bark_jax.cli.compiled import keep_compiled_programs
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
from bark_jax.errors import InputError, ModelNotFoundError
from bark_jax.hub import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bark_jax.clip import Clip, Recording, SpokenPart
    from bark_jax.long_text import LongClip
    from bark_jax.pipeline import Bark
    from bark_jax.processor import BarkProcessor

DEFAULT_TEXT = "Hello! My name is Bark, and I can speak, laugh and sing."
DEFAULT_OUTPUT = "bark.wav"
STANDARD_STREAM = "-"
# Far more than any prompt holds; the rest of an endless stream is not read.
MAX_STDIN_BYTES = 2**20

EXAMPLES = """\b
Examples:
  bark-jax say "Hello, my dog is cute [laughs]" --voice v2/en_speaker_6 -o hello.wav
  bark-jax say "Thank you very much, my good friend." -m tiny --voice rms -o thanks.wav
  echo "Guten Tag." | bark-jax say - --voice v2/de_speaker_3 --seed 7 -o tag.flac --json
  bark-jax say - --long --voice v2/en_speaker_6 -o chapter.mp3 < chapter.txt
  bark-jax say - --stream -o - < chapter.txt | ffplay -
"""


@click.command("say", cls=Verb, epilog=EXAMPLES, short_help="Text to one audio file.")
@click.argument("text", default=None, required=False, metavar="[TEXT or -]")
@model_option
@revision_option
@click.option("--voice", help="A voice's name (see `bark-jax voices`) or .npz file.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Of all draws; told when it is not given.")
@click.option(
    "-o",
    "--output",
    help=f"Audio file (.wav, .flac, .ogg, .opus, .mp3); - is WAV on stdout.  [default: {DEFAULT_OUTPUT}]",
)
@click.option("--play", "is_played", is_flag=True, help="Play the audio; without -o no file is written.")
@click.option("--long", "is_long", is_flag=True, help="Text of any length: spoken sentence by sentence and joined.")
@click.option("--stream", "is_streamed", is_flag=True, help="WAV on stdout (-o -) while it is made; any length.")
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
    """Speak TEXT, or what comes on stdin where TEXT is -, into an audio file; print the file's name.

    Settings that are not given come from the model's generation_config.json.
    """
    settings = sampling_settings(options)
    output = _check_output(options.pop("output"), is_played, as_json)
    save = {name: _check_npz(name, options.pop(name)) for name in ("save_voice", "save_tokens")}
    save["plot"] = check_plot(options.pop("plot"))
    if (is_long or is_streamed) and (save["save_voice"] or save["save_tokens"]):
        raise click.UsageError("--save-voice and --save-tokens take one clip; leave out --long and --stream.")
    if is_streamed and (output != STANDARD_STREAM or is_played or save["plot"]):
        raise click.UsageError("--stream writes to stdout alone: give -o -, and neither --play nor --plot.")
    player = find_player() if is_played else None
    if text is None:
        text = tiny.EXAMPLE if options["model"] == tiny.NAME else DEFAULT_TEXT
    text = _read_stdin() if text == STANDARD_STREAM else text
    seed = options.pop("seed")
    seed = secrets.randbits(32) if seed is None else seed
    tell = (lambda line: None) if is_quiet else (lambda line: click.echo(line, err=True))
    tell(_introduction(options["model"], seed))

    bark = open_bark(text, settings, is_long=is_long or is_streamed, **options)
    ask = dict(voice=options["voice"], seed=seed, **settings)
    if is_streamed:
        _stream(bark.stream(text, **ask), bark.sample_rate)
        return
    speak = bark.generate_long if is_long else bark.generate
    started = time.perf_counter()
    with Progress(is_quiet=is_quiet) as progress:
        clip = speak(text, on_stage=progress, **ask)
    took_s = time.perf_counter() - started
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
    is_long: bool = False,
    model: str,
    revision: str | None,
    voice: str | None,
    tokenizer: str | None,
    lora: str | None,
    dtype: str | None,
    attn_implementation: str,
) -> "Bark":
    """Loads a model once text, voice and settings are known to be right for it, as loading can take minutes."""
    if lora is not None:
        from bark_jax.lora import load_lora

        load_lora(lora)
    processor = _open_processor(model, revision, tokenizer)
    # A long text is cut once the model is there; its first words stand in for it here.
    processor(text[:40] if is_long else text, voice_preset=voice)

    from bark_jax.model import BarkModel
    from bark_jax.pipeline import Bark
    from bark_jax.pretrained import find_model, read_configs
    from bark_jax.settings import resolve_settings

    folder = find_model(model, revision=revision)
    _, generation_config = read_configs(folder)
    resolve_settings(settings, 1, generation_config, processor.spaces)
    keep_compiled_programs()
    networks = BarkModel.from_pretrained(str(folder), dtype=dtype, attn_implementation=attn_implementation, lora=lora)
    return Bark(networks, processor)


def _open_processor(model: str, revision: str | None, tokenizer: str | None) -> "BarkProcessor":
    from bark_jax.processor import BarkProcessor

    try:
        return BarkProcessor.from_pretrained(model, revision=revision, tokenizer=tokenizer)
    except ModelNotFoundError:
        from bark_jax.pretrained import find_model

        find_model(model, revision=revision)  # where the model is missing as well, that is what to tell
        raise


def _check_output(output: str | None, is_played: bool, as_json: bool) -> str | None:
    """The audio file to write, None for none. Refuses now what would fail after minutes of work."""
    from bark_jax.audio import check_format

    if output is None:
        output = None if is_played else DEFAULT_OUTPUT
    if output == STANDARD_STREAM:
        if as_json:
            raise click.UsageError("-o - and --json both write to stdout; give -o a file.")
        if sys.stdout.isatty():
            raise click.UsageError("-o - writes binary audio to a terminal; redirect stdout, or give -o a file.")
    elif output is not None:
        check_format(output)
        check_place("output", output)
    return output


def _check_npz(option: str, path: str | None) -> str | None:
    if path is not None:
        if not path.endswith(".npz"):
            raise InputError(f"--{option.replace('_', '-')} is {shown(path)}, expected a name that ends in .npz")
        check_place(option, path)
    return path


def _read_stdin() -> str:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES)
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not UTF-8: {error}") from error


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
    from bark_jax.audio import as_pcm, open_wav

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
        from bark_jax.voice_files import write_npz

        write_npz(save_tokens, {"semantic": clip.semantic, "coarse": clip.coarse, "fine": clip.fine})
    if plot is not None:
        clip.plot(plot)


def _write_stdout(clip: "Recording") -> None:
    from bark_jax.audio import write_stream

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
