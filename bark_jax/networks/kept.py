"""Copies of networks that are kept as long as the network lives and its arrays are the same."""

import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class _Kept(NamedTuple):
    """A copy, what it was made for, and the arrays that it was made from."""

    # Held, not only their ids: once an array is freed another one may get its id, and a stale copy would pass as
    # current. Replaced parameters are therefore freed when the copy is next asked for, not at once.
    arrays: list[jax.Array]
    purpose: Any
    network: Any


class KeptCopies:
    """Keeps one copy of each network: makes it at first need, and again where parameters have been replaced since.

    Their identity reveals that: JAX arrays are immutable. A copy must not refer to its network, or neither is freed.
    """

    def __init__(self) -> None:
        # Weak keys: a copy is freed with its network.
        self._kept: weakref.WeakKeyDictionary[Any, _Kept] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()  # of two threads that need a copy, one makes it

    def get(self, network: Any, make: Callable[[], Any], purpose: Any = None) -> Any:
        """Returns the network's copy for a purpose, made by `make()` unless there is one of the same arrays."""
        arrays = jax.tree.leaves(network)
        with self._lock:
            kept = self._kept.get(network)
            if kept is None or kept.purpose != purpose or list(map(id, kept.arrays)) != list(map(id, arrays)):
                # Made within the lock: two threads that made it at once would need the memory twice.
                kept = self._kept[network] = _Kept(arrays, purpose, make())
        return kept.network

    def find(self, network: Any) -> Any | None:
        """Returns the copy that there is, whatever it was made for; None without one."""
        kept = self._kept.get(network)
        return None if kept is None else kept.network
