"""What `bark-jax say` speaks: all of it is read and checked before networks are loaded, which can take minutes."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bark_jax.cli.models import open_processor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bark_jax.audio.clip import Clip, SpokenPart
    from bark_jax.bark import Bark
    from bark_jax.checkpoints.load import FoundModel
    from bark_jax.cli.progress import Progress
    from bark_jax.generation.settings import RowSettings
    from bark_jax.text.processor import BarkProcessor
    from bark_jax.text.prompts import Prompts, Script
    from bark_jax.text.sentences import LongClip


@dataclasses.dataclass(frozen=True)
class Ask:
    """What the command line asks for, by the names of its options; None for what is not given."""

    text: str | None
    model: str
    revision: str | None
    voice: str | None
    seed: int | None
    output: str | None
    is_played: bool
    is_long: bool
    is_streamed: bool
    best_of: int | None
    silence_s: float | None
    max_tokens: int | None
    language: str | None
    voice_mode: str | None
    dtype: str | None
    attn_implementation: str
    lora: str | None
    tokenizer: str | None
    plot: str | None
    save_voice: str | None
    save_tokens: str | None
    as_json: bool
    is_quiet: bool

    @property
    def is_of_any_length(self) -> bool:
        return self.is_long or self.is_streamed

    @property
    def is_one_clip(self) -> bool:
        """Whether the text has to be one prompt, however many sentences it has."""
        return bool(self.best_of or self.save_voice or self.save_tokens) and not self.is_long

    def given(self, *names: str) -> dict[str, Any]:
        """Those of the options that are given."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclasses.dataclass(frozen=True)
class Speech:
    """A text that was checked, and the model that is to speak it, whose networks have yet to be loaded."""

    ask: Ask
    is_long: bool  # sentence by sentence
    prompts: "Prompts"
    settings: "list[RowSettings]"  # of each prompt
    processor: "BarkProcessor"
    model: "FoundModel"

    def load(self) -> "Bark":
        """The model with its networks."""
        from bark_jax.bark import Bark
        from bark_jax.model import BarkModel

        how = {"dtype": self.ask.dtype, "attn_implementation": self.ask.attn_implementation, "lora": self.ask.lora}
        return Bark(BarkModel.from_found(self.model, **how), self.processor)

    def speak(self, bark: "Bark", seed: int, progress: "Progress") -> "Clip | LongClip":
        """The clip that `Bark.generate`, or `generate_long`, makes of the text."""
        script, told = self._script(seed), {"on_stage": progress, "on_progress": progress.on_progress}
        if self.is_long:
            return bark.speak_long(script, seed, **self.ask.given("silence_s", "voice_mode"), **told)
        ((clip,),) = bark.speak(script, **self.ask.given("best_of"), **told)
        return clip

    def stream(self, bark: "Bark", seed: int) -> "Iterator[SpokenPart]":
        """The parts that `Bark.stream` makes of the text."""
        return bark.stream_script(self._script(seed), **self.ask.given("silence_s"))

    def _script(self, seed: int) -> "Script":
        from bark_jax.generation.seeds import SENTENCE, derive_keys, row_keys

        keys = row_keys(seed, None, 1)
        if self.is_long:
            keys = derive_keys(keys[0], SENTENCE, len(self.prompts.texts))
        return self.prompts.script(keys, self.settings, self.processor.spaces)


def prepare(text: str, ask: Ask, settings: Mapping[str, Any]) -> Speech:
    """Reads and checks all but the networks. A text of more sentences than the model speaks of one prompt is long.

    Args:
      settings: of `generate`.

    Raises:
      BarkError: of the text, the voice, the settings, the model's small files or its name.
    """
    from bark_jax.audio.clip import check_silence
    from bark_jax.checkpoints.find import find_model
    from bark_jax.checkpoints.load import FoundModel
    from bark_jax.generation.settings import resolve_settings

    if ask.silence_s is not None:
        check_silence(ask.silence_s)
    if ask.lora is not None:
        from bark_jax.checkpoints.lora import load_lora

        load_lora(ask.lora)
    processor = open_processor(ask.model, ask.revision, ask.tokenizer)
    is_long = ask.is_of_any_length or not (ask.is_one_clip or processor.holds(text))
    if is_long:
        prompts = processor.sentences(text, ask.voice, max_tokens=ask.max_tokens, language=ask.language)
    else:
        prompts = processor.prompts(text, ask.voice, is_split=not ask.is_one_clip)
    # Found after the text is checked, as a model may have to be downloaded and converted.
    model = FoundModel.read(find_model(ask.model, revision=ask.revision))
    resolved = resolve_settings(settings, len(prompts.texts), model.generation_config, processor.spaces)
    return Speech(ask, is_long, prompts, resolved, processor, model)
