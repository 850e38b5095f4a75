"""The torch side of the parity tests: transformers' Bark, stage by stage, and the rules of equality.

Greedy tokens are compared exactly. Two float32 programs round differently, though, so once in some hundred thousand
steps the two most likely tokens are closer than that: there, and only there, the other one may be chosen too.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import toy

from bark_jax.config import BarkGenerationConfig
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel

# Logits of these networks differ by about 1e-5 between torch and JAX; a margin this small can go either way.
NEAR_TIE = 1e-3

# Settings without effect in greedy generation; transformers warns about them.
DRAWING = ("model_type", "do_sample", "temperature", "top_k", "top_p", "min_eos_p")


@dataclasses.dataclass
class Twins:
    """A random Bark in both frameworks: saved by transformers, read through the converter."""

    theirs: object  # transformers.BarkModel
    ours: BarkModel
    folder: Path  # holds `theirs` and `ours`, the two checkpoints
    generation: BarkGenerationConfig  # generation config of both: token ids, windows, rates

    @property
    def spaces(self) -> TokenSpaces:
        return TokenSpaces.from_config(self.generation)

    def configs(self):
        """transformers' generation configs of the three stages, greedy."""
        from transformers.models.bark import generation_configuration_bark as configs

        semantic, coarse, fine = (
            {name: value for name, value in config.to_dict().items() if name not in DRAWING}
            for config in (
                self.generation.semantic_config,
                self.generation.coarse_acoustics_config,
                self.generation.fine_acoustics_config,
            )
        )
        return (
            configs.BarkSemanticGenerationConfig(**semantic, pad_token_id=self.spaces.semantic_end),
            configs.BarkCoarseGenerationConfig(**coarse),
            configs.BarkFineGenerationConfig(**fine),
        )

    def semantic(self, ids, voice=None, max_new_tokens=768) -> np.ndarray:
        """Semantic tokens of one row, without the end token."""
        import torch

        semantic, _, _ = self.configs()
        semantic.max_new_tokens = max_new_tokens
        padded = np.zeros((1, self.spaces.n_text), np.int64)
        padded[0, : len(ids)] = ids
        mask = torch.arange(self.spaces.n_text)[None] < len(ids)
        tokens = self.theirs.semantic.generate(
            torch.from_numpy(padded),
            semantic_generation_config=semantic,
            history_prompt=as_torch(voice),
            attention_mask=mask.long(),
        )[0].numpy()
        return tokens[tokens != self.spaces.semantic_end]

    def semantic_logits(self, ids, history, tokens) -> np.ndarray:
        """Logits [V] of what follows `tokens`, among the legal ids."""
        import torch

        spaces, embed = self.spaces, self.theirs.semantic.input_embeds_layer
        text, spoken = np.full(spaces.n_text, spaces.text_pad), np.full(spaces.n_text, spaces.semantic_end)
        text[: len(ids)] = np.asarray(ids) + spaces.text_offset
        history = history[-spaces.n_text :]
        spoken[: len(history)] = history
        read = np.concatenate([[spaces.semantic_infer], tokens]).astype(np.int64)
        prompt, rest = embed(torch.from_numpy(text)) + embed(torch.from_numpy(spoken)), embed(torch.from_numpy(read))
        logits = self.theirs.semantic(inputs_embeds=torch.cat([prompt, rest])[None], use_cache=False).logits
        return logits[0, -1, : spaces.semantic_end + 1].detach().numpy()

    def coarse(self, tokens, voice=None, **windows) -> np.ndarray:
        """Coarse codes [2, T] of one row."""
        import torch

        semantic, coarse, _ = self.configs()
        for name, value in windows.items():
            setattr(coarse, name, value)
        stream = self.theirs.coarse_acoustics.generate(
            torch.from_numpy(np.array(tokens, np.int64))[None],  # a copy, as transformers changes it in place
            semantic_generation_config=semantic,
            coarse_generation_config=coarse,
            codebook_size=self.spaces.codebook_size,
            history_prompt=as_torch(voice),
        )[0].numpy()
        codes_TQ = stream.reshape(-1, 2) - self._first_codes()
        assert ((codes_TQ >= 0) & (codes_TQ < self.spaces.codebook_size)).all(), "transformers left its codebook"
        return codes_TQ.T

    def fine(self, codes_QT, voice=None) -> np.ndarray:
        """All codes [8, T] of one row."""
        import torch

        semantic, coarse, fine = self.configs()
        stream = (np.array(codes_QT).T + self._first_codes()).reshape(1, -1)
        return self.theirs.fine_acoustics.generate(
            torch.from_numpy(stream),
            semantic_generation_config=semantic,
            coarse_generation_config=coarse,
            fine_generation_config=fine,
            codebook_size=self.spaces.codebook_size,
            history_prompt=as_torch(voice),
        )[0].numpy()

    def _first_codes(self) -> np.ndarray:
        """The ids of code 0 in the two coarse codebooks."""
        return self.spaces.semantic_vocab + np.array([0, self.spaces.codebook_size])

    def audio(self, codes_QT) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.theirs.codec_decode(torch.from_numpy(np.array(codes_QT, np.int64))[None])[0].numpy()


