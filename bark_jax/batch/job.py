"""What a batch's rows are spoken with: a model and the settings of rows that have none of their own."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bark_jax.audio.clip import check_silence
from bark_jax.batch.runner import Output, run_batch
from bark_jax.batch.speech import Speaker
from bark_jax.batch.tally import Summary
from bark_jax.errors import InputError, quoted
from bark_jax.files import sha256_of
from bark_jax.generation.settings import check_count

if TYPE_CHECKING:
    import jax

    from bark_jax.text.processor import BarkProcessor


@dataclasses.dataclass(frozen=True)
class Job:
    """A model, by name and not yet loaded, and how it is used. Two jobs of equal `made_with` speak a row alike.

    Attributes:
      model, revision, lora, tokenizer, dtype, attn_implementation: as for `Bark.from_pretrained`.
      voice: of rows that have none: a name, the path of a .npz file, or None.
      settings: of `generate`, for rows that do not say otherwise.
      silence_s: seconds between the sentences of a text.
      max_tokens: most text tokens of a sentence; None for the model's own.
      n_slots: sentences that are spoken at once; None for the engine's own.
      n_devices: chips of this machine that share them; None for all.
    """

    model: str
    revision: str | None = None
    lora: str | None = None
    tokenizer: str | None = None
    dtype: str | None = None
    attn_implementation: str = "auto"
    voice: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    silence_s: float = 0.25
    max_tokens: int | None = None
    n_slots: int | None = None
    n_devices: int | None = None

    def __post_init__(self):
        check_silence(self.silence_s)
        for name in ("max_tokens", "n_slots", "n_devices"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))

    def made_with(self) -> dict[str, Any]:
        """What decides how the rows sound, as JSON; files by their contents. Loads no network.

        Raises:
          ModelNotFoundError, CheckpointError, ConfigError: no such model.
          VoiceError, VoiceNotFoundError, InputError: a voice or settings that the model does not have.
        """
        from bark_jax.checkpoints.find import find_model

        folder = find_model(self.model, revision=self.revision)
        self._check(folder)
        return {
            "model": {"name": self.model, "sha256": _model_digest(folder)},
            "lora": _named_file(self.lora),
            "tokenizer": _named_file(self.tokenizer),
            "dtype": self.dtype,
            "voice": _named_file(self.voice) if self.voice and self.voice.endswith(".npz") else self.voice,
            "settings": dict(self.settings),
            "silence_s": self.silence_s,
            "max_tokens": self.max_tokens,
        }

    def open_speaker(self) -> Speaker:
        """Loads the model onto this machine's devices."""
        from bark_jax.bark import Bark
        from bark_jax.checkpoints.find import find_model
        from bark_jax.checkpoints.load import FoundModel
        from bark_jax.generation.engine import Engine
        from bark_jax.model import BarkModel

        found = FoundModel.read(find_model(self.model, revision=self.revision))
        networks = BarkModel.from_found(
            found, dtype=self.dtype, attn_implementation=self.attn_implementation, lora=self.lora
        )
        slots = {} if self.n_slots is None else {"n_slots": self.n_slots}
        return Speaker(
            Bark(networks, self._open_processor()),
            Engine(networks, devices=choose_devices(self.n_devices), **slots),
            voice=self.voice,
            settings=self.settings,
            silence_s=self.silence_s,
            max_tokens=self.max_tokens,
        )

    def _open_processor(self) -> "BarkProcessor":
        from bark_jax.text.processor import BarkProcessor

        return BarkProcessor.from_pretrained(self.model, revision=self.revision, tokenizer=self.tokenizer)

    def _check(self, folder: Path) -> None:
        """Refuses now what would make every row an error."""
        from bark_jax.checkpoints.load import read_configs
        from bark_jax.generation.settings import resolve_settings
        from bark_jax.voices.library import resolve_voice

        processor = self._open_processor()
        resolve_voice(self.voice, processor.library, processor.spaces)
        if self.max_tokens is not None and self.max_tokens > processor.spaces.n_text:
            raise InputError(f"max_tokens is {self.max_tokens}, expected at most {processor.spaces.n_text}")
        _, generation_config = read_configs(folder)
        resolve_settings(self.settings, 1, generation_config, processor.spaces)


def run_job(source: str, out: str | Path, job: Job, output: Output | None = None, **options: Any) -> Summary:
    """Speaks the rows of `source` into the folder `out` on this machine; arguments and errors are `run_batch`'s."""
    return run_batch(
        source,
        out,
        lambda interrupts: job.open_speaker(),
        model=job.model,
        made_with=job.made_with,
        output=output,
        **options,
    )


def choose_devices(count: int | None) -> "list[jax.Device]":
    """So many of this machine's devices, or all of them. Raises InputError where there are fewer."""
    import jax

    devices = jax.local_devices()
    if count is not None and count > len(devices):
        raise InputError(f"--devices is {count}, and this machine has {len(devices)}: {quoted(str(devices), 200)}")
    return devices[:count]


def _model_digest(folder: Path) -> str:
    """SHA-256 of a model folder's weights, by its manifest, and of its configs and tokenizer."""
    from bark_jax.checkpoints.lora import base_of
    from bark_jax.config import CONFIG_FILE, GENERATION_CONFIG_FILE
    from bark_jax.text.tokenizer import TOKENIZER_FILE

    total = hashlib.sha256(repr(sorted(base_of(folder).sha256.items())).encode())
    for name in (CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_FILE):
        if (folder / name).is_file():
            total.update(bytes.fromhex(sha256_of(folder / name)))
    return total.hexdigest()


def _named_file(path: str | None) -> dict[str, str] | str | None:
    """A file's name and what is in it; a name alone where it is no file."""
    if path is None or not os.path.isfile(path):
        return path
    return {"name": path, "sha256": sha256_of(path)}
