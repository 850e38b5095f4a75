"""Checkpoints of a run, by orbax: the last ones, to go on from, and the best, to keep. Each appears whole or not."""

from pathlib import Path
from typing import Any

import jax

from bark_jax.errors import CheckpointError, UnsupportedError

try:
    import orbax.checkpoint as ocp
except ImportError as error:
    raise UnsupportedError("training needs orbax-checkpoint: pip install 'bark-jax[train]'") from error


class Checkpoints:
    """The checkpoints in a folder, by the step after which they were taken."""

    def __init__(self, folder: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False)
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def save(self, step: int, state: Any) -> None:
        self._manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def restore(self, like: Any) -> Any:
        """The last state, laid out and placed as `like` is.

        Raises:
          CheckpointError: it is damaged, or of a run with other parameters.
        """
        step = self.latest_step()
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except Exception as error:  # orbax has no error of its own
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._folder} cannot be read: {error}. Remove its folder to go on "
                "from the one before."
            ) from error

    def close(self) -> None:
        self._manager.close()
