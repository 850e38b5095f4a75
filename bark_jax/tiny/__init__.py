"""The built-in model: a small voice of Bark's architecture, for a first try without a download.

It is a model folder like any other, `model`; its model card there says what it was trained on and how well it is
understood. It says digits and the sentences of a small grammar in two voices.
"""

import os
from pathlib import Path

from bark_jax.files import holds_model

NAME = "tiny"
FOLDER = Path(__file__).parent / "model"
EXAMPLE = "The weather is beautiful today."


def folder_of(name: str | os.PathLike) -> str | os.PathLike:
    """What a name stands for: the built-in model's folder, unless a model of that name lies here; others stay.

    A folder of something else, such as one of audio, does not hide the built-in model.
    """
    return FOLDER if name == NAME and not holds_model(NAME) else name
