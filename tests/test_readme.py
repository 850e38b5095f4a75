"""The code of the README, of the guides and of the tutorials runs as it stands, one block after the other.

Pages about published models run on a small model under the name that they use, tutorials on the built-in voice itself.
Shell is run where it is marked `bash` in a tutorial; what needs a network is marked `console` there.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest

from bark_jax import Bark, BarkModel, BarkProcessor
from bark_jax.training import Example, write_dataset
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


# A fence may be indented, inside a list.
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", flags=re.DOTALL | re.MULTILINE)
# The `test` extra does not have what these blocks import.
SKIPPED = ("from datasets import",)


def blocks_of(page, *languages):
    """Returns the page's fenced blocks in these languages, as (language, source) pairs in their order."""
    found = [(match[2], textwrap.dedent(match[3])) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]
    return [block for block in found if block[0] in languages and not block[1].startswith(SKIPPED)]


def test_every_block_of_python_runs(published, tmp_path, capsys):
    blocks = blocks_of(README, "python")
    assert len(blocks) >= 6
    namespace = {}
    for _, source in blocks:
        exec(compile(source, str(README), "exec"), namespace)
    assert {path.name for path in tmp_path.iterdir()} >= {"hello.wav", "found.npz", "story.wav"}
    assert len(namespace["clips"]) == 2 and namespace["lengths"]


GUIDES = {
    "batch.md": {"out"},
    "prompts.md": {"prompt.wav", "host.npz"},
    "settings.md": set(),
    "training.md": {"codec.wav"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDES)
def test_every_block_of_a_guide_runs(name, published, tmp_path, capsys):
    bark = Bark.from_pretrained("suno/bark-small")
    clip = bark.generate("One.", seed=0)
    example = Example(np.ones(3, np.int32), clip.semantic, clip.fine, 0)
    write_dataset("data", [example], bark.model.spaces)
    Path("rows.jsonl").write_text('{"id": "a", "text": "One."}\n')
    blocks, namespace = blocks_of(ROOT / "docs" / name, "python"), {"bark": bark}
    assert blocks
    for _, source in blocks:
        exec(compile(source, name, "exec"), namespace)
    assert {path.name for path in tmp_path.iterdir()} >= GUIDES[name]


TUTORIALS = {
    "a_million_lines.md": {"rows.jsonl", "out", "shards"},
    "fine_tuning.md": {"run", "tuned.wav", "plain.wav", "merged.wav"},
    "first_sound.md": {"hello.wav", "hello.png", "thanks.flac", "elephant.wav", "take-1.wav", "story.wav"},
    "../samples/README.md": {"digits.flac", "digits.png", "sentence.flac", "sentence.png"},
    "stages.md": {"slower.wav", "other_voice.wav", "coarse_only.wav", "joined.wav"},
}
SHELL = """bark-jax() { "$PYTHON" -c "from bark_jax.cli import main; main()" "$@"; }
python() { "$PYTHON" "$@"; }
"""


def run_shell(source, folder):
    """Runs lines of bash in which `bark-jax` is this checkout's command."""
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "hf")}
    command = ["bash", "-euo", "pipefail", "-c", SHELL + source]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{source}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_every_block_of_a_tutorial_runs(name, built_in, tmp_path, monkeypatch, capsys):
    pytest.importorskip("orbax.checkpoint")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("bark_jax.tiny.FOLDER", built_in)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for language, source in blocks_of(ROOT / "docs" / "tutorials" / name, "python", "bash"):
        if language == "bash":
            run_shell(source, tmp_path)
        else:
            exec(compile(source, name, "exec"), namespace)
    assert {path.name for path in tmp_path.iterdir()} >= TUTORIALS[name]


def test_extras_that_are_mentioned_exist():
    """pip only warns of an extra that is not there, and installs nothing for it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = [README, *ROOT.glob("docs/**/*.md"), *ROOT.glob("bark_jax/**/*.md")]
    files = [*pages, *ROOT.glob("bark_jax/**/*.py"), *ROOT.glob("examples/*.py")]
    mentioned = {name for file in files for name in re.findall(r"bark-jax\[(\w+)\]", file.read_text())}
    assert {"parquet", "ray"} <= mentioned <= set(extras)
