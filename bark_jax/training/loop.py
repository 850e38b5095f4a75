"""The training loop: steps, evaluations, checkpoints, early stopping, and resuming a stopped run.

    RUN/settings.json      settings of the run; resuming requires the same
    RUN/metrics.jsonl      one JSON line a step, and one an evaluation
    RUN/checkpoints/       the latest states, to resume from
    RUN/best/              the state with the lowest held-out loss
    RUN/loss.png           loss curves, if matplotlib is installed

A batch is a function of the step, and the state holds everything else. So a run that is killed and resumed has the same
losses, bit for bit, as an uninterrupted one.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import jax

from bark_jax._system.forks import check_process
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.errors import BarkError, InputError, UnsupportedError
from bark_jax.files import partials_in, write_atomically
from bark_jax.training.checkpoints import Checkpoints
from bark_jax.training.checks import check_integer
from bark_jax.training.crew import Crew
from bark_jax.training.metrics import Bar, MetricsLog, plot_losses, read_metrics

SETTINGS_FILE = "settings.json"
FETCH_EVERY = 16  # steps between two fetches of metrics: a fetch waits for the device, and steps stop overlapping


class TrainingError(BarkError, RuntimeError):
    """Training that cannot continue, because too many consecutive steps had non-finite gradients."""


class TrainingStopped(BarkError):
    """A run that its caller has stopped before its last step; its folder resumes."""


class Training(Protocol):
    """Interface that `fit` runs; implemented by `NetworkTraining` and `CodecTraining`."""

    @property
    def devices(self) -> Sequence[jax.Device] | None:
        """The devices that `step` runs on: of this process, or of all, which then run `fit` together."""

    def init(self) -> Any:
        """The state before the first step: a pytree with int32 scalars `step` and `skipped`."""

    def put_on_devices(self, state: Any) -> Any:
        """Copies a restored state to the devices that `step` runs on."""

    def step(self, state: Any, batch: Mapping[str, Any]) -> tuple[Any, Mapping[str, jax.Array]]:
        """(state after one step, metrics). Metrics are scalars, of shape (), by name, `loss` among them."""

    def evaluate(self, state: Any, batch: Mapping[str, Any]) -> Any:
        """(sum of losses, their count), scalars; `fit` adds them up over batches and divides."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Length of a run, and how often it evaluates and saves.

    Args:
      n_steps: optimizer steps in total, also those before a run is resumed.
      eval_every: steps between two evaluations; the last step is always followed by one.
      save_every: steps between two checkpoints; the last step is always followed by one.
      patience: early stopping after so many evaluations without a new best; None always runs n_steps.
      keep: number of latest checkpoints to keep.
      max_skipped: the run fails after so many consecutive steps with non-finite gradients. Checked when metrics are
        fetched, every FETCH_EVERY steps, so a few more may run.

    Raises:
      InputError: a setting is no whole number, 1 or more.
    """

    n_steps: int
    eval_every: int = 500
    save_every: int = 500
    patience: int | None = None
    keep: int = 2
    max_skipped: int = 20

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.name != "patience":
                check_integer(field.name, value, 1)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Result of a run."""

    state: Any  # the state with the lowest held-out loss; the last one if there were no evaluations
    steps: int  # steps done
    best_step: int  # step after which `state` was taken
    best_loss: float | None  # its held-out loss; None if there were no evaluations
    stopped_early: bool  # patience ended the run before n_steps


