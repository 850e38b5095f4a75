"""The devices that a verb's --devices names."""

from typing import TYPE_CHECKING

from bark_jax.errors import InputError, quoted

if TYPE_CHECKING:
    import jax


def choose_devices(given: str | None) -> "list[jax.Device] | None":
    """Returns the devices that --devices names, None for JAX's default one. Raises InputError for too many."""
    if given is None:
        return None
    import jax

    devices = jax.local_devices()
    if given == "all":
        return devices
    if not given.isdecimal() or len(given) > 9 or not 1 <= int(given) <= len(devices):
        raise InputError(
            f"--devices is {quoted(given)}, expected all or a number from 1 to the {len(devices)} there are"
        )
    return devices[: int(given)]
