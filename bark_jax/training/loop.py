"""The loop of a run: steps, evaluations, checkpoints, and going on from where a run was stopped.

    RUN/settings.json      what was asked for; a run goes on only with the same
    RUN/metrics.jsonl      a line a step and an evaluation
    RUN/checkpoints/       the last states
    RUN/best/              the state with the lowest evaluation loss
    RUN/loss.png           the curves, where matplotlib is installed

A batch is a function of the step and a state holds everything else, so a run that is killed and started again has the
losses, bit for bit, of one that was not.
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
from bark_jax.training.metrics import Bar, MetricsLog, plot_losses, read_metrics

SETTINGS_FILE = "settings.json"
FETCH_EVERY = 16  # steps between two looks at the device's metrics; a look waits for the device


class TrainingError(BarkError, RuntimeError):
    """Training that cannot go on."""


class Training(Protocol):
    """What `fit` runs: `NetworkTraining` and `CodecTraining` are two."""

    def init(self) -> Any:
        """The state before the first step: a pytree with `step` and `skipped`."""

    def put_on_devices(self, state: Any) -> Any:
        """A restored state where the steps want it."""

    def step(self, state: Any, batch: Mapping[str, Any]) -> tuple[Any, Mapping[str, jax.Array]]:
        """The state after one step, and scalars; `loss` among them."""

    def evaluate(self, state: Any, batch: Mapping[str, Any]) -> Any:
        """A pair of scalars: the sum of losses and their count."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How long a run is, and how often it looks back.

    Args:
      n_steps: optimiser steps in all.
      eval_every: steps between two evaluations; one more is made at the end.
      save_every: steps between two checkpoints; one more is made at the end.
      patience: evaluations without a new best after which the run ends; None goes on to n_steps.
      keep: last checkpoints that are kept.
      max_skipped: steps one after the other whose gradients were not finite, after which the run fails; it is looked
        at with the metrics, every few steps.
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
    """How a run ended. `state` is the best one by its evaluations, the last one where there were none."""

    state: Any
    steps: int
    best_step: int
    best_loss: float | None
    stopped_early: bool


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
) -> RunResult:
    """Runs a training to its end, from its last checkpoint if there is one.

    Args:
      batches: the batch of a step, a function of the step alone.
      folder: of the run.
      evaluation: the batches of an evaluation, the same each time.
      identity: what else makes this run what it is, as JSON values. A folder of a run with another identity or other
        settings is refused.

    Raises:
      InputError: the folder holds another run.
      TrainingError: max_skipped steps on end had gradients that were not finite.
    """
    check_process()
    folder = Path(folder)
    _claim(folder, {"run": dataclasses.asdict(settings), **(identity or {})})
    with _open(folder, settings) as (last, best):
        state = training.init()
        if last.latest_step() is not None:
            state = training.put_on_devices(last.restore(state))
        record = _Record(folder, int(state.step))
        bar = Bar(settings.n_steps, int(state.step), is_visible=show_progress)
        with MetricsLog(folder, int(state.step)) as log, bar:
            run = _Run(training, settings, evaluation, last, best, log, bar, record)
            state = run.steps(state, batches)
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
    """The best evaluation so far, and the evaluations since; read back from the metrics of a run that goes on."""

    def __init__(self, folder: Path, step: int):
        self.best_loss, self.best_step, self.since_best = math.inf, 0, 0
        for record in read_metrics(folder):
            if "eval_loss" in record and record["step"] <= step:
                self.add(record["step"], record["eval_loss"])

    def add(self, step: int, loss: float) -> bool:
        """Whether it is the best one."""
        is_best = loss < self.best_loss
        if is_best:
            self.best_loss, self.best_step, self.since_best = loss, step, 0
        else:
            self.since_best += 1
        return is_best


@dataclasses.dataclass
class _Run:
    """A run under way."""

    training: Training
    settings: RunSettings
    evaluation: Sequence[Mapping[str, Any]]
    last: Checkpoints
    best: Checkpoints
    log: MetricsLog
    bar: Bar
    record: _Record

    def steps(self, state: Any, batches: Callable[[int], Mapping[str, Any]]) -> Any:
        """Every step that is left, and what falls between them."""
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
                    self._write_metrics(waiting, n_skipped=int(state.skipped))
                if step % settings.eval_every == 0 or is_end:
                    is_end |= self._evaluate(state, step)
                if step % settings.save_every == 0 or is_end:
                    self.last.save(step, state)
                if is_end:
                    break
        return state

    def _has_ended(self, step: int) -> bool:
        patience = self.settings.patience
        return step >= self.settings.n_steps or (patience is not None and self.record.since_best >= patience)

    def _write_metrics(self, waiting: list[tuple[int, Mapping[str, jax.Array]]], n_skipped: int) -> None:
        """Writes the metrics of the steps since the last time."""
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
        """Evaluates, keeps the state if it is the best; whether patience has run out."""
        if not self.evaluation:
            return False
        sums = [self.training.evaluate(state, batch) for batch in self.evaluation]
        total, count = (float(sum(map(float, column))) for column in zip(*sums, strict=True))
        self.log.write([{"step": step, "eval_loss": total / count}])
        if self.record.add(step, total / count):
            self.best.save(step, state)
        return self._has_ended(step)


def _ahead(batches: Callable[[int], Mapping[str, Any]], steps: range) -> Iterator[Mapping[str, Any]]:
    """The batches of steps, each made while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        pending: Future | None = None
        for step in steps:
            upcoming = pool.submit(batches, step)
            if pending is not None:
                yield pending.result()
            pending = upcoming
        if pending is not None:
            yield pending.result()


def read_settings(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What the run in a folder was asked for; None where there is no run and a new one may begin.

    Raises InputError where the folder holds something else.
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
    """Raises InputError where the folder holds something else than a run with these settings, among others."""
    found = read_settings(folder)
    if found is None:
        return
    wanted = json.loads(json.dumps(settings))
    if differences := list(_differences({key: found.get(key) for key in wanted}, wanted)):
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(differences)}. Give them as they were to go on "
            "with it, or another folder to start anew."
        )


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Marks the folder as this run's. Raises InputError where it is another's, naming what differs."""
    check_settings(folder, identity)
    if not (folder / SETTINGS_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for partial in partials_in(folder, {SETTINGS_FILE}):
            partial.unlink(missing_ok=True)
        write_atomically(folder / SETTINGS_FILE, (json.dumps(identity, indent=2) + "\n").encode())


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif found != wanted:
        yield f"{name} was {found!r}, now {wanted!r}"


@contextlib.contextmanager
def _open(folder: Path, settings: RunSettings) -> Iterator[tuple[Checkpoints, Checkpoints]]:
    last = Checkpoints(folder / "checkpoints", settings.keep)
    best = Checkpoints(folder / "best", 1)
    try:
        yield last, best
    finally:
        last.close()
        best.close()
