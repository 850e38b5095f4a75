"""Contenders: this project and transformers' Bark, with the same stages, inputs of the same sizes, on one device.

    semantic(n)   reads a prompt of 257 positions and draws n tokens a row
    coarse(n)     draws n windows of 60 tokens a row with a voice, each after a prompt of 887 positions
    fine()        predicts the fine codes of 750 frames, 10 s
    codec()       decodes 750 frames to audio
    clip()        all stages for 10 s without a voice: 499 semantic tokens, 1,500 coarse tokens

Every call blocks until its result is ready. All sample at temperature 0.7 from all tokens (no top-k or top-p); the
semantic stage may not stop early.
"""

import functools
from typing import Any, Protocol

import jax
import numpy as np

from bark_jax.generation.codec import decode_codes
from bark_jax.generation.rows import Row
from bark_jax.generation.runner import run_coarse, run_fine, run_semantic
from bark_jax.generation.sampling import key_data
from bark_jax.generation.settings import resolve_settings
from bark_jax.generation.tokens import text_tokens
from bark_jax.model import BarkModel
from bark_jax.voices.voice import Voice

SEMANTIC_TOKENS = 499
FRAMES = 750
TOKENS_PER_WINDOW = 20  # semantic tokens that give one coarse window of 60 coarse tokens, 30 frames
TEMPERATURE = 0.7
VOICE_TOKENS, VOICE_FRAMES = 299, 450  # of a voice of 6 s: longer than the history that the coarse stage reads


class Contender(Protocol):
    """Interface of a contender; one that lacks a stage is left out of its measurement."""

    name: str

    def semantic(self, n_tokens: int) -> None:
        """Reads the prompt and draws n_tokens a row."""

    def coarse(self, n_windows: int) -> None:
        """Draws n_windows windows a row, with a voice."""

    def fine(self) -> None:
        """Predicts the fine codes of FRAMES frames."""

    def codec(self) -> None:
        """Decodes FRAMES frames."""

    def clip(self) -> None:
        """Runs all stages for 10 s of audio."""


class BarkJax:
    """This project."""

    name = "bark_jax"

    def __init__(self, model: BarkModel, n_rows: int):
        self._model, self._n_rows = model, n_rows
        rng = np.random.default_rng(0)
        self._texts = rng.integers(0, 100_000, (n_rows, 32))
        self._semantic = rng.integers(0, 10_000, (n_rows, SEMANTIC_TOKENS), dtype=np.int32)
        self._codes = rng.integers(0, 1024, (n_rows, 8, FRAMES), dtype=np.int32)
        fine = rng.integers(0, 1024, (8, VOICE_FRAMES))
        self._voice = Voice(rng.integers(0, 10_000, VOICE_TOKENS), fine[:2], fine)

    def rows(self, n_tokens: int, voice: Voice | None = None) -> list[Row]:
        """Rows with random texts and fixed seeds that draw exactly n_tokens semantic tokens."""
        given = dict(max_new_tokens=n_tokens, allow_early_stop=False, do_sample=True, temperature=TEMPERATURE)
        settings = resolve_settings(given, self._n_rows, self._model.generation_config, self._model.spaces)
        return [
            Row(text_tokens(ids, np.ones(len(ids)), self._model.spaces), voice, key_data(seed), row_settings)
            for seed, (ids, row_settings) in enumerate(zip(self._texts, settings, strict=True))
        ]

    def semantic(self, n_tokens: int) -> None:
        """As in `Contender`, by `run_semantic`."""
        run_semantic(self._model.semantic, self.rows(n_tokens), self._model.spaces)

    def coarse(self, n_windows: int) -> None:
        """As in `Contender`, by `run_coarse`."""
        tokens = self._semantic[:, : n_windows * TOKENS_PER_WINDOW]
        run_coarse(self._model.coarse_acoustics, self.rows(1, self._voice), list(tokens), self._model.spaces)

    def fine(self) -> None:
        """As in `Contender`, by `run_fine`."""
        run_fine(self._model.fine_acoustics, self.rows(1), list(self._codes[:, :2]), self._model.spaces)

    def codec(self) -> None:
        """As in `Contender`, by `decode_codes`."""
        decode_codes(self._model.codec_model, list(self._codes))

    def clip(self) -> None:
        """As in `Contender`, by `generate_rows`."""
        self._model.generate_rows(self.rows(SEMANTIC_TOKENS))


