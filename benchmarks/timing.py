"""Times of calls that block until they are done."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def best_s(call: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest call, after one that warms up."""
    call()
    return min(seconds(call) for _ in range(repeats))


@dataclasses.dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        return min(self.values)

    @property
    def most(self) -> float:
        return max(self.values)


def take_turns(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Spread]:
    """Measures each contender in turn, again and again, so that a busy machine slows them alike.

    Args:
      calls: each makes one measurement and returns it.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(call())
    return {name: Spread(tuple(values)) for name, values in found.items()}
