"""An opened checkpoint: its networks, configs and other files, in the same form for every layout."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bark_jax.checkpoints._arrays import StoredArray, brief
from bark_jax.checkpoints._plan import NetworkSource
from bark_jax.checkpoints.model_folder import NETWORKS
from bark_jax.config import BarkConfig, BarkGenerationConfig, EncodecConfig
from bark_jax.errors import CheckpointError
from bark_jax.generation.tokens import check_fit


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint; its arrays are not read yet.

    label: its name in the manifest: a Hub id or a file's name.
    config: BarkConfig, or EncodecConfig for a codec alone.
    generation: None unless the checkpoint has all four networks.
    networks: by name, a key of NETWORKS; all four, or the one of a single file.
    folder: the folder with its tokenizer and voices, if it has any.
    original_codec: a file with the codec's arrays before weight norm was folded; only model folders of this project
      have one.
    dtype: the dtype to compute in, where a manifest has one; else that of the arrays.
    """

    label: str
    config: BarkConfig | EncodecConfig
    generation: BarkGenerationConfig | None
    networks: Mapping[str, NetworkSource]
    folder: Path | None = None
    original_codec: Path | None = None
    dtype: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the checkpoint has all four networks."""
        return set(self.networks) == set(NETWORKS)

    def check(self) -> None:
        """Raises ConfigError where the networks cannot hold the tokens of the stages."""
        if self.is_complete and self.generation is not None:
            check_fit(self.config, self.generation)


def check_arrays(path: str | os.PathLike, content: Any) -> Mapping[str, StoredArray]:
    """Returns `content` if it is a mapping from names to arrays, of any shape. Raises CheckpointError otherwise."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected arrays by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, StoredArray):
            raise CheckpointError(f"{path}: {brief(name)} is a {type(value).__name__}, expected an array under a name")
    return content
