"""What a layout of checkpoint has to say of itself: by which files it is known, fetched and opened."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from bark_jax.checkpoints._sources import Source


@dataclasses.dataclass(frozen=True)
class Request:
    """What to open, and what its name alone leaves open.

    path: a folder or a file on this machine, which exists.
    label: what to call it; see `Source`.
    open_source: opens another checkpoint, such as one that `codec` names.
    size: which of several sets of weights in a folder.
    codec: where a codec is that the folder lacks: a folder, a file or a Hub id.
    """

    path: Path
    label: str
    open_source: Callable[[str | os.PathLike], Source]
    size: str | None = None
    codec: str | os.PathLike | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """One form of checkpoint. The tuple of all of them is `layouts.LAYOUTS`.

    kind: what it is, for messages that list what can be opened.
    signs: patterns of file names. A folder of this layout has one that fits; `files.MODEL_SIGNS` has those of all.
    is_mine: whether a folder or file is of this layout; the first one of the tuple that says so opens it.
    open: opens it, reading no weights. Raises ModelNotFoundError, CheckpointError or ConfigError.
    weights: patterns of weight files on the Hub, a tuple a kind, in order of preference. A repository that has a file
      of a tuple's first pattern has the kind.
    sizes: the same by size, where a folder may hold weights of several; such a folder can be asked for one of them, and
      for a codec from elsewhere.
    """

    kind: str
    signs: tuple[str, ...]
    is_mine: Callable[[Request], bool]
    open: Callable[[Request], Source]
    weights: tuple[tuple[str, ...], ...] = ()
    sizes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
