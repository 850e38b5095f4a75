"""Finding a model by its name: a folder, a Hub id or the built-in model, converted and cached where needed.

A PyTorch checkpoint is converted once. The result is kept in the cache, `HF_HOME/bark_jax`, by repository and commit,
or by name and fingerprint of a folder, so a new revision or a changed file is converted again.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from bark_jax import tiny
from bark_jax.checkpoints import snapshots
from bark_jax.checkpoints._write import write_model
from bark_jax.checkpoints.model_folder import is_model_folder
from bark_jax.checkpoints.open import open_source
from bark_jax.checkpoints.progress import BytesBar
from bark_jax.errors import InputError, ModelNotFoundError, OutputError, quoted
from bark_jax.files import check_destination, remove_abandoned

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The cache folder of converted models: HF_HOME/bark_jax."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME, "bark_jax")


def find_model(
    name_or_folder: str | os.PathLike,
    *,
    revision: str | None = None,
    update: bool = False,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Finds a model, downloads and converts it where needed, and returns its model folder.

    Args:
      name_or_folder: a folder of any known layout, a Hub id such as "suno/bark-small", or "tiny" (built in).
      revision: of a Hub id: a branch, a tag or a commit.
      update: ask the Hub whether it has a newer commit than the cache. If false, a cached model needs no network.
      token, local_files_only: as in huggingface_hub.
      cache_dir: the folder for downloads and converted models, instead of those below HF_HOME.
      force_download: download again what is in the cache. A commit that was converted is not converted again.

    Raises:
      InputError: the name is no text, or a folder is given with a revision.
      ModelNotFoundError: it is not on this machine and cannot be downloaded; the message names the cache and a remedy.
      CheckpointError, ConfigError: it is not a Bark, or is damaged.
      OutputError: the cache is not writable.
    """
    name = tiny.folder_of(name_or_folder)
    name = os.fspath(name) if isinstance(name, (str, os.PathLike)) else name
    if not isinstance(name, str):
        raise InputError(f"a model is named by a folder or a Hub id, not by {quoted(name_or_folder)}")
    if os.path.isdir(name):
        if revision is not None:
            raise InputError(f"{name} is a folder on this machine; a revision is for Hub ids")
        cache_name = f"folder--{_safe(Path(name).resolve().name)}--{_fingerprint(Path(name))}"
        return _own_form(Path(name), cache_name, cache_dir)
    if not snapshots.is_hub_id(name):
        raise ModelNotFoundError(
            f"there is no model {quoted(name)}: no such folder, no Hub id such as suno/bark-small, not {tiny.NAME!r}"
        )
    found = None if update or force_download else _find_cached(name, revision, cache_dir)
    if found is not None:
        return found
    snapshot = snapshots.fetch(
        name,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    return _own_form(snapshot, _cache_name(name, snapshot), cache_dir)


def _find_cached(repository: str, revision: str | None, cache_dir: str | os.PathLike | None) -> Path | None:
    """The model folder of a Hub model if it is complete on this machine, as downloaded or converted; else None."""
    snapshot = snapshots.find_snapshot(repository, revision=revision, cache_dir=cache_dir)
    if snapshot is None:
        return None
    if is_model_folder(snapshot):
        return snapshot if snapshots.is_complete(snapshot) else None
    converted = _converted_folder(cache_dir) / _cache_name(repository, snapshot)
    return converted if is_model_folder(converted) else None


def _converted_folder(cache_dir: str | os.PathLike | None) -> Path:
    return cache_folder() if cache_dir is None else Path(cache_dir, "bark_jax")


def _cache_name(repository: str, snapshot: Path) -> str:
    """The name of a converted model's folder in the cache, with the repository and the commit."""
    return f"models--{_safe(repository.replace('/', '--'))}--{snapshot.name}"


def _own_form(folder: Path, cache_name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """The folder itself if it is of this project's form, else what it converts to."""
    if is_model_folder(folder):
        return folder

    def convert(target: Path) -> None:
        check_destination(target)  # fails before the checkpoint is opened, which reads gigabytes to check them
        logger.warning("converting %s, once, into %s", folder, target)
        with BytesBar() as bar:
            write_model(open_source(folder), target, progress=bar)

    return _once(_converted_folder(cache_dir) / cache_name, convert)


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """Makes a folder unless it exists. Of two processes that make it at once, the slower takes what the faster made."""
    if is_model_folder(target):
        return target
    # A killed conversion leaves gigabytes here, and nobody looks into a cache.
    remove_abandoned(target)
    try:
        make(target)
    except OutputError as error:
        raise OutputError(
            f"{error}. That is the cache of converted models: set HF_HOME to a folder elsewhere, or convert the model "
            "to one of your own (bark-jax convert) and name that"
        ) from error
    except InputError:  # another process has made it meanwhile
        if not is_model_folder(target):
            raise
    return target


def _safe(name: str) -> str:
    """The name with "_" for every character but letters, digits, "_", "." and "-"."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)


def _fingerprint(folder: Path) -> str:
    """Hash of a folder's path and of the name, size and modification time of its files; 16 hexadecimal digits."""
    # Sizes and times stand for the contents: to hash 4 GB would take seconds at every start.
    lines = [str(folder.resolve())]
    for path in sorted(folder.iterdir()):
        if path.is_file():
            status = path.stat()
            lines.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
