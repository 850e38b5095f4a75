"""Voices, folders and caches that hold them, and names and entries that must be refused."""

import io
import json
from pathlib import Path

import numpy as np

from bark_jax.voices.voice import PROMPT_KEYS, Voice


def make_arrays(n_semantic=100, n_frames=150, dtype=np.int64):
    draw = np.random.default_rng(0)
    fine = draw.integers(0, 1024, (8, n_frames))
    arrays = (draw.integers(0, 10_000, n_semantic), fine[:2], fine)
    return dict(zip(PROMPT_KEYS, (array.astype(dtype) for array in arrays), strict=True))


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def make_folder(tmp_path, **entries):
    """A model's folder with two voices, and entries that replace or add to its list."""
    folder = tmp_path / "model"
    listed = {"repo_or_path": "ylacombe/bark-large"}
    for name in ("en_speaker_0", "v2/de_speaker_3"):
        listed[name] = {}
        for key, array in make_arrays().items():
            listed[name][key] = f"speaker_embeddings/{name}_{key}.npy"
            path = folder / listed[name][key]
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
    (folder / "speaker_embeddings_path.json").write_text(json.dumps(listed | entries))
    return folder


def outside(tmp_path):
    """A good voice beside the model's folder, that no name may reach."""
    Voice.from_dict(make_arrays()).save(tmp_path / "secret.npz")
    for key, array in make_arrays().items():
        np.save(tmp_path / f"secret_{key}.npy", array)
    return {key: str(tmp_path / f"secret_{key}.npy") for key in PROMPT_KEYS}


def fill_cache(cache, repository, files):
    """A cache of the Hub's client, as a download leaves it."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("c0ffee")
    for path, data in files.items():
        file = home / "snapshots" / "c0ffee" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


BAD_NAMES = {
    "P01": ("en_speaker_99", "en_speaker_0"),
    "P02": ("../secret", "no voice is called '../secret'"),
    "P03": ("{tmp}/secret", "no voice is called"),
    "P14": ("repo_or_path", "no voice is called 'repo_or_path'"),
    "P15": ("", "no voice is called ''"),
    "P19": ("https://example.com/a.npz", "download the file"),
    "close": ("v2/de_speakr_3", "v2/de_speaker_3"),
    "far": ("x" * 10_000_000, "there are 2 names"),
    "missing file": ("nowhere.npz", "does not exist"),
    "escape codes": ("\x1b[31m", r"\\x1b"),
}


BAD_ENTRIES = {
    "P05": lambda secret: secret,
    "P10": lambda secret: "speaker_embeddings/en_speaker_0",
    "P11": lambda secret: None,
    "P13": lambda secret: secret | {"semantic_prompt": 5},
    "dots": lambda secret: {key: f"speaker_embeddings/../../{Path(path).name}" for key, path in secret.items()},
    "backslash": lambda secret: {key: f"..\\{Path(path).name}" for key, path in secret.items()},
    "drive": lambda secret: dict.fromkeys(secret, "C:/x.npy"),
    "list": lambda secret: list(secret.values()),
    "missing": lambda secret: {"semantic_prompt": "speaker_embeddings/en_speaker_0_semantic_prompt.npy"},
    "NUL": lambda secret: dict.fromkeys(secret, "a\0b.npy"),
    "empty": lambda secret: dict.fromkeys(secret, ""),
}
