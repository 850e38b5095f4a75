"""Detection of a process that was forked after JAX had run.

A fork copies JAX's locks but not its threads, so the first computation in the child would hang for ever.
"""

import os
import sys

from bark_jax.errors import UnsupportedError

_has_run_before = False  # whether JAX had run in the process that this one was forked from


def check_process() -> None:
    """Raises UnsupportedError in a process that was forked from one in which JAX had run."""
    if _has_run_before:
        raise UnsupportedError(
            f"process {os.getpid()} was forked from one in which JAX had run, whose threads it lacks; start it by "
            'multiprocessing.get_context("spawn"), or fork before anything runs on JAX'
        )


def _has_run() -> bool:
    """Whether JAX has opened a device in this process. Does not import JAX."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    # `_backends` is private to JAX. A version without it counts as having run: a refusal is better than a hang.
    return bridge is not None and bool(getattr(bridge, "_backends", True))


def _remember() -> None:
    global _has_run_before
    _has_run_before = _has_run_before or _has_run()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_remember)
