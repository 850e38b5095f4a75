"""The runner of a benchmark's parts, and the run for a GPU: failing parts, time limits, resuming, and its report."""

import json
import os
import time

import click
import pytest
from click.testing import CliRunner
from part_work import work

from benchmarks import gpu
from benchmarks.__main__ import main
from benchmarks.parts import START_S, claim, ended_parts, run_parts
from benchmarks.report import Result, installed_versions
from benchmarks.timing import Spread


def run(folder, parts, *, seconds=60.0, limit_s=60.0):
    claim(folder, {})
    return dict(run_parts(folder, parts, work, deadline=time.monotonic() + seconds, limit_s=limit_s))


@pytest.mark.slow
def test_a_part_that_fails_does_not_end_the_others(tmp_path):
    parts = {"a": ("return", 1), "b": ("raise", "no memory"), "c": ("exit", 7), "d": ("sleep", 600), "e": ("return", 2)}
    ended = run(tmp_path, parts, limit_s=3)
    assert list(ended) == list("abcde")
    failures = {name: each.failure for name, each in ended.items() if each.failure}
    assert failures == {"b": "ValueError: no memory", "c": "its process ended with 7", "d": "took more than 3 s"}
    assert (ended["a"].value["value"], ended["e"].value["value"]) == (1, 2)
    assert ended == ended_parts(tmp_path, parts)
    assert run(tmp_path, parts) == {}, "nothing runs twice"


@pytest.mark.slow
def test_parts_share_a_process_and_resume_in_another(tmp_path):
    parts = {name: ("return", name) for name in "ab"}
    first = run(tmp_path, parts)
    assert first["a"].value["process"] == first["b"].value["process"] != os.getpid()
    (again,) = run(tmp_path, parts | {"c": ("return", "c")}).values()
    assert again.value["value"] == "c" and again.value["process"] != first["a"].value["process"]


@pytest.mark.slow
def test_a_part_that_the_deadline_stops_is_left_to_the_next_run(tmp_path):
    assert run(tmp_path, {"a": ("sleep", 600)}, seconds=START_S + 2) == {}
    assert run(tmp_path, {"a": ("return", 1)}, seconds=START_S - 1) == {}, "too little time to start a part"
    assert run(tmp_path, {"a": ("return", 1)})["a"].failure is None


def test_a_folder_of_another_run_is_refused(tmp_path):
    claim(tmp_path, {"size": "small", "versions": {"jax": "1"}})
    claim(tmp_path, {"size": "small", "versions": {"jax": "1"}})
    with pytest.raises(click.ClickException, match=r"size was 'small', now 'large'\. Give another folder"):
        claim(tmp_path, {"size": "large", "versions": {"jax": "1"}})
    for damaged in ("", "[1]", '{"size": '):
        (tmp_path / "run.json").write_text(damaged)
        with pytest.raises(click.ClickException, match=r"run\.json is damaged .* give another folder"):
            claim(tmp_path, {"size": "small"})


def test_the_parts_of_a_gpu_are_complete_and_start_with_this_project():
    parts = list(gpu.make_parts((64, 1, 8, 16, 8), gpu.MEASURES, gpu.CONTENDERS).values())
    assert parts[0] == gpu.ABOUT and [part.n_rows for part in parts[1:5]] == [1, 8, 16, 64]
    assert {part.contender for part in parts[1:7]} == {"bark_jax"}
    every = {(part.measure, part.contender, part.n_rows) for part in parts[1:]}
    assert len(every) == len(parts) - 1, "no part is listed twice"
    stages = ("semantic", "coarse", "fine", "codec", "clip")
    wanted = {(stage, name, n) for stage in stages for name in ("bark_jax", "transformers") for n in (1, 8, 16, 64)}
    wanted |= {("semantic", name, n) for name in ("torch.compile", "bark_jax, int8") for n in (1, 8, 16, 64)}
    assert every == wanted | {("engine", "bark_jax", 64)}
    assert list(gpu.make_parts((2,), ("codec",), ("transformers",))) == ["about-000-device", "codec-002-transformers"]


def test_the_report_has_results_and_failures_of_the_parts_that_ended(tmp_path):
    case = gpu.Case("toy", "float32", tmp_path)
    parts = gpu.make_parts((2,), ("semantic",), ("bark_jax", "transformers", "torch.compile"))
    claim(tmp_path, {})
    assert "no time was left" in gpu.write_results(case, parts)
    about = dict(command="x", device="cpu", processor="p", cpu_cores=2, python="3", notes=["A note."])
    about["versions"] = installed_versions()
    step = ("toy", "float32", 2, "semantic step", "ms")
    ours, theirs = (Result(*step, name, Spread((ms, ms))) for name, ms in (("bark_jax", 2.0), ("transformers", 6.0)))
    values = {
        "about-000-device": ({"about": about, "bandwidth": 1.0}, None),
        "semantic-002-bark_jax": ({"device": "cpu", "results": [ours.to_dict()]}, None),
        "semantic-002-transformers": ({"device": "gpu", "results": [theirs.to_dict()]}, None),
        "semantic-002-torch-compile": (None, "its process ended with -9"),
    }
    for name, (value, failure) in values.items():
        record = {"value": value, "failure": failure, "seconds": 1.0}
        (tmp_path / "parts" / f"{name}.json").write_text(json.dumps(record))
    report = gpu.write_results(case, parts)
    assert "| transformers | 6.000 ms | 6.000 to 6.000 |  | 3.00 x as fast |" in report
    assert "| torch.compile | failed: its process ended with -9 |" in report
    assert "semantic-002-transformers ran on another device, gpu." in report
    assert (tmp_path / "results.md").read_text() == report


@pytest.mark.slow
def test_a_gpu_run_of_smoke_size_writes_its_tables(tmp_path):
    pytest.importorskip("torch")
    options = ["gpu", str(tmp_path), "--size", "smoke", "--dtype", "float32", "--rows", "2"]
    options += ["--minutes", "100", "--part-seconds", "3000"]  # on a machine that is busy with other work
    options += ["--measures", "semantic", "--measures", "codec", "--measures", "engine"]
    options += ["--contenders", "bark_jax", "--contenders", "bark_jax, int8", "--contenders", "transformers"]
    result = CliRunner().invoke(main, options, catch_exceptions=False)
    assert result.exit_code == 0 and "failed" not in result.output, result.output
    _, *results = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    measured = {(each["measure"], each["contender"]) for each in results}
    measures = ("semantic step", "semantic prefill", "codec")
    assert measured >= {(measure, name) for measure in measures for name in ("bark_jax", "transformers")}
    assert {("engine, 2 slots", "bark_jax"), ("semantic step", "bark_jax, int8")} <= measured
    again = CliRunner().invoke(main, options, catch_exceptions=False)
    assert "6 of 6 parts are done" not in result.output and "7 of 7 parts are done" in again.output
