"""Access to single files of a model, in a folder or in a repository of the Hugging Face Hub."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from bark_jax import tiny
from bark_jax.errors import InputError, ModelNotFoundError, quoted
from bark_jax.files import is_inner_path
from bark_jax.hub.client import can_reach_hub, check_answers, check_download, stall_limited_progress

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}(/[\w.+-]{1,100}){0,4}", re.ASCII)


def check_revision(revision: Any) -> None:
    """Raises InputError unless `revision` is None or a well-formed branch, tag or commit: it becomes part of a path."""
    if revision is None or (isinstance(revision, str) and _REVISION.fullmatch(revision) and ".." not in revision):
        return
    raise InputError(f"revision is {quoted(revision)}, expected a branch, a tag or a commit of the Hub's repository")


class UnreachableError(ModelNotFoundError):
    """A file that is not on this machine while the Hub, which may have it, cannot be reached."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder or Hub repository that a model's files are read from.

    `name` is a folder, "tiny" (the built-in model's folder) or a Hub id such as "suno/bark-small"; the other fields
    only matter for the Hub, where they mean what they mean in huggingface_hub.

    Raises InputError or ModelNotFoundError for a name that is neither a folder here nor a Hub id.
    """

    name: str
    revision: str | None = None
    token: str | bool | None = dataclasses.field(default=None, repr=False)
    cache_dir: str | os.PathLike | None = None
    local_files_only: bool = False
    force_download: bool = False

    def __post_init__(self):
        check_revision(self.revision)
        name = tiny.folder_of(self.name)
        name = os.fspath(name) if isinstance(name, (str, os.PathLike)) else name
        if not isinstance(name, str):
            raise InputError(f"a model is named by a folder or a Hub id, not by {quoted(self.name)}")
        if "\0" in name or not (os.path.isdir(name) or _HUB_ID.fullmatch(name)):
            raise ModelNotFoundError(
                f"{quoted(name)} is no folder on this machine and no Hub id, which looks like 'suno/bark-small'"
            )
        # Absolute, as voices are read later, when the program may have changed its working directory.
        object.__setattr__(self, "name", os.path.abspath(name) if os.path.isdir(name) else name)

    @property
    def is_folder(self) -> bool:
        """Whether the files are in a folder on this machine, not on the Hub."""
        return os.path.isdir(self.name)

    def find(self, path: str) -> Path | None:
        """Finds the file at `path`, relative to the model; downloads it from the Hub where needed.

        Returns:
          The path of a local file; None where the model has no such file.

        Raises:
          InputError: the path, or a link on it, leads out of the folder.
          UnreachableError: the Hub cannot be reached and the file is not in its cache on this machine.
          ModelNotFoundError: the Hub has no such model, or refuses access to it.
          CheckpointError: the file is damaged: its checksum is not the Hub's.
        """
        if not is_inner_path(path):
            raise InputError(
                f"{quoted(path)} is no path below {self.name}: relative, with '/' between and without '..'"
            )
        return self._find_in_folder(path) if self.is_folder else self._download(path)

    def _find_in_folder(self, path: str) -> Path | None:
        file = Path(self.name, path)
        if not os.path.isfile(file):  # False for a name that is too long, where Path.is_file raises
            return None
        folder = Path(self.name).resolve()
        target = file.resolve()
        if not any(target.is_relative_to(root) for root in (folder, *_blob_folders(folder))):
            raise InputError(f"{file} is a link to {target}, outside of {folder}; put the file itself there")
        return file

    def _download(self, path: str) -> Path | None:
        """Takes the file from the Hub's cache, without asking whether the Hub has a newer one, else downloads it.

        With force_download it is downloaded again, unless the Hub cannot be reached.
        """
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        where = dict(revision=self.revision, cache_dir=self.cache_dir)
        is_local = self.local_files_only or (self.force_download and not can_reach_hub())
        is_forced = self.force_download and not is_local
        cached = None if is_forced else try_to_load_from_cache(self.name, path, **where)
        if isinstance(cached, str):
            check_download(Path(cached))
            return Path(cached)
        if cached is not None:  # the cache notes that the Hub has no such file (_CACHED_NO_EXIST)
            return None
        is_local = is_local or not (is_forced or can_reach_hub())
        check_answers()
        try:
            file = hf_hub_download(
                self.name,
                path,
                token=self.token,
                local_files_only=is_local,
                force_download=is_forced,
                tqdm_class=stall_limited_progress(),
                **where,
            )
        except LocalEntryNotFoundError as error:
            raise UnreachableError(
                f"{path} of {self.name} is not on this machine (no folder is called {self.name}) and the Hub cannot be "
                f"reached. With a connection, run: hf download {self.name} {path}"
            ) from error
        except EntryNotFoundError:
            return None
        except ModelNotFoundError:
            raise
        except Exception as error:  # the client raises its own errors and those of the HTTP libraries below it
            raise ModelNotFoundError(
                f"{path} of {self.name} cannot be downloaded ({type(error).__name__}: {error}). Check the name, the "
                "revision and, for private or gated models, the login (hf auth login)."
            ) from error
        check_download(Path(file), remove=True)
        return Path(file)


def _blob_folders(folder: Path) -> list[Path]:
    """The folders besides its own that links in `folder` may lead to: the blobs of a folder in the Hub's cache.

    There, the files of models--owner--name/snapshots/COMMIT are links into models--owner--name/blobs.
    """
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots" and parent.parent.parent.name.startswith("models--"):
            return [parent.parent.parent / "blobs"]
    return []
