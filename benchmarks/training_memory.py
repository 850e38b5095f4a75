"""Bytes that a training step of each network takes, as XLA counts them when it compiles the step."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bark_jax.model import BarkModel
from bark_jax.training.codec_training import CodecSettings, CodecTraining
from bark_jax.training.dataset import Dataset, Example
from bark_jax.training.loop import RunSettings
from bark_jax.training.optimizer import OptimizerSettings, make_optimizer
from bark_jax.training.stage_training import STAGES, LoraSettings, StageSettings, make_training

# Buffers are assigned before machine code is made, which need not be fast here.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
VARIANTS = {
    "all weights": StageSettings(),
    "all weights, bfloat16": StageSettings(dtype="bfloat16"),
    "LoRA": StageSettings(lora=LoraSettings()),
}


def measure(model: BarkModel, networks: tuple[str, ...], batch_sizes: tuple[int, ...]) -> Iterator[str]:
    """Yields a line of a Markdown table for each network, batch size and variant, as each is compiled."""
    yield "| network | rows | trained | state | activations | together | activations, remat | together, remat |"
    yield "|---|---|---|---|---|---|---|---|"
    dataset = longest_examples(model, max(batch_sizes))
    for name in networks:
        if name == "codec_model":
            yield from map(functools.partial(_codec_line, model), batch_sizes)
            continue
        for n_rows in batch_sizes:
            for variant, settings in VARIANTS.items():
                settings = dataclasses.replace(settings, batch_size=n_rows)
                state, kept = _bytes(model, name, dataset, settings, remat=False)
                _, recomputed = _bytes(model, name, dataset, settings, remat=True)
                counts = (state, kept, state + kept, recomputed, state + recomputed)
                sizes = (f"{size / 2**30:.1f} GiB" for size in counts)
                yield f"| {name} | {n_rows} | {variant} | {' | '.join(sizes)} |"


def _codec_line(model: BarkModel, n_rows: int) -> str:
    training, batch = codec_step(model, CodecSettings(batch_size=n_rows))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    state, kept = _counts(training.trace(batch, here))
    counts = (f"{size / 2**30:.1f} GiB" for size in (state, kept, state + kept))
    return f"| codec_model | {n_rows} | all weights | {' | '.join(counts)} | - | - |"


def codec_step(model: BarkModel, settings: CodecSettings) -> tuple[CodecTraining, dict[str, Any]]:
    """The codec's training on this machine, and the batch of a quantised step."""
    codec, here = model.codec_model, jax.local_devices()[:1]
    training = CodecTraining(codec, make_optimizer(OptimizerSettings(), 1), settings, model.spaces.n_fine, devices=here)
    audio_BA = np.zeros((settings.batch_size, settings.n_frames * codec.config.hop_length), np.float32)
    return training, {"step": settings.unquantized_steps, "audio": audio_BA}


def _bytes(model: BarkModel, name: str, dataset: Dataset, settings: StageSettings, *, remat: bool) -> tuple[int, int]:
    """(bytes of arguments: weights, optimizer state, batch; bytes of temporaries: activations and gradients)."""
    training = make_training(model, name, settings, OptimizerSettings(), RunSettings(n_steps=1), None, remat=remat)
    batches = STAGES[name].make_batches(dataset, batch_size=settings.batch_size, seed=0, spaces=model.spaces)
    return _counts(training.trace(batches(0)))


def _counts(traced: jax.stages.Traced) -> tuple[int, int]:
    counts = traced.lower().compile(compiler_options=QUICK).memory_analysis()
    return counts.argument_size_in_bytes, counts.temp_size_in_bytes


def longest_examples(model: BarkModel, n_examples: int) -> Dataset:
    """Utterances as long as the model speaks, of random tokens: every batch of them has its largest shape."""
    spaces, rng = model.spaces, np.random.default_rng(0)
    n_frames = spaces.n_frames(spaces.max_semantic)
    examples = [
        Example(
            text=rng.integers(0, spaces.text_pad - spaces.text_offset, spaces.n_text, dtype=np.int32),
            semantic=rng.integers(0, spaces.semantic_vocab, spaces.max_semantic, dtype=np.int32),
            codes=rng.integers(0, spaces.codebook_size, (spaces.n_fine, n_frames), dtype=np.int32),
            voice=0,
        )
        for _ in range(n_examples)
    ]
    return Dataset.from_examples(iter(examples), spaces)