def as_torch(voice):
    import torch

    if voice is None:
        return None
    return {name: torch.from_numpy(np.array(array, np.int64)) for name, array in voice.to_dict().items()}


def make_twins(folder: Path, scale: float = 1.0) -> Twins:
    """A Bark of the toy's sizes and token spaces, of weights that numpy draws; see golden/checkpoint.py."""
    from golden.checkpoint import FILE, write_checkpoint

    with np.load(FILE) as golden:
        write_checkpoint(folder / "theirs", json.loads(str(golden["shapes"])), scale)
    return _read_twins(folder, toy.GENERATION_CONFIG)


def make_bark_twins(folder: Path) -> Twins:
    """A Bark of Bark's own token spaces, which transformers makes, without its coarse leak."""
    import torch
    from checkpoints import make_bark
    from transformers import BarkModel as TheirBarkModel

    make_bark(folder / "leaky", num_layers=1)
    theirs = TheirBarkModel.from_pretrained(folder / "leaky")
    with torch.no_grad():
        # transformers lets ids from 12,048 on follow codebook 0, and they would be read as codes of codebook 1.
        theirs.coarse_acoustics.lm_head.weight[12_048:] = 0
    save_with_greedy_config(theirs, folder / "theirs")
    return _read_twins(folder, BarkGenerationConfig())


def _read_twins(folder: Path, generation: BarkGenerationConfig) -> Twins:
    from transformers import BarkModel as TheirBarkModel

    from bark_jax.checkpoints import convert

    theirs = TheirBarkModel.from_pretrained(folder / "theirs").eval().requires_grad_(False)
    convert(folder / "theirs", folder / "ours")
    return Twins(theirs, BarkModel.from_pretrained(folder / "ours"), folder, generation)


def save_with_greedy_config(theirs, folder: Path) -> None:
    from transformers.models.bark import generation_configuration_bark as configs

    theirs.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(configs.BarkGenerationConfig().to_dict()))


def assert_greedy_tokens_equal(ours: np.ndarray, theirs: np.ndarray, logits_at) -> None:
    """Asserts equal tokens up to the first near-tie, if there is one.

    Args:
      logits_at: for a step, transformers' logits [V] there; only asked for where the tokens differ.
    """
    assert len(ours) == len(theirs)
    different = np.flatnonzero(ours != theirs)
    if not len(different):
        return
    logits = logits_at(different[0])
    second, first = np.sort(logits)[-2:]
    assert first - second < NEAR_TIE, f"step {different[0]}: {ours[different[0]]} against {theirs[different[0]]}"
    assert logits[ours[different[0]]] == second
