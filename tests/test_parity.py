"""`bark-jax parity`, and its criteria of equality."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from bark_jax.cli import main
from bark_jax.errors import InputError, UnsupportedError
from bark_jax.parity import compare, comparison, format_table
from bark_jax.parity.rows import NEAR_TIE, Row, compare_codes, compare_logits, compare_tokens, compare_waveforms

MAX_TOKENS = "45"  # 67 frames: three coarse windows


@pytest.fixture
def leaky(bark_twins, monkeypatch):
    """A checkpoint of transformers whose second coarse codebook leaks. What it converts to is cached beside it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(bark_twins.folder / "cache"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unused")
    return bark_twins.folder / "leaky"


def run(*args):
    return CliRunner().invoke(main, ["parity", *map(str, args)])


def test_a_converted_checkpoint_is_equal_in_every_row(leaky):
    result = run(leaky, "--max-tokens", MAX_TOKENS, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert all(row["is_within"] and not row["note"] for row in found)
    assert [row["stage"] for row in found[:9]] == ["semantic", "coarse", *["fine"] * 7]
    assert [row["stage"] for row in found[9:]] == ["semantic", "coarse", "fine", "codec", "all"] * 2
    assert [row["n_total"] for row in found[9:12]] == [45, 2 * 67, 6 * 67]


def test_a_changed_weight_fails_and_names_its_stage(leaky, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(leaky.parent / "ours", changed)
    change_weight(changed, "coarse_acoustics", "blocks.0.mlp.up.kernel")
    result = run(changed, "--reference", leaky.parent / "theirs", "--max-tokens", MAX_TOKENS)
    assert result.exit_code == 1, result.output
    wrong = {line.split()[0] for line in result.stdout.splitlines() if line.endswith("WRONG")}
    assert "coarse" in wrong and wrong <= {"coarse", "all"}


def change_weight(folder, network, name):
    from safetensors.numpy import load_file, save_file

    from bark_jax.checkpoints.model_folder import FileRecord, read_manifest, weight_file, write_manifest
    from bark_jax.files import sha256_of

    path = folder / weight_file(network)
    arrays = load_file(path)
    arrays[name] = arrays[name] * 1.5
    save_file(arrays, path)
    manifest = read_manifest(folder)
    record = FileRecord(sha256_of(path), path.stat().st_size, len(arrays))
    write_manifest(folder, dataclasses.replace(manifest, files=manifest.files | {path.name: record}))


def test_a_folder_of_ours_is_compared_with_what_it_exports_to(bark_twins, monkeypatch):
    monkeypatch.setattr(comparison, "_all_rows", lambda *each: iter([comparison._coarse_logits(*each)]))
    (row,) = compare(bark_twins.folder / "ours")
    assert row.is_within, format_table([row])


def test_leaked_ids_are_not_taken_for_codes(bark_twins):
    import torch

    from bark_jax.parity.reference import Reference, silenced

    with silenced():
        reference = Reference(bark_twins.folder / "theirs", bark_twins.ours.generation_config)
        head = reference._model.coarse_acoustics.lm_head
        with torch.no_grad():
            head.weight[12_048:] = 0
        codes_QT, _ = reference.coarse_codes(np.arange(12), None)
        with torch.no_grad():  # one of the two is far above all codes at any step
            head.weight[12_048], head.weight[12_049] = 1000.0, -1000.0
        assert np.array_equal(reference.coarse_codes(np.arange(12), None)[0], codes_QT)


@pytest.mark.parametrize(
    "wrong", [dict(text_ids=[]), dict(text_ids=[-1]), dict(text_ids=[119_547]), dict(max_new_tokens=769)]
)
def test_inputs_that_the_model_does_not_have_are_refused(bark_twins, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        compare(bark_twins.folder / "ours", **wrong)


def test_a_reference_that_is_no_folder_of_transformers_is_refused(bark_twins):
    with pytest.raises(InputError, match="reference"):
        compare(bark_twins.folder / "ours", reference=bark_twins.folder / "ours")


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'bark-jax\[parity\]'"):
        compare("tiny")
    assert run("tiny").exit_code == 1


def test_equal_tokens_are_within():
    row = compare_tokens("semantic", "greedy", np.array([3, 4]), np.array([3, 4]), np.ones(3))
    assert row.is_within and (row.n_equal, row.n_total) == (2, 2)


@pytest.mark.parametrize("margin, is_within", [(NEAR_TIE / 2, True), (NEAR_TIE * 2, False)])
@pytest.mark.parametrize("ours", [[3, 9, 5], [3]])
def test_other_tokens_are_excused_at_a_near_tie_alone(ours, margin, is_within):
    row = compare_tokens("semantic", "greedy", np.array(ours), np.array([3, 4, 5]), np.array([1, margin, 1]))
    assert row.is_within == is_within
    assert row.n_equal == 1 and row.n_total == 3
    assert "token 1 is" in row.note and ("excused" in row.note) == is_within


def test_going_on_past_the_references_end_is_excused_at_a_near_tie_alone():
    for margin, is_within in ((NEAR_TIE / 2, True), (1.0, False)):
        row = compare_tokens("semantic", "greedy", np.array([3, 4]), np.array([3]), np.array([1, margin]))
        assert row.is_within == is_within
    assert not compare_tokens("semantic", "greedy", np.array([3, 4]), np.array([3]), np.array([1.0])).is_within


def test_codes_are_compared_up_to_the_first_codebook_that_differs():
    reference_QT, margins_QT = np.zeros((4, 3), int), np.ones((4, 3))
    ours_QT = reference_QT.copy()
    ours_QT[2, 1] = ours_QT[3, 0] = 7
    row = compare_codes("fine", "greedy", ours_QT, reference_QT, margins_QT, 1)
    assert not row.is_within and row.n_equal == 5 and "codebook 2 frame 1 is 7, expected 0" in row.note
    margins_QT[2, 1] = NEAR_TIE / 2
    assert compare_codes("fine", "greedy", ours_QT, reference_QT, margins_QT, 1).is_within


@pytest.mark.parametrize("difference, is_within", [(0.9e-4, True), (1.1e-4, False), (np.nan, False)])
def test_values_are_within_a_share_of_their_scale(difference, is_within):
    logits = np.array([-2.0, 2.0])  # of standard deviation 2
    assert compare_logits("coarse", "logits", logits + 2 * difference, logits).is_within == is_within
    audio = np.array([0.5, -0.1])  # whose full scale is 1
    assert compare_waveforms("codec", "audio", audio + difference, audio).is_within == is_within


def test_audio_of_another_length_is_wrong_and_fits_json():
    row = compare_waveforms("codec", "audio", np.zeros(3), np.zeros(4))
    assert not row.is_within and "(3,)" in row.note
    json.dumps(row.to_dict(), allow_nan=False)


def test_the_table_names_what_is_wrong():
    table = format_table([Row("fine", "logits", True, 1e-6, 1e-5), Row("coarse", "t", False, None, None, 3, 9, "why")])
    _, first, second, note = table.splitlines()
    assert first.split() == ["fine", "logits", "1.0e-06", "1.0e-05", "ok"]
    assert second.split() == ["coarse", "t", "3", "of", "9", "all", "WRONG"]
    assert note.strip() == "why"
