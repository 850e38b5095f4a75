"""Command line of the fuzzer: python -m tests.fuzz. See the package's docstring."""

import argparse
import faulthandler
import sys
import time
from pathlib import Path

from tests.fuzz import guard
from tests.fuzz.run import FuzzError, Runner, made_up, mutated
from tests.fuzz.targets import TARGETS

MADE_UP_SHARE = 20  # one case of so many is hypothesis's, which takes ten times as long


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes what reads strangers' files.")
    parser.add_argument("--cases", type=int, default=10_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=TARGETS, help="several times for several; default all")
    parser.add_argument("--keep", type=Path, help="a folder for failing cases; go on after one")
    options = parser.parse_args()
    faulthandler.enable()
    guard.install()
    names = options.target or list(TARGETS)
    n_failed = sum(run_target(name, options.cases // len(names), options.seed, options.keep) for name in names)
    print(f"{n_failed} failures")
    return 1 if n_failed else 0


def run_target(name: str, n_cases: int, seed: int, keep: Path | None) -> int:
    """Fuzzes a target. Returns the number of failures; stops at the first without a folder to store them."""
    runner, failures, start = Runner(name), [], time.perf_counter()
    try:
        with guard.limited_memory():
            for case in mutated(runner.target, n_cases - n_cases // MADE_UP_SHARE, f"{name} {seed}"):
                tell(lambda case=case: runner.run(case), failures, keep)
            tell(lambda: made_up(name, n_cases // MADE_UP_SHARE, seed, runner.run), failures, keep)
    finally:
        runner.close()
    tally = runner.tally
    print(
        f"{name:18} {tally.n_cases:>9,} cases: {tally.n_read:,} read, {tally.n_refused:,} refused, "
        f"{len(failures)} failed; {time.perf_counter() - start:.0f} s, slowest {tally.slowest_s * 1000:.0f} ms",
        flush=True,
    )
    return len(failures)


def tell(run, failures: list[str], keep: Path | None) -> None:
    try:
        run()
    except FuzzError as error:
        failures.append(str(error))
        if len(failures) <= 20:
            print(error, file=sys.stderr, flush=True)
        if keep is None:
            raise
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{error.target.replace(' ', '-')}-{len(failures)}").write_bytes(error.case)


if __name__ == "__main__":
    sys.exit(main())
