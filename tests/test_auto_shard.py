"""`--shard auto`: the shard that a launcher's variables, or JAX's processes, give this process."""

import jax
import pytest
from click.testing import CliRunner

from bark_jax.batch import Shard, find_shard
from bark_jax.cli import main
from bark_jax.errors import InputError

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_COUNT": "16",
    "SLURM_ARRAY_TASK_MIN": "0",
    "SLURM_ARRAY_TASK_MAX": "15",
}
STEP = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}
ALONE = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
SKYPILOT = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (ARRAY, Shard(3, 16)),
        (ARRAY | ALONE, Shard(3, 16)),  # srun within each task of an array
        (STEP, Shard(2, 4)),
        (STEP | OPEN_MPI, Shard(2, 4)),  # they agree
        (ALONE, Shard(0, 1)),
        (SKYPILOT, Shard(1, 2)),
        (OPEN_MPI, Shard(2, 4)),
    ],
)
def test_the_launchers_variables_are_read(environment, expected):
    assert find_shard(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "found no number of this process: jax.distributed is not initialized.*give --shard I/N"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "found no number"),  # a batch script, which runs once
        (ARRAY | STEP, "several shards .* a Slurm array: 3/16 .*; srun: 2/4 .*; give --shard I/N"),
        (ARRAY | {"SLURM_ARRAY_TASK_MIN": "3"}, "expected a number from 0 and a larger count, from an array of the"),
        (
            {**ARRAY, "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MAX": "7"},
            "SLURM_ARRAY_TASK_ID='7' and SLURM_ARRAY_TASK_COUNT='2' of a Slurm array, expected",
        ),
        (ARRAY | {"SLURM_ARRAY_TASK_MAX": "30"}, "such as --array=0-15"),  # --array=0-30:2
        ({"OMPI_COMM_WORLD_RANK": "x", "OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_RANK='x'"),
        ({"OMPI_COMM_WORLD_RANK": "4", "OMPI_COMM_WORLD_SIZE": "4"}, "a number from 0 and a larger count; give"),
        ({"JOB_COMPLETION_INDEX": "3"}, r'Kubernetes indexed job.* give --shard "\$JOB_COMPLETION_INDEX/N"'),
    ],
)
def test_other_variables_are_refused_with_the_remedy(environment, message):
    with pytest.raises(InputError, match=message):
        find_shard(environment)


def test_connected_processes_are_numbered_by_jax(monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 5)
    monkeypatch.setattr(jax, "process_count", lambda: 8)
    assert find_shard(ARRAY) == Shard(5, 8)


def test_the_command_refuses_before_anything_is_written(tmp_path, monkeypatch):
    for name in (*ARRAY, *STEP, *SKYPILOT, *OPEN_MPI, "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "rows.txt").write_text("One.\n")
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["batch", str(tmp_path / "rows.txt"), str(out), "-m", "tiny", "--shard", "auto"])
    assert result.exit_code == 2 and "--shard auto found no number of this process" in result.output
    assert not out.exists()
