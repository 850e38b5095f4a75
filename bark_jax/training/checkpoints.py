"""Checkpoints of a run, written by orbax: the last few to resume from, and the best to keep. Writes are atomic."""

from pathlib import Path
from typing import Any

import jax

from bark_jax.errors import CheckpointError, UnsupportedError
from bark_jax.training.crew import Crew

try:
    import orbax.checkpoint as ocp
except ImportError as error:
    raise UnsupportedError("training needs orbax-checkpoint: pip install 'bark-jax[train]'") from error


class Checkpoints:
    """Checkpoints in a folder, keyed by the number of steps done.

    Args:
      folder: created if it does not exist.
      keep: number of latest checkpoints to keep; older ones are deleted.
      crew: the processes that write and read it together.
    """

    def __init__(self, folder: Path, keep: int, crew: Crew):
        # Not asynchronous: `save` would return before the files are complete, and report a full disk some steps later.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=False,  # orbax refuses True where some processes alone take part
            enable_async_checkpointing=False,
            multiprocessing_options=_of(crew),
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        # Absolute, as orbax refuses to write below a relative path.
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, step: int, state: Any) -> None:
        """Writes a state, a pytree of arrays, and waits until it is on disk."""
        # Without force, orbax silently skips a step below its latest one. A resumed run repeats evaluations, so its
        # best state may be of an earlier step than the one in the folder.
        # With force, it raises StepAlreadyExistsError where a run was killed between its best state and its latest one:
        # the resumed run repeats that step, and comes to the same best again.
        if step in self._manager.all_steps():
            self._manager.delete(step)
        self._manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def latest_step(self) -> int | None:
        """The step of the latest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def restore(self, like: Any) -> Any:
        """Reads the latest state into the tree structure, shapes, dtypes and shardings of `like`.

        Raises:
          CheckpointError: the checkpoint is damaged, or of a run with other parameters.
        """
        step = self.latest_step()
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:  # orbax has no base class of errors: ValueError, KeyError, FileNotFoundError, ...
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._folder} cannot be read: {error}. Remove its folder to resume "
                "from the one before."
            ) from error

    def close(self) -> None:
        """Releases orbax's threads and handles."""
        self._manager.close()


def _of(crew: Crew) -> ocp.options.MultiprocessingOptions:
    """The processes that orbax waits for: by default all that `jax.distributed` has connected."""
    if len(crew.processes) == jax.process_count():
        return ocp.options.MultiprocessingOptions()
    (alone,) = crew.processes
    return ocp.options.MultiprocessingOptions(alone, {alone}, f"process {alone}")
