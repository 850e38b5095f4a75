"""Description of a checkpoint's layout: the files by which it is detected, downloaded and opened."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from bark_jax.checkpoints._sources import Source


@dataclasses.dataclass(frozen=True)
class Request:
    """A checkpoint to open, and the caller's choices.

    path: a folder or a file on this machine, which exists.
    label: its name in the manifest; see `Source`.
    open_source: opens another checkpoint, such as one that `codec` names.
    size: which of several sets of weights in a folder to open, "small" or "large".
    codec: a folder, file or Hub id with the codec, for a folder that lacks one.
    """

    path: Path
    label: str
    open_source: Callable[[str | os.PathLike], Source]
    size: str | None = None
    codec: str | os.PathLike | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of checkpoints. The tuple of all of them is `layouts.LAYOUTS`.

    kind: its name, for messages that list what can be opened.
    signs: patterns of file names; a folder of this layout has a file that matches one. `files.MODEL_SIGNS` repeats
      those of all layouts.
    is_mine: whether a folder or file is of this layout; the first layout in the tuple that claims it opens it.
    open: opens it without reading weights. Raises ModelNotFoundError, CheckpointError or ConfigError.
    weights: patterns of weight files on the Hub, one tuple for each kind of weights, in order of preference. A
      repository has a kind if it has a file that matches the first pattern of its tuple.
    sizes: patterns of weight files by size, for a layout whose folder may hold several sizes and lack a codec; only
      such a folder takes `size` and `codec`.
    """

    kind: str
    signs: tuple[str, ...]
    is_mine: Callable[[Request], bool]
    open: Callable[[Request], Source]
    weights: tuple[tuple[str, ...], ...] = ()
    sizes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
