"""Placement of a training's arrays: on one device, or on a mesh of several, with the state whole on each or divided.

A batch is divided by rows. The state (master parameters, AdamW's averages, gradients) is on every device, or with
`is_divided` each matrix of it is divided among the devices, as in ZeRO and FSDP: a step gathers the parameters in the
compute dtype, and each device updates its own share. The arithmetic is the same, up to the order of sums.

The devices may be those of several processes (`jax.distributed`), each of which runs the same steps.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bark_jax.errors import InputError, quoted
from bark_jax.networks.platform import Devices

AXIS = "data"


class Placement:
    """Placement of a training's arrays.

    Args:
      devices: of this process, or of all processes; None is JAX's default device.
      is_divided: divide the state among the devices, instead of having all of it on each.

    Raises:
      InputError: the devices are of some processes and not of all; or is_divided without devices.
    """

    def __init__(self, devices: Sequence[jax.Device] | None, *, is_divided: bool = False):
        if devices is None and is_divided:
            raise InputError("the state is divided among devices, and devices is None: give them, or devices='all'")
        check_processes(devices)
        self.mesh = None if devices is None else Mesh(np.array(list(devices)), (AXIS,))
        self.is_divided = is_divided

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of an array that is whole on every device."""
        return NamedSharding(self._mesh, PartitionSpec())

    @property
    def _mesh(self) -> Mesh:
        assert self.mesh is not None, "only a mesh has shardings"
        return self.mesh

    def state_shardings(self, tree: Any) -> Any:
        """Returns the sharding of each array [...] of a state: where it is divided, along its longest axis that fits.

        Vectors and scalars are on every device, since gathering them would cost more time than they take memory.
        """
        return jax.tree.map(lambda array: NamedSharding(self._mesh, self._spec(np.shape(array))), tree)

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        fitting = [axis for axis, size in enumerate(shape) if size % self._mesh.size == 0]
        if not self.is_divided or len(shape) < 2 or not fitting:
            return PartitionSpec()
        longest = max(fitting, key=lambda axis: shape[axis])
        return PartitionSpec(*[AXIS if axis == longest else None for axis in range(len(shape))])

    def put_state(self, tree: Any) -> Any:
        """Puts a state's arrays [...] onto the devices."""
        return tree if self.mesh is None else jax.tree.map(_put, tree, self.state_shardings(tree))

    def put_everywhere(self, tree: Any) -> Any:
        """Puts arrays [...] whole onto every device."""
        return tree if self.mesh is None else jax.tree.map(lambda array: _put(array, self.everywhere), tree)

    def put_batch(self, batch: Any) -> Any:
        """Puts a batch's arrays [micro-batches, rows, ...] onto the devices, divided by rows."""
        if self.mesh is None:
            return batch
        by_rows = NamedSharding(self.mesh, PartitionSpec(None, AXIS))
        return jax.tree.map(lambda array: _put(array, by_rows), batch)

    def gathered(self, network: Any) -> Any:
        """Within a traced step: the network with all of its parameters on every device."""
        if not self.is_divided:
            return network
        return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, self.everywhere), network)

    def divided(self, tree: Any) -> Any:
        """Within a traced step: gradients [...], divided as the state is."""
        return jax.lax.with_sharding_constraint(tree, self.state_shardings(tree)) if self.is_divided else tree


def choose_devices(devices: Devices) -> tuple[jax.Device, ...] | None:
    """Returns the devices of a training as a tuple; for "all" those of this process, for None None.

    Raises:
      InputError: something else, a device twice, or devices of some processes and not of all.
    """
    if devices is None:
        return None
    if isinstance(devices, str) and devices == "all":
        return tuple(jax.local_devices())
    if not isinstance(devices, (list, tuple)) or not devices or not all(isinstance(d, jax.Device) for d in devices):
        raise InputError(f"devices is {quoted(devices)}, expected 'all' or a list of devices: jax.local_devices()")
    if len(set(devices)) < len(devices):
        raise InputError(f"devices is {quoted(devices)}, expected each device once")
    check_processes(devices)
    return tuple(devices)


def check_processes(devices: Sequence[jax.Device] | None) -> None:
    """Raises InputError for devices of several processes, but not of all."""
    found = processes_of(devices)
    if len(found) > 1 and len(found) < jax.process_count():
        raise InputError(
            f"devices are of {len(found)} of {jax.process_count()} processes, expected those of one or of all"
        )


def processes_of(devices: Sequence[jax.Device] | None) -> set[int]:
    """Returns the indices of the processes that the devices belong to; of this one for None."""
    return {jax.process_index()} if devices is None else {device.process_index for device in devices}


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(array, jax.Array) and array.sharding == sharding:
        return array
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    # Not device_put: it compares the array between the processes at every call. All of them make the same one.
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def on_host(tree: Any) -> Any:
    """Returns a tree's arrays [...] as numpy arrays. Those divided among processes are gathered, by all of them."""
    if all(array.is_fully_addressable for array in jax.tree.leaves(tree) if isinstance(array, jax.Array)):
        return jax.tree.map(np.asarray, tree)
    mesh = next(array.sharding.mesh for array in jax.tree.leaves(tree) if not array.is_fully_addressable)
    gather = functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return jax.tree.map(np.asarray, gather(lambda arrays: arrays)(tree))


def shapes_on(sharding: jax.sharding.Sharding | None, tree: Any) -> Any:
    """The shapes of a tree's arrays, with a sharding: arguments to trace a program for devices that are not here."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree)
