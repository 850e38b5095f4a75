"""Text in, clips out: the networks, the tokenizer and the voices as one."""

import dataclasses
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any, Self

import jax
import numpy as np

from bark_jax.audio import write_audio
from bark_jax.model import BarkModel, OnStage, Row, Utterance, row_keys
from bark_jax.processor import BarkProcessor
from bark_jax.settings import resolve_settings
from bark_jax.tokens import text_tokens
from bark_jax.voices import Voice


@dataclasses.dataclass(frozen=True)
class Clip:
    """One utterance: its audio, and the tokens of every stage."""

    samples: np.ndarray  # float32 [A] audio samples in about -1..1
    sample_rate: int  # audio samples a second
    text: str
    semantic: np.ndarray  # int32 [S] semantic tokens
    coarse: np.ndarray  # int32 [n_coarse, T] codes
    fine: np.ndarray  # int32 [n_fine, T] codes
    semantic_logprob: np.ndarray  # float32 [S], of each token among the legal ones at temperature 1
    coarse_logprob: np.ndarray  # float32 [n_coarse, T], of each code within its codebook at temperature 1
    seed: int | None  # what the row's draws came from; None where a key was given
    stats: dict[str, float]  # seconds each stage took, for the whole batch of the clip

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate

    def save(self, path: str | os.PathLike) -> None:
        """Writes an audio file; its ending says which kind: wav, flac, ogg, opus or mp3."""
        write_audio(path, self.samples, self.sample_rate)

    def as_voice(self) -> Voice:
        """The clip as a voice: what is generated with it sounds like it."""
        return Voice(semantic=self.semantic, coarse=self.coarse, fine=self.fine)


class Bark:
    """Text to audio.

    bark = Bark.from_pretrained("suno/bark-small")
    bark.generate("Hello, my dog is cute [laughs]", voice="v2/en_speaker_6", seed=0).save("hello.wav")
    """

    def __init__(self, model: BarkModel, processor: BarkProcessor):
        self.model = model
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str,
        *,
        dtype: Any = None,
        attn_implementation: str = "auto",
        revision: str | None = None,
        tokenizer: Any = None,
    ) -> Self:
        """Loads networks, tokenizer and voices; arguments and errors as for `BarkModel.from_pretrained`.

        Args:
          tokenizer: a tokenizer file, folder or `tokenizers.Tokenizer`, for checkpoints that bring none.
        """
        model = BarkModel.from_pretrained(
            name_or_folder, dtype=dtype, attn_implementation=attn_implementation, revision=revision
        )
        processor = BarkProcessor.from_pretrained(
            name_or_folder, revision=revision, tokenizer=tokenizer, spaces=model.spaces
        )
        return cls(model, processor)

    @property
    def sample_rate(self) -> int:
        """Audio samples a second."""
        return self.model.sample_rate

    def generate(
        self,
        text: str | Sequence[str],
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        on_stage: OnStage | None = None,
        **settings: Any,
    ) -> Clip | list[Clip]:
        """Speaks one text, or several as one batch.

        Args:
          text: a text, or a list of them; each fits one prompt (256 tokens in Bark) and becomes up to about 15 s.
          voice: a preset's name, a .npz file, a Voice or None; one for all texts or a list of one a text.
          seed: an int for all texts or one a text; a clip depends on its own seed alone. None draws one a text.
          key: instead of seed, one JAX key, or an array of one a text.
          on_stage: called with "semantic", "coarse", "fine" and "codec" as each starts.
          settings: see `settings.resolve_settings`, such as temperature=0.6 or semantic_max_seconds=5.

        Returns:
          One Clip for one text, a list for a list.

        Raises:
          InputError, VoiceError, VoiceNotFoundError: before any network runs.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if seed is None and key is None:
            seed = [secrets.randbits(32) for _ in texts]
        rows = self._rows(text, voice, row_keys(seed, key, len(texts)), settings)
        timer = StageTimer(on_stage)
        utterances = self.model.generate_rows(rows, on_stage=timer)
        timer.stop()
        seeds = [None] * len(texts) if seed is None else np.broadcast_to(seed, len(texts)).tolist()
        clips = [self._clip(*each, timer.seconds) for each in zip(texts, utterances, seeds, strict=True)]
        return clips[0] if isinstance(text, str) else clips

    def voices(self, language: str | None = None) -> list[str]:
        """Names of the voices that this model knows, of one language ("de") or of all."""
        return self.processor.voices(language)

    def _rows(
        self, text: str | Sequence[str], voice: Any, keys: list[np.ndarray], settings: dict[str, Any]
    ) -> list[Row]:
        spaces = self.model.spaces
        inputs = self.processor(text if isinstance(text, str) else list(text), voice_preset=voice)
        tokens = [
            text_tokens(ids_T, mask_T, spaces)
            for ids_T, mask_T in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        voices = inputs.get("history_prompt")
        if not isinstance(voices, list):
            voices = [voices] * len(keys)
        resolved = resolve_settings(settings, len(keys), self.model.generation_config, spaces)
        return [Row(*row) for row in zip(tokens, voices, keys, resolved, strict=True)]

    def _clip(self, text: str, utterance: Utterance, seed: int | None, stats: dict[str, float]) -> Clip:
        return Clip(
            samples=utterance.samples,
            sample_rate=self.sample_rate,
            text=text,
            semantic=utterance.semantic,
            coarse=utterance.coarse,
            fine=utterance.fine,
            semantic_logprob=utterance.semantic_logprob,
            coarse_logprob=utterance.coarse_logprob,
            seed=seed,
            stats=dict(stats),
        )


class StageTimer:
    """An `on_stage` that notes how long each stage takes and passes the call on."""

    def __init__(self, on_stage: OnStage | None):
        self.seconds: dict[str, float] = {}
        self._on_stage = on_stage
        self._stage: str | None = None
        self._started = 0.0

    def __call__(self, stage: str) -> None:
        self.stop()
        self._stage, self._started = stage, time.perf_counter()
        if self._on_stage is not None:
            self._on_stage(stage)

    def stop(self) -> None:
        if self._stage is not None:
            self.seconds[self._stage] = time.perf_counter() - self._started
        self._stage = None
