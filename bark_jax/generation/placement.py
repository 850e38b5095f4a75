"""Placement of a batch: the stages run on one device, or on several with the rows divided among them.

On several devices each has a copy of the network and an equal share of the rows. A stage is one program for all of
them, made by `jax.shard_map`, in which no device waits for another: each runs its own loop until its own rows have
ended. So a row has the tokens that it has in a batch of its share's size on one device.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from bark_jax.errors import UnsupportedError
from bark_jax.networks.attention import for_platform
from bark_jax.networks.kept import KeptCopies
from bark_jax.networks.platform import Devices, check_devices, on_its_platform, platform_of

AXIS = "data"  # the mesh's one axis, along which rows are divided

ToDevice = Callable[[Any], Any]  # a network -> the network on the device where its stage runs


class HasNetworks(Protocol):
    """The interface of a model that `placement_of` reads."""

    @property
    def is_offloaded(self) -> bool:
        """Whether networks stay on the CPU and are copied to the device one at a time."""

    def on_accelerator(self, network: Any) -> Any:
        """Returns the network on the model's own device, copied there if it is offloaded."""


class Placement:
    """Placement on one device: networks are taken there, rows and functions stay as they are.

    Args:
      to_device: takes a network to the device; by default to one of its platform.
    """

    n_devices = 1

    def __init__(self, to_device: ToDevice = on_its_platform):
        self._to_device = to_device

    def network(self, network: Any) -> Any:
        """Returns the network where its stage runs."""
        return self._to_device(network)

    def rows(self, tree: Any) -> Any:
        """Returns arrays [B, ...] where their rows run; B is a `count`."""
        return tree

    def compiled(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        """Returns function(network, *trees, spaces) of trees of arrays [B, ...], for these devices; see `divide`."""
        return function

    def count(self, n_rows: int) -> int:
        """Rows to fill a batch of n_rows up to: on each device a power of two, so that few programs are compiled.

        At most 11 sizes up to 1,024 rows: 1, 2, 4 ... The price: 33 rows decode as 64.
        """
        return self.n_devices * 2 ** (-(-n_rows // self.n_devices) - 1).bit_length()


class Divided(Placement):
    """Placement on several devices: a copy of the networks on each, rows divided among them in equal shares."""

    def __init__(self, devices: Sequence[jax.Device]):
        self.n_devices = len(devices)
        self._mesh = Mesh(np.array(devices), (AXIS,))

    def network(self, network: Any) -> Any:
        """Returns a network with all parameters on every device; made once, and kept as long as `network` lives."""
        return _copied(network, NamedSharding(self._mesh, P()))

    def rows(self, tree: Any) -> Any:
        """Divides arrays [B, ...] among the devices by rows."""
        return divide_rows(tree, self._mesh)

    def compiled(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
        """Returns `divide` of the function; the same object at each call, so that its programs are kept."""
        return _divided(function, self._mesh, donate)


ON_ITS_PLATFORM = Placement()


def placement_of(model: HasNetworks, devices: Devices) -> Placement:
    """Returns the placement of a model's stages on devices of this process; for None on the model's own device.

    Raises:
      InputError: devices is neither "all" nor a list of different devices of this process.
      UnsupportedError: the model's networks are offloaded to one device.
    """
    if devices is None:
        return Placement(model.on_accelerator)
    devices = check_devices(devices)
    if model.is_offloaded:
        raise UnsupportedError("the networks of this model are offloaded to one device; give devices=None")
    if len(devices) > 1:
        return Divided(devices)
    # Not a mesh of one device: its programs would be others than those of devices=None.
    return Placement(lambda network: _copied(network, SingleDeviceSharding(devices[0])))


def divide_rows(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays [B, ...] onto the mesh's devices, rows divided among them; B is a multiple of their number."""
    return jax.device_put(tree, NamedSharding(mesh, P(AXIS)))


def put_copy(network: Any, sharding: Sharding) -> Any:
    """Returns the network with its parameters in this sharding, traced for the platform of its devices."""
    platform = platform_of(next(iter(sharding.device_set)))
    return jax.device_put(for_platform(network, platform), sharding)


def divide(function: Callable[..., Any], mesh: Mesh, donate: tuple[int, ...] = ()) -> Callable[..., Any]:
    """Compiles function(network, *trees, spaces): the network on every device, trees of arrays [B, ...] by rows.

    Each device runs the function on its own rows. check_vma is off, since loops of the stages start from constants,
    whose type would not vary over devices as their results do.

    Args:
      function: gives a tree of arrays [B, ...]; the keyword `spaces` is static, and may be left out.
      mesh: of one axis, AXIS.
      donate: numbers of the arguments whose memory is reused for the results.
    """

    def divided(network: Any, *rows: Any, **static: Any) -> Any:
        return jax.shard_map(
            functools.partial(function, **static),
            mesh=mesh,
            # A KV cache [B * N, S, H] is cut along its first axis too: a row's heads are contiguous there, so with
            # B a multiple of the devices each cut lies between two rows.
            in_specs=(P(), *[P(AXIS)] * len(rows)),
            out_specs=P(AXIS),
            check_vma=False,
        )(network, *rows)

    return jax.jit(divided, static_argnames="spaces", donate_argnums=donate)


_divided = functools.lru_cache(maxsize=64)(divide)


_copies = KeptCopies()  # a network has one: for other devices it is made again


def _copied(network: Any, sharding: Sharding) -> Any:
    return _copies.get(network, lambda: put_copy(network, sharding), sharding)