@under_own_config
def fit(
    training: Training,
    batches: Callable[[int], Mapping[str, Any]],
    folder: str | os.PathLike,
    settings: RunSettings,
    *,
    evaluation: Sequence[Mapping[str, Any]] = (),
    identity: Mapping[str, Any] | None = None,
    show_progress: bool = True,
    stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Runs a training to its end; resumes from the latest checkpoint in the folder if there is one.

    With devices of several processes all of them call it, with equal arguments and one folder that all of them see.
    Each reads it and takes part in writing checkpoints; the first alone writes the other files.

    Args:
      batches: step -> batch; must depend on the step alone.
      folder: run folder; created if it does not exist.
      evaluation: held-out batches, the same at each evaluation; none to run without evaluations.
      identity: further facts that make up the run, as JSON values, such as a fingerprint of the data. A folder whose
        run has another identity or other settings is refused.
      show_progress: shows a progress bar on a terminal.
      stop: called after every step but the last; if it returns True, the state is saved and the run stops. Of several
        processes it must return the same in each.

    Raises:
      InputError: the folder holds another run, or something else.
      CheckpointError: the latest checkpoint cannot be read.
      TrainingError: settings.max_skipped consecutive steps had non-finite gradients.
      TrainingStopped: `stop` returned True.
    """
    check_process()
    folder, crew = Path(folder), Crew(training.devices)
    _claim(folder, {"run": dataclasses.asdict(settings), **(identity or {})}, crew)
    with _open(folder, settings, crew) as (last, best):
        state = training.init()
        if last.latest_step() is not None:
            state = training.put_on_devices(last.restore(state))
        record = _Record(folder, int(state.step))
        crew.wait("metrics read")
        bar = Bar(settings.n_steps, int(state.step), is_visible=show_progress and crew.writes)
        with MetricsLog(folder, int(state.step), writes=crew.writes) as log, bar:
            run = _Run(training, settings, evaluation, last, best, log, bar, record, stop)
            state = run.steps(state, batches)
        if crew.writes:
            with contextlib.suppress(UnsupportedError):  # no matplotlib
                plot_losses(folder)
        has_best = best.latest_step() is not None
        return RunResult(
            training.put_on_devices(best.restore(state)) if has_best else state,
            steps=int(state.step),
            best_step=record.best_step if has_best else int(state.step),
            best_loss=record.best_loss if has_best else None,
            stopped_early=int(state.step) < settings.n_steps,
        )


class _Record:
    """The best evaluation so far, and the number of evaluations since. A resumed run reads it back from its metrics."""

    def __init__(self, folder: Path, step: int):
        self.best_loss, self.best_step, self.since_best = math.inf, 0, 0
        for record in read_metrics(folder):
            if "eval_loss" in record and record["step"] <= step:
                self.add(record["step"], record["eval_loss"])

    def add(self, step: int, loss: float) -> bool:
        """Records an evaluation. Returns whether it is the best so far."""
        is_best = loss < self.best_loss
        if is_best:
            self.best_loss, self.best_step, self.since_best = loss, step, 0
        else:
            self.since_best += 1
        return is_best


@dataclasses.dataclass
class _Run:
    """A run in progress."""

    training: Training
    settings: RunSettings
    evaluation: Sequence[Mapping[str, Any]]
    last: Checkpoints
    best: Checkpoints
    log: MetricsLog
    bar: Bar
    record: _Record
    stop: Callable[[], bool] | None

    def steps(self, state: Any, batches: Callable[[int], Mapping[str, Any]]) -> Any:
        """Runs the remaining steps with their evaluations and checkpoints. Returns the last state."""
        settings, waiting = self.settings, []
        start = int(state.step)
        if self._has_ended(start):
            return state
        with contextlib.closing(_ahead(batches, range(start, settings.n_steps))) as made:
            for step, batch in enumerate(made, start + 1):
                state, metrics = self.training.step(state, batch)
                waiting.append((step, metrics))
                is_end = step == settings.n_steps
                is_due = step % settings.eval_every == 0 or step % settings.save_every == 0 or is_end
                if is_due or len(waiting) == FETCH_EVERY:
                    # Before a checkpoint, so that no step of it lacks a line after a kill. `int` waits for the device.
                    self._write_metrics(waiting, n_skipped=int(state.skipped))
                if step % settings.eval_every == 0 or is_end:
                    # Before the checkpoint, which thus never lacks the evaluation of its own step: a resumed run reads
                    # the best one so far from metrics.jsonl.
                    is_end |= self._evaluate(state, step)
                if step % settings.save_every == 0 or is_end:
                    self.last.save(step, state)
                if is_end:
                    break
                if self.stop is not None and self.stop():
                    self._leave(state, step, waiting)
        return state

    def _leave(self, state: Any, step: int, waiting: list[tuple[int, Mapping[str, jax.Array]]]) -> None:
        """Saves the state unless it is saved already, and raises TrainingStopped."""
        if waiting:
            self._write_metrics(waiting, n_skipped=int(state.skipped))
        if self.last.latest_step() != step:
            self.last.save(step, state)
        raise TrainingStopped(f"stopped after step {step:,} of {self.settings.n_steps:,}; the same command resumes")

    def _has_ended(self, step: int) -> bool:
        patience = self.settings.patience
        return step >= self.settings.n_steps or (patience is not None and self.record.since_best >= patience)

    def _write_metrics(self, waiting: list[tuple[int, Mapping[str, jax.Array]]], n_skipped: int) -> None:
        """Fetches the metrics of the steps in `waiting`, writes them and empties the list.

        Raises:
          TrainingError: max_skipped consecutive steps, or more, had non-finite gradients.
        """
        records = [
            {"step": step} | {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
            for step, metrics in waiting
        ]
        waiting.clear()
        self.log.write(records)
        self.bar.advance(records[-1])
        if n_skipped >= self.settings.max_skipped:
            raise TrainingError(
                f"the gradients of the {n_skipped} steps up to {records[-1]['step']} were not finite. Take a lower "
                "learning rate, or look for bad examples in the data."
            )

    def _evaluate(self, state: Any, step: int) -> bool:
        """Evaluates, and saves the state if it is the best so far. Returns whether the run has ended."""
        if not self.evaluation:
            return False
        sums = [self.training.evaluate(state, batch) for batch in self.evaluation]
        total, count = (float(sum(map(float, column))) for column in zip(*sums, strict=True))
        self.log.write([{"step": step, "eval_loss": total / count}])
        if self.record.add(step, total / count):
            self.best.save(step, state)
        return self._has_ended(step)


def _ahead(batches: Callable[[int], Mapping[str, Any]], steps: range) -> Iterator[Mapping[str, Any]]:
    """Yields the batches of steps, each prefetched in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        pending: Future | None = None
        for step in steps:
            # One worker: batches are made in order, and at most one is ready or being made while the device runs.
            upcoming = pool.submit(batches, step)
            if pending is not None:
                yield pending.result()
            pending = upcoming
        if pending is not None:
            yield pending.result()


def read_settings(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Reads the settings of the run in a folder; None if the folder is absent or empty, and a new run may start.

    Raises:
      InputError: the path is a file, the folder holds something else, or its settings are not JSON.
    """
    folder = Path(folder)
    path = folder / SETTINGS_FILE
    if path.is_file():
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}); give another folder") from error
        if not isinstance(settings, dict):
            raise InputError(f"{path} is not the settings of a run; give another folder")
        return settings
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give the name of a folder")
    if folder.exists() and set(folder.iterdir()) - set(partials_in(folder, {SETTINGS_FILE})):
        raise InputError(f"{folder} is not empty and holds no run (it has no {SETTINGS_FILE}); give another folder")
    return None


def check_settings(folder: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Raises InputError if the folder holds a run that differs in one of these settings, or something else."""
    found = read_settings(folder)
    if found is None:
        return
    # By way of JSON, as what was written there: tuples come back as lists.
    wanted = json.loads(json.dumps(settings))
    if differences := list(_differences({key: found.get(key) for key in wanted}, wanted)):
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(differences)}. Give the same settings to resume it, "
            "or another folder to start a new run."
        )


def _claim(folder: Path, identity: Mapping[str, Any], crew: Crew) -> None:
    """Writes settings.json into a new run folder. Raises InputError, naming the differences, if it is another run's."""
    check_settings(folder, identity)
    crew.wait("settings compared")  # all have seen the same folder, and all go on or none
    if crew.writes and not (folder / SETTINGS_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for partial in partials_in(folder, {SETTINGS_FILE}):
            partial.unlink(missing_ok=True)
        write_atomically(folder / SETTINGS_FILE, (json.dumps(identity, indent=2) + "\n").encode())


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Yields "settings.batch_size was 8, now 16" for each value in which two JSON objects differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif found != wanted:
        yield f"{name} was {found!r}, now {wanted!r}"


@contextlib.contextmanager
def _open(folder: Path, settings: RunSettings, crew: Crew) -> Iterator[tuple[Checkpoints, Checkpoints]]:
    """Yields (the latest checkpoints, the best one) of a run folder."""
    crew.wait("folder made")
    last = Checkpoints(folder / "checkpoints", settings.keep, crew)
    best = Checkpoints(folder / "best", 1, crew)
    try:
        yield last, best
    finally:
        last.close()
        best.close()