def on_cuda(torch: Any) -> bool:
    """Whether both JAX and torch run on a CUDA GPU; otherwise torch is timed on the CPU."""
    return jax.default_backend() in ("gpu", "cuda") and torch.cuda.is_available()


class Transformers:
    """transformers' Bark with its defaults: eager, with its dynamic KV cache."""

    name = "transformers"

    def __init__(self, size: str, dtype: str, n_rows: int):
        import torch

        self._torch, self._n_rows = torch, n_rows
        self._device = "cuda" if on_cuda(torch) else "cpu"
        self._model, self._configs = _transformers_model(size, dtype, self._device)
        torch.manual_seed(0)
        draw = functools.partial(torch.randint, device=self._device)
        self._ids = draw(10, 1000, (n_rows, 256))
        self._semantic = draw(0, 10_000, (n_rows, SEMANTIC_TOKENS))
        self._coarse = torch.stack([draw(10_000 + 1024 * q, 11_024 + 1024 * q, (n_rows, FRAMES)) for q in (0, 1)], -1)
        self._codes = draw(0, 1024, (n_rows, 8, FRAMES))
        self._voice = {
            "semantic_prompt": draw(0, 10_000, (VOICE_TOKENS,)),
            "coarse_prompt": draw(0, 1024, (2, VOICE_FRAMES)),
        }

    def semantic(self, n_tokens: int) -> None:
        """As in `Contender`; asserts that the stage did not stop early."""
        tokens = self._run(
            lambda: self._model.semantic.generate(
                self._ids,
                semantic_generation_config=self._configs["semantic"],
                attention_mask=self._torch.ones_like(self._ids),
                max_new_tokens=n_tokens,
                min_new_tokens=n_tokens,
            )
        )
        assert tokens.shape[1] == n_tokens, tokens.shape

    def coarse(self, n_windows: int) -> None:
        """As in `Contender`."""
        self._run_coarse(self._semantic[:, : n_windows * TOKENS_PER_WINDOW].clone(), self._voice)

    def _run_coarse(self, tokens: Any, voice: dict[str, Any] | None = None) -> Any:
        return self._run(
            lambda: self._model.coarse_acoustics.generate(
                tokens,
                semantic_generation_config=self._configs["semantic"],
                coarse_generation_config=self._configs["coarse"],
                history_prompt=voice,
            )
        )

    def fine(self) -> None:
        """As in `Contender`."""
        self._run(
            lambda: self._model.fine_acoustics.generate(
                self._coarse.reshape(self._n_rows, -1).clone(),
                semantic_generation_config=self._configs["semantic"],
                coarse_generation_config=self._configs["coarse"],
                fine_generation_config=self._configs["fine"],
            )
        )

    def codec(self) -> None:
        """As in `Contender`."""
        self._run(lambda: self._model.codec_decode(self._codes))

    def clip(self) -> None:
        """As in `Contender`."""
        self.semantic(SEMANTIC_TOKENS)
        self._run_coarse(self._semantic.clone())
        self.fine()
        self.codec()

    def _run(self, call: Any) -> Any:
        with self._torch.inference_mode():
            result = call()
        if self._device == "cuda":
            self._torch.cuda.synchronize()
        return result


@functools.cache
def _transformers_model(size: str, dtype: str, device: str) -> tuple[Any, dict[str, Any]]:
    import torch
    import transformers
    from transformers.models.bark import generation_configuration_bark as generation

    from benchmarks.models import make_config

    transformers.logging.set_verbosity_error()
    config = transformers.BarkConfig.from_dict(make_config(size).to_dict())
    with torch.device(device):
        model = transformers.BarkModel(config).to(getattr(torch, dtype)).eval()
    return model, {
        "semantic": generation.BarkSemanticGenerationConfig(do_sample=True, temperature=TEMPERATURE, top_k=0),
        "coarse": generation.BarkCoarseGenerationConfig(do_sample=True, temperature=TEMPERATURE, top_k=0),
        "fine": generation.BarkFineGenerationConfig(temperature=0.5),
    }
