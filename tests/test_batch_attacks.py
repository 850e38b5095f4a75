"""Batch output folders prepared by an attacker, and rows that change during a run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batch_stub import StubSpeaker, run_stub, write_rows
from test_batch_runs import check_complete, entries_of
from test_batch_shards import N_SHARDS, numbered

from bark_jax.batch.ids import Shard
from bark_jax.batch.merge import merge_shards
from bark_jax.errors import BarkError, InputError


def fill_shards(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", numbered(30))
    for index in range(N_SHARDS):
        run_stub(rows, tmp_path / "out", shard=Shard(index, N_SHARDS))
    return rows


NAMES = (".lock", "manifest.jsonl", "run.json")


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target"
    path.write_text("precious\n")
    return path


def make_pipe(path, _):
    os.mkfifo(path)


def make_folder(path, _):
    path.mkdir()


def make_hard_link(path, target):
    path.hardlink_to(target)


KINDS = {
    "link": lambda path, target: path.symlink_to(target),
    "dangling link": lambda path, target: path.symlink_to(target.with_name("made")),
    "looping link": lambda path, _: path.symlink_to(path),
    "pipe": make_pipe,
    "folder": make_folder,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_a_run_is_not_opened_through_anything(tmp_path, target, name, kind):
    rows, out = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "out"
    run_stub(rows, out)
    (out / name).unlink()
    KINDS[kind](out / name, target)
    with pytest.raises(InputError, match=rf"{re.escape(name)}"):
        run_stub(write_rows(rows, 3), out)
    assert target.read_text() == "precious\n" and not (tmp_path / "made").exists()


def test_a_lock_that_is_another_file_by_a_second_name_is_left_alone(tmp_path, target):
    (tmp_path / "out").mkdir()
    make_hard_link(tmp_path / "out" / ".lock", target)
    with pytest.raises(InputError, match="lock"):
        run_stub(write_rows(tmp_path / "rows.jsonl", 1), tmp_path / "out")
    assert target.read_text() == "precious\n"


def test_audio_is_not_written_through_links(tmp_path, target):
    rows, out = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "out"
    (out / "audio").mkdir(parents=True)
    (out / "audio" / "row-0.wav").symlink_to(target)
    run_stub(rows, out)
    check_complete(out, rows)
    assert not (out / "audio" / "row-0.wav").is_symlink() and target.read_text() == "precious\n"
    elsewhere = tmp_path / "elsewhere"
    (out / "audio").rename(elsewhere)
    (out / "audio").symlink_to(elsewhere)
    with pytest.raises(InputError, match="audio is a link"):
        run_stub(rows, out)


def test_out_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert run_stub(write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "out").finished == 2


def test_a_file_that_became_a_link_is_made_again(tmp_path):
    rows, out = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "out"
    run_stub(rows, out)
    path = out / "audio" / "row-0.wav"
    path.rename(tmp_path / "moved.wav")
    path.symlink_to(tmp_path / "moved.wav")
    assert run_stub(rows, out).finished == 1
    assert not path.is_symlink() and path.stat().st_size == entries_of(out)["row-0"]["bytes"]


def test_a_part_is_not_read_through_a_link(tmp_path):
    pytest.importorskip("pyarrow")
    rows, out = write_rows(tmp_path / "rows.jsonl", 2), tmp_path / "out"
    run_stub(rows, out, form="parquet")
    (part,) = (out / "audio").iterdir()
    part.rename(tmp_path / "moved.parquet")
    part.symlink_to(tmp_path / "moved.parquet")
    with pytest.raises(InputError, match="is a link"):
        run_stub(rows, out, form="parquet")


@pytest.mark.parametrize("file", ["../../target", "/etc/hostname", ["a"], 5, None, "a\0b"])
def test_a_manifest_with_paths_outside_of_its_folder_is_refused(tmp_path, target, file):
    rows = fill_shards(tmp_path)
    shard = tmp_path / "out" / Shard(0, 3).folder
    entry = next(iter(entries_of(shard).values())) | {"file": file, "bytes": len("precious\n")}
    with open(shard / "manifest.jsonl", "a") as manifest:
        manifest.write(json.dumps(entry) + "\n")
    with pytest.raises(InputError, match="is missing or another"):
        merge_shards(tmp_path / "out", verify=True)
    run_stub(rows, tmp_path / "out", shard=Shard(0, 3))
    assert merge_shards(tmp_path / "out", verify=True).rows == 30


@pytest.mark.parametrize("value", [[], None, 7, "3/2", {"a": 1}])
@pytest.mark.parametrize("name", ["shard", "rows", "rows_of_all_shards"])
def test_a_run_file_that_is_wrong_is_named_with_what_is_wrong(tmp_path, name, value):
    if name != "shard" and value == 7:
        value = -7
    fill_shards(tmp_path)
    path = tmp_path / "out" / Shard(1, 3).folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(InputError) as caught:
        merge_shards(tmp_path / "out")
    message = str(caught.value)
    assert str(path) in message and f"as its {name}, expected" in message and "--shard" not in message
    assert name != "shard" or "such as 1/3" in message


class Changing(StubSpeaker):
    """A speaker that edits the file of rows after two rows."""

    def __init__(self, change):
        super().__init__(1)
        self._change = change

    def _spoken(self, row):
        if self.n_spoken == 2:
            self._change()
        return super()._spoken(row)


CHANGES = {
    "appended": lambda path: path.write_text(path.read_text() + '{"id": "new", "text": "Unchecked."}\n'),
    "removed": lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:3])),
    "emptied": lambda path: path.write_text(""),
    "edited": lambda path: path.write_text(path.read_text().replace("number 999", "number nnn")),
    "replaced": lambda path: (path.unlink(), write_rows(path, 7)),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("how", CHANGES)
def test_rows_that_change_stop_the_run_with_a_sentence(tmp_path, how):
    rows, out, events = write_rows(tmp_path / "rows.jsonl", 1000), tmp_path / "out", []
    before = rows.read_bytes()
    speaker = Changing(lambda: CHANGES[how](rows))
    with pytest.raises(BarkError, match=f"had {len(before):,} bytes when the run began"):
        run_stub(rows, out, speaker, on_event=events.append)
    assert speaker.n_spoken < 10  # rows in progress are finished, no others are started
    assert all(0 <= event["rows_done"] <= event["rows_todo"] for event in events if event["event"] == "row")
    assert set(entries_of(out)) <= {f"row-{number}" for number in range(10)} and len(entries_of(out)) >= 2
    rows.write_bytes(before)
    assert run_stub(rows, out).left == 0
    check_complete(out, rows)


def test_rows_that_are_touched_and_not_changed_go_on(tmp_path):
    rows, out = write_rows(tmp_path / "rows.jsonl", 20), tmp_path / "out"
    assert run_stub(rows, out, Changing(lambda: rows.write_bytes(rows.read_bytes()))).finished == 20
    recorded = json.loads((out / "run.json").read_text())["input"]
    assert recorded["bytes"] == rows.stat().st_size and len(recorded["sha256"]) == 64


FULL = """
import resource, sys
import numpy as np
from bark_jax.audio.files import write_audio
from bark_jax.errors import OutputError
from bark_jax.voices.voice import Voice

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
samples = np.random.default_rng(0).uniform(-1, 1, 480_000).astype(np.float32)
for ending in ("wav", "flac", "ogg", "opus", "mp3"):
    try:
        write_audio(f"a.{ending}", samples, 24_000)
    except OutputError as error:
        print(ending, error)
"""


def test_audio_of_every_kind_onto_a_full_disk_is_an_output_error(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", FULL], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    refused = [line.split()[0] for line in done.stdout.splitlines() if "cannot be written: File too large" in line]
    assert refused == ["wav", "flac", "ogg", "opus", "mp3"] and done.stderr == "" and not list(tmp_path.iterdir())


def test_a_stream_that_fails_raises_its_own_error():
    from bark_jax.audio.files import write_stream
    from bark_jax.audio.formats import FORMATS

    class Broken:
        def __getattr__(self, name):
            def fail(*_):
                raise ValueError("I/O on a closed stream")

            return fail

    for ending in (".wav", ".flac", ".ogg"):
        with pytest.raises(ValueError, match="closed stream"):
            write_stream(Broken(), np.zeros(100, np.float32), 24_000, FORMATS[ending])
