"""Requests between the threads of callers and the thread of the engine; it takes turns among callers."""

import collections
import threading
from collections.abc import Collection, Iterable
from typing import Any

from bark_jax.generation.live import LiveRequest


class Inbox:
    """Requests that wait for the engine; implements `generation.live.Arrivals`. All methods may be called anywhere.

    A caller with many sentences does not hold up the others: the engine takes one sentence of each caller in turn.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: collections.OrderedDict[Any, collections.deque[LiveRequest]] = collections.OrderedDict()
        self._taken: dict[Any, set[Any]] = {}  # tags that the engine has, by caller
        self._cancelled: set[Any] = set()
        self._is_closed = False

    def __len__(self) -> int:
        """Requests that wait."""
        with self._changed:
            return sum(len(requests) for requests in self._waiting.values())

    def put(self, caller: Any, requests: Iterable[LiveRequest]) -> None:
        """Adds requests of a caller, which are taken in this order."""
        with self._changed:
            if requests := list(requests):
                self._waiting.setdefault(caller, collections.deque()).extend(requests)
                self._changed.notify()

    def take(self) -> LiveRequest | None:
        """As `Arrivals.take`."""
        with self._changed:
            if not self._waiting:
                return None
            caller, requests = self._waiting.popitem(last=False)
            request = requests.popleft()
            if requests:
                self._waiting[caller] = requests  # behind the other callers
            self._taken.setdefault(caller, set()).add(request.tag)
            return request

    def finish(self, caller: Any, tag: Any) -> None:
        """Forgets a request of which the engine has given the result."""
        with self._changed:
            tags = self._taken.get(caller, set())
            tags.discard(tag)
            if not tags:
                self._taken.pop(caller, None)

    def cancel(self, caller: Any) -> None:
        """Drops all requests of a caller."""
        with self._changed:
            self._waiting.pop(caller, None)
            self._cancelled |= self._taken.pop(caller, set())

    def take_cancelled(self) -> Collection[Any]:
        """As `Arrivals.take_cancelled`."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            return cancelled

    def wait(self) -> bool:
        """As `Arrivals.wait`."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            return bool(self._waiting)

    def close(self) -> None:
        """Ends the arrivals: `wait` returns False once nothing waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def take_all(self) -> list[Any]:
        """Drops all requests, and returns their callers."""
        with self._changed:
            callers = list(dict.fromkeys([*self._taken, *self._waiting]))
            self._taken.clear()
            self._waiting.clear()
            return callers
