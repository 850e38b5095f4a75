"""The checkpoint that is verified: checksums of its files, its size, and the memory that it takes."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from bark_jax import tiny
from bark_jax.checkpoints import snapshots
from bark_jax.checkpoints.model_folder import MANIFEST_FILE, NETWORKS, network_shapes
from bark_jax.config import BarkConfig
from bark_jax.files import sha256_of

# Layers and width of the networks that choose tokens.
SIZES = {"small": (12, 768), "large": (24, 1024)}
ENDINGS = (".safetensors", ".bin", ".pt", ".th", ".json", ".txt")


def size_of(config: BarkConfig) -> str:
    """Returns "small" or "large" if the model has a published size, else its layers and width."""
    sizes = {
        (part.num_layers, part.hidden_size)
        for part in (config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config)
    }
    for name, size in SIZES.items():
        if sizes == {size}:
            return name
    return "not a published size: " + ", ".join(f"{layers} layers of width {width}" for layers, width in sorted(sizes))


def source_folder(model: str | os.PathLike, revision: str | None, found: Path) -> Path:
    """Returns the folder of the checkpoint as it was given or downloaded; `found` is what it was converted to."""
    named = tiny.folder_of(model)
    if os.path.isdir(named):
        return Path(named)
    return snapshots.find_snapshot(os.fspath(model), revision=revision) or found


def checksums(folder: Path) -> Iterator[tuple[str, str, int]]:
    """Yields name, SHA-256 and bytes of each file in a checkpoint's folder that has one of ENDINGS, by name."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.endswith(ENDINGS) and path.name != MANIFEST_FILE:
            yield path.name, sha256_of(path), path.stat().st_size


def float32_bytes(config: BarkConfig) -> int:
    """Returns the bytes of all four networks' weights in float32."""
    shapes = (network_shapes(module, getattr(config, field)) for module, field in NETWORKS.values())
    return sum(4 * math.prod(array.shape) for arrays in shapes for array in arrays.values())
