"""Runs fuzzing cases one by one, and stores failures."""

import dataclasses
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from bark_jax.errors import BarkError
from tests.fuzz import guard
from tests.fuzz.mutator import Mutator
from tests.fuzz.targets import TARGETS, Target

MEASURED_EVERY = 50  # memory is traced in one case of so many, which makes it slow


@dataclasses.dataclass
class Tally:
    """Counts of a target's cases by outcome, and their times."""

    n_read: int = 0
    n_refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0

    @property
    def n_cases(self) -> int:
        return self.n_read + self.n_refused


class FuzzError(AssertionError):
    """A case that was neither read nor refused properly; `case` is its bytes before wrapping."""

    def __init__(self, target: str, case: bytes, error: BaseException):
        super().__init__(f"{target}: {type(error).__name__}: {str(error)[:300]}\n  case = {case[:2000]!r}")
        self.target, self.case = target, case


class Runner:
    """Runs cases of one target in a folder of its own, in memory where the system has one."""

    def __init__(self, name: str):
        self.name, self.target, self.tally = name, TARGETS[name], Tally()
        shared = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="bark-jax-fuzz-", dir=shared if shared.is_dir() else None)).resolve()
        self.path = self.folder / self.target.file
        for beside, data in self.target.beside.items():
            (self.folder / beside).parent.mkdir(exist_ok=True)
            (self.folder / beside).write_bytes(data)
        for seed in self.target.seeds:  # triggers lazy imports, which the guard would forbid
            self._read(self.target.wrap(seed))

    def close(self) -> None:
        shutil.rmtree(self.folder)

    def _read(self, data: bytes) -> bool:
        """Reads a case: True if it is read, False if it is refused. It stays on disk, in case Python crashes."""
        self.path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.target.read(self.path)
        except BarkError:
            return False
        return True

    def run(self, case: bytes) -> None:
        start = time.perf_counter()
        try:
            data = self.target.wrap(case)
            self.path.write_bytes(data)
            was_read = self._guarded(data)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise FuzzError(self.name, case, error) from error
        elapsed = time.perf_counter() - start
        self.tally.seconds += elapsed
        self.tally.slowest_s = max(self.tally.slowest_s, elapsed)
        if was_read:
            self.tally.n_read += 1
        else:
            self.tally.n_refused += 1

    def _guarded(self, data: bytes) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self.tally.n_cases % MEASURED_EVERY:
                    with guard.watched(self.folder, may_import=self.target.by_library):
                        self.target.read(self.path)
                else:
                    with (
                        guard.measured_memory(len(data)),
                        guard.watched(self.folder, may_import=self.target.by_library),
                    ):
                        self.target.read(self.path)
        except BarkError:
            return False
        return True


def mutated(target: Target, n_cases: int, seed: str) -> Iterator[bytes]:
    """Yields mutated cases, determined by the seed."""
    mutator = Mutator(target.seeds, target.words, random.Random(seed))
    return (mutator.make() for _ in range(n_cases))


def made_up(name: str, n_cases: int, seed: int, run) -> None:
    """Runs cases of hypothesis, which shrinks a failing case before it is reported."""
    import hypothesis

    from tests.fuzz.strategies import strategy_for

    settings = hypothesis.settings(
        max_examples=n_cases, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    hypothesis.seed(seed)(settings(hypothesis.given(strategy_for(name))(run)))()
