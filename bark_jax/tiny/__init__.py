"""The built-in model: a small voice of Bark's architecture, for a first try without a download.

It is a model folder like any other, `model`; its model card there says what it was trained on and how well it is
understood. It says digits and the sentences of a small grammar in two voices.
"""

import os
from pathlib import Path

NAME = "tiny"
FOLDER = Path(__file__).parent / "model"
EXAMPLE = "The weather is beautiful today."

# Each form of checkpoint has one of these. A folder without, such as one of audio, does not hide the built-in model.
_SIGNS = ("config.json", "*.pt", "*.th")


def folder_of(name: str | os.PathLike) -> str | os.PathLike:
    """What a name stands for: the built-in model's folder, unless a model of that name lies here; others stay."""
    return FOLDER if name == NAME and not any(any(Path(NAME).glob(sign)) for sign in _SIGNS) else name
