"""The platform for which a network is traced, its device, and errors of devices: out of memory, or failing.

A network holds the name of its platform, since XLA's best form of a product or an attention differs by platform and a
function under `jax.jit` cannot see where it will run.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

from bark_jax._system.forks import check_process
from bark_jax.errors import DeviceError, DeviceMemoryError, InputError, UnsupportedError, quoted

PLATFORMS = ("cpu", "gpu", "tpu")
_GPU_PLUGINS = ("cuda", "rocm")  # names that a device's `platform` may have for "gpu"

Devices = Sequence[jax.Device] | Literal["all"] | None


def default_device() -> jax.Device:
    """The device that `jax.default_device` names, else this process's first device."""
    chosen = jax.config.jax_default_device
    if chosen is None or isinstance(chosen, str):
        # local_devices: among several processes jax.devices[0] belongs to process 0, and the others cannot use it.
        return jax.local_devices(backend=chosen)[0]
    return chosen


def platform_of(device: jax.Device) -> str:
    """The device's platform: one of PLATFORMS, or another plugin's own name, which counts as an accelerator."""
    return "gpu" if device.platform in _GPU_PLUGINS else device.platform


def check_platform(platform: Any) -> str | None:
    """Returns the platform, or None for None. Raises InputError for anything not in PLATFORMS."""
    if platform is not None and (not isinstance(platform, str) or platform not in PLATFORMS):
        raise InputError(f"platform is {quoted(platform)}, expected one of {', '.join(PLATFORMS)}, or None")
    return platform


def resolve_platform(platform: Any = None) -> str:
    """Returns the platform; for None the default device's. Raises InputError for anything not in PLATFORMS."""
    return check_platform(platform) or platform_of(default_device())


def device_of(platform: str) -> jax.Device | None:
    """The default device if it has this platform, else this process's first device that has; None without one."""
    if platform_of(default_device()) == platform:
        return default_device()
    try:
        return jax.local_devices(backend=platform)[0]
    except RuntimeError:  # JAX has no such backend here
        return None


def pinned_device(platform: str) -> jax.Device | None:
    """The device to which arrays for this platform must be committed, where the default device has another platform.

    JAX runs a program of uncommitted arrays on the default device: a network traced for a CPU would run on the GPU.
    None where the default device has this platform, or no device has.
    """
    return None if platform_of(default_device()) == platform else device_of(platform)


def on_its_platform(network: Any) -> Any:
    """Returns the network on a device of its platform: itself where JAX would run it there, else committed to one."""
    device = pinned_device(network.platform)
    if device is None or all(_is_pinned(leaf, network.platform) for leaf in jax.tree.leaves(network)):
        return network
    return jax.device_put(network, device)


def _is_pinned(array: jax.Array, platform: str) -> bool:
    return array.committed and all(platform_of(device) == platform for device in array.devices())


def check_devices(devices: Devices) -> list[jax.Device]:
    """Returns the devices as a list: for "all" this process's own, for None the default one.

    Raises:
      InputError: something else, a device twice, or a device of another process.
    """
    if devices is None:
        return [default_device()]
    if isinstance(devices, str) and devices == "all":
        # local_devices: among several processes jax.devices has those of the others, which this one cannot fill.
        return list(jax.local_devices())
    if not isinstance(devices, (list, tuple)) or not devices or not all(isinstance(d, jax.Device) for d in devices):
        raise InputError(f"devices is {quoted(devices)}, expected 'all' or a list of devices: jax.local_devices()")
    if foreign := [device for device in devices if device.process_index != jax.process_index()]:
        raise InputError(f"devices has {foreign[0]}, expected devices of this process: jax.local_devices()")
    if len(set(devices)) < len(devices):
        raise InputError(f"devices is {quoted(devices)}, expected each device once")
    return list(devices)


def check_sharding(*trees: Any) -> None:
    """Raises UnsupportedError for arrays that are sharded along an explicit axis of their mesh.

    With explicit axes the type of every intermediate result names its sharding; these networks leave shardings of
    results to the compiler (AxisType.Auto).
    """
    for leaf in jax.tree.leaves(trees):
        sharding = jax.typeof(leaf).sharding
        kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
        used = [name for axes in sharding.spec if axes is not None for name in np.atleast_1d(axes).tolist()]
        if explicit := [name for name in used if kinds.get(name) == jax.sharding.AxisType.Explicit]:
            raise UnsupportedError(
                f"an array of shape {leaf.shape} is divided along {explicit[0]!r}, an explicit axis of its mesh; make "
                "the mesh with axis_types=(jax.sharding.AxisType.Auto,) * its number of axes"
            )


def describe_failure(error: jax.errors.JaxRuntimeError) -> tuple[str, bool]:
    """XLA's message on one line of at most 300 characters, and whether the device is out of memory."""
    # The message starts with its status code, which the cut keeps.
    message = " ".join(str(error).split())[:300]
    return message, "RESOURCE_EXHAUSTED" in message


@contextlib.contextmanager
def device_errors(stage: str, network: Any, n_rows: int) -> Iterator[None]:
    """Turns JAX's runtime errors in the block into errors that name the stage, its sizes and the remedy.

    JAX reports some failures only where a result is read, so the block has to hold the `device_get` as well.

    Raises:
      DeviceMemoryError: the device is out of memory (XLA's RESOURCE_EXHAUSTED).
      DeviceError: the device fails otherwise.
      UnsupportedError: this process was forked after JAX had run; see `forks`.
    """
    check_process()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(network)) / 1e6
        sizes = f"{stage} stage of {n_rows} row{'s' if n_rows > 1 else ''}, with {weights:,.0f} MB of weights"
        what, is_memory = describe_failure(error)
        if is_memory:
            raise DeviceMemoryError(
                f"the device is out of memory in the {sizes}: {what}. Give fewer rows at once, load the model with "
                "dtype='bfloat16' or decoding_copy=False, or keep one network at a time there: "
                "model.enable_cpu_offload()"
            ) from error
        raise DeviceError(
            f"the device failed in the {sizes}: {what}. Try again in a new process; `bark-jax doctor` checks devices"
        ) from error
