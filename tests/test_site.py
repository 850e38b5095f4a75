"""The site is complete: every public name has its reference, and every page of docs is in the navigation."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEEDS_RAY = "bark_jax.serve.ray_app"  # which the tests' environment may lack
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", flags=re.MULTILINE)
REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/reference/*.md")))


def described():
    """The dotted paths that the reference describes, without those that need Ray."""
    return [path for path in DIRECTIVE.findall(REFERENCE) if not path.startswith(NEEDS_RAY)]


def find(path):
    """Returns the object of a dotted path, whose last parts may be attributes of a module."""
    if path == "bark_jax.errors":
        return importlib.import_module(path)
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_what_the_reference_describes_exists_once():
    paths = described()
    assert len(paths) > 60 and len(set(paths)) == len(paths)
    for path in paths:
        assert find(path).__doc__, path


@pytest.mark.parametrize("module", ["bark_jax", "bark_jax.batch", "bark_jax.checkpoints", "bark_jax.training"])
def test_every_public_name_has_its_reference(module):
    found = [find(path) for path in described()]
    listed = set(re.findall(r"^ +- (\w+)$", REFERENCE, flags=re.MULTILINE))
    public = importlib.import_module(module)
    missing = {
        name
        for name in public.__all__
        if name not in listed and not any(getattr(public, name) is each for each in found)
    }
    assert missing == set()


def test_the_samples_are_there_and_small():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "samples").iterdir()}
    assert sizes.keys() == {"README.md", "digits.flac", "digits.png", "sentence.flac", "sentence.png"}
    assert max(sizes.values()) < 150_000


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert pages <= set(re.findall(r"\S+\.md", navigation))
