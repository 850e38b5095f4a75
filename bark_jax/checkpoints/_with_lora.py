"""Opening a model with a LoRA merged into it, to convert it for programs that cannot load a LoRA."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from bark_jax.checkpoints._arrays import StoredArray
from bark_jax.checkpoints._plan import NetworkSource
from bark_jax.checkpoints._sources import Source
from bark_jax.checkpoints.find import find_model
from bark_jax.checkpoints.layouts.own import open_own
from bark_jax.checkpoints.lora import Lora, base_of, changed_kernel, check_lora, load_lora
from bark_jax.checkpoints.model_folder import read_manifest


def open_with_lora(src: str | os.PathLike, lora: str | os.PathLike, *, revision: str | None = None) -> Source:
    """Opens the model that `BarkModel.from_pretrained(src, lora=lora)` loads. Each kernel is merged when it is read.

    Raises:
      ModelNotFoundError: there is no such model or file.
      CheckpointError: the file is damaged, no LoRA of this project, or of another model.
    """
    load_lora(lora)  # checks the file before the model is downloaded and converted, which takes minutes
    folder = find_model(src, revision=revision)
    changes = load_lora(lora, base=base_of(folder))
    manifest = read_manifest(folder)
    source = open_own(folder, manifest.source)
    networks = {
        name: _changed(network, changes[name], lora, manifest.dtype) if name in changes else network
        for name, network in source.networks.items()
    }
    return dataclasses.replace(source, networks=networks)


def _changed(network: NetworkSource, lora: Lora, where: str | os.PathLike, dtype: str | None) -> NetworkSource:
    shapes = {name: array.shape for name, array in network.arrays.items()}
    check_lora(lora, shapes, f"{where}, for {network.network},")
    changed = {name: _changed_array(network.arrays, name, lora, dtype) for name in lora.a}
    return dataclasses.replace(network, arrays={**network.arrays, **changed})


def _changed_array(arrays: Mapping[str, StoredArray], name: str, lora: Lora, dtype: str | None) -> StoredArray:
    """A kernel with its change added, in the dtype that the model computes in.

    In the dtype of a file stored as float16 the sum could round back to the kernel: a change can be that small.
    """
    array = arrays[name]
    made_in = array.dtype if dtype is None else np.dtype(dtype)
    # Made in a function of its own: in a loop, every lambda would see the last name. np.array, as `StoredArray.read`
    # promises a writable numpy array and JAX's is neither.
    return StoredArray(array.shape, made_in, lambda: np.array(changed_kernel(array.read().astype(made_in), lora, name)))
