"""Options of `bark-jax say`, and the checks of text, voice and settings.

They come before the networks are loaded, which can take minutes.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from bark_jax.audio.formats import FORMATS
from bark_jax.cli.devices import choose_devices
from bark_jax.cli.models import open_processor
from bark_jax.cli.options import (
    attention_option,
    declared,
    devices_option,
    dtype_option,
    json_option,
    lora_option,
    model_option,
    revision_option,
    sampling_options,
    sampling_settings,
    tokenizer_option,
)
from bark_jax.cli.say_audio import DEFAULT_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    import jax

    from bark_jax.audio.clip import Clip, SpokenPart
    from bark_jax.bark import Bark
    from bark_jax.checkpoints.load import FoundModel
    from bark_jax.cli.progress import Progress
    from bark_jax.generation.settings import RowSettings
    from bark_jax.text.processor import BarkProcessor
    from bark_jax.text.prompts import Prompts, Script
    from bark_jax.text.sentences import LongClip


@dataclasses.dataclass(frozen=True)
class SayOptions:
    """Values of the command line's options: a field for each; None for an option that is not given."""

    text: str | None = declared(click.argument("text", default=None, required=False, metavar="[TEXT or -]"))
    model: str = declared(model_option)
    revision: str | None = declared(revision_option)
    voice: str | None = declared(click.option("--voice", help="Voice's name (see `bark-jax voices`) or .npz file."))
    seed: int | None = declared(
        click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="Random seed; printed if you leave it out.")
    )
    output: str | None = declared(
        click.option(
            "-o",
            "--output",
            help=f"Audio file ({', '.join(FORMATS)}), replaced if it exists; - is WAV on stdout.  "
            f"[default: {DEFAULT_OUTPUT}, or the first free name of bark-2.wav, bark-3.wav, ...]",
        )
    )
    is_played: bool = declared(
        click.option("--play", "is_played", is_flag=True, help="Play the audio; without -o no file is written.")
    )
    is_long: bool = declared(
        click.option(
            "--long",
            "is_long",
            is_flag=True,
            help="Speak text of any length, sentence by sentence, and join the audio.",
        )
    )
    is_streamed: bool = declared(
        click.option(
            "--stream",
            "is_streamed",
            is_flag=True,
            help="Write WAV to stdout while it is generated; needs -o -. The text may have any length.",
        )
    )
    best_of: int | None = declared(
        click.option("--best-of", type=click.IntRange(1), help="Generate N candidates and keep the most likely one.")
    )
    silence_s: float | None = declared(
        click.option(
            "--silence",
            "silence_s",
            type=float,
            help="Seconds of silence between sentences; needs --long or --stream.  [default: 0.25]",
        )
    )
    max_tokens: int | None = declared(
        click.option(
            "--max-tokens",
            type=click.IntRange(1),
            help="Maximum number of text tokens of a sentence; needs --long or --stream.",
        )
    )
    language: str | None = declared(
        click.option(
            "--language",
            help='Language whose abbreviations do not end sentences, such as "de"; needs --long or --stream.  '
            "[default: that of the voice's name, else en]",
        )
    )
    voice_mode: str | None = declared(
        click.option(
            "--voice-mode",
            type=click.Choice(["fixed", "carry"]),
            help="Speak every sentence in the voice itself (fixed) or carry on from the sentence before (carry); needs "
            "--long.  [default: fixed]",
        )
    )
    settings: Mapping[str, Any] = declared(sampling_options)
    dtype: str | None = declared(dtype_option)
    attn_implementation: str = declared(attention_option)
    devices: str | None = declared(devices_option)
    lora: str | None = declared(lora_option)
    tokenizer: str | None = declared(tokenizer_option)
    plot: str | None = declared(
        click.option("--plot", metavar="FILE", help="Plot waveform and mel spectrogram into a .png, .svg or .pdf file.")
    )
    save_voice: str | None = declared(
        click.option("--save-voice", metavar="NPZ", help="Save the clip as a voice, to use with --voice.")
    )
    save_tokens: str | None = declared(
        click.option("--save-tokens", metavar="NPZ", help="Save the tokens of all stages: semantic, coarse, fine.")
    )
    as_json: bool = declared(json_option)
    is_quiet: bool = declared(
        click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Print nothing on stderr but errors.")
    )

    @classmethod
    def of(cls, options: dict[str, Any]) -> "SayOptions":
        """Takes click's options by name. Raises click.UsageError if the settings contradict each other."""
        settings = sampling_settings(options)
        return cls(settings=settings, **options)

    @property
    def is_of_any_length(self) -> bool:
        """Whether the text may be longer than one prompt."""
        return self.is_long or self.is_streamed

    @property
    def is_one_clip(self) -> bool:
        """Whether the text has to be one prompt, however many sentences it has: candidates and voices are one clip."""
        return bool(self.best_of or self.save_voice or self.save_tokens) and not self.is_long

    def given(self, *names: str) -> dict[str, Any]:
        """Returns those of the named options that are given, by name."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclasses.dataclass(frozen=True)
class Speech:
    """A checked text and the model that is to speak it, whose networks are not loaded yet."""

    options: SayOptions
    is_long: bool  # each sentence is a prompt
    prompts: "Prompts"
    settings: "list[RowSettings]"  # one for each prompt
    processor: "BarkProcessor"
    model: "FoundModel"
    devices: "list[jax.Device] | None"

    def load(self) -> "Bark":
        """Loads the model's networks."""
        from bark_jax.bark import Bark
        from bark_jax.model import BarkModel

        options = self.options
        model = BarkModel.from_found(
            self.model, dtype=options.dtype, attn_implementation=options.attn_implementation, lora=options.lora
        )
        return Bark(model, self.processor)

    def speak(self, bark: "Bark", seed: int, progress: "Progress") -> "Clip | LongClip":
        """Speaks the text as `Bark.generate` does, or as `generate_long` does if `is_long`."""
        script, how = self._script(seed), {"on_stage": progress, "on_progress": progress.on_progress}
        how["devices"] = self.devices
        if self.is_long:
            return bark.speak_long(script, seed, **self.options.given("silence_s", "voice_mode"), **how)
        ((clip,),) = bark.speak(script, **self.options.given("best_of"), **how)
        return clip

    def stream(self, bark: "Bark", seed: int) -> "Iterator[SpokenPart]":
        """Speaks the text as `Bark.stream` does, part by part."""
        return bark.stream_script(self._script(seed), **self.options.given("silence_s"))

    def _script(self, seed: int) -> "Script":
        from bark_jax.generation.seeds import SENTENCE, derive_keys, row_keys

        keys = row_keys(seed, None, 1)
        if self.is_long:
            keys = derive_keys(keys[0], SENTENCE, len(self.prompts.texts))
        return self.prompts.script(keys, self.settings, self.processor.spaces)


