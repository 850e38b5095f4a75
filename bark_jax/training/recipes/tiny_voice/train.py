"""Trains the networks of the built-in voice one after the other. Resumes: work that is done in the folder is kept."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax import tiny
from bark_jax.checkpoints.load import save_networks
from bark_jax.checkpoints.model_folder import NETWORKS
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel
from bark_jax.stage_models import NETWORK_CLASSES
from bark_jax.text.processor import BarkProcessor
from bark_jax.training.codec_training import CodecSettings, train_codec
from bark_jax.training.dataset import Dataset
from bark_jax.training.loop import RunSettings
from bark_jax.training.prepare import codec_fingerprint, recode
from bark_jax.training.recipes.tiny_voice.amounts import Amount, Codec, Stage
from bark_jax.training.recipes.tiny_voice.corpus import make_corpus
from bark_jax.training.recipes.tiny_voice.model import Form, make_tokenizer
from bark_jax.training.recipes.tiny_voice.open_texts import read_words
from bark_jax.training.recipes.tiny_voice.pace import Clock, fit_run
from bark_jax.training.recipes.tiny_voice.speech import Flite, fetch_flite
from bark_jax.training.stage_training import train_stage, with_networks
from bark_jax.voices.library import VoiceLibrary
from bark_jax.voices.voice import Voice

STAGES = ("semantic", "coarse_acoustics", "fine_acoustics")
STORED_DTYPE = jnp.float16  # halves the size of the package's model files


def train(work: Path, amount: Amount, *, seed: int, start: Path | None = None, clock: Clock | None = None) -> BarkModel:
    """Makes the corpus, trains the codec, encodes the corpus with it, and trains the three transformers.

    Args:
      work: folder for the corpus, the codes and the runs.
      start: folder of a model of these sizes to start from; random weights if None.
      clock: the time limit; None for none.

    Raises:
      TrainingStopped: the time is over. The same call resumes.
    """
    clock = Clock(None) if clock is None else clock
    model = random_model(amount.form, seed) if start is None else BarkModel.from_pretrained(str(start), dtype="float32")
    speech = _make_speech(work, amount, seed, clock)
    codec = _train_codec(model, speech, work, amount.codec, clock)
    model = with_networks(model, {"codec_model": codec})
    data = _with_codes(speech, work / "codes", model, amount.rows_encoded_at_once, clock)
    for name in STAGES:
        model = with_networks(model, {name: _train_stage(model, name, data, work, amount.stages[name], clock)})
    return model


def fetch(work: Path, amount: Amount) -> None:
    """Puts into `work` what `train` takes from elsewhere, so that it needs no network: flite and the frequent words.

    Raises:
      UnsupportedError: flite cannot be downloaded, or PocketSphinx is not installed.
    """
    fetch_flite(work)
    _words(work, amount)


def _words(work: Path, amount: Amount) -> tuple[str, ...]:
    return read_words(work / "words.txt") if any(share.strings for share in amount.shares) else ()


def _make_speech(work: Path, amount: Amount, seed: int, clock: Clock) -> Dataset:
    folder = work / "speech"
    if not folder.is_dir():
        clock.begin_part("the corpus")
    processor = make_processor(amount.form)
    return make_corpus(Flite(work), folder, amount.shares, processor, _words(work, amount), seed=seed)


def _train_codec(model: BarkModel, speech: Dataset, work: Path, codec: Codec, clock: Clock) -> nnx.Module:
    def run_in(folder: Path, run: RunSettings, stop: Callable[[], bool], settings: CodecSettings) -> nnx.Module:
        return train_codec(model, speech, folder, run, settings=settings, optimizer=codec.optimizer, stop=stop).network

    # Timed on the steps that all but the first few hundred are.
    quantized = dataclasses.replace(codec.settings, unquantized_steps=0)
    run = fit_run(work, "codec_model", codec.run, codec.seconds, functools.partial(run_in, settings=quantized))
    return run_in(work / "codec_model", run, clock.is_over, codec.settings)


def _train_stage(model: BarkModel, name: str, data: Dataset, work: Path, stage: Stage, clock: Clock) -> nnx.Module:
    def run_in(folder: Path, run: RunSettings, stop: Callable[[], bool]) -> nnx.Module:
        trained = train_stage(
            model, name, data, folder, run, settings=stage.settings, optimizer=stage.optimizer, stop=stop
        )
        return trained.network

    return run_in(work / name, fit_run(work, name, stage.run, stage.seconds, run_in), clock.is_over)


def random_model(form: Form, seed: int) -> BarkModel:
    """The model with random weights, float32."""
    rngs, config = nnx.Rngs(seed), form.config
    networks = {
        name: NETWORK_CLASSES[name](getattr(config, field), dtype=jnp.float32, rngs=rngs)
        for name, (_, field) in NETWORKS.items()
    }
    return BarkModel(config, form.generation_config, **networks)


def make_processor(form: Form, voices: tuple[Voice, ...] = ()) -> BarkProcessor:
    """The processor of a model of this form, with its tokenizer, vocabulary and voices."""
    return BarkProcessor(
        make_tokenizer(),
        VoiceLibrary.from_voices(voices),
        spaces=TokenSpaces.from_config(form.generation_config),
        words=form.words,
        max_sentences=form.n_sentences,
    )


def choose_voices(data: Dataset) -> tuple[Voice, ...]:
    """Picks a voice prompt for each voice: its longest utterance, which fills most of every stage's history."""
    voices = []
    for index, name in enumerate(data.voices):
        spoken = (data.voice_indices == index).nonzero()[0]
        example = data[int(spoken[data.semantic_lengths[spoken].argmax()])]
        n_coarse = data.spaces.n_coarse
        voices.append(Voice(example.semantic, example.codes[:n_coarse], example.codes, name=name))
    return tuple(voices)


def write_model(model: BarkModel, form: Form, voices: tuple[Voice, ...], folder: Path) -> None:
    """Writes the model folder that ships: float16 networks that load as float32, tokenizer, vocabulary and voices."""
    halves = {name: jax.tree.map(lambda array: array.astype(STORED_DTYPE), getattr(model, name)) for name in NETWORKS}
    config, generation_config = model.config, model.generation_config
    save_networks(folder, config, generation_config, halves, source=tiny.NAME, dtype="float32", overwrite=True)
    make_processor(form, voices).save_pretrained(folder)


def _with_codes(speech: Dataset, folder: Path, model: BarkModel, rows_at_once: int, clock: Clock) -> Dataset:
    """The corpus with the codes of the model's codec. Encodes again if the codes in `folder` are of another codec."""
    if folder.is_dir():
        data = Dataset.open(folder, spaces=model.spaces)
        if data.codec == codec_fingerprint(model.codec_model):
            return data
    clock.begin_part("the codes of the corpus")
    return recode(speech, folder, model.codec_model, overwrite=True, rows_at_once=rows_at_once)
