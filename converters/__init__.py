"""PyTorch checkpoints of Bark and EnCodec to this project's folders, and back. PyTorch itself is not needed.

    convert("suno/bark-small", "bark-small")         # or: python -m converters suno/bark-small bark-small
    export_transformers("bark-small", "for-torch")

What happens where, from SRC to DST: `layouts` finds out what SRC is; `transformers_folder`, `suno`,
`encodec_original` and `own_folder` open it; `torch_pickle` and `safetensors_file` read arrays; `schemes` are the tables
of names, `rules` and `transforms` what their entries mean; `engine` applies them; `with_lora` adds changes on the way;
`conversion` and `export` write.
"""

import importlib
from typing import Any

_HOMES = {"convert": "converters.conversion", "export_transformers": "converters.export"}
__all__ = ["convert", "export_transformers"]


def __getattr__(name: str) -> Any:  # on first use, as both load JAX
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
