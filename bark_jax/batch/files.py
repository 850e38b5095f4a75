"""Storage of a batch's audio as one file a row, `audio/<id>.<ending>`, each written atomically."""

import stat
from collections.abc import Iterable
from pathlib import Path

from bark_jax.batch.manifest import Entry
from bark_jax.batch.run_folder import AUDIO_FOLDER
from bark_jax.files import is_inner_path, sync, write_atomically


class Files:
    """A `writer.Store` that writes one audio file a row.

    Args:
      folder: the run's folder, OUT.
      ending: of the files, without the dot.
    """

    def __init__(self, folder: Path, ending: str):
        self._folder, self._ending = folder, ending

    def store(self, entry: Entry, audio: bytes) -> None:
        """Writes a row's file and fsyncs it; called on several threads. Raises OSError if the disk is full."""
        entry["file"] = f"{AUDIO_FOLDER}/{entry['id']}.{self._ending}"
        write_atomically(self._folder / entry["file"], audio)

    def commit(self, rows: Iterable[tuple[Entry, bytes | None]]) -> list[Entry]:
        """Returns all entries, after one fsync of the folder, which makes the renames of their files durable."""
        entries = [entry for entry, _ in rows]
        sync(self._folder / AUDIO_FOLDER)
        return entries

    def finish(self) -> list[Entry]:
        """Returns nothing: no row waits for others."""
        return []


def has_audio_file(folder: Path, entry: Entry) -> bool:
    """Whether an entry's file exists with the size that the manifest has; its bytes are not read."""
    try:
        # lstat, and a path within the folder: an edited manifest cannot point to other files or through a link.
        status = (folder / entry["file"]).lstat()
        return is_inner_path(entry["file"]) and stat.S_ISREG(status.st_mode) and status.st_size == entry["bytes"]
    except (OSError, KeyError, TypeError, ValueError):
        return False
