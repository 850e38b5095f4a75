"""Time of the recipe: a limit for a whole run, and as many training steps as fit into some seconds on this device."""

import contextlib
import dataclasses
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bark_jax.files import write_atomically
from bark_jax.training.loop import FETCH_EVERY, RunSettings, TrainingStopped

STEPS_FILE, PROBE_FOLDER = "steps.json", "probe"
LEAST_STEPS = 1000  # also on a device that takes longer for them: the schedule needs its warm-up, and a codec its codes
N_BLOCKS = 10  # blocks of FETCH_EVERY steps that are timed
LONGEST_PART_S = 150.0  # of the parts that cannot stop and resume: corpus, codes, measurements


class Clock:
    """Time limit of a run.

    Args:
      minutes: from now on; None for no limit.
    """

    def __init__(self, minutes: float | None):
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._is_first = True

    def is_over(self) -> bool:
        """Whether the time has passed: a `stop` of `fit`."""
        self._is_first = False
        return self._deadline is not None and time.monotonic() >= self._deadline

    def begin_part(self, what: str) -> None:
        """Begins a part that cannot stop, unless it would end too late. The first part of a run begins in any case.

        Raises:
          TrainingStopped: too little time is left.
        """
        left_s = None if self._deadline is None else self._deadline - time.monotonic()
        if left_s is not None and left_s < LONGEST_PART_S and not self._is_first:
            raise TrainingStopped(
                f"stopped before {what}, which can take {LONGEST_PART_S:.0f} s; the same command resumes"
            )
        self._is_first = False


class Pace:
    """Times training steps: a `stop` of `fit` that is true after N_BLOCKS blocks of FETCH_EVERY steps.

    Steps run while the host is ahead of them, so only times of fetched metrics count, once in FETCH_EVERY steps.
    """

    def __init__(self) -> None:
        self._n_steps = 0
        self._times: list[float] = []

    def __call__(self) -> bool:
        """Counts a step. Returns whether enough were timed."""
        self._n_steps += 1
        if self._n_steps % FETCH_EVERY == 0:
            self._times.append(time.perf_counter())
        return len(self._times) > N_BLOCKS

    @property
    def step_s(self) -> float | None:
        """Seconds of a step: the median of the blocks, some of which contain compilation; None if none was timed."""
        blocks = [b - a for a, b in zip(self._times[:-1], self._times[1:], strict=True)]
        return statistics.median(blocks) / FETCH_EVERY if blocks else None


def fit_run(
    work: Path, name: str, run: RunSettings, seconds: float | None, probe: Callable[[Path, RunSettings, Pace], object]
) -> RunSettings:
    """The run with at most as many steps as take `seconds` on this device, and at least LEAST_STEPS.

    The number is kept in WORK/steps.json, as a run resumes with the same settings only.

    Args:
      seconds: None for all steps of the run.
      probe: trains in a folder, with run settings and a `stop`.
    """
    if seconds is None:
        return run
    path = work / STEPS_FILE
    steps = json.loads(path.read_text()) if path.is_file() else {}
    if name not in steps:
        steps[name] = _count_steps(work / PROBE_FOLDER / name, run, seconds, probe)
        write_atomically(path, (json.dumps(steps) + "\n").encode())
    n_steps = steps[name]
    return dataclasses.replace(
        run, n_steps=n_steps, eval_every=min(run.eval_every, n_steps), save_every=min(run.save_every, n_steps)
    )


def _count_steps(
    folder: Path, run: RunSettings, seconds: float, probe: Callable[[Path, RunSettings, Pace], object]
) -> int:
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed here
    pace = Pace()
    with contextlib.suppress(TrainingStopped):
        # It neither evaluates nor saves before it stops.
        probe(folder, dataclasses.replace(run, eval_every=run.n_steps, save_every=run.n_steps), pace)
    shutil.rmtree(folder, ignore_errors=True)
    fitting = run.n_steps if pace.step_s is None else int(seconds / pace.step_s)
    return min(run.n_steps, max(fitting, LEAST_STEPS))
