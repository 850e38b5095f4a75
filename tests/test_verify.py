"""`bark-jax verify`: recordings of a model fit it, and a changed one is found; parts fail by themselves."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from networks import jit

from bark_jax.cli import main
from bark_jax.cli.verify import PARTS as CLI_PARTS
from bark_jax.generation.runner import run_coarse, run_fine, run_semantic
from bark_jax.parity import comparison
from bark_jax.verify import checkpoint, machine, parts, replay
from bark_jax.verify.parts import PARTS
from bark_jax.verify.private import without_paths
from bark_jax.verify.replay import _Choices, compare_generated, compare_read_along, compare_with_float16
from bark_jax.voices.files import write_npz

N_TOKENS = 25  # 37 frames: two coarse windows


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf_home"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unused")


@pytest.fixture(scope="module")
def recorded(toy_model):
    """Arrays of each file, as an independent program would record them of the toy."""
    return record(toy_model)


def record(model):
    spaces, rng = model.spaces, np.random.default_rng(0)
    text_T = np.full(spaces.n_text, spaces.text_pad, np.int32)
    text_T[:9] = rng.integers(spaces.text_offset, spaces.text_pad, 9)
    history_T = np.full(spaces.n_text, spaces.semantic_end, np.int32)
    ids_T = np.concatenate([text_T, history_T, [spaces.semantic_infer]]).astype(np.int32)

    @jit
    def logits(network, ids_T):
        half = spaces.n_text
        summed_TD = network.embed(ids_T[None, :half]) + network.embed(ids_T[None, half : 2 * half])
        embeds = jnp.concatenate([summed_TD, network.embed(ids_T[None, -1:])], axis=1)
        return network(inputs_embeds=embeds)[0, -1], network(ids_T[None])[0, -1]

    logits_NV = np.stack([np.asarray(each) for each in logits(model.semantic, ids_T)])
    row = replay._greedy_row(model, text_T, N_TOKENS)
    ((tokens_T, _),) = run_semantic(model.semantic, [row], spaces)
    ((coarse_QT, _),) = run_coarse(model.coarse_acoustics, [row], [tokens_T], spaces)
    (fine_QT,) = run_fine(model.fine_acoustics, [row], [coarse_QT], spaces)
    return {
        "semantic_logits.npz": {
            "ids": np.stack([ids_T, ids_T]),
            "is_summed": np.array([True, False]),
            "logits": logits_NV[:, : spaces.semantic_vocab],
        },
        "semantic_greedy.npz": {"ids": ids_T[None], "tokens_0": tokens_T},
        "coarse_greedy.npz": {"semantic_0": tokens_T, "coarse_0": coarse_QT},
        "fine_greedy.npz": {"coarse_0": coarse_QT, "fine_0": fine_QT},
    }


def write(folder, files):
    folder.mkdir()
    for name, arrays in files.items():
        write_npz(folder / name, arrays)
    return folder


def changed(files, name, array, at):
    """A copy of the files with another value at one place of one array."""
    arrays = {key: values.copy() for key, values in files[name].items()}
    value = arrays[array][at]
    arrays[array][at] = value + 5 if value.dtype.kind == "f" else value - 1 if value else 1
    return files | {name: arrays}


def run(*args):
    return CliRunner().invoke(main, ["verify", *map(str, args)])


def verify(folder, tmp_path, *args):
    result = run(folder, "-o", tmp_path / "report", "--json", *args)
    assert (tmp_path / "report").is_dir(), result.output
    return result, json.loads((tmp_path / "report" / "report.json").read_text())


def test_the_command_offers_the_parts_that_there_are():
    assert tuple(PARTS) == CLI_PARTS


def test_recordings_of_the_model_fit_it(toy_folder, recorded, tmp_path, hub):
    folder = write(tmp_path / "recordings", recorded)
    result, report = verify(toy_folder, tmp_path, "--recordings", folder, "--part", "recordings", "--part", "files")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == report
    rows = report["parts"]["recordings"]["rows"]
    assert [row["stage"] for row in rows] == ["semantic"] * 4 + ["coarse"] * 2 + ["fine"] * 2
    assert all(row["is_within"] for row in rows)
    assert [(row["n_equal"], row["n_total"]) for row in rows[2:]] == [
        *[(25, 25)] * 2,
        *[(74, 74)] * 2,
        *[(6 * 37, 6 * 37)] * 2,
    ]
    assert "fit this model" in report["parts"]["recordings"]["note"]
    assert set(report["parts"]["files"]["files"]) >= {"semantic.safetensors", "config.json"}
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "WRONG" not in markdown and str(tmp_path) not in markdown + result.stdout


def test_one_changed_value_a_file_is_found_where_it_is(toy_folder, recorded, tmp_path, hub):
    files = changed(recorded, "semantic_logits.npz", "logits", (1, 17))
    files = changed(files, "semantic_greedy.npz", "tokens_0", 20)
    files = changed(files, "coarse_greedy.npz", "coarse_0", (1, 30))  # number 61 of the stream
    files = changed(files, "fine_greedy.npz", "fine_0", (3, 7))  # number 37 + 7 of the filled codes
    folder = write(tmp_path / "recordings", files)
    result, report = verify(toy_folder, tmp_path, "--recordings", folder, "--part", "recordings")
    assert result.exit_code == 1, result.output
    part = report["parts"]["recordings"]
    summed, in_sequence, *others = part["rows"]
    assert summed["is_within"] and not in_sequence["is_within"]
    assert "largest at id 17" in in_sequence["note"] and "do not fit this model" in part["note"]
    assert not report["is_good"] and part["status"] == "different"
    for row, at in zip(others, (20, 20, 61, 61, 44, 44), strict=True):
        assert not row["is_within"] and f"token {at} is" in row["note"], row


def test_a_file_that_is_damaged_does_not_end_the_others(toy_folder, recorded, tmp_path, hub):
    folder = write(tmp_path / "recordings", {"fine_greedy.npz": recorded["fine_greedy.npz"]})
    (folder / "semantic_logits.npz").write_bytes(b"PK\x03\x04 and nothing else")
    result, report = verify(toy_folder, tmp_path, "--recordings", folder, "--part", "recordings", "--quick")
    assert result.exit_code == 1
    damaged, *fine = report["parts"]["recordings"]["rows"]
    assert "not replayed: RECORDINGS/semantic_logits.npz is a damaged" in damaged["note"]
    assert len(fine) == 2 and all(row["is_within"] for row in fine)


def test_a_part_that_fails_says_so_and_the_next_one_runs(toy_folder, tmp_path, hub, monkeypatch):
    def fail(run):
        raise RuntimeError(f"no room in /home/joe/cache/xla and in {tmp_path}/here")

    monkeypatch.setitem(PARTS, "files", fail)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    args = [arg for name in ("files", "recordings", "words", "parity") for arg in ("--part", name)]
    empty = write(tmp_path / "recordings", {})
    (empty / "coarse_greedy.npz").write_bytes(b"")
    result, report = verify(toy_folder, tmp_path, *args, "--recordings", empty)
    assert result.exit_code == 1
    found = {name: part["status"] for name, part in report["parts"].items()}
    assert found == {"files": "failed", "recordings": "different", "words": "skipped", "parity": "skipped"}
    assert report["parts"]["files"]["note"] == "RuntimeError: no room in .../xla and in .../here"
    assert "not installed" in report["parts"]["parity"]["note"] and "not installed" in report["parts"]["words"]["note"]
    assert "joe" not in result.stdout and str(tmp_path) not in result.stdout


def test_what_is_not_installed_is_no_failure(toy_folder, tmp_path, hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    result, report = verify(toy_folder, tmp_path, "--part", "parity", "--part", "files")
    assert result.exit_code == 0 and report["is_good"]


def test_parity_waits_for_memory_unless_it_is_asked_for(monkeypatch):
    config, found = parts.BarkConfig(), []
    monkeypatch.setattr(parts, "import_torch", lambda: None)
    monkeypatch.setattr(parts, "compare", lambda *_, **__: found.append("compared") or [])
    monkeypatch.setattr(checkpoint, "float32_bytes", lambda config: 4_400_000_000)
    monkeypatch.setattr(machine, "free_memory", lambda: 8_000_000_000)
    run = parts.Run("m", None, None, config, parts.TokenSpaces(), None, None, (), True, None, lambda line: None)
    part = parts.compare_with_transformers(run)
    assert part.status == "skipped" and "8.8 GB, 8.0 GB are free" in part.note and not found
    asked = parts.dataclasses.replace(run, asked=("parity",))
    assert parts.compare_with_transformers(asked).status == "passed" and found


@pytest.mark.parametrize(
    "args, says",
    [
        (["--part", "recordings"], "needs the folder of the recordings"),
        (["--recordings", "nowhere"], "is no folder"),
        (["--recordings", "."], "has none of semantic_logits.npz"),
        (["--part", "weights"], "is not one of"),
        (["-o", "taken"], "exists and is not empty"),
        (["-o", "taken", "--overwrite"], "not a report folder"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_written(toy_folder, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("kept")
    result = run(toy_folder, *args)
    assert result.exit_code == 2 and says in result.stderr, result.output
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "mine"]


def test_float16_explains_small_differences_and_no_large_ones():
    recorded_V = np.random.default_rng(0).standard_normal(1000).astype(np.float32) * 2
    half = compare_with_float16("logits", recorded_V.astype(np.float16).astype(np.float32), recorded_V)
    assert half.is_within and "float16 explains it" in half.note
    assert "; float32 explains it" in compare_with_float16("logits", recorded_V.copy(), recorded_V).note
    rough_V = recorded_V + 0.2 * np.sign(recorded_V)
    rough = compare_with_float16("logits", rough_V, recorded_V)
    assert not rough.is_within and "; bfloat16 explains it" in rough.note
    assert "are this model's" in parts._fit([half, rough], "small")
    other = compare_with_float16("logits", -recorded_V, recorded_V)
    assert not other.is_within and "the most likely id is" in other.note
    assert not compare_with_float16("logits", recorded_V * np.nan, recorded_V).is_within


RECORDED = np.array([4, 5, 6, 7])


def choices(token_T, deficit_T, margin_T):
    return _Choices(np.array(token_T), np.array(deficit_T), np.array(margin_T), np.full(4, 0.1))


@pytest.mark.parametrize("deficit, is_within", [(0.05, True), (0.2, False), (np.nan, False)])
def test_another_choice_is_excused_at_a_near_tie_alone(deficit, is_within):
    found = choices([4, 9, 6, 7], [0, deficit, 0, 0], [3, 0.05, 3, 3])
    along = compare_read_along("semantic", "read along", RECORDED, found)
    generated = compare_generated("semantic", "generated", np.array([4, 9, 1, 1]), RECORDED, found)
    assert (along.is_within, along.n_equal) == (is_within, 3) and "token 1 is 9, recorded 5" in along.note
    assert (generated.is_within, generated.n_equal) == (is_within, 1)


@pytest.mark.parametrize("margin, is_within", [(0.05, True), (0.5, False)])
def test_a_stage_that_does_not_choose_what_its_network_does_is_wrong(margin, is_within):
    found = choices(RECORDED, np.zeros(4), [3, 3, margin, 3])
    row = compare_generated("semantic", "generated", np.array([4, 5, 8, 7]), RECORDED, found)
    assert row.is_within == is_within and row.n_equal == 2


def test_codes_that_are_chosen_at_once_are_judged_together():
    found = choices([4, 9, 6, 9], [0, 0.05, 0, 3], [3, 3, 3, 3])
    ours_T = np.array([4, 9, 6, 9])
    assert compare_generated("fine", "generated", ours_T, RECORDED, found, at_once=2).is_within
    whole = compare_generated("fine", "generated", ours_T, RECORDED, found, at_once=4)
    assert not whole.is_within and whole.n_equal == 2 and "token 3 is 9" in whole.note


@pytest.mark.parametrize(
    "text, expected",
    [
        ("cannot read /home/joe/models/bark/a.bin: gone", "cannot read .../a.bin: gone"),
        ("in '/mnt/data of joe/x' and /home/joe", "in 'DATA/x' and ~"),
        ("~/models/bark and ~joe/x/y", ".../bark and .../y"),
        ("https://hub.example/a/b and suno/bark-small, 3 / 4, and/or", None),
        ("9" * 5000, "9" * 600 + " ..."),
    ],
)
def test_no_path_of_a_user_is_posted(text, expected):
    assert without_paths({"a": [text]}, {"/mnt/data of joe": "DATA"}) == {"a": [expected or text]}


@pytest.mark.slow
def test_recordings_that_transformers_makes_fit(bark_twins, tmp_path):
    """In the form of the published recordings, with Bark's own ids, and windows that slide."""
    from bark_jax.parity.reference import Reference, silenced
    from benchmarks.record import record as record_with

    with silenced():
        files = record_with(Reference(bark_twins.folder / "theirs", bark_twins.ours.generation_config))
    assert len(np.unique(files["coarse_greedy.npz"]["coarse_0"])) > 20
    folder = write(tmp_path / "recordings", files)
    *logits, tokens, generated, coarse, _, fine, _ = rows = list(replay.replay(bark_twins.ours, folder, list(files)))
    assert all(row.is_within and "; float32 explains it" in row.note for row in logits)
    assert all(row.n_equal == row.n_total for row in rows[3:]), rows
    assert (generated.n_total, coarse.n_total, fine.n_total) == (tokens.n_total, 2 * 360, 6 * 60)


@pytest.mark.slow
def test_a_quick_report_has_all_parts(toy_folder, recorded, tmp_path, hub, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("pocketsphinx")
    monkeypatch.setattr("jax.clear_caches", lambda: None)  # the benchmark would compile everything again
    # One row of the comparison with transformers: tests/test_parity.py has them all.
    monkeypatch.setattr(comparison, "_all_rows", lambda *each: iter([comparison._coarse_logits(*each)]))
    folder = write(tmp_path / "recordings", recorded)
    result, report = verify(toy_folder, tmp_path, "--recordings", folder, "--quick")
    assert result.exit_code == 0, result.output
    assert list(report["parts"]) == list(PARTS)
    (clip,) = report["parts"]["clips"]["clips"]
    assert clip["language"] == "en" and len(clip["tokens"]["semantic"]) == 64
    made = {path.name for path in (tmp_path / "report" / "clips").iterdir()}
    assert made == {"en.wav", "en.png", "sentence_0.wav", "sentence_1.wav"}
    assert report["parts"]["speed"]["bench"]["runs"] and report["parts"]["parity"]["rows"]
