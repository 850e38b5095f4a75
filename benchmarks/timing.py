"""Timing of calls that block until their result is ready."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def best_s(call: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of `repeats` calls, after one warm-up call."""
    call()
    return min(seconds(call) for _ in range(repeats))


@dataclasses.dataclass(frozen=True)
class Spread:
    """Values of a repeated measurement."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median value."""
        return statistics.median(self.values)

    @property
    def minimum(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def maximum(self) -> float:
        """The largest value."""
        return max(self.values)


def take_turns(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Spread]:
    """Measures contenders alternately, `repeats` rounds, so that a busy machine slows all of them.

    Args:
      calls: by contender; each call makes one measurement and returns it.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(call())
    return {name: Spread(tuple(values)) for name, values in found.items()}
