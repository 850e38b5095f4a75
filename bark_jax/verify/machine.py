"""The machine that a report is made on: its devices and its free memory."""

from pathlib import Path
from typing import Any

import jax

from bark_jax.bench import describe_device

_CPUINFO = Path("/proc/cpuinfo")
_CGROUP_LIMIT, _CGROUP_USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_MEMINFO = Path("/proc/meminfo")


def describe_machine() -> dict[str, Any]:
    """Returns JAX's default device, the number of devices, and the CPU's name where Linux tells it, for JSON."""
    cpu = {"cpu": name} if (name := _cpu_name()) else {}
    return describe_device() | {"devices": jax.local_device_count()} | cpu


def _cpu_name() -> str:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def free_memory() -> int | None:
    """Returns the bytes that this process may still take, by Linux's count and the cgroup's limit; None elsewhere."""
    try:
        (line,) = (line for line in _MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        free = 1024 * int(line.split()[1])
    except (OSError, ValueError):
        return None
    try:
        return min(free, int(_CGROUP_LIMIT.read_text()) - int(_CGROUP_USED.read_text()))
    except (OSError, ValueError):  # no cgroup, or one without a limit, whose file says "max"
        return free
