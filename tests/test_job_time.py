"""The cost model: its page, its arithmetic, measured times, and the texts and the table of whole jobs."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bark_jax.text.sentences import split_text
from benchmarks import cost, jobs
from benchmarks.__main__ import main
from benchmarks.cost import ACCELERATORS, H100, TWO_CORES, Cost, checks, parse_seconds
from benchmarks.parts import claim
from benchmarks.report import installed_versions
from benchmarks.texts import mean_seconds, texts

ROOT = Path(__file__).parents[1]
LARGE = Cost("large", "bfloat16", H100)


def test_the_page_has_the_tables_that_the_model_gives_today():
    page = cost.PAGE.read_text(encoding="utf-8")
    assert cost.with_tables(page) == page, "run: python -m benchmarks.cost --write"
    assert all(device.name in page for device in (*ACCELERATORS, TWO_CORES))


def test_measured_times_are_those_of_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    for _, _, _, measured, _ in checks():
        assert measured in results, measured


def test_the_model_predicts_times_that_it_was_not_fitted_to():
    ratios = {(device, what): computed / parse_seconds(measured) for device, what, computed, measured, used in checks()}
    assert all(0.8 < ratio < 1.2 for ratio in ratios.values()), ratios
    assert sum(not used for *_, used in checks()) >= 4


def test_flops_and_bytes_of_the_large_model_as_counted_by_hand():
    """24 layers of width 1,024: 12 * 1024^2 weights a layer, attention of T^2 positions, halved where it is causal."""
    layers, width = 24, 1024
    products, attention = 2 * 12 * width**2 * 257, 4 * 257**2 * width / 2
    assert (
        LARGE.pass_flops(257, is_causal=True)
        == pytest.approx(layers * (products + attention))
        == pytest.approx(158e9, rel=0.01)
    )
    assert LARGE.pass_flops(1024, is_causal=False) == pytest.approx(724e9, rel=0.01)
    reading = 2 * (12 * width**2 * layers + width * 1024) + 64 * 901 * 2 * 2 * layers * width
    assert LARGE.step_s(64, 900, 1024) == pytest.approx(reading / 2.4e12 + layers * 27e-6)


def test_time_grows_with_lines_and_falls_with_slots_devices_and_bandwidth():
    audio_s = 5.0
    rates = [LARGE.rate(audio_s, n) for n in (1, 8, 16, 32, 64)]
    assert rates == sorted(rates) and rates[-1] < 64 * rates[0]
    one, ten = LARGE.job_s(10_000, audio_s, 64), LARGE.job_s(100_000, audio_s, 64)
    assert 9.9 < ten / one < 10
    assert LARGE.job_s(100_000, audio_s, 64, n_devices=10) == pytest.approx(one)
    assert LARGE.job_s(3, audio_s, 64) < 3 * Cost("large", "bfloat16", H100).utterance_s(audio_s, 1) * 2
    faster = dataclasses.replace(H100, bandwidth=2 * H100.bandwidth)
    assert 1 < Cost("large", "bfloat16", faster).rate(audio_s, 64) / rates[-1] < 2


def test_texts_are_single_sentences_of_many_languages_and_lengths():
    languages = {text.language for text in texts()}
    assert len(languages) >= 12 and len(texts()) == len({text.text for text in texts()})
    for text in texts():
        assert len(split_text(text.text, len, 1000, text.language, 1)) == 1, text
    lengths = sorted(text.seconds for text in texts())
    assert lengths[0] < 1 and lengths[-1] > 9 and 3 < mean_seconds() < 7


def test_the_texts_of_a_job_are_mixed_and_their_lengths_bounded(tmp_path):
    case = jobs.JobCase("m", "float32", 12, 2.0)
    assert len({text.language for text in jobs.chosen_texts(case)}) >= 5
    assert len(set(jobs.chosen_texts(case._replace(n_texts=len(texts()))))) == len(texts())
    assert len(jobs.chosen_texts(case._replace(n_texts=200))) == 200
    assert max(jobs.lengths_s(case)) == 2.0 and min(jobs.lengths_s(case)) < 2.0


def test_the_table_of_a_job_has_rates_costs_and_ratios(tmp_path):
    case = jobs.JobCase("m", "float32", 10, 13.5)
    methods = [
        jobs.Method("bark-jax batch", 16),
        jobs.Method("bark-jax batch", 32),
        jobs.Method("transformers", 16),
        jobs.Method("transformers", 1),
    ]
    claim(tmp_path, case._asdict())
    about = dict(command="c", device="d", processor="p", cpu_cores=2, versions=installed_versions())
    values = [(10.0, None), (5.0, None), (40.0, None), (None, "its process ended with -9")]
    for method, (taken_s, failure) in zip(methods, values, strict=True):
        value = None if taken_s is None else dict(taken_s=taken_s, audio_s=50.0, memory=2_000_000_000, about=about)
        record = {"value": value, "failure": failure, "seconds": 1.0}
        (tmp_path / "parts" / f"{method.part}.json").write_text(json.dumps(record))
    rows = jobs.write_table(case, methods, 2.5, tmp_path).splitlines()[-4:]
    assert rows == [
        "| bark-jax batch, 16 slots | 5 | 1 | 2.00 GB | 0.5 |  |",
        "| bark-jax batch, 32 slots | 10 | 2 | 2.00 GB | 0.25 |  |",
        "| transformers, batches of 16 | 1.25 | 0.25 | 2.00 GB | 2 | 4.00 x as fast |",
        "| transformers, one by one | failed: its process ended with -9 | | | | |",
    ]


@pytest.mark.slow
def test_a_job_of_smoke_size_runs_by_both(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from benchmarks.random_bark import main as make_random_bark

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))  # of the converted model
    model = tmp_path / "model"
    assert CliRunner().invoke(make_random_bark, ["smoke", str(model)]).exit_code == 0
    options = ["jobs", str(tmp_path / "out"), "-m", str(model), "--slots", "2", "--texts", "3", "--max-seconds", "0.8"]
    result = CliRunner().invoke(main, [*options, "--price", "1", "--minutes", "100"], catch_exceptions=False)
    assert result.exit_code == 0 and "failed" not in result.output, result.output
    names = [line.split(" | ")[0].strip("| ") for line in result.output.splitlines() if line.startswith("| ")]
    assert names[1:] == ["bark-jax batch, 2 slots", "transformers, batches of 2", "transformers, one by one"]
