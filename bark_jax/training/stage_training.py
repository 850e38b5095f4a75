"""Training of one transformer of a model on a dataset: full fine-tuning, or LoRA."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from bark_jax._system.own_jax_config import under_own_config
from bark_jax.checkpoints.load import module_maker
from bark_jax.checkpoints.lora import Lora, init_lora, merge
from bark_jax.errors import InputError
from bark_jax.generation.settings import check_flag
from bark_jax.model import BarkModel
from bark_jax.networks.platform import Devices
from bark_jax.training import batches, losses
from bark_jax.training.checks import check_integer, memory_errors
from bark_jax.training.dataset import Dataset, check_same_meaning
from bark_jax.training.loop import RunResult, RunSettings, fit
from bark_jax.training.network_training import NetworkTraining, check_rows, full_network, host_array
from bark_jax.training.optimizer import OptimizerSettings, make_optimizer
from bark_jax.training.placement import choose_devices, on_host


class _Stage(NamedTuple):
    """Batches and loss of one transformer."""

    make_batches: Callable[..., batches.MakeBatch]
    loss: Callable[..., losses.Loss]


STAGES = {
    "semantic": _Stage(batches.semantic_batches, losses.semantic_loss),
    "coarse_acoustics": _Stage(batches.coarse_batches, losses.coarse_loss),
    "fine_acoustics": _Stage(batches.fine_batches, losses.fine_loss),
}


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Rank and alpha (scale = alpha / rank) of a LoRA, see `lora.init_lora`."""

    rank: int = 8
    alpha: float = 16.0


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """Settings of a transformer's training, apart from run length and optimizer.

    Args:
      batch_size: rows a step, over all micro-batches and devices.
      accumulate: micro-batches a step (gradient accumulation); more of them need less memory.
      dtype: compute dtype, "float32" or "bfloat16"; master parameters, losses and optimizer state are float32.
      history_share: probability that a row has a voice prompt, another utterance of the same speaker; one for all
        voices, or one by voice name.
      eval_share: share of the dataset to hold out for evaluation.
      eval_batches: maximum number of batches an evaluation.
      seed: seeds the split, the order and every draw.
      lora: trains a LoRA instead of all parameters.

    Raises:
      InputError: a setting is out of range.
    """

    batch_size: int = 8
    accumulate: int = 1
    dtype: str = "float32"
    history_share: batches.HistoryShare = 0.5
    eval_share: float = 0.05
    eval_batches: int = 8
    seed: int = 0
    lora: LoraSettings | None = None

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("accumulate", 1), ("eval_batches", 1), ("seed", 0)):
            check_integer(name, getattr(self, name), least)
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(
                f"dtype is {self.dtype!r}, expected 'float32' or 'bfloat16'; gradients vanish in the range of float16"
            )


class TrainedStage(NamedTuple):
    """A trained transformer."""

    network: nnx.Module  # in the dtype it had before; a LoRA is merged into it
    lora: Lora | None  # None if all parameters were trained
    result: RunResult


@under_own_config
def train_stage(
    model: BarkModel,
    name: str,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    run: RunSettings,
    *,
    settings: StageSettings | None = None,
    optimizer: OptimizerSettings | None = None,
    devices: Devices = None,
    shard_state: bool = False,
    remat: bool = False,
    show_progress: bool = True,
    stop: Callable[[], bool] | None = None,
) -> TrainedStage:
    """Trains one transformer of a model. Does not change the model.

    Args:
      model: start of the training, any dtype.
      name: "semantic", "coarse_acoustics" or "fine_acoustics".
      dataset: prepared for this model.
      folder: run folder, see `loop`. A stopped run in it is resumed.
      run: number of steps, and how often to evaluate and save.
      settings: StageSettings() if None.
      optimizer: OptimizerSettings() if None.
      devices: split the rows of a batch (data parallel): "all" of this process, or a list of devices of this process
        or those of all processes. None is JAX's default device.
      shard_state: divide master parameters and optimizer state among the devices, instead of having all on each. A
        run may be resumed on another number of devices, and with or without it.
      remat: recomputes each layer in the backward pass, which takes a third more computation and less memory. Losses
        change by rounding, so a run may be resumed with another value.
      show_progress: shows a progress bar on a terminal.
      stop: called after every step but the last; if it returns True, the state is saved and the run stops.

    Raises:
      InputError: settings that do not fit the dataset, the model or the run in the folder.
      TrainingError: too many consecutive steps had non-finite gradients.
      TrainingStopped: `stop` returned True.
      DeviceMemoryError: the device is out of memory; the message says what to change.
    """
    settings = StageSettings() if settings is None else settings
    optimizer = OptimizerSettings() if optimizer is None else optimizer
    if name not in STAGES:
        raise InputError(f"name is {name!r}, expected one of {', '.join(STAGES)}")
    check_same_meaning(dataset.spaces, model.spaces, "the dataset")
    devices = choose_devices(devices)
    check_flag("shard_state", shard_state)
    check_rows(settings.batch_size, settings.accumulate, devices)
    if dropout := getattr(model, name).config.dropout:
        raise InputError(
            f"the config of {name} has a dropout of {dropout}, and training here applies none; set it to 0 in the "
            "model's config.json, as it is in the published models"
        )
    learn, held_out = dataset.split(settings.eval_share, seed=settings.seed)
    make_batches = functools.partial(STAGES[name].make_batches, spaces=model.spaces)
    training = make_training(model, name, settings, optimizer, run, devices, shard_state=shard_state, remat=remat)
    identity = {
        "network": name,
        "settings": dataclasses.asdict(settings),
        "optimizer": dataclasses.asdict(optimizer),
        "start": fingerprint(getattr(model, name)),
        "data": {"examples": len(dataset), "seconds": round(dataset.seconds, 2), "codec": dataset.codec},
    }
    n_rows = settings.batch_size // settings.accumulate
    with memory_errors(f"training {name}, {n_rows} rows at once", _remedy(settings, remat)):
        result = fit(
            training,
            make_batches(learn, **{key: getattr(settings, key) for key in ("batch_size", "seed", "history_share")}),
            folder,
            run,
            evaluation=_evaluation(held_out, make_batches, settings, 1 if devices is None else len(devices)),
            identity=identity,
            show_progress=show_progress,
            stop=stop,
        )
    lora = None if settings.lora is None else on_host(result.state.params)
    return TrainedStage(_result_network(getattr(model, name), lora, result), lora, result)


