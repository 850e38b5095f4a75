"""Security checks around huggingface_hub's client: every commit and checksum of a server is checked before it is used.

The client makes paths of what a server answers, so a hostile server (by HF_ENDPOINT or a proxy) could have it write
any file anywhere, and a stalled one could keep it for ever.
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
COMMIT = _SHA1  # a commit's id is git's SHA-1 of it
# A download without progress for this long is stopped. The Hub's client retries for ever where a server sends the same
# half of a file again and again.
STALL_S = 60.0

_FACTORY = "_GLOBAL_CLIENT_FACTORY"  # in huggingface_hub.utils._http, from 1.0 to 2.4 at least
KNOWN_CLIENT = "2.4.0"  # the newest version that was tested


def check_answers() -> None:
    """Installs a check of every answer of the Hub in this process: a malformed commit or checksum raises.

    The Hub's client makes paths of both, unchecked: a hostile server could have it write any file anywhere. To ask the
    server beforehand is no help, as it may answer the client otherwise.

    Raises:
      UnsupportedError: this version of huggingface_hub has no hook for it.

    Later requests raise ModelNotFoundError from inside the client; see `refuse_answer`.
    """
    from huggingface_hub import __version__, get_session
    from huggingface_hub.utils import _http

    # A hook in the current session is not enough: when a server closes a connection, the client makes another session.
    # The public `set_client_factory` would do, but it closes the connections of other threads, and has no getter for
    # the factory that a program has set before, so that program's proxy or certificates would be lost.
    make = getattr(_http, _FACTORY, None)
    if make is None:
        raise UnsupportedError(
            f"huggingface-hub is {__version__}, which has no {_FACTORY}: the Hub's answers cannot be checked before "
            "it makes paths of them, so nothing is downloaded with it; install an older one, such as "
            f"'huggingface-hub=={KNOWN_CLIENT}', or name a folder on this machine"
        )
    if not isinstance(make, _CheckedClients):
        setattr(_http, _FACTORY, _CheckedClients(make))
        _check_answers_to(get_session())


@dataclasses.dataclass
class _CheckedClients:
    """A factory of HTTP clients that have `_check_answer` as a hook, also those that replace a broken connection."""

    make: Callable[[], Any]  # the factory that was set before

    def __call__(self) -> Any:
        client = self.make()
        _check_answers_to(client)
        return client


def _check_answers_to(client: Any) -> None:
    client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], _check_answer]}


def refuse_answer(server: str, why: str) -> NoReturn:
    """Raises ModelNotFoundError for a server's answer that would become an unsafe path on this machine."""
    raise ModelNotFoundError(
        f"the answer of {server} is refused: it {why}. The client makes paths of what a server names, so files could "
        "be written anywhere; this server is no Hub or is not to be trusted. Nothing was written. Check HF_ENDPOINT "
        "and the proxy"
    )


def _check_answer(response: Any) -> None:
    """Checks what the client makes paths of: the headers of a file's response, and the list of files.

    Source: huggingface_hub 2.4, file_download.py, `get_hf_file_metadata`.
    """
    server, headers = response.request.url.host, response.headers
    commit = headers.get("X-Repo-Commit")
    if commit is not None and not COMMIT.fullmatch(commit):
        refuse_answer(server, f"names no commit but {quoted(commit)}")
    # The client reads no checksum from an error or from a redirect within the server. The Hub's ETag there is one of
    # the response's own text, in any form, so it is not checked.
    is_inner_redirect = bool(headers.get("Location")) and not urllib.parse.urlsplit(headers["Location"]).netloc
    if commit is not None and response.status_code < 400 and not is_inner_redirect:
        # A file in git-lfs is served by a redirect: X-Linked-ETag is the file's checksum, ETag that of the redirect.
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
    """The SHA-256 checksums that a list of files has of those in git-lfs."""
    try:
        entries = response.json()
    except (ValueError, RecursionError):  # an error page, which the client reports
        return []
    entries = entries if isinstance(entries, list) else []
    stored = [entry["lfs"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("lfs"), dict)]
    return [each.get("oid", each.get("sha256")) for each in stored]


class StalledError(OSError):
    """A download that made no progress for STALL_S seconds."""


def stall_limited_progress() -> type:
    """A progress bar class for the Hub's client (`tqdm_class`), which stops a stalled download.

    Its `update`, which the client calls for each chunk, raises StalledError after STALL_S seconds without progress.
    """
    from huggingface_hub.utils import tqdm

    class Progress(tqdm):
        _done = _furthest = 0  # bytes; a retry goes back, so only a new furthest byte counts as progress
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
    """Compares a file in the Hub's cache with the checksum that the Hub gave, which is the name of its blob.

    It is the SHA-256 of files in git-lfs, and git's SHA-1 of other files. A file that is not a link to a blob of such a
    name is not checked, as its checksum is not known.

    Args:
      path: the file in the cache's `snapshots` folder, a link to its blob.
      remove: remove a damaged file from the cache, so that it is downloaded again.

    Raises:
      CheckpointError: the content has another checksum.
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
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size)  # git hashes this header before the file
        while chunk := file.read(2**20):
            digest.update(chunk)
        return digest.hexdigest()


def can_reach_hub() -> bool:
    """Whether the Hub can be asked: its host name resolves or a proxy is set, and HF_HUB_OFFLINE is not.

    Without this check the Hub's client retries for 23 s a file before it gives up.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, None))
    except OSError:
        return False
