"""Training and fine-tuning: dataset preparation, LoRA or full training of the transformers, training of the codec.

Trained networks have the classes that generation reads. An example:

    from bark_jax import BarkModel, BarkProcessor, training

    model = BarkModel.from_pretrained("my-bark", dtype="float32")
    processor = BarkProcessor.from_pretrained("my-bark")
    data = training.prepare_dataset("recordings.jsonl", "data", bark=model, processor=processor)
    settings = training.StageSettings(lora=training.LoraSettings(rank=8))
    run = training.RunSettings(n_steps=2000)
    trained = training.train_stage(model, "coarse_acoustics", data, "run", run, settings=settings)
    training.save_lora("voice.safetensors", {"coarse_acoustics": trained.lora}, base=training.base_of("my-bark"))

The names below are imported lazily, on first use, so that importing this package does not import optax and orbax.
"""

from typing import TYPE_CHECKING

from bark_jax._system.lazy import lazy_names

_MODULE_BY_NAME = {
    "CodecSettings": "training.codec_training",
    "Dataset": "training.dataset",
    "DatasetError": "training.dataset",
    "DiscriminatorSettings": "training.discriminator",
    "Example": "training.dataset",
    "LoraSettings": "training.stage_training",
    "ManifestError": "training.manifest",
    "OptimizerSettings": "training.optimizer",
    "ReconstructionWeights": "training.codec_losses",
    "RunResult": "training.loop",
    "RunSettings": "training.loop",
    "StageSettings": "training.stage_training",
    "TrainingError": "training.loop",
    "TrainingStopped": "training.loop",
    "base_of": "checkpoints.lora",
    "check_manifest": "training.manifest",
    "coarse_loss": "training.losses",
    "fine_loss": "training.losses",
    "load_lora": "checkpoints.lora",
    "merge": "checkpoints.lora",
    "prepare_dataset": "training.prepare",
    "recode": "training.prepare",
    "save_lora": "checkpoints.lora",
    "semantic_loss": "training.losses",
    "train_codec": "training.codec_training",
    "train_stage": "training.stage_training",
    "with_networks": "training.stage_training",
    "write_dataset": "training.dataset",
}

if TYPE_CHECKING:
    from bark_jax.checkpoints.lora import base_of as base_of
    from bark_jax.checkpoints.lora import load_lora as load_lora
    from bark_jax.checkpoints.lora import merge as merge
    from bark_jax.checkpoints.lora import save_lora as save_lora
    from bark_jax.training.codec_losses import ReconstructionWeights as ReconstructionWeights
    from bark_jax.training.codec_training import CodecSettings as CodecSettings
    from bark_jax.training.codec_training import train_codec as train_codec
    from bark_jax.training.dataset import Dataset as Dataset
    from bark_jax.training.dataset import DatasetError as DatasetError
    from bark_jax.training.dataset import Example as Example
    from bark_jax.training.dataset import write_dataset as write_dataset
    from bark_jax.training.discriminator import DiscriminatorSettings as DiscriminatorSettings
    from bark_jax.training.loop import RunResult as RunResult
    from bark_jax.training.loop import RunSettings as RunSettings
    from bark_jax.training.loop import TrainingError as TrainingError
    from bark_jax.training.loop import TrainingStopped as TrainingStopped
    from bark_jax.training.losses import coarse_loss as coarse_loss
    from bark_jax.training.losses import fine_loss as fine_loss
    from bark_jax.training.losses import semantic_loss as semantic_loss
    from bark_jax.training.manifest import ManifestError as ManifestError
    from bark_jax.training.manifest import check_manifest as check_manifest
    from bark_jax.training.optimizer import OptimizerSettings as OptimizerSettings
    from bark_jax.training.prepare import prepare_dataset as prepare_dataset
    from bark_jax.training.prepare import recode as recode
    from bark_jax.training.stage_training import LoraSettings as LoraSettings
    from bark_jax.training.stage_training import StageSettings as StageSettings
    from bark_jax.training.stage_training import train_stage as train_stage
    from bark_jax.training.stage_training import with_networks as with_networks
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)
