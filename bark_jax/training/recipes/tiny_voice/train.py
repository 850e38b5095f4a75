"""Trains the networks of the built-in voice one after the other. Resumes: work that is done in the folder is kept."""

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
from bark_jax.training.codec_training import train_codec
from bark_jax.training.dataset import Dataset
from bark_jax.training.prepare import codec_fingerprint, recode
from bark_jax.training.recipes.tiny_voice import texts
from bark_jax.training.recipes.tiny_voice.amounts import Amount
from bark_jax.training.recipes.tiny_voice.corpus import make_corpus
from bark_jax.training.recipes.tiny_voice.model import CONFIG, GENERATION_CONFIG, make_tokenizer
from bark_jax.training.recipes.tiny_voice.speech import Flite
from bark_jax.training.stage_training import train_stage, with_networks
from bark_jax.voices.library import VoiceLibrary
from bark_jax.voices.voice import Voice

STAGES = ("semantic", "coarse_acoustics", "fine_acoustics")
STORED_DTYPE = jnp.float16  # halves the size of the package's model files


def train(work: Path, amount: Amount, *, seed: int, start: Path | None = None) -> BarkModel:
    """Makes the corpus, trains the codec, encodes the corpus with it, and trains the three transformers.

    Args:
      work: folder for the corpus, the codes and the runs.
      start: folder of a model of these sizes to start from; random weights if None.
    """
    model = random_model(seed) if start is None else BarkModel.from_pretrained(str(start), dtype="float32")
    speech = make_corpus(Flite(work), work / "speech", amount.shares, make_processor(), seed=seed)
    codec = train_codec(
        model,
        speech,
        work / "codec_model",
        amount.codec.run,
        settings=amount.codec.settings,
        optimizer=amount.codec.optimizer,
    )
    model = with_networks(model, {"codec_model": codec.network})
    data = _with_codes(speech, work / "codes", model)
    for name in STAGES:
        stage = amount.stages[name]
        trained = train_stage(
            model, name, data, work / name, stage.run, settings=stage.settings, optimizer=stage.optimizer
        )
        model = with_networks(model, {name: trained.network})
    return model


def random_model(seed: int) -> BarkModel:
    """The model with random weights, float32."""
    rngs = nnx.Rngs(seed)
    networks = {
        name: NETWORK_CLASSES[name](getattr(CONFIG, field), dtype=jnp.float32, rngs=rngs)
        for name, (_, field) in NETWORKS.items()
    }
    return BarkModel(CONFIG, GENERATION_CONFIG, **networks)


def make_processor(voices: tuple[Voice, ...] = ()) -> BarkProcessor:
    """The processor of the built-in model, with its tokenizer, vocabulary and voices."""
    spaces = TokenSpaces.from_config(GENERATION_CONFIG)
    return BarkProcessor(
        make_tokenizer(),
        VoiceLibrary.from_voices(voices),
        spaces=spaces,
        words=texts.vocabulary(),
        max_sentences=GENERATION_CONFIG.sentences_per_prompt,
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


def write_model(model: BarkModel, voices: tuple[Voice, ...], folder: Path) -> None:
    """Writes the model folder that ships: float16 networks that load as float32, tokenizer, vocabulary and voices."""
    halves = {name: jax.tree.map(lambda array: array.astype(STORED_DTYPE), getattr(model, name)) for name in NETWORKS}
    save_networks(folder, CONFIG, GENERATION_CONFIG, halves, source=tiny.NAME, dtype="float32", overwrite=True)
    make_processor(voices).save_pretrained(folder)


def _with_codes(speech: Dataset, folder: Path, model: BarkModel) -> Dataset:
    """The corpus with the codes of the model's codec. Encodes again if the codes in `folder` are of another codec."""
    if folder.is_dir():
        data = Dataset.open(folder, spaces=model.spaces)
        if data.codec == codec_fingerprint(model.codec_model):
            return data
    return recode(speech, folder, model.codec_model, overwrite=True)
