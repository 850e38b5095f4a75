"""Checkpoints of torch.save, read without PyTorch.

Source: PyTorch, torch/serialization.py, `load`: a zip archive (torch 1.6 and later, see torch_zip.py and unpickler.py),
or a stream of pickles that begins with MAGIC_NUMBER (earlier), or a tar archive (0.1), which is not read here.
"""

import os
from pathlib import Path
from typing import Any

import ml_dtypes

from bark_jax.errors import CheckpointError, UnsupportedError
from converters.arrays import (
    DOWNLOAD_AGAIN,
    TORCH_STREAM,
    StoredArray,
    looks_like,
    open_file,
    refuse,
    refuse_pointers,
)
from converters.torch_zip import TorchZip
from converters.unpickler import WeightsUnpickler

# Before 2.6, weights_only=True could be made to run code by a file that is also a tar archive (CVE-2025-32434).
SAFE_TORCH = (2, 6)


def read_torch(path: str | os.PathLike) -> Any:
    """What torch.save was given: dicts, lists, tuples, strings and numbers, with StoredArrays in place of tensors.

    An OrderedDict comes as a dict, a torch.Size as a tuple, a numpy scalar as a number, a dtype as numpy's. No code of
    the file is run, and no tensor is read before its `read()`. Files of torch before 1.6 are read by torch itself, all
    at once, and only if it is installed.

    Raises CheckpointError, ModelNotFoundError, or UnsupportedError for an old file where torch is not installed.
    """
    path = Path(path)
    with open_file(path) as file:
        head = file.read(512)
        refuse_pointers(path, head)
        if head.startswith(b"PK\x03\x04"):
            archive = TorchZip(file, path)
            return WeightsUnpickler(archive.pickle(), path, archive.storage).load()
        if not head.startswith(TORCH_STREAM):
            refuse(path, f"is no checkpoint of torch.save but {looks_like(head)}. {DOWNLOAD_AGAIN}")
    return _read_old(path)


def _read_old(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UnsupportedError(
            f"{path} was written by torch before 1.6. To read it, install torch, or load and save it where you have a "
            "newer torch."
        ) from error
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise UnsupportedError(
            f"{path} was written by torch before 1.6, and torch {torch.__version__} cannot open such a file safely. "
            "Install torch 2.6 or later."
        )
    try:
        return _stored(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # of a dozen kinds for damaged files, such as AssertionError and MemoryError
        raise CheckpointError(f"{path} cannot be read by torch with weights_only=True: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """The part of torch's message that tells what is wrong; the rest advises to run the file's code."""
    lines = str(error).partition("Check the documentation")[0].strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _stored(value: Any) -> Any:
    """The value of torch.load as `read_torch` gives it."""
    import torch

    if isinstance(value, dict):
        return {key: _stored(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_stored(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, torch.Tensor) and not value.is_complex():
        value = value.detach().contiguous()
        if value.dtype == torch.bfloat16:  # unknown to numpy
            return StoredArray.of(value.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
        return StoredArray.of(value.numpy())
    if value is None or isinstance(value, (str, bytes, int, float)):
        return value
    raise TypeError(f"holds a {type(value).__name__}, expected tensors, numbers and strings in containers")
