"""Training: from recordings to networks, in the forms that generation reads.

    from bark_jax import BarkModel, BarkProcessor, training

    model = BarkModel.from_pretrained("my-bark", dtype="float32")
    processor = BarkProcessor.from_pretrained("my-bark")
    data = training.prepare_dataset("recordings.jsonl", "data", bark=model, processor=processor)
    settings = training.StageSettings(lora=training.LoraSettings(rank=8))
    run = training.RunSettings(n_steps=2000)
    trained = training.train_stage(model, "coarse_acoustics", data, "run", run, settings=settings)
    training.save_lora("voice.safetensors", {"coarse_acoustics": trained.lora}, base=training.base_of("my-bark"))

The names below are imported when they are first used.
"""

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

__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)
