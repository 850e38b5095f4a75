"""Single files of a model: in a folder, or in a repository of the Hugging Face Hub."""

import contextlib
import dataclasses
import hashlib
import os
import re
import reprlib
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from bark_jax import tiny
from bark_jax.errors import CheckpointError, InputError, ModelNotFoundError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}(/[\w.+-]{1,100}){0,4}", re.ASCII)
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
COMMIT = _SHA1
# A download that gets no further for so long is given up. The Hub's client goes on for ever where a server sends the
# same half again and again.
STALL_S = 60.0
_UNSAFE_CHARACTER = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")


def shown(value: Any, limit: int = 80) -> str:
    """A value as an error message shows it: quoted, escaped, and short however large the value is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        return short.repr(value)[: 4 * limit]
    except ValueError:  # Python writes no integer of more than some 4,300 digits
        return "a number too long to show"


def is_inner_path(path: Any) -> bool:
    """Whether `path` names a file below some folder on every system: relative, "/" between, no ".." and no drive."""
    if not isinstance(path, str) or not path or len(path) > 512 or _UNSAFE_CHARACTER.search(path):
        return False
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts


def check_revision(revision: Any) -> None:
    """Raises InputError unless `revision` is None or can be a branch, a tag or a commit: it becomes part of a path."""
    if revision is None or (isinstance(revision, str) and _REVISION.fullmatch(revision) and ".." not in revision):
        return
    raise InputError(f"revision is {shown(revision)}, expected a branch, a tag or a commit of the Hub's repository")


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
    force_download: bool = False

    def __post_init__(self):
        check_revision(self.revision)
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
          CheckpointError: the file is not the one that the Hub has.
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
        """The file from the Hub's cache, if it is there, without asking whether the Hub has a newer one.

        With force_download it comes from the Hub where that can be asked.
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
        if cached is not None:  # the Hub has said that there is no such file
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
                tqdm_class=progress_that_gives_up(),
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
        except Exception as error:  # of the Hub's client and of the two HTTP libraries below it
            raise ModelNotFoundError(
                f"{path} of {self.name} cannot be had from the Hub ({type(error).__name__}: {error}). Check the name, "
                "the revision and, for private or gated models, the login (hf auth login)."
            ) from error
        check_download(Path(file), remove=True)
        return Path(file)


def check_answers() -> None:
    """From now on an answer of the Hub that names no commit or no checksum raises ModelNotFoundError, in this process.

    The Hub's client makes paths of both, unchecked: a hostile server could have it write what it likes where it likes.
    To ask for the names beforehand is no help, as the server may answer otherwise when the client asks.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import _http

    # Its `set_client_factory` would close connections that others have open.
    make = _http._GLOBAL_CLIENT_FACTORY
    if not isinstance(make, _CheckedClients):
        _http._GLOBAL_CLIENT_FACTORY = _CheckedClients(make)
        _check_answers_to(get_session())


@dataclasses.dataclass
class _CheckedClients:
    """Makes the HTTP clients of the Hub's client, also those that take the place of one with a broken connection."""

    make: Callable[[], Any]

    def __call__(self) -> Any:
        client = self.make()
        _check_answers_to(client)
        return client


def _check_answers_to(client: Any) -> None:
    client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], _check_answer]}


def refuse_answer(server: str, why: str) -> NoReturn:
    """Raises ModelNotFoundError for an answer of a server that a path on this machine would be made of."""
    raise ModelNotFoundError(
        f"the answer of {server} is refused: it {why}. The client makes paths of what a server names, so files could "
        "be written anywhere; this server is no Hub or is not to be trusted. Nothing was written. Check HF_ENDPOINT "
        "and the proxy"
    )


def _check_answer(response: Any) -> None:
    """Looks at what the client makes paths of: the headers that come with a file, and the list of files."""
    server, headers = response.request.url.host, response.headers
    commit = headers.get("X-Repo-Commit")
    if commit is not None and not COMMIT.fullmatch(commit):
        refuse_answer(server, f"names no commit but {shown(commit)}")
    # Of an error, and of what leads on to another file of this server, the client takes no checksum; the Hub's may be
    # any there, of the answer's own text.
    leads_on = bool(headers.get("Location")) and not urllib.parse.urlsplit(headers["Location"]).netloc
    if commit is not None and response.status_code < 400 and not leads_on:
        checksum = headers.get("X-Linked-ETag") or headers.get("ETag") or "none"
        checksum = checksum.lstrip("W/").strip('"')  # as the client does
        if not is_inner_path(checksum) or "/" in checksum:
            refuse_answer(server, f"names no checksum but {shown(checksum)}")
    if re.search("/api/.*/tree/", response.request.url.path):
        response.read()
        for checksum in _listed_checksums(response):
            if not isinstance(checksum, str) or not _SHA256.fullmatch(checksum):
                refuse_answer(server, f"names no SHA-256 but {shown(checksum)}")


def _listed_checksums(response: Any) -> list[Any]:
    """The checksums in a list of files, of those that lie in git-lfs."""
    try:
        entries = response.json()
    except (ValueError, RecursionError):  # an error's page, of which the client tells
        return []
    entries = entries if isinstance(entries, list) else []
    stored = [entry["lfs"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("lfs"), dict)]
    return [each.get("oid", each.get("sha256")) for each in stored]


class StalledError(OSError):
    """A download that got no further."""


def progress_that_gives_up() -> type:
    """A progress bar for the Hub's client, which ends a download that gets no further for STALL_S."""
    from huggingface_hub.utils import tqdm

    class Progress(tqdm):
        _done = _furthest = 0
        _moved_at: float | None = None

        def update(self, n: float | None = 1) -> bool | None:
            now, self._done = time.monotonic(), self._done + (n or 0)
            if self._done > self._furthest or self._moved_at is None:
                self._furthest, self._moved_at = self._done, now
            elif now - self._moved_at > STALL_S:
                raise StalledError(f"the download got no further than {self._furthest:,} bytes for {STALL_S:.0f} s")
            return super().update(n)

    return Progress


def check_download(path: Path, *, remove: bool = False) -> None:
    """Compares a file of the Hub's cache with the checksum that the Hub gave, which is the name of its blob.

    That is the SHA-256 of what lies in git-lfs, and git's SHA-1 of other files. A file that is no link to such a name
    is left unchecked, as there is nothing to go by.

    Args:
      remove: take a file that is another out of the cache, so that it is downloaded again.

    Raises:
      CheckpointError: the file is another.
    """
    blob = path.resolve()
    if not path.is_symlink() or not (_SHA256.fullmatch(blob.name) or _SHA1.fullmatch(blob.name)):
        return
    kind = "SHA-256" if _SHA256.fullmatch(blob.name) else "SHA-1"
    found = _checksum(blob, kind) if blob.is_file() else "missing"
    if found == blob.name:
        return
    if remove:
        with contextlib.suppress(OSError):
            path.unlink()
            blob.unlink()
    advice = "Download it again." if remove else f"Remove {blob} and {path}, and download the model again."
    raise CheckpointError(f"{path} is damaged: its {kind} is {found}, expected {blob.name}. {advice}")


def _checksum(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        if kind == "SHA-256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size)  # as git names a file
        while chunk := file.read(2**20):
            digest.update(chunk)
        return digest.hexdigest()


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
