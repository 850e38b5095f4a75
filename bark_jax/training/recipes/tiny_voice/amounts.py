"""Amounts of data and steps of the recipe: full, adapt and smoke."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from bark_jax.training.codec_training import CodecSettings
from bark_jax.training.discriminator import DiscriminatorSettings
from bark_jax.training.loop import RunSettings
from bark_jax.training.optimizer import OptimizerSettings
from bark_jax.training.recipes.tiny_voice.corpus import Share
from bark_jax.training.stage_training import StageSettings

# Probability of a voice prompt in training. rms is never trained without one, so a text without a voice comes out in
# slt's voice and not in a mixture of both.
HISTORY_SHARE = {"slt": 0.5, "rms": 1.0}


class Codec(NamedTuple):
    """Settings of the codec's training."""

    run: RunSettings
    settings: CodecSettings
    optimizer: OptimizerSettings


class Stage(NamedTuple):
    """Settings of a transformer's training."""

    run: RunSettings
    settings: StageSettings
    optimizer: OptimizerSettings


@dataclasses.dataclass(frozen=True)
class Amount:
    """Data and steps of all four networks."""

    shares: tuple[Share, ...]
    codec: Codec
    stages: Mapping[str, Stage]  # by name of the transformer


def _codec(n_steps: int, every: int, learning_rate: float, warmup_steps: int, **settings) -> Codec:
    optimizer = OptimizerSettings(learning_rate, warmup_steps, 0.03, weight_decay=1e-3, beta1=0.8, beta2=0.99)
    return Codec(RunSettings(n_steps, every, every), CodecSettings(**settings), optimizer)


def _stage(n_steps: int, every: int, learning_rate: float, warmup_steps: int, **settings) -> Stage:
    settings = StageSettings(history_share=HISTORY_SHARE, **settings)
    return Stage(RunSettings(n_steps, every, every), settings, OptimizerSettings(learning_rate, warmup_steps, 0.03))


# From random weights, on an accelerator. Twice the steps after which a model of these sizes was intelligible.
FULL = Amount(
    shares=(Share("slt", 4000, 2600), Share("rms", 3000, 2600)),
    codec=_codec(
        20_000,
        1000,
        2e-3,
        200,
        batch_size=32,
        unquantized_steps=300,
        discriminator=DiscriminatorSettings(from_step=16_000),
        eval_share=0.0,
    ),
    stages={
        "semantic": _stage(4000, 500, 2e-3, 200, batch_size=128, dtype="bfloat16"),
        "coarse_acoustics": _stage(14_000, 1000, 2e-3, 200, batch_size=128, dtype="bfloat16"),
        "fine_acoustics": _stage(10_000, 1000, 2e-3, 200, batch_size=64, dtype="bfloat16"),
    },
)

# Fine-tunes a trained model of these sizes, on a CPU with two cores.
ADAPT = Amount(
    shares=(Share("slt", 1000, 2400), Share("rms", 600, 1200)),
    codec=_codec(2600, 400, 8e-4, 100, batch_size=8, n_frames=48, seed=1),
    stages={
        "semantic": _stage(1200, 200, 1e-3, 50, batch_size=16, eval_share=0.02),
        "coarse_acoustics": _stage(1600, 200, 7e-4, 50, batch_size=8, eval_share=0.02),
        "fine_acoustics": _stage(800, 200, 1e-3, 50, batch_size=16, eval_share=0.02),
    },
)

# Smoke test: runs every part in minutes. The model makes noise.
SMOKE = Amount(
    shares=(Share("slt", 4, 8), Share("rms", 4, 8)),
    codec=_codec(3, 2, 2e-3, 1, batch_size=2, n_frames=12, unquantized_steps=1),
    stages={
        name: _stage(2, 2, 2e-3, 1, batch_size=2, eval_batches=1)
        for name in ("semantic", "coarse_acoustics", "fine_acoustics")
    },
)

AMOUNTS = {"full": FULL, "adapt": ADAPT, "smoke": SMOKE}
