"""Batches through Ray Data on one machine: actors, nodes and drivers that die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batch_stub import MADE_WITH, StubSpeaker, run_stub, write_rows
from deadlines import HANG_S
from test_batch_runs import check_complete, entries_of

from bark_jax.batch.runner import Output, run_batch
from bark_jax.errors import UnsupportedError

HERE = Path(__file__).parent
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "PYTHONPATH": str(HERE)}


class StubJob:
    """A job that opens the stub speaker; the first actor that gets the row `deadly` dies."""

    def __init__(self, deadly=None, mark=None):
        self.deadly, self.mark = deadly, mark

    def open_speaker(self):
        return DyingSpeaker(self.deadly, self.mark)


class DyingSpeaker(StubSpeaker):
    def __init__(self, deadly, mark):
        super().__init__()
        self._deadly, self._mark = deadly, mark

    def _spoken(self, row):
        if row.id == self._deadly and not os.path.exists(self._mark):
            Path(self._mark).touch()
            os._exit(1)
        return super()._spoken(row)


def run_ray(rows, out, job=None, **options):
    from bark_jax.batch.ray_engine import RaySpeaker

    given = {"n_actors": 2, "rows_per_task": 20} | options
    return run_batch(
        str(rows),
        out,
        lambda interrupts: RaySpeaker(job or StubJob(), is_stopping=lambda: interrupts.received is not None, **given),
        model="stub",
        made_with=lambda: MADE_WITH,
        output=Output(),
    )


def test_ray_that_is_not_installed_is_an_error_that_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match=r"bark-jax\[ray\]"):
        run_ray(write_rows(tmp_path / "rows.jsonl", 1), tmp_path / "out")


@pytest.fixture
def ray(monkeypatch):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    ray = pytest.importorskip("ray")
    yield ray
    ray.shutdown()


needs_ray = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


class TestRay:
    pytestmark = needs_ray

    @pytest.fixture
    def local(self, ray):
        return ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    def test_rows_are_those_of_the_local_engine(self, local, tmp_path):
        rows = write_rows(tmp_path / "rows.jsonl", [*numbered(100), {"id": "bad", "text": ""}])
        summary = run_ray(rows, tmp_path / "out")
        assert (summary.finished, summary.failed, summary.left) == (100, 1, 0)
        run_stub(rows, tmp_path / "local")
        local, ray = entries_of(tmp_path / "local"), entries_of(tmp_path / "out")
        assert {name: entry.get("sha256") for name, entry in ray.items()} == {
            name: entry.get("sha256") for name, entry in local.items()
        }
        assert run_ray(rows, tmp_path / "out").done_before == 101

    def test_an_actor_that_dies_loses_and_repeats_nothing(self, local, tmp_path):
        rows = write_rows(tmp_path / "rows.jsonl", 200)
        job = StubJob("row-57", str(tmp_path / "died"))
        summary = run_ray(rows, tmp_path / "out", job)
        assert (tmp_path / "died").exists() and (summary.finished, summary.left) == (200, 0)
        check_complete(tmp_path / "out", rows)

    def test_a_node_that_is_removed_loses_and_repeats_nothing(self, ray, tmp_path, monkeypatch):
        from ray.cluster_utils import Cluster

        monkeypatch.setenv("STUB_DELAY_S", "0.05")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        node = cluster.add_node(num_cpus=2)
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            rows = write_rows(tmp_path / "rows.jsonl", 200)
            events = []

            def remove(event):
                events.append(event)
                if event["event"] == "row" and event["rows_done"] == 20:
                    cluster.remove_node(node, allow_graceful=False)

            from bark_jax.batch.ray_engine import RaySpeaker

            summary = run_batch(
                str(rows),
                tmp_path / "out",
                lambda _: RaySpeaker(StubJob(), n_actors=2, rows_per_task=10),
                model="stub",
                made_with=lambda: MADE_WITH,
                on_event=remove,
            )
            assert summary.left == 0
            check_complete(tmp_path / "out", rows)
        finally:
            ray.shutdown()
            cluster.shutdown()

    def test_a_driver_that_is_killed_goes_on(self, ray, tmp_path):
        rows, out = write_rows(tmp_path / "rows.jsonl", 300), tmp_path / "out"
        code = "import sys; from test_batch_ray import *; import ray\n"
        code += "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        code += "run_ray(sys.argv[1], sys.argv[2])"
        environment = os.environ | {"STUB_DELAY_S": "0.2"}
        driver = subprocess.Popen([sys.executable, "-c", code, rows, out], env=environment, start_new_session=True)
        deadline = time.monotonic() + HANG_S
        while len(entries_of(out)) < 40:
            assert time.monotonic() < deadline and driver.poll() is None
            time.sleep(0.1)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        assert 40 <= len(entries_of(out)) < 300
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        summary = run_ray(rows, out)
        assert summary.done_before >= 40 and summary.left == 0
        check_complete(out, rows)


def numbered(n):
    return [{"id": f"row-{number}", "text": f"Text number {number}."} for number in range(n)]
