"""Batch runs with a stub for the model: rows that are skipped, repeated and refused, and resuming."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from batch_stub import MADE_WITH, RATE, StubSpeaker, noise, run_stub, write_rows
from deadlines import HANG_S

from bark_jax.batch import manifest as batch_manifest
from bark_jax.batch.manifest import DoneRows, Manifest, read_entries
from bark_jax.batch.rows import read_rows
from bark_jax.errors import BusyError, InputError, OutputError

STUB = Path(__file__).with_name("batch_stub.py")


@pytest.fixture
def rows(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", 12)


def entries_of(out):
    return {entry["id"]: entry for entry in read_entries(out / "manifest.jsonl")}


def check_complete(out, rows):
    """Checks that every row is in the manifest once, and that its file has the listed checksum, size and audio."""
    entries = list(read_entries(out / "manifest.jsonl"))
    by_row = {row.id: row for row in read_rows(rows, "jsonl")}
    assert sorted(entry["id"] for entry in entries) == sorted(by_row)
    for entry in entries:
        data = (out / entry["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"] and len(data) == entry["bytes"]
        samples, rate = soundfile.read(out / entry["file"], dtype="float32")
        expected = noise(by_row[entry["id"]])
        assert rate == entry["sample_rate"] and len(samples) == len(expected) == round(entry["seconds"] * rate)
        assert np.abs(samples - expected).max() < 1e-4
    assert {path.name for path in (out / "audio").iterdir()} == {f"{name}.wav" for name in by_row}


def test_every_row_becomes_a_file_and_a_line(rows, tmp_path):
    summary = run_stub(rows, tmp_path / "out")
    assert (summary.rows, summary.finished, summary.failed, summary.left) == (12, 12, 0, 0)
    check_complete(tmp_path / "out", rows)
    entry = entries_of(tmp_path / "out")["row-3"]
    keys = ["id", "file", "text", "seconds", "sample_rate", "row_digest", "seed", "voice", "model", "version"]
    assert list(entry) == [*keys, "timings", "bytes", "sha256"]


@pytest.mark.parametrize("audio", ["flac", "ogg", "opus", "mp3"])
def test_other_kinds_of_audio(rows, tmp_path, audio):
    run_stub(rows, tmp_path / "out", audio=audio)
    for entry in read_entries(tmp_path / "out" / "manifest.jsonl"):
        assert entry["file"].endswith(f".{audio}")
        info = soundfile.info(tmp_path / "out" / entry["file"])
        assert info.samplerate == RATE and info.frames >= entry["seconds"] * RATE - 1


def test_the_same_call_again_does_nothing(rows, tmp_path):
    run_stub(rows, tmp_path / "out")
    speaker = StubSpeaker()
    assert run_stub(rows, tmp_path / "out", speaker).done_before == 12
    assert speaker.n_spoken == 0


def test_missing_and_partial_files_are_done_again(rows, tmp_path):
    out = tmp_path / "out"
    run_stub(rows, out)
    (out / "audio" / "row-1.wav").unlink()
    (out / "audio" / "row-2.wav").write_bytes(b"half")
    (out / "audio" / ".row-3.wav.00110011.partial").write_bytes(b"half")
    assert run_stub(rows, out).finished == 2
    soundfile.read(out / "audio" / "row-2.wav")
    assert not list((out / "audio").glob("*.partial"))


def test_half_a_line_at_the_end_is_taken_off(rows, tmp_path):
    out = tmp_path / "out"
    run_stub(rows, out)
    manifest = out / "manifest.jsonl"
    complete = manifest.read_bytes()
    manifest.write_bytes(complete[:-20])
    assert run_stub(rows, out).finished == 1
    assert len(manifest.read_bytes().splitlines()) == 12 and all(map(json.loads, manifest.read_bytes().splitlines()))
    manifest.write_bytes(b"x" * 200_000)  # longer than a block of the reader
    assert run_stub(rows, out).finished == 12


def test_a_damaged_line_costs_its_row_only(rows, tmp_path):
    out = tmp_path / "out"
    run_stub(rows, out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    lines[4] = b"\0" * (len(lines[4]) - 1) + b"\n"
    (out / "manifest.jsonl").write_bytes(b"".join(lines))
    assert run_stub(rows, out).finished == 1


def test_the_last_line_of_an_id_holds():
    entries = [{"id": "a", "error": "x"}, {"id": "b"}, {"id": "a"}, {"id": "b", "error": "x"}, {"id": "c"}]
    done = DoneRows(entries, lambda entry: entry["id"] != "c")
    assert [done.find(name, b"\0" * 16) for name in "abcd"] == [(False, True), (True, True), None, None]
    assert len(done) == 2 and len(DoneRows([], bool)) == 0


def test_other_settings_are_refused_with_the_difference(rows, tmp_path):
    out = tmp_path / "out"
    run_stub(rows, out)
    other = {"model": {"name": "other", "sha256": "123"}, "settings": {"temperature": 0.6}}
    with pytest.raises(InputError) as caught:
        run_stub(rows, out, made_with=other, audio="flac")
    message = str(caught.value)
    assert "audio: 'wav' there, 'flac' here" in message and "settings.temperature: None there, 0.6 here" in message
    assert "'stub' (SHA-256 0...) there, 'other' (SHA-256 123...) here" in message and "--force" in message
    moved = MADE_WITH | {"model": {"name": "elsewhere", "sha256": "0"}}
    assert run_stub(rows, out, made_with=moved).done_before == 12
    assert run_stub(rows, out, made_with=other, force=True).done_before == 12


def test_an_edited_row_is_refused_and_done_again_with_force(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "One."}, {"id": "b", "text": "Two."}])
    out = tmp_path / "out"
    run_stub(rows, out)
    write_rows(rows, [{"id": "a", "text": "One."}, {"id": "b", "text": "Two, longer."}, {"id": "c", "text": "New."}])
    with pytest.raises(InputError, match="line 2: id 'b'"):
        run_stub(rows, out)
    summary = run_stub(rows, out, force=True)
    assert (summary.done_before, summary.finished) == (1, 2)
    assert entries_of(out)["b"]["text"] == "Two, longer."
    assert run_stub(rows, out).done_before == 3


def test_metadata_comes_back_and_may_change(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "One.", "book": {"page": 3}}])
    run_stub(rows, tmp_path / "out")
    assert entries_of(tmp_path / "out")["a"]["metadata"] == {"book": {"page": 3}}
    write_rows(rows, [{"id": "a", "text": "One.", "book": {"page": 4}}])
    assert run_stub(rows, tmp_path / "out").done_before == 1


def poisoned(n_rows, every):
    rows = [{"id": f"row-{number}", "text": f"Text number {number}."} for number in range(n_rows)]
    bad = [{"text": ""}, {"text": " \n"}, {"text": "a" * 10_000_000}, {"text": None}, {"seed": -1}, {"text": "a\0b"}]
    for count, number in enumerate(range(0, n_rows, every)):
        rows[number] = rows[number] | bad[count % len(bad)]
    return rows


@pytest.mark.parametrize("n_rows", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_poisoned_rows_are_errors_of_their_own(n_rows, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", poisoned(n_rows, 20))
    out, n_bad = tmp_path / "out", n_rows // 20
    summary = run_stub(rows, out)
    assert (summary.finished, summary.failed, summary.left) == (n_rows - n_bad, n_bad, 0)
    assert len(list((out / "audio").iterdir())) == n_rows - n_bad
    reasons = [entry["error"] for entry in entries_of(out).values() if "error" in entry]
    assert len(reasons) == n_bad and all(10 < len(reason) < 400 for reason in reasons)
    again = run_stub(rows, out)
    assert (again.finished, again.failed, again.done_before) == (0, n_bad, n_rows)


def test_failed_rows_are_done_again_when_asked_or_mended(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": ""}, {"id": "b", "text": ""}])
    out = tmp_path / "out"
    assert run_stub(rows, out).failed == 2
    speaker = StubSpeaker()
    assert run_stub(rows, out, speaker, retry_failed=True).failed == 2 and speaker.n_spoken == 2
    write_rows(rows, [{"id": "a", "text": "Mended."}, {"id": "b", "text": ""}])
    summary = run_stub(rows, out)
    assert (summary.finished, summary.failed) == (1, 1)


def test_audio_that_cannot_be_encoded_is_an_error_of_its_row(rows, tmp_path):
    class Empty(StubSpeaker):
        def _spoken(self, row):
            spoken = super()._spoken(row)
            return dataclasses.replace(spoken, samples=spoken.samples[:0]) if row.id == "row-3" else spoken

    summary = run_stub(rows, tmp_path / "out", Empty(), audio="flac")
    assert (summary.finished, summary.failed) == (11, 1)
    assert "empty" in entries_of(tmp_path / "out")["row-3"]["error"]


def test_an_engine_that_fails_leaves_what_was_finished(rows, tmp_path):
    class Failing(StubSpeaker):
        def _spoken(self, row):
            if self.n_spoken == 5:
                raise RuntimeError("out of memory")
            return super()._spoken(row)

    with pytest.raises(RuntimeError, match="out of memory"):
        run_stub(rows, tmp_path / "out", Failing(2))
    assert len(entries_of(tmp_path / "out")) == 5
    assert run_stub(rows, tmp_path / "out").finished == 7
    check_complete(tmp_path / "out", rows)


def test_a_second_writer_is_stopped(rows, tmp_path):
    class Nested(StubSpeaker):
        def speak(self, rows_, done):
            with pytest.raises(BusyError, match=f"process {os.getpid()} on"):
                run_stub(rows, tmp_path / "out")
            super().speak(rows_, done)

    assert run_stub(rows, tmp_path / "out", Nested()).finished == 12


def test_an_out_that_is_no_batch_folder_is_refused(rows, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.jsonl").write_text("{}\n")
    for out in (tmp_path / "file", tmp_path / "other", "s3://bucket/out"):
        with pytest.raises(InputError, match="OUT"):
            run_stub(rows, out)
    assert (tmp_path / "other" / "manifest.jsonl").read_text() == "{}\n"


def test_an_out_that_is_not_writable_is_refused(rows, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written to"):
        run_stub(rows, tmp_path / "file" / "out")


def test_nothing_is_written_where_the_ids_are_wrong(tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}])
    with pytest.raises(InputError, match="that of line 1 too"):
        run_stub(rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_events_tell_how_far_it_is(rows, tmp_path):
    events = []
    run_stub(rows, tmp_path / "out", on_event=events.append)
    assert [event["event"] for event in events] == ["start", *["row"] * 12, "end"]
    assert [event["rows_done"] for event in events[1:-1]] == list(range(1, 13))
    assert events[-2]["seconds_left"] == 0 and events[-1]["finished"] == 12
    json.dumps(events)


def start_stub(rows, out, delay_s, form="files"):
    """The stub as a process of its own, and what it prints for each settled row."""
    environment = os.environ | {"STUB_DELAY_S": str(delay_s)}
    return subprocess.Popen([sys.executable, STUB, rows, out, form], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_what_is_under_way(tmp_path, number):
    rows, out = write_rows(tmp_path / "rows.jsonl", 300), tmp_path / "out"
    process = start_stub(rows, out, 0.25)  # the signal has 25 s to come before a hundred rows are spoken
    assert process.stdout.readline() == "start\n" and process.stdout.readline() == "row\n"
    process.send_signal(number)
    stdout, _ = process.communicate(timeout=HANG_S)
    summary = json.loads(stdout.splitlines()[-1])
    assert process.returncode == 0 and summary["signal"] == number
    # The eight rows in progress are finished; no others are started.
    assert 8 <= summary["finished"] < 100 and summary["left"] == 300 - summary["finished"]
    assert len(entries_of(out)) == summary["finished"] == len(list((out / "audio").iterdir()))
    assert run_stub(rows, out).left == 0
    check_complete(out, rows)


def test_two_signals_stop_at_once(tmp_path):
    rows, out = write_rows(tmp_path / "rows.jsonl", 30), tmp_path / "out"
    process = start_stub(rows, out, 100.0)  # no row ends before the second signal comes
    assert process.stdout.readline() == "start\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANG_S)
    assert process.returncode != 0
    assert run_stub(rows, out).left == 0
    check_complete(out, rows)


PEAK = """
import resource, sys
from batch_stub import run_stub
run_stub(sys.argv[1], sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("n_rows", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, n_rows):
    peaks = {}
    for n in (200, n_rows):
        rows = write_rows(tmp_path / f"{n}.jsonl", n)
        command = [sys.executable, "-c", PEAK, rows, tmp_path / f"out-{n}"]
        done = subprocess.run(command, cwd=STUB.parent, capture_output=True, text=True, check=True, timeout=HANG_S)
        peaks[n] = int(done.stdout)
    assert peaks[n_rows] < 1.1 * peaks[200], peaks


def test_a_manifest_takes_all_lines_or_none(tmp_path, monkeypatch):
    with Manifest.open(tmp_path / "manifest.jsonl") as manifest:
        manifest.append([{"id": "a"}])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
            with pytest.raises(OSError, match="I/O"):
                manifest.append([{"id": "b"}, {"id": "c"}])
        manifest.append([{"id": "d"}])
    assert [entry["id"] for entry in read_entries(tmp_path / "manifest.jsonl")] == ["a", "d"]


def test_a_line_of_a_manifest_that_is_too_long_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_manifest, "MAX_LINE_BYTES", 16)
    lines = [b'{"id": "a"}', b"-" * 32 + b'{"id": "b"}', b'{"id": "c"}', b'{"id": "d", "x": "too long"}', b'{"id": "e"']
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert [entry["id"] for entry in read_entries(path)] == ["a", "c"]
