"""The torch side of the parity tests: transformers' Bark, stage by stage, and what counts as equal to it.

Greedy tokens are compared exactly. Two float32 programs round differently, though, so once in some hundred thousand
steps the two most likely tokens are closer than that: there, and only there, the other one may be chosen too.
"""

import dataclasses
from pathlib import Path

import numpy as np

from bark_jax.model import BarkModel

# Logits of these networks differ by about 1e-5 between torch and JAX; a margin this small can go either way.
NEAR_TIE = 1e-3


@dataclasses.dataclass
class Twins:
    """One random Bark in both frameworks: saved by transformers, read through the converter."""

    theirs: object  # transformers.BarkModel
    ours: BarkModel
    folder: Path  # holds `theirs` and `ours`, the two checkpoints

    def configs(self, **semantic):
        """transformers' generation configs of the three stages, greedy."""
        from transformers.models.bark import generation_configuration_bark as configs

        return (
            configs.BarkSemanticGenerationConfig(**{"pad_token_id": 10_000, "max_new_tokens": 768} | semantic),
            configs.BarkCoarseGenerationConfig(),
            configs.BarkFineGenerationConfig(),
        )

    def semantic(self, ids, voice=None, max_new_tokens=768) -> np.ndarray:
        """Semantic tokens of one row, without the end token."""
        import torch

        semantic, _, _ = self.configs(max_new_tokens=max_new_tokens)
        padded = np.zeros((1, 256), np.int64)
        padded[0, : len(ids)] = ids
        mask = torch.arange(256)[None] < len(ids)
        tokens = self.theirs.semantic.generate(
            torch.from_numpy(padded),
            semantic_generation_config=semantic,
            history_prompt=as_torch(voice),
            attention_mask=mask.long(),
        )[0].numpy()
        return tokens[tokens != 10_000]

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
            history_prompt=as_torch(voice),
        )[0].numpy()
        codes_TQ = stream.reshape(-1, 2) - np.array([10_000, 11_024])
        assert ((codes_TQ >= 0) & (codes_TQ < 1024)).all(), "the checkpoint lets transformers leave its codebook"
        return codes_TQ.T

    def fine(self, codes_QT, voice=None) -> np.ndarray:
        """All codes [8, T] of one row."""
        import torch

        semantic, coarse, fine = self.configs()
        stream = (np.array(codes_QT).T + np.array([10_000, 11_024])).reshape(1, -1)
        return self.theirs.fine_acoustics.generate(
            torch.from_numpy(stream),
            semantic_generation_config=semantic,
            coarse_generation_config=coarse,
            fine_generation_config=fine,
            history_prompt=as_torch(voice),
        )[0].numpy()

    def audio(self, codes_QT) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self.theirs.codec_decode(torch.from_numpy(np.array(codes_QT, np.int64))[None])[0].numpy()


def as_torch(voice):
    import torch

    if voice is None:
        return None
    return {name: torch.from_numpy(np.array(array, np.int64)) for name, array in voice.to_dict().items()}


def make_twins(folder: Path, **sizes) -> Twins:
    """Makes a Bark with transformers, closes its coarse leak, and converts it."""
    import torch
    from checkpoints import make_bark
    from transformers import BarkModel as TheirBarkModel

    from converters import convert

    make_bark(folder / "leaky", **sizes)
    theirs = TheirBarkModel.from_pretrained(folder / "leaky").eval().requires_grad_(False)
    with torch.no_grad():
        # transformers lets ids from 12,048 on follow codebook 0, and they would be read as codes of codebook 1.
        theirs.coarse_acoustics.lm_head.weight[12_048:] = 0
    save_with_greedy_config(theirs, folder / "theirs")
    convert(folder / "theirs", folder / "ours")
    return Twins(theirs, BarkModel.from_pretrained(folder / "ours"), folder)


def save_with_greedy_config(theirs, folder: Path) -> None:
    import json

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