def prepare(text: str, options: SayOptions) -> Speech:
    """Reads and checks all but the networks. A text of more sentences than one prompt holds is spoken as with --long.

    Raises:
      BarkError: a fault of the text, voice, settings or LoRA, of the model's small files or of its name.
    """
    from bark_jax.audio.clip import check_silence
    from bark_jax.checkpoints.find import find_model
    from bark_jax.checkpoints.load import FoundModel
    from bark_jax.generation.settings import resolve_settings

    if options.silence_s is not None:
        check_silence(options.silence_s)
    devices = choose_devices(options.devices)
    if options.lora is not None:
        from bark_jax.checkpoints.lora import load_lora

        load_lora(options.lora)
    processor = open_processor(options.model, options.revision, options.tokenizer)
    is_long = options.is_of_any_length or not (options.is_one_clip or processor.is_within_sentence_limit(text))
    if is_long:
        prompts = processor.sentences(text, options.voice, max_tokens=options.max_tokens, language=options.language)
    else:
        prompts = processor.prompts(text, options.voice, is_split=not options.is_one_clip)
    # Last, as the model may have to be downloaded and converted: a fault of the text is reported before that.
    model = FoundModel.read(find_model(options.model, revision=options.revision))
    resolved = resolve_settings(options.settings, len(prompts.texts), model.generation_config, processor.spaces)
    return Speech(options, is_long, prompts, resolved, processor, model, devices)
