"""The benchmarks: floors computed by hand, report tables, and a run at smoke size."""

import json
import math
import re

import pytest
from click.testing import CliRunner

from bark_jax.batch.rows import read_rows
from benchmarks.__main__ import main
from benchmarks.batch_memory import write_rows
from benchmarks.models import Shape, step_floor_ms
from benchmarks.report import Result, format_report
from benchmarks.timing import Spread, take_turns

ABOUT = dict(command="x", device="d", processor="p", cpu_cores=2, python="3", versions={"jax": "1"}, notes=[])


def test_the_floor_of_a_step_is_its_bytes_at_the_bandwidth():
    """Large in bfloat16 at one row and 500 keys: 604 MB of layers, 20 MB of head, 98.3 KB of cache a key."""
    shape = Shape.of("large", "bfloat16")
    expected = 2 * (12 * 1024**2 * 24 + 1024 * 10_001) + 501 * 2 * 2 * 24 * 1024
    assert shape.step_bytes(1, 500, 10_001) == expected == pytest.approx(673.7e6, rel=1e-3)
    assert step_floor_ms(shape, 1, 500, 10_001, 3e12) == pytest.approx(0.2246, rel=1e-3)
    assert shape.step_bytes(64, 500, 10_001) - expected == 63 * 501 * 98_304
    assert math.isnan(step_floor_ms(shape, 1, 500, 10_001, 0))


def test_contenders_take_turns():
    calls = []
    found = take_turns({name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}, repeats=3)
    assert calls == list("ababab")
    assert found["a"].values == (1, 3, 5) and found["b"].median == 4


def test_the_table_says_how_much_faster_this_project_is():
    case = ("large", "bfloat16", 16, "semantic step", "ms")
    results = [
        Result(*case, "bark_jax", Spread((2.0, 4.0, 3.0)), floor=1.5),
        Result(*case, "torch.compile", Spread((6.0,)), floor=1.5),
        Result(*case, "transformers", None, failure="ImportError: none"),
    ]
    lines = format_report(ABOUT, results).splitlines()[-3:]
    assert lines[0].endswith("| 3.000 ms | 2.000 to 4.000 | 50 % |  |")
    assert lines[1].endswith("| 6.000 ms | 6.000 to 6.000 | 25 % | 2.00 x as fast |")
    assert "failed: ImportError: none" in lines[2]


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.measure_bandwidth", lambda: pytest.fail("measured"))
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["--quick", "--out", str(tmp_path / "file")])
    assert result.exit_code == 2 and "is a file" in result.output
    assert isinstance(CliRunner().invoke(main, ["--quick", "--out", str(tmp_path / "file" / "x")]).exception, OSError)


@pytest.mark.slow
def test_a_run_of_smoke_size_writes_its_files(tmp_path):
    pytest.importorskip("torch")
    options = ["--sizes", "smoke", "--rows", "2", "--dtypes", "float32", "--repeats", "2"]
    options += ["--measures", "semantic", "--measures", "codec", "--out", str(tmp_path)]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0
    about, *results = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert about["versions"]["jax"]
    measured = {(each["measure"], each["contender"]) for each in results if each["spread"]}
    # torch.compile needs a C++ compiler. If it fails, the other contenders still run, and the reason is reported.
    assert {("semantic step", name) for name in ("bark_jax", "transformers")} <= measured
    assert all(each["failure"] for each in results if not each["spread"])
    assert ("codec", "bark_jax") in measured and (tmp_path / "results.md").read_text() in result.output


@pytest.mark.slow
def test_a_batch_is_compared_with_loops_over_generate():
    result = CliRunner().invoke(main, ["batch", "--rows", "3", "--slots", "2"], catch_exceptions=False)
    assert result.exit_code == 0
    ways = re.findall(r"^(.*): [\d.]+ s of audio in [\d.]+ s, [\d.]+ audio seconds a second$", result.output, re.M)
    assert ways == ["bark-jax batch, 2 slots", "a loop over generate", "a loop over generate, 2 texts at a time"]
    assert len(re.findall(r"^bark-jax batch, 2 slots: [\d.]+ x a loop", result.output, re.M)) == 2


def test_rows_to_measure_memory_with_are_of_mixed_length(tmp_path):
    write_rows(tmp_path / "rows.jsonl", 60)
    rows = list(read_rows(tmp_path / "rows.jsonl", "jsonl"))
    assert len({row.id for row in rows}) == 60 and not any(row.error for row in rows)
    assert len({row.settings["max_seconds"] for row in rows}) > 10 and {row.voice for row in rows} == {"rms", None}
