"""The torch side: transformers' Bark in float32, greedy, with the margin of every choice.

A margin is the logit of the chosen token less that of the runner-up. Where it is tiny, rounding decides, so a different
token is no fault (`rows.NEAR_TIE`).

One known fault of transformers is undone here: in the second coarse codebook it leaves the ids past the codes legal,
which Suno's own code cuts away. The logits are masked by a hook; the weights are unchanged.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bark_jax.config import BarkGenerationConfig, JsonConfig
from bark_jax.errors import UnsupportedError
from bark_jax.generation.settings import DRAW_SETTINGS
from bark_jax.generation.tokens import TokenSpaces, deinterleave, interleave
from bark_jax.generation.windows import fine_window, padded_frames
from bark_jax.voices.voice import Voice

# Fields of the configs that greedy generation does not use; transformers warns about them.
_DRAWING = ("model_type", "do_sample", "min_eos_p", *DRAW_SETTINGS)


def import_torch() -> tuple[Any, Any]:
    """Imports torch and transformers. Raises UnsupportedError, with how to install them, where one is missing."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UnsupportedError(
            f"comparing with torch needs torch and transformers ({error}): pip install 'bark-jax[parity]'"
        ) from error
    return torch, transformers


class Reference:
    """transformers' BarkModel of a folder. Arrays in and out are numpy's, of one row and without the batch axis."""

    def __init__(self, folder: str | os.PathLike, config: BarkGenerationConfig, dtype: str = "float32"):
        self._torch, transformers = import_torch()
        from transformers.models.bark import generation_configuration_bark as generation

        # "eager": transformers' Bark refuses "sdpa".
        self._model = transformers.BarkModel.from_pretrained(
            folder, dtype=getattr(self._torch, dtype), attn_implementation="eager", local_files_only=True
        ).eval()
        self.spaces = TokenSpaces.from_config(config)
        end = config.semantic_config.eos_token_id
        # A pad id for the semantic stage alone, where it spares a warning. In the coarse stage transformers would infer
        # an attention mask from it.
        self._semantic = generation.BarkSemanticGenerationConfig(pad_token_id=end, **_fields(config.semantic_config))
        self._coarse = generation.BarkCoarseGenerationConfig(**_fields(config.coarse_acoustics_config))
        # No temperature, as transformers' fine stage is greedy by that, not by do_sample.
        self._fine = generation.BarkFineGenerationConfig(**_fields(config.fine_acoustics_config), temperature=None)

    def semantic_logits(self, text_T: np.ndarray, history_T: np.ndarray, tokens_T: np.ndarray) -> np.ndarray:
        """Logits [T + S, V] of every position: of the prompt, text [T] and history [T] summed, and of tokens [S]."""
        network = self._model.semantic
        with self._torch.inference_mode():
            prompt = network.input_embeds_layer(self._tensor(text_T)) + network.input_embeds_layer(
                self._tensor(history_T)
            )
            embeds = self._torch.cat([prompt, network.input_embeds_layer(self._tensor(tokens_T))], dim=1)
            return network(inputs_embeds=embeds, use_cache=False).logits[0].float().numpy()

    def coarse_logits(self, tokens_T: np.ndarray) -> np.ndarray:
        """Logits [T, V] of every position of a coarse prompt [T]."""
        with self._torch.inference_mode():
            return self._model.coarse_acoustics(self._tensor(tokens_T), use_cache=False).logits[0].float().numpy()

    def fine_logits(self, codebook: int, codes_TQ: np.ndarray) -> np.ndarray:
        """Logits [T, V] of every frame's code in one codebook, from codes [T, Q] of a window."""
        with self._torch.inference_mode():
            return self._model.fine_acoustics(codebook, self._tensor(codes_TQ)).logits[0].float().numpy()

    def semantic_tokens(
        self, text_ids: Sequence[int], voice: Voice | None, max_tokens: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Generates semantic tokens [S] before the end, and margins: [S], or [S + 1] with that of the end token."""
        spaces = self.spaces
        # The mask is what turns padding into text_pad there: without one, id 0 is read as text.
        ids_T, mask_T = np.zeros(spaces.n_text, np.int64), np.zeros(spaces.n_text, np.int64)
        ids_T[: len(text_ids)], mask_T[: len(text_ids)] = text_ids, 1
        legal_V = np.zeros(self._model.semantic.config.output_vocab_size, bool)
        legal_V[: spaces.semantic_vocab] = legal_V[spaces.semantic_end] = True
        with self._watched(self._model.semantic.lm_head, [legal_V]) as margins:
            out = self._model.semantic.generate(
                self._tensor(ids_T),
                attention_mask=self._tensor(mask_T),
                semantic_generation_config=self._semantic,
                history_prompt=self._history(voice),
                max_new_tokens=max_tokens,
                min_eos_p=None,
            )
        tokens_T = out[0].numpy()
        return tokens_T[tokens_T != spaces.semantic_end], np.array(margins)

    def coarse_codes(self, semantic_T: np.ndarray, voice: Voice | None) -> tuple[np.ndarray, np.ndarray]:
        """Generates coarse codes [n_coarse, T], and their margins [n_coarse * T] in the order of the stream."""
        spaces = self.spaces
        legal_QV = np.zeros((spaces.n_coarse, self._model.coarse_acoustics.config.output_vocab_size), bool)
        for q in range(spaces.n_coarse):
            start = spaces.semantic_vocab + q * spaces.codebook_size
            legal_QV[q, start : start + spaces.codebook_size] = True
        with self._watched(self._model.coarse_acoustics.lm_head, legal_QV) as margins:
            out = self._model.coarse_acoustics.generate(
                self._tensor(semantic_T),
                semantic_generation_config=self._semantic,
                coarse_generation_config=self._coarse,
                codebook_size=spaces.codebook_size,
                history_prompt=self._history(voice),
            )
        return deinterleave(out[0].numpy(), spaces), np.array(margins)

    def fine_codes(self, coarse_QT: np.ndarray, voice: Voice | None) -> tuple[np.ndarray, np.ndarray]:
        """Fills all codes [n_fine, T], with margins [n_fine, T] (`_align_margins`), infinite for the coarse codes."""
        with self._watched_heads() as margins, self._torch.inference_mode():
            out = self._model.fine_acoustics.generate(
                self._tensor(interleave(coarse_QT, self.spaces)),
                semantic_generation_config=self._semantic,
                coarse_generation_config=self._coarse,
                fine_generation_config=self._fine,
                codebook_size=self.spaces.codebook_size,
                history_prompt=self._history(voice),
            )
        n_history = 0 if voice is None else min(voice.fine.shape[1], self.spaces.n_fine_history)
        return out[0].numpy(), self._align_margins(margins, n_history, coarse_QT.shape[1])

    def decode(self, codes_QT: np.ndarray) -> np.ndarray:
        """Decodes codes [n_fine, T] to audio samples, float32 [A]."""
        with self._torch.inference_mode():
            return self._model.codec_decode(self._tensor(codes_QT))[0].numpy()

    def _tensor(self, array: np.ndarray) -> Any:
        """An int64 tensor with a batch axis, [1, ...]; a copy, as transformers writes into its inputs."""
        return self._torch.tensor(np.asarray(array, np.int64))[None]

    def _history(self, voice: Voice | None) -> dict[str, Any] | None:
        """The voice as transformers' history_prompt: tensors without a batch axis."""
        return None if voice is None else {name: self._tensor(array)[0] for name, array in voice.to_dict().items()}

    @contextlib.contextmanager
    def _watched(self, head: Any, legal: Sequence[np.ndarray]) -> Iterator[list[float]]:
        """Masks a head's logits and collects each step's margin. Step i may choose from legal[i % len(legal)]."""
        masks = [self._torch.from_numpy(~legal_V) for legal_V in legal]
        margins: list[float] = []

        def hook(_: Any, __: Any, logits: Any) -> Any:
            logits = logits.masked_fill(masks[len(margins) % len(masks)], -np.inf)
            best, second = logits[0, -1].topk(2).values
            margins.append(float(best - second))
            return logits

        handle = head.register_forward_hook(hook)
        try:
            yield margins
        finally:
            handle.remove()

    @contextlib.contextmanager
    def _watched_heads(self) -> Iterator[dict[int, list[np.ndarray]]]:
        """Collects, by codebook, the fine stage's margins: an array a window."""
        margins: dict[int, list[np.ndarray]] = {}
        n_given = self._model.fine_acoustics.config.n_codes_given

        def make_hook(codebook: int) -> Any:
            def hook(_: Any, __: Any, logits: Any) -> None:
                top = logits[0, :, : self.spaces.codebook_size].topk(2).values
                margins.setdefault(codebook, []).append((top[:, 0] - top[:, 1]).float().numpy())

            return hook

        heads = enumerate(self._model.fine_acoustics.lm_heads, start=n_given)
        handles = [head.register_forward_hook(make_hook(codebook)) for codebook, head in heads]
        try:
            yield margins
        finally:
            for handle in handles:
                handle.remove()

    def _align_margins(self, margins: dict[int, list[np.ndarray]], n_history: int, n_frames: int) -> np.ndarray:
        """Margins [n_fine, T] by frame, from those of windows; the smallest where windows overlap, infinite if none.

        A code in an overlap is chosen in both windows, and the first choice is context of the second: if either is a
        near tie, a difference there is rounding.
        """
        spaces = self.spaces
        aligned_QT = np.full((spaces.n_fine, padded_frames(n_frames, n_history, spaces)), np.inf)
        for codebook, windows in margins.items():
            for window, margin_T in enumerate(windows):
                start = fine_window(window, n_frames, n_history, spaces).start
                part_T = aligned_QT[codebook, start : start + spaces.fine_window]
                np.minimum(part_T, margin_T, out=part_T)
        return aligned_QT[:, n_history : n_history + n_frames]


def _fields(config: JsonConfig) -> dict[str, Any]:
    """The config's fields as keywords of transformers' class, without those in _DRAWING."""
    return {name: value for name, value in config.to_dict().items() if name not in _DRAWING}


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silences transformers: its loading messages and progress bar, and warnings that its own Bark causes."""
    _, transformers = import_torch()
    log = transformers.utils.logging
    verbosity, had_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if had_bar:
            log.enable_progress_bar()
