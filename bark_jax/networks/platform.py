"""The platform that a network's programs are for, its device, and errors of a device that has too little memory."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bark_jax._system.forks import check_process
from bark_jax.errors import DeviceError, DeviceMemoryError, InputError, UnsupportedError, quoted

PLATFORMS = ("cpu", "gpu", "tpu")
_GPU_PLUGINS = ("cuda", "rocm")  # which JAX lists as "gpu"


def default_device() -> jax.Device:
    """What `jax.default_device` has chosen, else this process's first device."""
    chosen = jax.config.jax_default_device
    if chosen is None or isinstance(chosen, str):
        return jax.local_devices(backend=chosen)[0]
    return chosen


def platform_of(device: jax.Device) -> str:
    """One of PLATFORMS; of a device of another maker the name that its plugin has, which counts as an accelerator."""
    return "gpu" if device.platform in _GPU_PLUGINS else device.platform


def check_platform(platform: Any) -> str | None:
    """The platform, or None for None. Raises InputError for any but PLATFORMS."""
    if platform is not None and (not isinstance(platform, str) or platform not in PLATFORMS):
        raise InputError(f"platform is {quoted(platform)}, expected one of {', '.join(PLATFORMS)}, or None")
    return platform


def resolve_platform(platform: Any = None) -> str:
    """The platform, or that of the default device for None. Raises InputError for any but PLATFORMS."""
    return check_platform(platform) or platform_of(default_device())


def device_of(platform: str) -> jax.Device | None:
    """The default device if it is of this platform, else this process's first that is; None where there is none."""
    if platform_of(default_device()) == platform:
        return default_device()
    try:
        return jax.local_devices(backend=platform)[0]
    except RuntimeError:  # JAX has no such backend here
        return None


def pinned_device(platform: str) -> jax.Device | None:
    """The device to which arrays for this platform have to be pinned, as JAX would run them on another platform's.

    None where the default device is of this platform, or none is.
    """
    return None if platform_of(default_device()) == platform else device_of(platform)


def on_its_platform(network: Any) -> Any:
    """The network where its programs run: pinned to devices of its platform unless the default one is such."""
    device = pinned_device(network.platform)
    if device is None or all(_is_pinned(leaf, network.platform) for leaf in jax.tree.leaves(network)):
        return network
    return jax.device_put(network, device)


def _is_pinned(array: jax.Array, platform: str) -> bool:
    return array.committed and all(platform_of(device) == platform for device in array.devices())


def check_devices(devices: Sequence[jax.Device] | None) -> list[jax.Device]:
    """The devices, or the default one for None. Raises InputError for what are none of this process."""
    if devices is None:
        return [default_device()]
    if not isinstance(devices, (list, tuple)) or not devices or not all(isinstance(d, jax.Device) for d in devices):
        raise InputError(f"devices is {quoted(devices)}, expected a list of devices, such as jax.local_devices()")
    if foreign := [device for device in devices if device.process_index != jax.process_index()]:
        raise InputError(f"devices has {foreign[0]}, expected devices of this process: jax.local_devices()")
    return list(devices)


def check_sharding(*trees: Any) -> None:
    """Raises UnsupportedError for arrays that are divided along an axis which a mesh has as an explicit one.

    There the type of every intermediate result has to name its sharding, which these networks leave to the compiler.
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


@contextlib.contextmanager
def device_errors(stage: str, network: Any, n_rows: int) -> Iterator[None]:
    """Turns what JAX raises in the block into an error that names the stage, its sizes and the remedy.

    Raises:
      DeviceMemoryError: the device has no memory for it.
      DeviceError: the device fails otherwise.
      UnsupportedError: this process was forked after JAX had run; see `forks`.
    """
    check_process()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(network)) / 1e6
        sizes = f"{stage} stage of {n_rows} row{'s' if n_rows > 1 else ''}, with {weights:,.0f} MB of weights"
        what = " ".join(str(error).split())[:300]
        if "RESOURCE_EXHAUSTED" in what:
            raise DeviceMemoryError(
                f"the device has no memory for the {sizes}: {what}. Give fewer rows at once, load the model with "
                "dtype='bfloat16' or decoding_copy=False, or keep one network at a time there: "
                "model.enable_cpu_offload()"
            ) from error
        raise DeviceError(
            f"the device failed in the {sizes}: {what}. Try again in a new process; `bark-jax doctor` looks at devices"
        ) from error
