"""State of a batch's output after a kill or a failing disk, and that it can be resumed."""

import builtins
import collections
import errno
import itertools
import os
import random
import shutil
import signal
import time

import pytest
import soundfile
from batch_stub import RATE, StubSpeaker, noise, run_stub, write_rows
from test_batch_runs import check_complete, entries_of, start_stub

from bark_jax import files
from bark_jax.batch.rows import read_rows
from bark_jax.errors import BarkError, OutputError


class FailingDisk:
    """Counts writes, syncs and renames, and fails the one of number `fails_at`, a write after half of its bytes."""

    def __init__(self, patch, fails_at=None, number=errno.ENOSPC):
        self.count, self._fails_at, self._number = 0, fails_at, number
        self.kinds = collections.Counter()
        self._write = os.write
        for name in ("fsync", "replace"):
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        patch.setattr(os, "write", self._write_some)
        patch.setattr(files, "open", self._open, raising=False)

    def _fails(self, kind):
        self.count += 1
        self.kinds[kind] += 1
        return self.count - 1 == self._fails_at

    def _error(self):
        return OSError(self._number, os.strerror(self._number))

    def _wrapped(self, name, function):
        def call(*args, **kwargs):
            if self._fails(name):
                raise self._error()
            return function(*args, **kwargs)

        return call

    def _write_some(self, descriptor, data):
        if self._fails("write"):
            self._write(descriptor, bytes(data)[: len(data) // 2])
            raise self._error()
        return self._write(descriptor, data)

    def _open(self, *args, **kwargs):
        file = builtins.open(*args, **kwargs)  # noqa: SIM115, closed in __exit__
        disk, write = self, file.write

        class Failing:
            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, data):
                if disk._fails("write"):
                    write(data[: len(data) // 2])
                    raise disk._error()
                return write(data)

        return Failing()


def check_no_half_files(out, rows):
    """Checks that every file with its final name is complete, and that the manifest names no others."""
    by_name = {row.id: row for row in read_rows(rows, "jsonl")}
    for path in (out / "audio").glob("[!.]*.wav") if out.exists() else []:
        samples, rate = soundfile.read(path)
        assert len(samples) == len(noise(by_name[path.stem])) and rate == RATE
    for entry in entries_of(out).values():
        size = (out / entry["file"]).stat().st_size
        assert size > entry["bytes"] if entry["file"].endswith(".parquet") else size == entry["bytes"]


@pytest.mark.parametrize(
    ("form", "number"),
    [
        ("files", errno.ENOSPC),
        ("files", errno.EIO),
        ("parquet", errno.ENOSPC),
        pytest.param("parquet", errno.EIO, marks=pytest.mark.slow),
    ],
)
def test_a_fault_at_every_write_sync_and_rename_of_a_row(tmp_path, monkeypatch, form, number):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    n_rows = {"files": 1, "parquet": 2}[form]  # two files may share an fsync or not
    rows, options = write_rows(tmp_path / "rows.jsonl", n_rows), {"form": form, "n_threads": 1}
    for fails_at in itertools.count():
        out = tmp_path / str(fails_at)
        with monkeypatch.context() as patch:
            disk = FailingDisk(patch, fails_at, number)
            try:
                run_stub(rows, out, **options)
            except OutputError as error:
                assert os.strerror(number) in str(error)
            else:
                break
        check_no_half_files(out, rows)
        assert run_stub(rows, out, **options).left == 0
        assert len(entries_of(out)) == n_rows
        if form == "files":
            check_complete(out, rows)
        shutil.rmtree(out)
    # No operation was left to fail: run.json, a row's file or a part of two rows, the manifest.
    assert fails_at == disk.count and disk.kinds["fsync"] >= 5 and disk.kinds["replace"] >= 2


def test_a_full_disk_stops_the_run_with_what_is_finished_intact(tmp_path, monkeypatch):
    rows, out = write_rows(tmp_path / "rows.jsonl", 400), tmp_path / "out"
    speaker = StubSpeaker()
    with monkeypatch.context() as patch:
        FailingDisk(patch, 100)
        with pytest.raises(OutputError, match="No space left on device") as caught:
            run_stub(rows, out, speaker)
    assert isinstance(caught.value, BarkError) and isinstance(caught.value, OSError)
    assert speaker.n_spoken < 150  # it stops soon, and does not generate rows that it cannot store
    check_no_half_files(out, rows)
    assert run_stub(rows, out).left == 0
    check_complete(out, rows)


@pytest.mark.parametrize(
    ("n_rows", "n_kills", "form"),
    [
        (60, 6, "files"),
        (60, 3, "parquet"),
        pytest.param(1000, 80, "files", marks=pytest.mark.slow),
        pytest.param(1000, 20, "parquet", marks=pytest.mark.slow),
    ],
)
def test_kills_lose_and_repeat_nothing(tmp_path, n_rows, n_kills, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    rows, out, draw = write_rows(tmp_path / "rows.jsonl", n_rows), tmp_path / "out", random.Random(0)
    by_name = {row.id: row for row in read_rows(rows, "jsonl")}
    n_done = kills = 0
    while kills < n_kills:
        process = start_stub(rows, out, 0.005, form)
        if draw.random() < 0.9:
            process.stdout.readline()  # "start"; otherwise it is killed while it begins
        time.sleep(draw.uniform(0, 1.0 * n_rows * 0.005 / n_kills))
        assert process.poll() in (None, 0)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        if form == "files":
            check_orphans(out, by_name)
        assert len(entries_of(out)) >= n_done  # nothing that was done is undone
        n_done = len(entries_of(out))
    assert run_stub(rows, out, form=form, rows_per_part=50).left == 0
    reference = tmp_path / "reference"
    run_stub(rows, reference)
    if form == "files":
        check_complete(out, rows)
        same = {name: entry["sha256"] for name, entry in entries_of(reference).items()}
        assert {name: entry["sha256"] for name, entry in entries_of(out).items()} == same
    else:
        check_parts(out, entries_of(reference))


def check_orphans(out, by_name):
    """Checks that files which the manifest does not list yet are complete too."""
    listed = {entry["file"] for entry in entries_of(out).values()}
    for path in (out / "audio").glob("[!.]*.wav"):
        if f"audio/{path.name}" not in listed:
            assert len(soundfile.read(path)[0]) == len(noise(by_name[path.stem]))


def check_parts(out, reference):
    """Every row is in one part, once, and in the manifest."""
    import pyarrow.parquet

    found, entries = [], entries_of(out)
    for path in (out / "audio").iterdir():
        for row in pyarrow.parquet.read_table(path).to_pylist():
            assert (
                entries[row["id"]]["file"] == f"audio/{path.name}" and row["sha256"] == reference[row["id"]]["sha256"]
            )
            found.append(row["id"])
    assert sorted(found) == sorted(reference) == sorted(entries)
