"""Opening a checkpoint by path or Hub id, with its layout detected."""

import os
from pathlib import Path
from typing import NoReturn

from bark_jax.checkpoints import snapshots
from bark_jax.checkpoints._sources import Source
from bark_jax.checkpoints.layouts import LAYOUTS
from bark_jax.checkpoints.layouts.layout import Request
from bark_jax.checkpoints.model_folder import is_model_folder
from bark_jax.errors import CheckpointError, InputError, ModelNotFoundError, quoted

KINDS = ", ".join(layout.kind for layout in LAYOUTS[:-1]) + f", or {LAYOUTS[-1].kind}"
SIZES = tuple(size for layout in LAYOUTS for size in layout.sizes)


def open_source(
    src: str | os.PathLike,
    *,
    size: str | None = None,
    codec: str | os.PathLike | None = None,
    revision: str | None = None,
) -> Source:
    """Opens a checkpoint of any layout, without reading its weights.

    Args:
      src: a folder, a file, or a Hub id such as "suno/bark-small", which is downloaded.
      size: which of Suno's two sets of files to take, "small" or "large".
      codec: the codec for Suno's files, which have none: a folder, a `.th` file or a Hub id.
      revision: of a Hub id: a branch, tag or commit.

    Raises:
      InputError: an argument cannot be, or does not go with this checkpoint.
      ModelNotFoundError: there is no such checkpoint, or a part of it is missing.
      CheckpointError, ConfigError: it is damaged, or of no known layout.
    """
    if size is not None and (not isinstance(size, str) or size not in SIZES):
        raise InputError(f"size is {quoted(size)}, expected {' or '.join(SIZES)}")
    path, label = _locate(src, size, revision)
    if path.is_dir() and not is_model_folder(path):  # a model folder has SHA-256 checksums in its manifest
        snapshots.check_blobs(path)
    request = Request(path, label, open_source, size, codec)
    layout = next((layout for layout in LAYOUTS if layout.is_mine(request)), None)
    has_choices = path.is_dir() and layout is not None and layout.sizes
    if (size is not None or codec is not None) and not has_choices:
        raise InputError(f"{src} is not a folder of Suno's files, the only ones that need size or codec")
    if layout is None:
        _refuse(path)
    return layout.open(request)


def _locate(src: str | os.PathLike, size: str | None, revision: str | None) -> tuple[Path, str]:
    """Returns the path of `src` on this machine, downloaded where needed, and its label for the manifest."""
    if not isinstance(src, (str, os.PathLike)) or not isinstance(os.fspath(src), str):
        raise InputError(f"a checkpoint is named by a folder, a file or a Hub id, not by {quoted(src)}")
    path = Path(src)
    if os.path.exists(path):  # False for a name that no system takes, where Path.exists raises
        if revision is not None:
            raise InputError(f"{src} is on this machine; a revision is for Hub ids")
        return path, snapshots.snapshot_name(path) or path.resolve().name
    if snapshots.is_hub_id(str(src)):
        folder = snapshots.fetch(str(src), revision=revision, size=size)
        return folder, snapshots.snapshot_name(folder) or str(src)
    raise ModelNotFoundError(
        f"{quoted(str(src), 400)} does not exist. Expected {KINDS}, or a Hub id such as suno/bark-small"
    )


def _refuse(path: Path) -> NoReturn:
    if path.is_dir():
        raise ModelNotFoundError(f"{path} holds no model that is known here. Expected {KINDS}")
    raise CheckpointError(f"{path} is of no known kind by its name. Expected {KINDS}; give the folder, not its file")
