"""AdamW with linear learning-rate warm-up, cosine decay and gradient clipping, built from optax."""

import dataclasses
import math
from typing import Any

import jax
import optax

from bark_jax.errors import InputError
from bark_jax.training.checks import check_integer


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Settings of AdamW and of the learning-rate schedule.

    Args:
      learning_rate: peak learning rate, reached after the warm-up.
      warmup_steps: steps in which the learning rate rises linearly from 0.
      final_share: learning rate at the last step, as a share of the peak; cosine decay leads there.
      weight_decay: decoupled weight decay of matrices; scales, biases and embeddings have none.
      beta1, beta2: decay of Adam's moving averages of the gradient and of its square.
      clip_norm: maximum gradient norm over all parameters; larger gradients are scaled down to it.

    Raises:
      InputError: a setting is out of range.
    """

    learning_rate: float = 3e-4
    warmup_steps: int = 100
    final_share: float = 0.05
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0

    def __post_init__(self):
        ranges = {
            "learning_rate": (0, 10),
            "final_share": (0, 1),
            "weight_decay": (0, 1),
            "beta1": (0, 1),
            "beta2": (0, 1),
            "clip_norm": (0, math.inf),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InputError(f"{name} is {value!r}, expected a number from {low} to {high}")
        check_integer("warmup_steps", self.warmup_steps, 0)


def learning_rate(settings: OptimizerSettings, n_steps: int) -> optax.Schedule:
    """Learning-rate schedule of a run of n_steps steps: step -> learning rate. Short runs shorten the warm-up."""
    # The first step of a warm-up has learning rate 0: it fills Adam's averages and moves nothing. A run of a single
    # step has no warm-up, so that it does move.
    warmup = min(settings.warmup_steps, max(n_steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else settings.learning_rate,
        peak_value=settings.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(n_steps, warmup + 1),  # optax counts the warm-up in, and refuses an equal number
        end_value=settings.learning_rate * settings.final_share,
    )


def make_optimizer(settings: OptimizerSettings, n_steps: int) -> optax.GradientTransformation:
    """The optax optimizer for a run of n_steps steps. Parameters whose path contains "embedding" are not decayed."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            learning_rate(settings, n_steps),
            b1=settings.beta1,
            b2=settings.beta2,
            weight_decay=settings.weight_decay,
            mask=_is_decayed,
        ),
    )


def _is_decayed(params: Any) -> Any:
    """Mask of weight decay: True for matrices and kernels; False for norm scales, biases and embeddings."""
    return jax.tree_util.tree_map_with_path(
        lambda path, array: array.ndim > 1 and "embedding" not in jax.tree_util.keystr(path), params
    )
