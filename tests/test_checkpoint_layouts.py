"""Detection of checkpoint layouts by their files, and the reader of each."""

import pytest

from bark_jax import files, tiny
from bark_jax.checkpoints import snapshots
from bark_jax.checkpoints.layouts import LAYOUTS, own, suno, transformers
from bark_jax.checkpoints.layouts.layout import Request

# Files that distinguish the layouts, and the layout whose folder it is.
FOLDERS = {
    "own": (["bark_jax.json", "config.json", "semantic.safetensors"], own.LAYOUT),
    "transformers": (["config.json", "model.safetensors"], transformers.LAYOUT),
    "suno": (["text.pt", "coarse.pt", "fine.pt", "encodec_24khz-1.th"], suno.LAYOUT),
    "suno's files beside transformers'": (["config.json", "text.pt", "model.safetensors"], transformers.LAYOUT),
    "one of suno's files in a folder of ours": (["bark_jax.json", "config.json", "text.pt"], own.LAYOUT),
    "a codec beside its config": (["config.json", "encodec_24khz-1.th"], transformers.LAYOUT),
    "audio": (["a.wav", "voice.npz", "rows.jsonl"], None),
    "nothing": ([], None),
}


def first_of(folder, **choices):
    request = Request(folder, "label", pytest.fail, **choices)
    return next((layout for layout in LAYOUTS if layout.is_mine(request)), None)


@pytest.mark.parametrize(("names", "layout"), FOLDERS.values(), ids=FOLDERS)
def test_the_first_layout_whose_a_folder_is_opens_it(tmp_path, names, layout):
    for name in names:
        (tmp_path / name).touch()
    assert first_of(tmp_path) is layout
    assert files.holds_model(tmp_path) is (layout is not None)


def test_a_size_asks_for_the_files_that_have_one(tmp_path):
    for name in ("config.json", "bark_jax.json", "text.pt"):
        (tmp_path / name).touch()
    assert first_of(tmp_path, size="small") is suno.LAYOUT


def test_the_signs_of_all_layouts_are_known_to_those_who_do_not_import_them():
    assert set(files.MODEL_SIGNS) == {sign for layout in LAYOUTS for sign in layout.signs}


@pytest.mark.parametrize("sign", [*files.MODEL_SIGNS, "*.wav", "*.npz"])
def test_a_model_called_tiny_hides_the_one_that_is_built_in(tmp_path, monkeypatch, sign):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / sign.replace("*", "x")).touch()
    assert (tiny.folder_of("tiny") == "tiny") is (sign in files.MODEL_SIGNS)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_a_repository_of_a_layout_has_its_weights_fetched(layout):
    for patterns in layout.weights:
        names = [pattern.replace("*", "x") for pattern in patterns]
        found = snapshots.wanted_files([*names, "x.msgpack", "x.py"], None)
        assert found == names
    for size, patterns in layout.sizes.items():
        names = [pattern.replace("*", "x") for pattern in patterns]
        assert snapshots.wanted_files([*names, "config.json"], size) == names
