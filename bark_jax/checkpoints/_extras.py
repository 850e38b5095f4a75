"""Copying a model's files besides weights and configs: its tokenizer and voices."""

import logging
import os
import re
import shutil
from pathlib import Path

from bark_jax.checkpoints.model_folder import list_names

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
WORDS_FILE = "words.txt"  # the vocabulary of a model that was trained on few words; see `bark_jax.text.vocabulary`
VOICE_INDEX = "speaker_embeddings_path.json"
VOICE_FOLDER = "speaker_embeddings"
VOICE_SUFFIXES = (".npy", ".npz")
VOICE_FILES = (VOICE_INDEX, f"{VOICE_FOLDER}/*.npy", f"{VOICE_FOLDER}/*.npz")

logger = logging.getLogger(__name__)


def copy_extras(src: Path, dst: Path) -> None:
    """Copies tokenizer and voices from one model folder to another. None of these files can hold code.

    Links that lead out of the folder are left out, with a warning in the log: an untrusted model could have any file
    of this machine copied.
    """
    voices, linked_folders = _voices(src / VOICE_FOLDER)
    paths = [src / name for name in (*TOKENIZER_FILES, WORDS_FILE, VOICE_INDEX)] + voices
    left_out = linked_folders + [path for path in paths if not _copy_inside(src, path, dst / path.relative_to(src))]
    if left_out:
        logger.warning(
            "left out %s: links that lead out of %s, or nowhere. Put the files themselves there and convert again",
            list_names(str(path.relative_to(src)) for path in left_out),
            src,
        )


def _voices(folder: Path) -> tuple[list[Path], list[Path]]:
    """Lists the voice files below a folder, and the folders below it that are links, which are not followed."""
    voices, linked = [], [folder] if folder.is_symlink() and not folder.exists() else []
    for root, folders, names in os.walk(folder):
        voices += [Path(root, name) for name in sorted(names) if Path(name).suffix in VOICE_SUFFIXES]
        linked += [Path(root, name) for name in sorted(folders) if Path(root, name).is_symlink()]
    return voices, linked


def _copy_inside(folder: Path, path: Path, target: Path) -> bool:
    """Copies a file whose real path is in the folder, or among the blobs of the same model in the Hub's cache.

    Returns:
      False for a link that leads anywhere else, or nowhere; True also where there is no such file.
    """
    real = path.resolve()
    if not (real.is_file() and any(real.is_relative_to(root) for root in _allowed_roots(folder))):
        return not (path.is_symlink() or real.is_file())
    target.parent.mkdir(parents=True, exist_ok=True)
    # The path that was checked, not `path` again: the link may lead elsewhere by now.
    shutil.copyfile(real, target)
    return True


def _allowed_roots(folder: Path) -> list[Path]:
    """The folders that links in a model folder may lead to."""
    folder = folder.resolve()
    repository = folder.parent.parent  # models--owner--name / snapshots / <commit>, with the files in blobs
    is_snapshot = folder.parent.name == "snapshots" and re.match("models--", repository.name)
    return [folder, repository / "blobs"] if is_snapshot else [folder]
