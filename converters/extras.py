"""What belongs to a model besides weights and configs: its tokenizer and its voices."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
WORDS_FILE = "words.txt"  # what a model that knows few words knows; see `bark_jax.vocabulary`
VOICE_INDEX = "speaker_embeddings_path.json"
VOICE_FOLDER = "speaker_embeddings"
VOICE_SUFFIXES = (".npy", ".npz")
VOICE_FILES = (VOICE_INDEX, f"{VOICE_FOLDER}/*.npy", f"{VOICE_FOLDER}/*.npz")


def copy_extras(src: Path, dst: Path) -> None:
    """Copies tokenizer and voices from one model folder to another. Nothing that can hold code is among them."""
    for name in (*TOKENIZER_FILES, WORDS_FILE, VOICE_INDEX):
        _copy_inside(src, src / name, dst / name)
    for path in _voices(src / VOICE_FOLDER):
        _copy_inside(src, path, dst / path.relative_to(src))


def _voices(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):  # does not follow links to folders
        yield from (Path(root, name) for name in sorted(names) if Path(name).suffix in VOICE_SUFFIXES)


def _copy_inside(folder: Path, path: Path, target: Path) -> None:
    """Copies a file that is really in the folder, or in the Hub's cache of the same model; leaves out any other."""
    real = path.resolve()
    if real.is_file() and any(real.is_relative_to(home) for home in _homes(folder)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real, target)


def _homes(folder: Path) -> list[Path]:
    folder = folder.resolve()
    repository = folder.parent.parent  # models--owner--name / snapshots / <commit>, with the files in blobs
    is_snapshot = folder.parent.name == "snapshots" and re.match("models--", repository.name)
    return [folder, repository / "blobs"] if is_snapshot else [folder]
