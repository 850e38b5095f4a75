"""Model of a batch and the default settings of its rows, by name: a description that is cheap to pickle."""

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
    """A model by name, not loaded yet, and the settings of a batch. Jobs of equal `made_with` speak a row alike.

    Attributes:
      model, revision, lora, tokenizer, dtype, attn_implementation: as for `Bark.from_pretrained`. A path is kept as
        text.
      voice: of rows that name none: a preset's name, the path of a .npz file, or None.
      settings: default settings of `generate`; a row's own settings win.
      silence_s: seconds of silence between the sentences of a text.
      max_tokens: maximum number of text tokens of a sentence; None for the model's default.
      n_slots: number of sentences generated at once; None for the engine's default.
      n_devices: number of this machine's devices that share the slots; None for all.

    Raises:
      InputError: a silence or a count out of range.
    """

    model: str | os.PathLike[str]
    revision: str | None = None
    lora: str | os.PathLike[str] | None = None
    tokenizer: str | os.PathLike[str] | None = None
    dtype: str | None = None
    attn_implementation: str = "auto"
    voice: str | os.PathLike[str] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    silence_s: float = 0.25
    max_tokens: int | None = None
    n_slots: int | None = None
    n_devices: int | None = None

    def __post_init__(self):
        # As text, since run.json and the manifest hold them.
        for name in ("model", "lora", "tokenizer", "voice"):
            if isinstance(path := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(path))
        check_silence(self.silence_s)
        for name in ("max_tokens", "n_slots", "n_devices"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))

    def made_with(self) -> dict[str, Any]:
        """Returns what decides how the rows sound, as JSON for run.json; files are named with their SHA-256.

        Checks the voice and the settings on the way, so that no batch starts whose rows would all fail. May download
        the model, but loads no network.

        Raises:
          ModelNotFoundError, CheckpointError, ConfigError: the model is missing or damaged.
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
            "voice": _named_file(self.voice) if self.voice and str(self.voice).endswith(".npz") else self.voice,
            "settings": dict(self.settings),
            "silence_s": self.silence_s,
            "max_tokens": self.max_tokens,
        }

    def open_speaker(self, *, is_live: bool = False) -> Speaker:
        """Loads the model onto this machine's devices.

        Args:
          is_live: True gives it a `LiveEngine`, for callers who come and go, in place of an `Engine`.

        Raises:
          InputError: there are fewer devices than `n_devices`.
        """
        from bark_jax.bark import Bark
        from bark_jax.checkpoints.find import find_model
        from bark_jax.checkpoints.load import FoundModel
        from bark_jax.generation import engine
        from bark_jax.model import BarkModel

        engine_class = engine.Engine
        if is_live:
            from bark_jax.generation.live import LiveEngine

            engine_class = LiveEngine
        found = FoundModel.read(find_model(self.model, revision=self.revision))
        networks = BarkModel.from_found(
            found, dtype=self.dtype, attn_implementation=self.attn_implementation, lora=self.lora
        )
        slots = {} if self.n_slots is None else {"n_slots": self.n_slots}
        return Speaker(
            Bark(networks, self._open_processor()),
            engine_class(networks, devices=choose_devices(self.n_devices), **slots),
            voice=self.voice,
            settings=self.settings,
            silence_s=self.silence_s,
            max_tokens=self.max_tokens,
        )

    def _open_processor(self) -> "BarkProcessor":
        from bark_jax.text.processor import BarkProcessor

        return BarkProcessor.from_pretrained(self.model, revision=self.revision, tokenizer=self.tokenizer)

    def _check(self, folder: Path) -> None:
        """Raises the error now that every row would have: of the voice, `max_tokens` or the settings."""
        from bark_jax.checkpoints.load import read_configs
        from bark_jax.generation.settings import resolve_settings
        from bark_jax.voices.library import resolve_voice

        processor = self._open_processor()
        resolve_voice(self.voice, processor.library, processor.spaces)
        if self.max_tokens is not None and self.max_tokens > processor.spaces.n_text:
            raise InputError(f"max_tokens is {self.max_tokens}, expected at most {processor.spaces.n_text}")
        _, generation_config = read_configs(folder)
        resolve_settings(self.settings, 1, generation_config, processor.spaces)


def run_job(
    source: str | os.PathLike[str], out: str | Path, job: Job, output: Output | None = None, **options: Any
) -> Summary:
    """Speaks the rows of `source` into the folder `out` on this machine; resumable. See `run_batch` for arguments.

    Raises:
      BarkError: as `run_batch`.
    """
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
    """Returns the first `count` of this machine's devices, or all for None. Raises InputError if there are fewer."""
    import jax

    # Not jax.devices: where JAX runs on several machines, that lists the devices of all.
    devices = jax.local_devices()
    if count is not None and count > len(devices):
        raise InputError(f"--devices is {count}, and this machine has {len(devices)}: {quoted(str(devices), 200)}")
    return devices[:count]


def _model_digest(folder: Path) -> str:
    """Returns the SHA-256 of a model: its weights, by the digests in the folder's manifest, configs and tokenizer."""
    from bark_jax.checkpoints.lora import base_of
    from bark_jax.config import CONFIG_FILE, GENERATION_CONFIG_FILE
    from bark_jax.text.tokenizer import TOKENIZER_FILE

    total = hashlib.sha256(repr(sorted(base_of(folder).sha256.items())).encode())
    for name in (CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_FILE):
        if (folder / name).is_file():
            total.update(bytes.fromhex(sha256_of(folder / name)))
    return total.hexdigest()


def _named_file(path: str | None) -> dict[str, str] | str | None:
    """Returns a file's name and SHA-256; the name alone if there is no such file, as for a voice's name."""
    if path is None or not os.path.isfile(path):
        return path
    return {"name": path, "sha256": sha256_of(path)}
