"""Models on disk: PyTorch checkpoints of Bark and EnCodec in and out, without PyTorch, and this project's own folders.

    convert("suno/bark-small", "bark-small")         # or: bark-jax convert suno/bark-small bark-small
    export_transformers("bark-small", "for-torch")

From a name to networks in memory:

    find.py snapshots.py     finding a model: a folder, a Hub id or the built-in one; converted and cached where needed
    load.py model_folder.py  loading the networks of a model folder (this project's own layout); the folder's format
    compiled.py              JAX's persistent compilation cache

From a foreign checkpoint to a model folder, and back:

    open.py layouts/             detecting a checkpoint's layout and opening it; one module a layout
    pickle/ safetensors_file.py _arrays.py  reading arrays from untrusted files, without running code in them
    _rules.py _transforms.py     rules that map names of arrays to parameters; transposes and weight norm
    _sources.py _plan.py         an opened checkpoint; which arrays make which parameter, checked before any is read
    _write.py _extras.py export.py  writing the folder, its tokenizer and voices, and transformers' folder
    conversion.py progress.py    all of it: `bark-jax convert`, and its progress bar
    options.py                   arguments of transformers' from_pretrained that are ignored or refused
    lora.py _with_lora.py        LoRA files, and merging one while converting

Modules that begin with _ are private to this folder.
"""

from typing import TYPE_CHECKING

from bark_jax._system.lazy import lazy_names

_MODULE_BY_NAME = {"convert": "checkpoints.conversion", "export_transformers": "checkpoints.export"}

if TYPE_CHECKING:
    from bark_jax.checkpoints.conversion import convert as convert
    from bark_jax.checkpoints.export import export_transformers as export_transformers
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)
