"""Models on disk: PyTorch checkpoints of Bark and EnCodec in and out, without PyTorch, and this project's own folders.

    convert("suno/bark-small", "bark-small")         # or: bark-jax convert suno/bark-small bark-small
    export_transformers("bark-small", "for-torch")

From a name to networks in memory:

    find.py snapshots.py     a folder, a Hub id or the built-in model; converted and cached where needed
    load.py model_folder.py  the networks of a folder in this project's own form; what such a folder holds

From a foreign checkpoint to such a folder, and back:

    open.py layouts/             what a checkpoint is, and opening it; a module for all there is to say of a layout
    pickle/ safetensors_file.py _arrays.py  reading arrays, without running what a file holds
    _rules.py _transforms.py     what the entries of a layout's table of names mean, how arrays change
    _sources.py _plan.py         an opened checkpoint; which arrays make which parameter, checked before one is read
    _write.py _extras.py export.py  writing the folder, its tokenizer and voices, and transformers' folder
    conversion.py                all of it
    lora.py _with_lora.py        changes to a model, and adding them on the way

What begins with _ is for this folder alone.
"""

from typing import TYPE_CHECKING

from bark_jax._system.lazy import lazy_names

_MODULE_BY_NAME = {"convert": "checkpoints.conversion", "export_transformers": "checkpoints.export"}

if TYPE_CHECKING:
    from bark_jax.checkpoints.conversion import convert as convert
    from bark_jax.checkpoints.export import export_transformers as export_transformers
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)