def _remedy(settings: StageSettings, remat: bool) -> str:
    """Names the settings that lower the memory of a step."""
    steps = [] if remat else ["remat=True (--remat)"]
    if settings.accumulate < settings.batch_size:
        steps.append(f"accumulate={2 * settings.accumulate} (--accumulate)")
    if settings.lora is None:
        steps.append("lora=LoraSettings() (--lora 8)")
    found = ", ".join([*steps, "dtype='bfloat16' (--dtype)", "or fewer rows"])
    return f"Give {found}. The same run folder takes remat alone, the others need a new one"


def with_networks(model: BarkModel, networks: Mapping[str, nnx.Module]) -> BarkModel:
    """A model with some networks replaced, by name ("semantic", ..., "codec_model"); the others are shared."""
    return model.replace(**networks)


def fingerprint(network: nnx.Module) -> str:
    """Hash of all parameters, 16 hex digits: identifies the start of a run, so that it resumes from the same model."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(network):
        digest.update(host_array(leaf).tobytes())
    return digest.hexdigest()[:16]


def make_training(
    model: BarkModel,
    name: str,
    settings: StageSettings,
    optimizer: OptimizerSettings,
    run: RunSettings,
    devices: Sequence[jax.Device] | None,
    *,
    shard_state: bool = False,
    remat: bool = False,
) -> NetworkTraining:
    """The steps and evaluations that `train_stage` runs. Arguments are those of `train_stage`."""
    network = getattr(model, name)
    make_module = module_maker(type(network), network.config, platform=network.platform)
    make_weights, assemble = full_network(network, make_module, settings.dtype)
    make_params: Callable[[], Any] = make_weights
    frozen = None
    if settings.lora is not None:
        # In the compute dtype already, and not trained: under a LoRA only A and B have float32 masters and averages.
        frozen = assemble(make_weights(), None)
        lora = init_lora(network, settings.lora.rank, settings.lora.alpha, settings.seed)
        make_params, assemble = (lambda: lora), _add_lora
    return NetworkTraining(
        make_params,
        assemble,
        functools.partial(STAGES[name].loss, spaces=model.spaces, remat=remat),
        make_optimizer(optimizer, run.n_steps),
        frozen=frozen,
        accumulate=settings.accumulate,
        devices=None if devices is None else tuple(devices),
        shard_state=shard_state,
    )


def _add_lora(lora: Lora, network: nnx.Module) -> nnx.Module:
    return merge(network, lora)


def _result_network(network: nnx.Module, lora: Lora | None, result: RunResult) -> nnx.Module:
    if lora is not None:
        return merge(network, lora)
    _, assemble = full_network(network, lambda _: network, jax.tree.leaves(network)[0].dtype)
    return assemble(on_host(result.state.params), None)


def _evaluation(
    held_out: Dataset, make_batches: Callable[..., batches.MakeBatch], settings: StageSettings, n_devices: int
) -> list[batches.Batch]:
    """Held-out batches, the same at every evaluation; none if nothing is held out.

    Raises:
      InputError: fewer examples are held out than a batch has micro-batches times devices.
    """
    if not len(held_out):
        return []
    parts = settings.accumulate * n_devices
    # A multiple of the parts: fewer held-out examples than a training batch make smaller batches, not none.
    batch_size = min(settings.batch_size, len(held_out) // parts * parts)
    if not batch_size:
        raise InputError(
            f"{len(held_out)} examples are held out for evaluation, fewer than the {parts} parts of a batch; raise "
            "eval_share"
        )
    make = make_batches(held_out, batch_size=batch_size, seed=settings.seed, history_share=settings.history_share)
    return [make(step) for step in range(min(settings.eval_batches, len(held_out) // batch_size))]
