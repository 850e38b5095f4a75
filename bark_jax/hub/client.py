"""The Hub's own client, held to what a server may say: no path, commit or checksum of it is taken unchecked.

A hostile server could have that client write what it likes where it likes, and a slow one keep it for ever.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from bark_jax.errors import CheckpointError, ModelNotFoundError, UnsupportedError, quoted
from bark_jax.files import is_inner_path, sha256_of

_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
COMMIT = _SHA1
# A download that gets no further for so long is given up. The Hub's client goes on for ever where a server sends the
# same half again and again.
STALL_S = 60.0

_FACTORY = "_GLOBAL_CLIENT_FACTORY"  # in huggingface_hub.utils._http, from 1.0 to 2.4 at least
KNOWN_CLIENT = "2.4.0"  # the newest that was tried


def check_answers() -> None:
    """From now on an answer of the Hub that names no commit or no checksum raises ModelNotFoundError, in this process.

    The Hub's client makes paths of both, unchecked: a hostile server could have it write what it likes where it likes.
    To ask for the names beforehand is no help, as the server may answer otherwise when the client asks.

    Raises:
      UnsupportedError: the client is of a version that cannot be held to this.
    """
    from huggingface_hub import __version__, get_session
    from huggingface_hub.utils import _http

    # A hook in the session at hand is not enough: a server that refuses a connection has the client make another. The
    # public `set_client_factory` would do, but it closes connections that others have open, and what they have set by
    # it, a proxy or certificates, cannot be asked for and would be lost.
    make = getattr(_http, _FACTORY, None)
    if make is None:
        raise UnsupportedError(
            f"huggingface-hub is {__version__}, whose answers cannot be checked here before it makes paths of them "
            f"(it has no {_FACTORY}), so nothing is downloaded with it; install an older one, such as "
            f"'huggingface-hub=={KNOWN_CLIENT}', or name a folder on this machine"
        )
    if not isinstance(make, _CheckedClients):
        setattr(_http, _FACTORY, _CheckedClients(make))
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
        refuse_answer(server, f"names no commit but {quoted(commit)}")
    # Of an error, and of what leads on to another file of this server, the client takes no checksum; the Hub's may be
    # any there, of the answer's own text.
    leads_on = bool(headers.get("Location")) and not urllib.parse.urlsplit(headers["Location"]).netloc
    if commit is not None and response.status_code < 400 and not leads_on:
        checksum = headers.get("X-Linked-ETag") or headers.get("ETag") or "none"
        checksum = checksum.lstrip("W/").strip('"')  # as the client does
        if not is_inner_path(checksum) or "/" in checksum:
            refuse_answer(server, f"names no checksum but {quoted(checksum)}")
    if re.search("/api/.*/tree/", response.request.url.path):
        response.read()
        for checksum in _listed_checksums(response):
            if not isinstance(checksum, str) or not _SHA256.fullmatch(checksum):
                refuse_answer(server, f"names no SHA-256 but {quoted(checksum)}")


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


def stall_limited_progress() -> type:
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
    if kind == "SHA-256":
        return sha256_of(path)
    with open(path, "rb") as file:
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
