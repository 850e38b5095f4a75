"""The shard of this process, found in the variables that the launcher of several processes sets.

Only the number of the process and their count are read. Shards share nothing, so nothing connects the processes: one
that dies ends no other, and its shard is resumed by running it again.
"""

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from bark_jax.batch.ids import Shard
from bark_jax.errors import InputError

AUTO = "auto"
_FIRST, _LAST = "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX"


class _Launcher(NamedTuple):
    """The variables in which a launcher gives a process its number, from 0, and their count."""

    name: str
    index: str
    count: str


# Each documents both variables. Slurm's step variables are those of srun; SLURM_PROCID alone is also 0 in a batch
# script, which runs once, whatever --ntasks says.
_LAUNCHERS = (
    _Launcher("a Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    _Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    _Launcher("SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
    _Launcher("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
# Launchers that give the number and not the count.
_WITHOUT_COUNT = {"JOB_COMPLETION_INDEX": "a Kubernetes indexed job"}


def find_shard(environment: Mapping[str, str] = os.environ) -> Shard:
    """Returns the shard of this process: of JAX's processes if `jax.distributed` is initialized, else the launcher's.

        srun --ntasks=16 bark-jax batch rows.jsonl out --shard auto

    Args:
      environment: variables of the process. Read are those of Slurm's arrays, srun, SkyPilot and Open MPI.

    Raises:
      InputError: there are no such variables, they contradict each other, or they leave a shard out.
    """
    jax = sys.modules.get("jax")  # initialized nowhere if it is not even imported
    if jax is not None and jax.distributed.is_initialized():
        return Shard(jax.process_index(), jax.process_count())
    found = [(each, shard) for each in _LAUNCHERS if (shard := _read(each, environment)) is not None]
    # One process, as srun starts within each task of an array, says nothing where another launcher started several.
    several = [(each, shard) for each, shard in found if shard.count > 1] or found
    if not several:
        raise InputError(_nothing_found(environment))
    if len({shard for _, shard in several}) > 1:
        shards = "; ".join(f"{each.name}: {shard} ({each.index}, {each.count})" for each, shard in several)
        raise InputError(f"--shard auto found several shards for this process, {shards}; give --shard I/N")
    return several[0][1]


def _read(launcher: _Launcher, environment: Mapping[str, str]) -> Shard | None:
    """Returns the shard that a launcher's variables give; None where it has not set both.

    Raises:
      InputError: they are no number and count, or an array's tasks are not 0 to N - 1.
    """
    texts = [environment.get(name) for name in (launcher.index, launcher.count)]
    if None in texts:
        return None
    try:
        shard = Shard.parse("/".join(map(str, texts)))
    except InputError:
        shard = None
    is_array = launcher.index == "SLURM_ARRAY_TASK_ID"
    # Of a part of an array, such as --array=3,7 to run two tasks again, the count is 2: other shards than before.
    is_part = is_array and (environment.get(_FIRST), environment.get(_LAST)) != ("0", str(shard and shard.count - 1))
    if shard is None or is_part:
        hint = ", from an array of the tasks 0 to N - 1, such as --array=0-15" if is_array else ""
        raise InputError(
            f"--shard auto found {launcher.index}={texts[0]!r} and {launcher.count}={texts[1]!r} of {launcher.name}, "
            f"expected a number from 0 and a larger count{hint}; give --shard I/N"
        )
    return shard


def _nothing_found(environment: Mapping[str, str]) -> str:
    for name, launcher in _WITHOUT_COUNT.items():
        if name in environment:
            return (
                f"--shard auto found {name}={environment[name]!r} of {launcher}, which does not say how many there "
                f'are; give --shard "${name}/N" with the number of completions as N'
            )
    pairs = ", ".join(f"{each.index} and {each.count} ({each.name})" for each in _LAUNCHERS)
    return (
        "--shard auto found no number of this process: jax.distributed is not initialized, and the environment has "
        f"none of {pairs}; give --shard I/N"
    )
