"""Single files of a model: in a folder, or in a repository of the Hugging Face Hub."""

import dataclasses
import os
import re
import reprlib
import socket
import urllib.parse
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any

from bark_jax import tiny
from bark_jax.errors import InputError, ModelNotFoundError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?", re.ASCII)
_UNSAFE_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")


def shown(value: Any, limit: int = 80) -> str:
    """A value as an error message shows it: quoted, escaped, and short however large the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        return short.repr(value)[: 4 * limit]
    except ValueError:  # Python writes no integer of more than some 4,300 digits
        return f"a {type(value).__name__} too long to show"


def is_inner_path(path: Any) -> bool:
    """Whether `path` names a file below some folder on every system: relative, "/" between, no ".." and no drive."""
    if not isinstance(path, str) or not path or len(path) > 512 or _UNSAFE_CHARACTER.search(path):
        return False
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts


class UnreachableError(ModelNotFoundError):
    """A file that is not on this machine, while the Hub, which may have it, cannot be asked."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a model's files are.

    `name` is a folder, which "tiny" stands for too, or a Hub id; the other fields only matter for the Hub.
    """

    name: str
    revision: str | None = None
    token: str | bool | None = dataclasses.field(default=None, repr=False)
    cache_dir: str | os.PathLike | None = None
    local_files_only: bool = False

    def __post_init__(self):
        name = tiny.folder_of(self.name)
        name = os.fspath(name) if isinstance(name, (str, os.PathLike)) else name
        if not isinstance(name, str):
            raise InputError(f"a model is named by a folder or a Hub id, not by {shown(self.name)}")
        if "\0" in name or not (os.path.isdir(name) or _HUB_ID.fullmatch(name)):
            raise ModelNotFoundError(
                f"{shown(name)} is no folder on this machine and no Hub id, which looks like 'suno/bark-small'"
            )
        # Voices are read later, when the working directory may be another.
        object.__setattr__(self, "name", os.path.abspath(name) if os.path.isdir(name) else name)

    @property
    def is_folder(self) -> bool:
        return os.path.isdir(self.name)

    def find(self, path: str) -> Path | None:
        """A local copy of the file at `path`, downloaded where needed; None where the model has no such file.

        Raises:
          InputError: the path, or a link on it, leads out of the folder.
          UnreachableError: the Hub cannot be reached and the file is not in its cache on this machine.
          ModelNotFoundError: the Hub has no such model, or does not give it.
        """
        if not is_inner_path(path):
            raise InputError(f"{shown(path)} is no path below {self.name}: relative, with '/' between and without '..'")
        return self._find_in_folder(path) if self.is_folder else self._download(path)

    def _find_in_folder(self, path: str) -> Path | None:
        file = Path(self.name, path)
        if not os.path.isfile(file):  # also for a name that no system takes, where Path.is_file raises
            return None
        folder = Path(self.name).resolve()
        target = file.resolve()
        if not any(target.is_relative_to(root) for root in (folder, *_blob_folders(folder))):
            raise InputError(f"{file} is a link to {target}, outside of {folder}; put the file itself there")
        return file

    def _download(self, path: str) -> Path | None:
        """The file from the Hub's cache, if it is there, without asking whether the Hub has a newer one."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        where = dict(revision=self.revision, cache_dir=self.cache_dir)
        cached = try_to_load_from_cache(self.name, path, **where)
        if cached is not None:
            return Path(cached) if isinstance(cached, str) else None  # else the Hub has said that there is no such file
        is_local = self.local_files_only or not can_reach_hub()
        try:
            return Path(hf_hub_download(self.name, path, token=self.token, local_files_only=is_local, **where))
        except LocalEntryNotFoundError as error:
            raise UnreachableError(
                f"{path} of {self.name} is not on this machine (no folder is called {self.name}) and the Hub cannot be "
                f"reached. With a connection, run: hf download {self.name} {path}"
            ) from error
        except EntryNotFoundError:
            return None
        except Exception as error:  # of the Hub's client and of the two HTTP libraries below it
            raise ModelNotFoundError(
                f"{path} of {self.name} cannot be had from the Hub ({type(error).__name__}: {error}). Check the name, "
                "the revision and, for private or gated models, the login (hf auth login)."
            ) from error


def can_reach_hub() -> bool:
    """Whether the Hub's name can be looked up, or a proxy does that. Its client takes 23 s a file to give up."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, None))
    except OSError:
        return False


def _blob_folders(folder: Path) -> list[Path]:
    """In the Hub's cache the files of models--owner--name/snapshots/COMMIT are links to models--owner--name/blobs."""
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots" and parent.parent.parent.name.startswith("models--"):
            return [parent.parent.parent / "blobs"]
    return []
