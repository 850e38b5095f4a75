"""Amounts of data and steps of the recipe: full, adapt and smoke."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from bark_jax.training.codec_training import CodecSettings
from bark_jax.training.loop import RunSettings
from bark_jax.training.optimizer import OptimizerSettings
from bark_jax.training.recipes.tiny_voice.corpus import Share
from bark_jax.training.recipes.tiny_voice.model import GRAMMAR, OPEN, Form
from bark_jax.training.stage_training import StageSettings

# Probability of a voice prompt in training. rms is never trained without one, so a text without a voice comes out in
# slt's voice and not in a mixture of both.
HISTORY_SHARE = {"slt": 0.5, "rms": 1.0}


class Codec(NamedTuple):
    """Settings of the codec's training."""

    run: RunSettings
    settings: CodecSettings
    optimizer: OptimizerSettings
    seconds: float | None = None  # the run has as many of its steps as take so long, see `pace`; None for all


class Stage(NamedTuple):
    """Settings of a transformer's training."""

    run: RunSettings
    settings: StageSettings
    optimizer: OptimizerSettings
    seconds: float | None = None  # as of Codec


@dataclasses.dataclass(frozen=True)
class Amount:
    """Sizes, data and steps of all four networks."""

    form: Form
    shares: tuple[Share, ...]
    codec: Codec
    stages: Mapping[str, Stage]  # by name of the transformer
    rows_encoded_at_once: int = 4
    is_chosen: bool = True  # whether temperatures are searched after training
    measured_seconds: float | None = None  # what is measured is cut to so long; None for all of it


def _codec(
    n_steps: int, every: int, learning_rate: float, warmup_steps: int, seconds: float | None = None, **settings: Any
) -> Codec:
    optimizer = OptimizerSettings(learning_rate, warmup_steps, 0.03, weight_decay=1e-3, beta1=0.8, beta2=0.99)
    return Codec(RunSettings(n_steps, every, every), CodecSettings(**settings), optimizer, seconds)


def _stage(
    n_steps: int, every: int, learning_rate: float, warmup_steps: int, seconds: float | None = None, **settings: Any
) -> Stage:
    stage = StageSettings(history_share=HISTORY_SHARE, **settings)
    return Stage(
        RunSettings(n_steps, every, every), stage, OptimizerSettings(learning_rate, warmup_steps, 0.03), seconds
    )


# From random weights, on one GPU and 16 cores in 20 minutes: about 140 s for the corpus, 40 s for its codes, 760 s of
# training steps, 120 s of compilation and 130 s for the measurements. Only a run of an earlier program, of a smaller
# amount, has been timed, so each network has a limit in seconds that decides how many of its steps it gets.
FULL = Amount(
    form=OPEN,
    shares=(Share("slt", 1200, 2000, 5000, 1800), Share("rms", 1200, 2000, 5000, 1800)),
    codec=_codec(16_000, 1000, 2e-3, 200, seconds=330, batch_size=32, unquantized_steps=300, eval_share=0.01),
    stages={
        "semantic": _stage(10_000, 500, 2e-3, 200, seconds=140, batch_size=128, dtype="bfloat16", eval_share=0.02),
        "coarse_acoustics": _stage(
            14_000, 1000, 2e-3, 200, seconds=210, batch_size=128, dtype="bfloat16", eval_share=0.02
        ),
        "fine_acoustics": _stage(10_000, 1000, 2e-3, 200, seconds=80, batch_size=64, dtype="bfloat16", eval_share=0.02),
    },
    rows_encoded_at_once=32,
    is_chosen=False,  # the search takes longer than the training; `--measure MODEL --choose` makes it on any machine
)

# Fine-tunes a trained model of these sizes, on a CPU with two cores.
ADAPT = Amount(
    form=GRAMMAR,
    shares=(Share("slt", 1000, 2400), Share("rms", 600, 1200)),
    codec=_codec(2600, 400, 8e-4, 100, batch_size=8, n_frames=48, seed=1),
    stages={
        "semantic": _stage(1200, 200, 1e-3, 50, batch_size=16, eval_share=0.02),
        "coarse_acoustics": _stage(1600, 200, 7e-4, 50, batch_size=8, eval_share=0.02),
        "fine_acoustics": _stage(800, 200, 1e-3, 50, batch_size=16, eval_share=0.02),
    },
)

# Smoke test of FULL: runs every part in minutes. The model makes noise without an end, on which the recogniser takes
# longest.
SMOKE = Amount(
    form=OPEN,
    measured_seconds=0.5,
    shares=(Share("slt", 4, 4, 4, 2), Share("rms", 4, 4, 4, 2)),
    codec=_codec(3, 2, 2e-3, 1, batch_size=2, n_frames=12, unquantized_steps=1),
    stages={
        "semantic": _stage(20, 20, 2e-3, 1, seconds=3600, batch_size=2, eval_batches=1),
        **{
            name: _stage(2, 2, 2e-3, 1, batch_size=2, eval_batches=1) for name in ("coarse_acoustics", "fine_acoustics")
        },
    },
)

AMOUNTS = {"full": FULL, "adapt": ADAPT, "smoke": SMOKE}
