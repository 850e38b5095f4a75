"""A batch in shards on several machines: the checks of merging them. Also Parquet parts."""

import json
import shutil
import sys

import pytest
from batch_stub import MADE_WITH, RATE, StubSpeaker, noise, run_stub, write_rows
from test_batch_runs import entries_of

from bark_jax.batch.ids import Shard
from bark_jax.batch.manifest import read_entries
from bark_jax.batch.merge import merge_shards
from bark_jax.batch.rows import read_rows
from bark_jax.batch.run_folder import locked, open_folder
from bark_jax.errors import BusyError, CheckpointError, InputError, UnsupportedError

N_SHARDS = 3


@pytest.fixture(params=["files", "parquet"])
def form(request):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return request.param


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", [*numbered(30), {"id": "bad", "text": ""}])


def numbered(n):
    return [{"id": f"row-{number}", "text": f"Text number {number}."} for number in range(n)]


def fill(rows, out, indices=range(N_SHARDS), **options):
    for index in indices:
        run_stub(rows, out, shard=Shard(index, N_SHARDS), **options)


def test_shards_merge_to_what_one_machine_makes(rows, tmp_path, form):
    fill(rows, tmp_path / "out", form=form)
    run_stub(rows, tmp_path / "one", form=form)
    merged = merge_shards(tmp_path / "out", verify=True)
    assert (merged.shards, merged.rows, merged.failed) == (3, 31, 1)
    found, expected = entries_of(tmp_path / "out"), entries_of(tmp_path / "one")
    assert len(list(read_entries(tmp_path / "out" / "manifest.jsonl"))) == 31
    for name, entry in expected.items():
        for key in ("seed", "seconds", "sha256", "error"):
            assert found[name].get(key) == entry.get(key)
        assert name == "bad" or (tmp_path / "out" / found[name]["file"]).is_file()
    assert merge_shards(tmp_path / "out").rows == 31


def test_the_last_line_of_a_row_is_the_one_that_is_merged(rows, tmp_path):
    fill(rows, tmp_path / "out")
    fill(rows, tmp_path / "out", retry_failed=True)
    assert merge_shards(tmp_path / "out").failed == 1
    write_rows(rows, [*numbered(30), {"id": "bad", "text": "Mended."}])
    fill(rows, tmp_path / "out")
    assert merge_shards(tmp_path / "out").failed == 0
    assert len(list(read_entries(tmp_path / "out" / "manifest.jsonl"))) == 31


def refusal(out, **options):
    with pytest.raises(InputError, match="cannot be merged") as caught:
        merge_shards(out, **options)
    assert not (out / "manifest.jsonl").exists()
    return str(caught.value)


def test_a_missing_shard_is_reported(rows, tmp_path):
    fill(rows, tmp_path / "out", [0, 2])
    assert "shards 1 of 3 are missing" in refusal(tmp_path / "out")


