"""Background writer: encodes and stores audio on threads while the accelerator speaks the next rows.

    put -> pool threads: encode, store a row each -> one thread: commit (group commit) -> manifest -> on_commit

The rows that are stored while a commit runs are committed together by the next one, so that they share one fsync of the
folder and one of the manifest. The number of rows in flight is bounded: `put` waits.
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
# Bounds the memory for audio that waits: 24 MB at 16 rows of 15.4 s.
_WAITING_PER_THREAD = 4  # rows in flight, from `put` to the manifest, for each pool thread


class Store(Protocol):
    """Protocol of an output format: `files.Files`, `parquet.Parts`."""

    def store(self, entry: Entry, audio: bytes) -> None:
        """Stores an encoded row, on a pool thread, and adds its file to the entry if it has one."""

    def commit(self, rows: Iterable[tuple[Entry, bytes | None]]) -> list[Entry]:
        """Makes rows durable, on one thread; returns the entries whose audio now is. Failed rows have audio None."""

    def finish(self) -> list[Entry]:
        """Makes the rows durable that `commit` has kept back; returns their entries."""


class Audio(NamedTuple):
    """Audio of a row, before encoding."""

    samples: np.ndarray  # float32 [A] or [A, channels], in -1..1
    sample_rate: int


class Writer:
    """Writes rows while the block runs; when it ends, all rows that were put are stored and in the manifest.

    A block that ends with KeyboardInterrupt drops the rows that are not stored yet. After a failure to store, such as a
    full disk, no row is stored any more, and `put` and the end of the block raise OutputError.

    Args:
      folder: OUT, for messages.
      ending: format of the audio: wav, flac, ogg, opus or mp3.
      on_commit: called on the writer's thread with the entries that are now in the manifest.
      n_threads: threads that encode and store.
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
        # All pool threads end here, so the None that follows is the last item: nothing is stored behind it.
        self._pool.shutdown(wait=True, cancel_futures=self._is_cancelled)
        self._stored.put(None)
        self._committer.join()
        if kind is None:
            self._raise_failure()

    def put(self, entry: Entry, audio: Audio | None) -> None:
        """Hands over a row; waits while too many are in flight. `audio` is None for an entry with an error.

        Raises:
          OutputError: an earlier row could not be stored.
        """
        self._raise_failure()
        # Given back once for each row: when it is committed, or dropped before it was stored.
        self._room.acquire()
        if audio is None:
            self._stored.put((entry, None))
        else:
            self._pool.submit(self._encode, entry, audio)

    def _raise_failure(self) -> None:
        if isinstance(self._failure, OSError) and not isinstance(self._failure, BrokenPipeError):
            raise OutputError(
                f"cannot write to {self._folder}: {self._failure.strerror or self._failure}. Its manifest is intact; "
                "remove the cause and re-run the command to resume."
            ) from self._failure
        if self._failure is not None:
            raise self._failure

    def _encode(self, entry: Entry, audio: Audio) -> None:
        """Runs on a pool thread. A row that is dropped gives back its room, so that `put` does not wait for ever."""
        try:
            if self._failure is not None or self._is_cancelled:
                self._room.release()
                return
            self._stored.put(self._encoded(entry, audio))
        except BaseException as error:
            self._fail(error)
            self._room.release()

    def _encoded(self, entry: Entry, audio: Audio) -> tuple[Entry, bytes | None]:
        """Encodes and stores a row; returns its completed entry and bytes, or an entry with an error and None."""
        started = time.perf_counter()
        stream = io.BytesIO()
        try:
            write_stream(stream, audio.samples, audio.sample_rate, self._format)
        except BarkError as error:  # of this row alone, such as a format that cannot have so many channels
            return failed(entry, str(error)), None
        data = stream.getvalue()
        entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        entry["timings"] = entry.get("timings", {}) | {"encode_s": round(time.perf_counter() - started, 4)}
        self._store.store(entry, data)
        return entry, data

    def _commit(self) -> None:
        """Runs on the committing thread: takes all rows that wait, commits them together, and repeats until None."""
        is_open, works = True, True
        while is_open:
            rows = [self._stored.get()]
            # This thread alone takes items, so `get` cannot block once the queue was not empty.
            while not self._stored.empty():
                rows.append(self._stored.get())
            is_open = None not in rows
            taken = [row for row in rows if row is not None]
            try:  # also after another row failed to be stored: these rows are stored already
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
    """Returns the manifest entry of a row that has failed: the identifying fields of `entry`, and its error."""
    kept: Entry = {
        name: entry[name] for name in ("id", "row_digest", "seed", "voice", "model", "version") if name in entry
    }
    extra = {"metadata": entry["metadata"]} if "metadata" in entry else {}
    return kept | {"error": error} | extra
