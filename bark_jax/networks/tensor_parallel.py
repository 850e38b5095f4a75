"""Tensor parallelism: which axis of each parameter is divided among devices, by the parameter's name.

The layout is that of Megatron-LM: of two products in a row the first has its columns divided and the second its rows,
so that what lies between them stays divided, and one sum over the devices (all-reduce) follows the second. In attention
queries, keys and values are gathered between the two, as a device's columns are not those of whole heads. XLA inserts
the communication; the networks' code is the same as on one device.
"""

import re
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from bark_jax.errors import InputError, quoted

# (name in the model, shape) -> sharding. Names are as in `BarkModel`: semantic.blocks.0.attention.qkv.kernel.
ChooseSharding = Callable[[str, tuple[int, ...]], Sharding]

# A parameter is divided along this axis; one that no pattern matches is on every device.
DIVIDED_AXES = {
    r"attention\.qkv\.kernel": 1,  # [D, 3 * D]: columns, a share of queries, keys and values
    r"attention\.qkv\.bias": 0,
    r"attention\.out\.kernel": 0,  # [D, D]: rows, a share of the heads
    r"mlp\.up\.kernel": 1,  # [D, F]: columns
    r"mlp\.up\.bias": 0,
    r"mlp\.down\.kernel": 0,  # [F, D]: rows
    r"token_embedding(s\.\d+)?\.embedding": 0,  # [V, D]: ids; a fine network's table is a head as well
    r"head\.kernel": 1,  # [D, V]: ids
}
_PATTERNS = {re.compile(rf"(^|\.){pattern}$"): axis for pattern, axis in DIVIDED_AXES.items()}


def tensor_parallel(mesh: Mesh, axis: str = "model") -> ChooseSharding:
    """Returns the `sharding` of `from_pretrained` that divides each large matrix among the devices of a mesh axis.

        mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
        bark = Bark.from_pretrained("suno/bark", sharding=tensor_parallel(mesh))

    Divided are the matrices of attention and MLP, the embedding tables and the heads (DIVIDED_AXES). Everything else is
    on every device: biases of sums, norms, position embeddings, and the codec, which is 1 to 4 % of a Bark. So is a
    matrix whose axis is no multiple of the devices. Along other axes of the mesh, parameters are on every device.

    Logits equal those of one device to the rounding of other orders of sums, and tokens except at near ties.

    Args:
      mesh: devices of this process, with axes of the type Auto.
      axis: the name of the mesh's axis to divide along.

    Raises:
      InputError: the mesh has no such axis.
    """
    if axis not in mesh.axis_names:
        raise InputError(f"axis is {quoted(axis)}, expected one of the mesh's: {', '.join(map(str, mesh.axis_names))}")
    n_devices = mesh.shape[axis]

    def choose(name: str, shape: tuple[int, ...]) -> NamedSharding:
        divided = next((divided for pattern, divided in _PATTERNS.items() if pattern.search(name)), None)
        if divided is None or shape[divided] % n_devices:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, PartitionSpec(*[axis if i == divided else None for i in range(len(shape))]))

    return choose


def check_choice(name: str, shape: tuple[int, ...], sharding: object) -> Sharding:
    """Returns what a caller's `sharding` chose for a parameter.

    Raises:
      InputError: it is no sharding, does not divide this shape evenly, has devices of another process or none.
    """
    if not isinstance(sharding, Sharding):
        raise InputError(f"sharding gives {quoted(sharding)} for {name}, expected a jax.sharding.Sharding")
    try:
        foreign = [device for device in sharding.device_set if device.process_index != jax.process_index()]
        sharding.check_compatible_aval(shape)
        sharding.shard_shape(shape)
    except ValueError as error:
        raise InputError(
            f"sharding gives what does not fit {name}, of shape {shape}: {quoted(str(error), 300)}"
        ) from error
    if foreign:
        raise InputError(f"sharding gives {foreign[0]} for {name}, expected devices of this process")
    return sharding
