"""What a checkpoint is found to be: its networks, configs and other files, whichever program wrote it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bark_jax.config import BarkConfig, BarkGenerationConfig, EncodecConfig, JsonConfig, read_json
from bark_jax.errors import CheckpointError, ConfigError
from bark_jax.tokens import check_fit
from bark_jax.weights import NETWORKS
from converters.arrays import StoredArray
from converters.engine import NetworkSource


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
    def is_whole(self) -> bool:
        return set(self.networks) == set(NETWORKS)

    def check(self) -> None:
        """Raises ConfigError where the networks cannot hold the tokens of the stages."""
        if self.is_whole and self.generation is not None:
            check_fit(self.config, self.generation)


def read_config(path: Path, config_class: type[JsonConfig]) -> Any:
    """A config from its file. Raises ConfigError with the path."""
    return parse_config(path, config_class, read_json(path))


def parse_config(where: Any, config_class: type[JsonConfig], values: Any) -> Any:
    """A config from the values found in `where`. Raises ConfigError, also for one that brings code of its own."""
    if isinstance(values, dict) and "auto_map" in values:
        raise ConfigError(f"{where} asks for code of its own (auto_map), which is not run here; do not use this model")
    try:
        return config_class.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def check_arrays(path: str | os.PathLike, content: Any) -> Mapping[str, StoredArray]:
    """`content`, if it is arrays by name. Raises CheckpointError for anything else."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected arrays by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, StoredArray):
            raise CheckpointError(f"{path}: {name!r} is a {type(value).__name__}, expected an array under a name")
    return content
