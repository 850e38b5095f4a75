"""The processes that run one training together: those whose devices it has."""

from collections.abc import Sequence

import jax
from jax.experimental import multihost_utils

from bark_jax.training.placement import processes_of


class Crew:
    """The processes of a training. Among several, the first writes what one process has to write.

    Args:
      devices: the training's; None is JAX's default device, of this process.
    """

    def __init__(self, devices: Sequence[jax.Device] | None):
        self.processes = processes_of(devices)

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of the run."""
        return jax.process_index() == min(self.processes)

    def wait(self, where: str) -> None:
        """Waits until all of them have come to this place; `where` names it."""
        if len(self.processes) > 1:
            multihost_utils.sync_global_devices(where)
