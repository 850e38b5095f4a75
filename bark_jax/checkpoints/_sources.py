"""What a checkpoint is found to be: its networks, configs and other files, whichever program wrote it."""

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
    """A checkpoint, opened but not read.

    label: what to call it in the manifest: a Hub id or a file's name.
    config: of all networks; of the codec where there is nothing else.
    generation: None where there are not all four networks.
    networks: what it holds; all four, or the one of a single file.
    folder: where its tokenizer and voices lie, if it has any.
    original_codec: a file with the codec's arrays before they were folded, where the source is of our own form.
    dtype: to compute in whatever the arrays' is, where a manifest says so.
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
        return set(self.networks) == set(NETWORKS)

    def check(self) -> None:
        """Raises ConfigError where the networks cannot hold the tokens of the stages."""
        if self.is_complete and self.generation is not None:
            check_fit(self.config, self.generation)


def check_arrays(path: str | os.PathLike, content: Any) -> Mapping[str, StoredArray]:
    """`content`, if it is arrays by name. Raises CheckpointError for anything else."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected arrays by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, StoredArray):
            raise CheckpointError(f"{path}: {brief(name)} is a {type(value).__name__}, expected an array under a name")
    return content
