"""`bark-jax bench`: figures are complete and consistent. Their size depends on the machine."""

import dataclasses
import json
import sys

import jax
import pytest
from click.testing import CliRunner

from bark_jax import bench
from bark_jax.bench import PeakMemory, benchmark, format_report, plot_report
from bark_jax.checkpoints.load import DTYPES
from bark_jax.checkpoints.model_folder import NETWORKS
from bark_jax.cli import main
from bark_jax.cli.bench import command
from bark_jax.errors import InputError

N_TOKENS, N_FRAMES = 10, 15  # of 0.2 s of audio


@pytest.fixture(scope="module")
def module_patch(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        yield patch


@pytest.fixture(scope="module")
def cleared(module_patch):
    """Counts calls of jax.clear_caches, which does nothing here, as other tests run the same programs."""
    calls = []
    module_patch.setattr("jax.clear_caches", lambda: calls.append("cleared"))
    return calls


@pytest.fixture(scope="module")
def messages():
    return []


@pytest.fixture(scope="module")
def offloaded(module_patch):
    """Models whose enable_cpu_offload was called. It does nothing here, as programs would be compiled again."""
    models = []
    module_patch.setattr("bark_jax.model.BarkModel.enable_cpu_offload", lambda model: models.append(model))
    return models


@pytest.fixture(scope="module")
def report(cleared, offloaded, messages):
    found = benchmark(
        "tiny",
        dtypes=("float32", "bfloat16", "float32"),
        with_offload=True,
        seconds=0.2,
        repeats=3,
        on_call=messages.append,
    )
    assert len(cleared) == 4 and len(offloaded) == 2
    return found


@pytest.fixture(autouse=True)
def settings_as_before():
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def run(*args):
    return CliRunner().invoke(main, ["bench", "-m", "tiny", *map(str, args)])


def test_each_dtype_runs_once_with_and_once_without_offload(report):
    assert [(run.dtype, run.is_offloaded) for run in report.runs] == [
        ("bfloat16", True),
        ("float32", True),
        ("bfloat16", False),
        ("float32", False),
    ]


def test_weights_in_bfloat16_take_half(report):
    narrow, wide = (run.weight_bytes for run in report.runs[-2:])
    assert list(narrow) == list(NETWORKS)
    assert {name: 2 * n_bytes for name, n_bytes in narrow.items()} == wide


def test_copies_are_those_of_the_networks_that_decode(report):
    for run in report.runs:
        for name in ("semantic", "coarse_acoustics"):
            assert 0 < run.copy_bytes[name] < run.weight_bytes[name]
        assert [run.copy_bytes[name] for name in list(NETWORKS)[2:]] == [0, 0]


def test_amounts_are_those_of_the_clip(report):
    for run in report.runs:
        assert {stage: (timing.amount, timing.unit) for stage, timing in run.stages.items()} == {
            "semantic": (N_TOKENS, "tokens"),
            "coarse": (2 * N_FRAMES, "tokens"),
            "fine": (N_FRAMES, "frames"),
            "codec": (N_FRAMES, "frames"),
        }
        assert run.end_to_end.amount == pytest.approx(0.2)
    assert report.clip_s == pytest.approx(0.2)


def test_times_are_positive_and_stages_take_less_than_end_to_end(report):
    for run in report.runs:
        for timing in [*run.stages.values(), run.end_to_end]:
            assert len(timing.repeats_s) == 3 and timing.first_s > 0
            assert 0 < min(timing.repeats_s) <= timing.median_s <= max(timing.repeats_s)
            assert timing.rate * timing.median_s == pytest.approx(timing.amount)
        for repeat, total_s in enumerate(run.end_to_end.repeats_s):
            assert sum(timing.repeats_s[repeat] for timing in run.stages.values()) <= total_s + 1e-9


def test_peak_memory_never_falls_and_holds_the_weights(report):
    peaks = [run.peak_memory.n_bytes for run in report.runs]
    assert peaks == sorted(peaks)
    assert all(sum(run.weight_bytes.values()) < run.peak_memory.n_bytes for run in report.runs)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the backend tells its memory")
def test_on_cpu_the_memory_is_that_of_the_process(report):
    assert {run.peak_memory.of for run in report.runs} == {"process"}


def test_the_device_is_asked_for_its_memory(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"peak_bytes_in_use": 123}

    monkeypatch.setattr("jax.local_devices", lambda: [Device()])
    assert bench._peak_bytes() == ("device", 123)


def test_progress_messages_name_each_call(report, messages):
    assert messages[:3] == [
        "bfloat16 offloaded: loading",
        "bfloat16 offloaded: first call, with compilation",
        "bfloat16 offloaded: repeat 1 of 3",
    ]
    assert len(messages) == 4 * 5


def test_the_text_is_aligned_and_has_every_run(report):
    lines = format_report(report).splitlines()
    assert lines[0] == "tiny: 1 row of 0.20 s, 3 repeats"
    times, memory = lines[4:25], lines[26:]
    assert len({len(line) for line in times}) == 1 and times[0].endswith("a second")
    assert [line.split()[0] for line in memory[1:5]] == ["bfloat16", "float32", "bfloat16", "float32"]


def test_a_peak_of_an_earlier_run_is_marked(report):
    low = dataclasses.replace(report.runs[0], peak_memory=PeakMemory(2_000_000, "device", is_new=False))
    text = format_report(dataclasses.replace(report, runs=[low]))
    assert "peak of the device" in text and "<= 2.00\n" in text
    assert text.splitlines()[-1].startswith("<= stayed below")


def test_the_plot_has_a_bar_a_stage_and_run(report):
    pytest.importorskip("matplotlib")
    (axes,) = plot_report(report).axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    assert heights == [[timing.median_s for timing in run.stages.values()] for run in report.runs]


def test_the_command_prints_one_object_and_draws(cleared, tmp_path):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "speed.png"
    result = run("--dtype", "float32", "--seconds", "0.2", "--rows", "1", "--repeats", "1", "--json", "--plot", figure)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["model"] == "tiny" and found["rows"] == 1 and found["repeats"] == 1
    assert found["device"]["platform"] == jax.default_backend() and found["versions"]["jax"] == jax.__version__
    (only,) = found["runs"]
    assert only["dtype"] == "float32" and not only["is_offloaded"]
    for kind in ("weight_bytes", "copy_bytes"):
        assert only[kind].pop("all") == sum(only[kind].values()) > 0
    assert only["stages"]["semantic"]["tokens"] == N_TOKENS and only["stages"]["semantic"]["tokens_per_s"] > 0
    assert only["stages"]["codec"]["frames"] == N_FRAMES and only["stages"]["codec"]["frames_per_s"] > 0
    assert only["end_to_end"]["audio_s"] == pytest.approx(0.2) and only["end_to_end"]["real_time_factor"] > 0
    assert set(only["peak_memory"]) == {"bytes", "of", "is_new"}
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "float32: repeat 1 of 1" in result.stderr


def test_the_command_takes_no_kept_programs_and_the_checkpoints_dtype(report, monkeypatch):
    asked = {}

    def fake(model, **options):
        asked.update(options, is_cache_on=jax.config.jax_enable_compilation_cache)
        return report

    monkeypatch.setattr("bark_jax.bench.benchmark", fake)
    result = run()
    assert result.stdout == format_report(report) + "\n"
    assert asked["is_cache_on"] is False
    assert asked["dtypes"] == (None,) and asked["seconds"] is None and not asked["with_offload"]


@pytest.mark.parametrize(
    "args, exit_code, message",
    [
        (["--seconds", "0"], 2, "seconds"),
        (["--seconds", "0.001"], 2, "seconds"),
        (["--seconds", "60"], 2, "at most 5.00"),
        (["--seconds", "nan"], 2, "seconds"),
        (["--rows", "0"], 2, "--rows"),
        (["--repeats", "0"], 2, "--repeats"),
        (["--dtype", "int4"], 2, "--dtype"),
        (["-m", "./missing"], 3, "./missing"),
    ],
)
def test_wrong_options_end_before_networks_are_loaded(args, exit_code, message, module_patch, monkeypatch):
    _refuse_networks(monkeypatch)
    result = run(*args)
    assert result.exit_code == exit_code and result.stdout == ""
    assert message in result.stderr


@pytest.mark.parametrize("path", ["speed.txt", "missing/speed.png", "folder.png"])
def test_a_plot_that_cannot_be_written_ends_before_networks_are_loaded(path, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    _refuse_networks(monkeypatch)
    result = run("--plot", path)
    assert result.exit_code == 2 and path in result.stderr


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "bark_jax.audio.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delattr("bark_jax.audio.plots", raising=False)
    result = run("--plot", "speed.png")
    assert result.exit_code == 1 and "bark-jax[plot]" in result.stderr


def _refuse_networks(monkeypatch):
    def load(*_, **__):
        raise AssertionError("networks were loaded")

    monkeypatch.setattr("bark_jax.checkpoints.load.load_networks", load)


@pytest.mark.parametrize("wrong", [{"n_rows": 0}, {"repeats": 0}, {"dtypes": ("int4",)}])
def test_the_library_refuses_what_cannot_be(wrong):
    with pytest.raises(InputError):
        benchmark("tiny", **wrong)


def test_without_seconds_a_short_model_makes_its_maximum(module_patch):
    import toy

    from bark_jax.generation.tokens import TokenSpaces

    assert bench._count_tokens(None, TokenSpaces.from_config(toy.GENERATION_CONFIG)) == 250
    assert bench._count_tokens(None, TokenSpaces()) == 499


def test_dtypes_are_those_of_the_package():
    (dtypes,) = (param for param in command.params if param.name == "dtypes")
    assert tuple(dtypes.type.choices) == DTYPES
