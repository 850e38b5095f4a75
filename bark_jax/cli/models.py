"""Opens the processor (tokenizer and voices) of a model by name, without loading its networks."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bark_jax.errors import ModelNotFoundError
from bark_jax.files import holds_model

if TYPE_CHECKING:
    from bark_jax.text.processor import BarkProcessor


def open_processor(model: str, revision: str | None, tokenizer: str | None = None) -> "BarkProcessor":
    """Opens a model's tokenizer and voices.

    Args:
      tokenizer: a tokenizer's file or folder, in place of the model's own.

    Raises:
      ModelNotFoundError: no such model, or it has no tokenizer.
      ConfigError, VoiceError: a damaged file.
    """
    from bark_jax.text.processor import BarkProcessor

    try:
        return BarkProcessor.from_pretrained(model, revision=revision, tokenizer=tokenizer)
    except ModelNotFoundError:
        from bark_jax.checkpoints.find import find_model

        # A missing tokenizer and a missing model raise the same error. If the model is missing, this line says so.
        find_model(model, revision=revision)
        raise


def open_voices(model: str, revision: str | None) -> "BarkProcessor":
    """Opens a model's voices, with the built-in tokenizer, so that none is downloaded.

    Raises:
      ModelNotFoundError: a folder without a model. It would pass for a model without voices of its own.
    """
    from bark_jax import tiny
    from bark_jax.text.processor import BarkProcessor
    from bark_jax.text.tokenizer import TOKENIZER_FILE

    # A processor that transformers saved without its model has voices and no config.json.
    if os.path.isdir(model) and not holds_model(model) and not any(Path(model).glob("*.json")):
        raise ModelNotFoundError(f"{model} holds no model: neither a config.json nor Suno's text.pt")
    return BarkProcessor.from_pretrained(model, revision=revision, tokenizer=tiny.FOLDER / TOKENIZER_FILE)
