"""The same rows through Ray Data: actors that hold a model each, on one machine or a cluster.

The driver reads the rows and writes the audio, so the nodes need no shared file system, and the manifest stays the one
record of what is done. An actor or a node that dies repeats the rows it was at; the driver takes each row once. The
rows' texts, unlike their audio, are all held at once, in Ray's object store.
"""

import pickle
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from bark_jax.batch.rows import TextRow
from bark_jax.batch.speech import Speaks, Spoken
from bark_jax.errors import UnsupportedError

# Rows that an actor is given at once. Its slots run dry at the end of each task, so many; a death repeats them, so few.
ROWS_PER_TASK = 128


class OpensSpeaker(Protocol):
    """A `job.Job`: goes to the actors, each of which opens it once."""

    def open_speaker(self) -> Speaks: ...


def require_ray() -> Any:
    """Ray. Raises UnsupportedError where it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UnsupportedError("--engine ray needs Ray: pip install 'bark-jax[ray]'") from error
    return ray


class RaySpeaker:
    """Speaks rows on a Ray cluster; a `speech.Speaks`.

    Args:
      job: what each actor opens.
      address: of the cluster; None for the one at hand, or else one on this machine.
      n_actors: models that are held at once.
      n_gpus: of each actor; None for 1 where the cluster has GPUs. Actors reserve no CPUs: Ray would wait for ever for
        them on a small machine.
      is_stopping: asked after each row; once it is true, rows that are not spoken are left.
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
        """See `speech.Speaks`."""
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
            compute=data.ActorPoolStrategy(size=self._n_actors, max_tasks_in_flight_per_actor=2),
            num_cpus=0,
            num_gpus=self._n_gpus,
        )
        seen = set()
        for row in spoken.iter_rows():
            result = pickle.loads(row["spoken"])
            if result.row.id not in seen:
                seen.add(result.row.id)
                done(result)
            if self._is_stopping():
                return


class _Actor:
    """Holds a model, and speaks the rows of one task after the other."""

    def __init__(self, job: OpensSpeaker):
        self._speaker = job.open_speaker()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        """Rows in, each with what became of it; in their order, so that a task that is repeated gives the same."""
        rows = [pickle.loads(row) for row in batch["row"]]
        spoken: dict[str, Spoken] = {}
        self._speaker.speak(rows, lambda each: spoken.update({each.row.id: each}))
        return {"spoken": [pickle.dumps(spoken[row.id]) for row in rows]}
