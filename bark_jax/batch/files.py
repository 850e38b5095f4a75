"""One audio file a row, `audio/<id>.<ending>`. A file has its name once its last byte is on the disk."""

import stat
from collections.abc import Iterable
from pathlib import Path

from bark_jax.batch.manifest import Entry
from bark_jax.batch.run_folder import AUDIO_FOLDER
from bark_jax.files import is_inner_path, sync, write_atomically


class Files:
    """Where the writer puts encoded audio: see `writer.Store`."""

    def __init__(self, folder: Path, ending: str):
        self._folder, self._ending = folder, ending

    def store(self, entry: Entry, audio: bytes) -> None:
        """Writes a row's file; called on several threads."""
        entry["file"] = f"{AUDIO_FOLDER}/{entry['id']}.{self._ending}"
        write_atomically(self._folder / entry["file"], audio)

    def commit(self, rows: Iterable[tuple[Entry, bytes | None]]) -> list[Entry]:
        """The entries of rows that were stored, or have failed, once the names of their files are on the disk too."""
        entries = [entry for entry, _ in rows]
        sync(self._folder / AUDIO_FOLDER)
        return entries

    def finish(self) -> list[Entry]:
        return []


def has_audio_file(folder: Path, entry: Entry) -> bool:
    """Whether an entry's file is there, of the size that it was written with."""
    try:
        status = (folder / entry["file"]).lstat()
        return is_inner_path(entry["file"]) and stat.S_ISREG(status.st_mode) and status.st_size == entry["bytes"]
    except (OSError, KeyError, TypeError, ValueError):
        return False
