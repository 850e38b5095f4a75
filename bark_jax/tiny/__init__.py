"""The built-in model: a small voice of Bark's architecture, for a first try without a download.

It is a model folder like any other, `model`; its model card there says what it was trained on and how intelligible it
is. It speaks digits and the sentences of a small grammar in two voices.
"""

import os
from pathlib import Path

from bark_jax.files import holds_model

NAME = "tiny"
FOLDER = Path(__file__).parent / "model"
EXAMPLE = "The weather is beautiful today."


def folder_of(name: str | os.PathLike) -> str | os.PathLike:
    """Resolves "tiny" to the built-in model's folder; returns any other name as it is.

    A folder `tiny` in the working directory takes precedence if it holds a model. A folder of something else, such as
    audio, does not hide the built-in model.
    """
    return FOLDER if name == NAME and not holds_model(NAME) else name
