"""The README's Python blocks run in order, with a small model instead of the one that they name."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from bark_jax import BarkModel, BarkProcessor
from bark_jax.voices.voice import Voice

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PRESETS = ("v2/en_speaker_6", "v2/de_speaker_3", "v2/fr_speaker_1")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder named like the Hub's repository: the built-in model with three presets."""
    folder = tmp_path / "suno" / "bark-small"
    model = BarkModel.from_pretrained("tiny")
    model.save_pretrained(folder)
    BarkProcessor.from_pretrained("tiny").save_pretrained(folder)
    write_presets(folder, model.spaces)
    monkeypatch.chdir(tmp_path)


def write_presets(folder, spaces):
    rng = np.random.default_rng(0)
    listed = {}
    for name in PRESETS:
        fine = rng.integers(0, spaces.codebook_size, (spaces.n_fine, 120))
        voice = Voice(semantic=rng.integers(0, spaces.semantic_vocab, 80), coarse=fine[: spaces.n_coarse], fine=fine)
        listed[name] = {}
        for key, array in voice.to_dict().items():
            path = f"speaker_embeddings/{name}_{key}.npy"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            np.save(folder / path, array)
            listed[name][key] = path
    (folder / "speaker_embeddings_path.json").write_text(json.dumps({"repo_or_path": str(folder), **listed}))


def test_every_block_of_python_runs(published, tmp_path, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    namespace = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert {path.name for path in tmp_path.iterdir()} >= {"hello.wav", "found.npz", "story.wav"}
    assert len(namespace["clips"]) == 2 and namespace["lengths"]


def test_extras_that_are_mentioned_exist():
    """pip only warns of an extra that is not there, and installs nothing for it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [README, *ROOT.glob("docs/*.md"), *ROOT.glob("bark_jax/**/*.py"), *ROOT.glob("bark_jax/**/*.md")]
    mentioned = {name for file in files for name in re.findall(r"bark-jax\[(\w+)\]", file.read_text())}
    assert {"parquet", "ray"} <= mentioned <= set(extras)
