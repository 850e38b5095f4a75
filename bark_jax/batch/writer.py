"""Audio to storage, on threads, while the accelerator goes on.

Pool threads encode and store one row each; one thread settles what they have stored: as many rows as have come together
share one sync of the folder and one of the manifest. The number of rows on their way is bounded: `put` waits.
"""

import concurrent.futures
import hashlib
import io
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np

from bark_jax.audio.files import write_stream
from bark_jax.audio.formats import format_named
from bark_jax.batch.manifest import Entry, Manifest
from bark_jax.errors import BarkError, OutputError

DEFAULT_THREADS = 4
_WAITING_PER_THREAD = 4


class Store(Protocol):
    """A form of output: `files.Files`, `shards.Shards`."""

    def store(self, entry: Entry, audio: bytes) -> None:
        """Takes an encoded row, on a pool thread, and completes its entry."""

    def commit(self, rows: Iterable[tuple[Entry, bytes | None]]) -> list[Entry]:
        """Makes rows safe, on one thread; returns the entries that now are. Rows that failed have no audio."""

    def finish(self) -> list[Entry]:
        """Makes the rest safe."""


class Audio(NamedTuple):
    """What is to be written of a row."""

    samples: np.ndarray  # float32 [A] or [A, channels], in -1..1
    sample_rate: int


class Writer:
    """Takes rows while the block runs; when it ends all that was taken is stored and in the manifest.

    A block that ends with KeyboardInterrupt drops what is not stored yet. Where storing fails no row after that is
    taken or stored, and `put` and the end of the block raise OutputError.

    Args:
      ending: of the audio: wav, flac, ogg, opus or mp3.
      on_commit: called with the entries that have gone into the manifest, on the writer's thread.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        manifest: Manifest,
        *,
        ending: str,
        on_commit: Callable[[list[Entry]], None],
        n_threads: int = DEFAULT_THREADS,
    ):
        self._folder, self._store, self._manifest, self._on_commit = folder, store, manifest, on_commit
        self._format = format_named(ending)
        self._pool = concurrent.futures.ThreadPoolExecutor(n_threads, thread_name_prefix="bark-jax-encode")
        self._room = threading.Semaphore(_WAITING_PER_THREAD * n_threads)
        self._stored: queue.SimpleQueue[tuple[Entry, bytes | None] | None] = queue.SimpleQueue()
        self._committer = threading.Thread(target=self._commit, name="bark-jax-commit", daemon=True)
        self._failure: BaseException | None = None
        self._is_cancelled = False

    def __enter__(self) -> Self:
        self._committer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_cancelled = kind is not None and not issubclass(kind, Exception)
        self._pool.shutdown(wait=True, cancel_futures=self._is_cancelled)
        self._stored.put(None)
        self._committer.join()
        if kind is None:
            self._raise_failure()

    def put(self, entry: Entry, audio: Audio | None) -> None:
        """Hands over a row; waits while too many are on their way. `audio` is None where the entry has an error.

        Raises:
          OutputError: an earlier row could not be stored.
        """
        self._raise_failure()
        self._room.acquire()
        if audio is None:
            self._stored.put((entry, None))
        else:
            self._pool.submit(self._encode, entry, audio)

    def _raise_failure(self) -> None:
        if isinstance(self._failure, OSError) and not isinstance(self._failure, BrokenPipeError):
            raise OutputError(
                f"cannot write to {self._folder}: {self._failure.strerror or self._failure}. What is in its manifest "
                "is whole; mend that and run the same again, which goes on from there."
            ) from self._failure
        if self._failure is not None:
            raise self._failure

    def _encode(self, entry: Entry, audio: Audio) -> None:
        """On a pool thread."""
        try:
            if self._failure is not None or self._is_cancelled:
                self._room.release()
                return
            self._stored.put(self._encoded(entry, audio))
        except BaseException as error:
            self._fail(error)
            self._room.release()

    def _encoded(self, entry: Entry, audio: Audio) -> tuple[Entry, bytes | None]:
        started = time.perf_counter()
        stream = io.BytesIO()
        try:
            write_stream(stream, audio.samples, audio.sample_rate, self._format)
        except BarkError as error:  # of this row alone, such as a kind that takes no stereo
            return failed(entry, str(error)), None
        data = stream.getvalue()
        entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        entry["timings"] = entry.get("timings", {}) | {"encode_s": round(time.perf_counter() - started, 4)}
        self._store.store(entry, data)
        return entry, data

    def _commit(self) -> None:
        """On the writer's own thread: all that waits at once, again and again."""
        is_open, works = True, True
        while is_open:
            rows = [self._stored.get()]
            while not self._stored.empty():
                rows.append(self._stored.get())
            is_open = None not in rows
            taken = [row for row in rows if row is not None]
            try:  # also where storing another row has failed: these rows are stored
                if works and taken:
                    self._note(self._store.commit(taken))
                if works and not is_open and not self._is_cancelled:
                    self._note(self._store.finish())
            except BaseException as error:
                works = False
                self._fail(error)
            for _ in taken:
                self._room.release()

    def _note(self, entries: list[Entry]) -> None:
        self._manifest.append(entries)
        self._on_commit(entries)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error


def failed(entry: Entry, error: str) -> Entry:
    """The entry of a row that has no audio, of what was to be one that has."""
    kept: Entry = {
        name: entry[name] for name in ("id", "row_digest", "seed", "voice", "model", "version") if name in entry
    }
    extra = {"metadata": entry["metadata"]} if "metadata" in entry else {}
    return kept | {"error": error} | extra
