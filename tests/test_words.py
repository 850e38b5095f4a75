"""Docstrings, help texts, names and prose: see `words`."""

import collections

import pytest
import words

UNDOCUMENTED = 20  # public functions and classes without a docstring, at most


@pytest.fixture(scope="module")
def faults():
    found = collections.defaultdict(list)
    for fault in words.all_faults():
        found[fault.kind].append(f"{fault.where}: {fault.what}")
    return found


@pytest.mark.parametrize("kind", ["fragment", "no shape", "no Raises", "no help", "phrase", "name"])
def test_every_text_is_plain(faults, kind):
    assert faults[kind] == []


def test_nearly_everything_public_has_a_docstring(faults):
    assert len(faults["no docstring"]) < UNDOCUMENTED


@pytest.mark.parametrize(
    "source, kind",
    [
        ('def ask():\n    """What is asked."""', "fragment"),
        ("def ask():\n    pass", "no docstring"),
        ('def ask(x: jax.Array) -> jax.Array:\n    """Asks."""', "no shape"),
        ('def ask(path):\n    """Asks."""\n    raise ValueError(path)', "no Raises"),
        ('def ask(path):\n    """Asks."""\n    check_path(path)', "no Raises"),
        ('"""Written whole or not at all."""', "phrase"),
    ],
)
def test_a_fault_is_found(tmp_path, monkeypatch, source, kind):
    monkeypatch.setattr(words, "ROOT", tmp_path)
    path = tmp_path / "source.py"
    path.write_text(source)
    assert kind in {fault.kind for fault in words.code_faults(path)}


def test_names_and_prose_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "ROOT", tmp_path)
    (tmp_path / "source.py").write_text("def told_as_error(MOST_ROWS):\n    pass")
    assert [fault.what for fault in words.name_faults(tmp_path / "source.py")] == ["told_as_error", "MOST_ROWS"]
    (tmp_path / "page.md").write_text("The run goes on.\nDone.")
    assert [fault.where for fault in words.prose_faults(tmp_path / "page.md")] == ["page.md:1"]