def test_an_unfinished_shard_is_reported(rows, tmp_path):
    fill(rows, tmp_path / "out")
    shard = tmp_path / "out" / Shard(1, 3).folder
    lines = (shard / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (shard / "manifest.jsonl").write_bytes(b"".join(lines[:-2]))
    assert f"{len(lines) - 2} of {len(lines)} rows are done" in refusal(tmp_path / "out")


def test_shards_of_other_settings_or_inputs_are_reported(rows, tmp_path):
    fill(rows, tmp_path / "out", [0, 1])
    write_rows(rows, numbered(29))
    fill(rows, tmp_path / "out", [2], made_with=MADE_WITH | {"settings": {"top_k": 5}})
    message = refusal(tmp_path / "out")
    assert "has another settings.top_k: 5 there, None in shard-00000-of-00003" in message
    assert "is of 29 rows, shard-00000-of-00003 of 31" in message


def test_missing_and_changed_files_are_reported(rows, tmp_path):
    fill(rows, tmp_path / "out")
    first, second, third = [path for path in sorted((tmp_path / "out").glob("*/audio/*.wav"))][:3]
    first.unlink()
    second.write_bytes(b"x")
    data = bytearray(third.read_bytes())
    data[-1] ^= 1
    third.write_bytes(data)
    assert refusal(tmp_path / "out").count("is missing or another") == 2
    assert refusal(tmp_path / "out", verify=True).count("is missing or another") == 3


def test_damaged_parts_are_reported(rows, tmp_path):
    pytest.importorskip("pyarrow")
    fill(rows, tmp_path / "out", form="parquet", rows_per_part=1000)
    first, second, _ = sorted((tmp_path / "out").glob("*/audio/*.parquet"))
    first.write_bytes(first.read_bytes()[:-10])
    data = bytearray(second.read_bytes())
    at = data.index(b"RIFF") + 200  # an audio sample
    data[at] ^= 1
    second.write_bytes(data)
    n_first = sum("error" not in entry for entry in read_entries(first.parents[1] / "manifest.jsonl"))
    assert refusal(tmp_path / "out").count("is missing or another") == n_first
    assert refusal(tmp_path / "out", verify=True).count("is missing or another") == n_first + 1


def test_rows_of_another_shard_are_reported(rows, tmp_path):
    fill(rows, tmp_path / "out")
    path = tmp_path / "out" / Shard(0, 3).folder / "manifest.jsonl"
    stray = json.loads((tmp_path / "out" / Shard(1, 3).folder / "manifest.jsonl").read_text().splitlines()[0])
    with open(path, "a") as file:
        file.write(json.dumps(stray) + "\n")
    message = refusal(tmp_path / "out")
    assert "belongs to another shard" in message and "is in shard 0 too" in message


def test_a_shard_that_is_being_written_is_not_merged(rows, tmp_path):
    fill(rows, tmp_path / "out")
    with open_folder(tmp_path / "out" / Shard(1, 3).folder), pytest.raises(BusyError):
        merge_shards(tmp_path / "out")


def test_a_folder_that_is_being_written_is_not_merged_into(rows, tmp_path):
    """Nor are the files of a run without shards there left beside: no folder of audio is made."""
    fill(rows, tmp_path / "out")
    with locked(tmp_path / "out", with_audio=False), pytest.raises(BusyError):
        merge_shards(tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    merge_shards(tmp_path / "out")
    assert not (tmp_path / "out" / "audio").exists()


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no shards"):
        merge_shards(tmp_path)


def test_parquet_has_the_rows_with_their_audio(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    soundfile = pytest.importorskip("soundfile")
    rows = write_rows(tmp_path / "rows.jsonl", [each | {"book": "b"} for each in numbered(10)])
    run_stub(rows, tmp_path / "out", form="parquet", rows_per_part=4, audio="flac")
    parts = sorted((tmp_path / "out" / "audio").iterdir())
    assert [parquet.read_metadata(part).num_rows for part in parts] == [4, 4, 2]
    features = json.loads(parquet.read_schema(parts[0]).metadata[b"huggingface"])["info"]["features"]
    assert features["audio"] == {"_type": "Audio"} and set(features) == set(parquet.read_schema(parts[0]).names)
    by_name = {row.id: row for row in read_rows(rows, "jsonl")}
    (tmp_path / "clip.flac").write_bytes((found := parquet.read_table(parts[1]).to_pylist()[0])["audio"]["bytes"])
    samples, rate = soundfile.read(tmp_path / "clip.flac", dtype="float32")
    row = by_name[found["id"]]
    assert rate == found["sample_rate"] == RATE and abs(samples - noise(row)).max() < 1e-4
    assert found["audio"]["path"] == f"{row.id}.flac" and found["seed"] == row.seed and found["text"] == row.text
    assert json.loads(found["metadata"]) == {"book": "b"} and found["voice"] is None


def test_a_part_that_the_manifest_does_not_tell_of_is_found(tmp_path):
    pytest.importorskip("pyarrow")
    rows, out = write_rows(tmp_path / "rows.jsonl", 10), tmp_path / "out"
    run_stub(rows, out, form="parquet", rows_per_part=4)
    before = entries_of(out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join(lines[:6]))
    speaker = StubSpeaker()
    assert run_stub(rows, out, speaker, form="parquet").done_before == 10 and speaker.n_spoken == 0
    assert entries_of(out) == before
    shutil.rmtree(out / "audio")
    assert run_stub(rows, out, form="parquet").finished == 10


def test_a_damaged_part_and_edited_rows_of_parts_are_reported(tmp_path):
    pytest.importorskip("pyarrow")
    rows, out = write_rows(tmp_path / "rows.jsonl", 4), tmp_path / "out"
    run_stub(rows, out, form="parquet")
    write_rows(rows, [each | {"text": "Other."} for each in numbered(4)])
    with pytest.raises(InputError, match="cannot be replaced"):
        run_stub(rows, out, form="parquet", force=True)
    (part,) = (out / "audio").iterdir()
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="delete it"):
        run_stub(rows, out, form="parquet")


def test_parquet_without_pyarrow_tells_what_to_install(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnsupportedError, match="parquet"):
        run_stub(rows, tmp_path / "out", form="parquet")
    assert not (tmp_path / "out").exists()
