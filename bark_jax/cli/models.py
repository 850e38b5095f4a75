"""The processors of the models that verbs are given by name. No networks are loaded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bark_jax.errors import ModelNotFoundError
from bark_jax.files import holds_model

if TYPE_CHECKING:
    from bark_jax.text.processor import BarkProcessor


def open_processor(model: str, revision: str | None, tokenizer: str | None = None) -> "BarkProcessor":
    """A model's tokenizer and voices.

    Args:
      tokenizer: a tokenizer's file or folder, instead of the model's own.

    Raises:
      ModelNotFoundError: no such model, or it has no tokenizer.
      ConfigError, VoiceError: a damaged file.
    """
    from bark_jax.text.processor import BarkProcessor

    try:
        return BarkProcessor.from_pretrained(model, revision=revision, tokenizer=tokenizer)
    except ModelNotFoundError:
        from bark_jax.checkpoints.find import find_model

        find_model(model, revision=revision)  # where the model is missing as well, that is what to tell
        raise


def open_voices(model: str, revision: str | None) -> "BarkProcessor":
    """A model's voices, with a tokenizer that needs no download.

    Raises:
      ModelNotFoundError: a folder of something else, which would pass for a Bark without voices of its own.
    """
    from bark_jax import tiny
    from bark_jax.text.processor import BarkProcessor
    from bark_jax.text.tokenizer import TOKENIZER_FILE

    # A processor that transformers saved alone has voices, and no config.json.
    if os.path.isdir(model) and not holds_model(model) and not any(Path(model).glob("*.json")):
        raise ModelNotFoundError(f"{model} holds no model: neither a config.json nor Suno's text.pt")
    return BarkProcessor.from_pretrained(model, revision=revision, tokenizer=tiny.FOLDER / TOKENIZER_FILE)
