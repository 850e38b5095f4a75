"""Batch engine on Ray Data: actors that each hold a model, on one machine or a cluster.

The driver reads the rows and writes the audio, so the nodes need no shared file system, and the manifest stays the one
record of finished rows. After an actor or a node dies, Ray repeats its task; the driver takes each row once. The texts
of all rows, unlike their audio, are in Ray's object store at once.
"""

import pickle
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from bark_jax.batch.rows import TextRow
from bark_jax.batch.speech import Speaks, Spoken
from bark_jax.errors import UnsupportedError

# Rows of a task. More are faster, as the actor's slots run empty at the end of each task; fewer are repeated when an
# actor dies.
ROWS_PER_TASK = 128


class OpensSpeaker(Protocol):
    """Protocol of `job.Job`: it is pickled to the actors, each of which calls `open_speaker` once."""

    def open_speaker(self) -> Speaks:
        """Loads the model in the actor's process."""
        ...


def require_ray() -> Any:
    """Imports Ray. Raises UnsupportedError if it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UnsupportedError("--engine ray needs Ray: pip install 'bark-jax[ray]'") from error
    return ray


class RaySpeaker:
    """Speaks rows on a Ray cluster; implements `speech.Speaks`.

    Args:
      job: model and settings that each actor loads.
      address: of the cluster; None for the running one, else a new one on this machine.
      n_actors: number of actors, each with a copy of the model.
      n_gpus: GPUs of each actor; None for 1 if the cluster has GPUs, else 0. Actors reserve no CPUs: on a machine with
        fewer CPUs than actors Ray would wait for ever.
      rows_per_task: number of rows that an actor is given at once.
      is_stopping: called after each row; once it returns True, rows that are not spoken yet are left.

    Raises:
      UnsupportedError: Ray is not installed.
    """

    def __init__(
        self,
        job: OpensSpeaker,
        *,
        address: str | None = None,
        n_actors: int = 1,
        n_gpus: float | None = None,
        rows_per_task: int = ROWS_PER_TASK,
        is_stopping: Callable[[], bool] = lambda: False,
    ):
        self._ray = require_ray()
        self._job, self._n_actors, self._rows_per_task = job, n_actors, rows_per_task
        self._is_stopping = is_stopping
        if not self._ray.is_initialized():
            self._ray.init(address=address, logging_level="WARNING", log_to_driver=False)
        self._n_gpus = n_gpus if n_gpus is not None else float(self._ray.cluster_resources().get("GPU", 0) > 0)

    def speak(self, rows: Iterable[TextRow], done: Callable[[Spoken], None]) -> None:
        """Speaks rows and calls `done` for each, as `speech.Speaks` says. Reads all rows before the first is spoken."""
        # Pickled, as Ray's blocks are Arrow tables: a column has one type, and settings differ from row to row.
        items = [{"row": pickle.dumps(row)} for row in rows]
        if not items:
            return
        data = self._ray.data
        n_tasks = -(-len(items) // self._rows_per_task)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        spoken = data.from_items(items, override_num_blocks=n_tasks).map_batches(
            _Actor,
            fn_constructor_args=(self._job,),
            batch_size=self._rows_per_task,
            # Two tasks: one runs and one waits, so an actor does not idle in between.
            compute=data.ActorPoolStrategy(size=self._n_actors, max_tasks_in_flight_per_actor=2),
            num_cpus=0,
            num_gpus=self._n_gpus,
        )
        seen = set()  # ids: a task that Ray repeats gives its rows again
        for row in spoken.iter_rows():
            result = pickle.loads(row["spoken"])
            if result.row.id not in seen:
                seen.add(result.row.id)
                done(result)
            if self._is_stopping():
                return


class _Actor:
    """A Ray actor: holds a model and speaks the rows of one task after another."""

    def __init__(self, job: OpensSpeaker):
        self._speaker = job.open_speaker()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        """Speaks the pickled rows of a task; returns each as a pickled `Spoken`, in the order of the rows.

        The engine finishes rows in any order. Ray needs the same order from a task that it repeats.
        """
        rows = [pickle.loads(row) for row in batch["row"]]
        spoken: dict[str, Spoken] = {}
        self._speaker.speak(rows, lambda each: spoken.update({each.row.id: each}))
        return {"spoken": [pickle.dumps(spoken[row.id]) for row in rows]}
