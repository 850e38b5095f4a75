"""A pytest plugin that counts the programs that a run compiles, and fails the run above a budget.

Nearly all of the suite's time goes to XLA. Seconds depend on the machine; the number of programs does not, so that is
what is held: a change that gives every test a new shape fails at once, by name, on any machine.

One compilation cache serves the whole run: pytest-xdist's workers and the command-line tests' own processes inherit its
folder, and a program is compiled once. So the number of files in it is the number of different programs, however the
tests were spread over processes. JAX_COMPILATION_CACHE_DIR names another folder, which is kept; the budget then holds
for what this run adds to it.

    python -m pytest -q               the five files that compile longest
    python -m pytest -q --programs    every file that compiles
"""

import collections
import contextlib
import ctypes
import gc
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Budget: number of different programs in the default suite. State the reason in the commit that raises it.
BUDGET = 745

FOLDER, IS_OURS = "JAX_COMPILATION_CACHE_DIR", "BARK_JAX_TESTS_CACHE"
# Toy networks take far longer to compile than to run, so XLA skips expensive optimisations: a fifth of the seconds.
# XLA_FLAGS= (empty) compiles with defaults, as continuous integration does for slow tests and a newer JAX's numbers.
QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Two more, which not every XLA knows.
QUICKLY_ON_SOME = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

COMPILED = "/jax/core/compile/backend_compile_duration"
CACHED = "/jax/compilation_cache/cache_hits"
MAX_LISTED_FILES = 5
MANY = 3  # minimum number of a file's programs to free after it


class Counter:
    """Programs asked of XLA, those of them read from the cache, and seconds, by test file."""

    def __init__(self):
        self.file = "collection"
        self.by_file = collections.defaultdict(lambda: [0, 0, 0.0])

    def on_duration(self, event: str, seconds: float, **_) -> None:
        if event == COMPILED:
            row = self.by_file[self.file]
            row[0] += 1
            row[2] += seconds

    def on_event(self, event: str, **_) -> None:
        if event == CACHED:
            self.by_file[self.file][1] += 1

    def add(self, by_file: dict) -> None:
        for file, counted in by_file.items():
            self.by_file[file] = [a + b for a, b in zip(self.by_file[file], counted, strict=True)]


def pytest_addoption(parser):
    parser.addoption("--programs", action="store_true", help="List every test file that compiles.")


def pytest_configure(config):
    if not os.environ.get(FOLDER):
        os.environ[FOLDER] = os.environ[IS_OURS] = tempfile.mkdtemp(prefix="bark_jax_tests_")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # glibc's arenas keep freed memory
    if "XLA_FLAGS" not in os.environ:
        flags = (f"{QUICKLY} {QUICKLY_ON_SOME}", QUICKLY)
        os.environ["XLA_FLAGS"] = next(filter(are_known, flags), "")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    use_cache()
    import jax

    counter = Counter()
    jax.monitoring.register_event_duration_secs_listener(counter.on_duration)
    jax.monitoring.register_event_listener(counter.on_event)
    config.stash[_COUNTER], config.stash[_BEFORE] = counter, n_programs()


_COUNTER, _BEFORE = pytest.StashKey[Counter](), pytest.StashKey[int]()


def pytest_collection_finish(session):
    """Collects garbage as rarely as a command does: with Python's thresholds it took a tenth of the suite's time."""
    from bark_jax.cli.process import collect_rarely

    gc.freeze()
    collect_rarely()


def use_cache() -> None:
    """Compiles into the run's folder from now on, whatever folder a test has turned to."""
    import jax

    jax.config.update("jax_compilation_cache_dir", os.environ[FOLDER])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def xla_flags(n_devices: int) -> str:
    """XLA_FLAGS for a subprocess with simulated devices whose results must equal this process's."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={n_devices}".strip()


def are_known(flags: str) -> bool:
    """Whether the installed XLA knows these flags. Runs a subprocess, because XLA aborts at an unknown flag."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def n_programs() -> int:
    folder = Path(os.environ[FOLDER])
    return sum(path.name.endswith("-cache") for path in folder.iterdir()) if folder.is_dir() else 0


def forget_programs() -> None:
    """Frees the programs of a test file and returns the memory to the system; kept, they would add up to gigabytes."""
    sys.modules["jax"].clear_caches()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def budget(config) -> float:
    """The budget is that of the whole default suite: what is slow, or is run by name, may compile what it likes."""
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and config.option.markexpr == "not slow"
    return BUDGET if is_whole else math.inf


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    counter = item.config.stash[_COUNTER]
    file = item.nodeid.partition("::")[0]
    if file != counter.file and counter.by_file[counter.file][0] > MANY:
        forget_programs()
    counter.file = file
    try:
        return (yield)
    finally:
        use_cache()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    node.config.stash[_COUNTER].add(getattr(node, "workeroutput", {}).get("programs", {}))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["programs"] = dict(config.stash[_COUNTER].by_file)
    elif exitstatus == pytest.ExitCode.OK and n_programs() - config.stash[_BEFORE] > budget(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    by_file = config.stash[_COUNTER].by_file
    n_new = n_programs() - config.stash[_BEFORE]
    seconds = sum(row[2] for row in by_file.values())
    write = terminalreporter.write_line
    write(f"{n_new} programs (at most {budget(config)}), {seconds:.0f} s of compilation; the dearest files:")
    dearest = sorted(by_file.items(), key=lambda item: -item[1][2])
    for file, (n, n_cached, spent) in dearest if config.option.programs else dearest[:MAX_LISTED_FILES]:
        write(f"  {file}: {n} programs, {n_cached} of them cached, {spent:.1f} s")
    if n_new > budget(config):
        write(
            "more programs than the budget: use shapes that other tests have, or raise BUDGET in tests/compilations.py"
        )


def pytest_unconfigure(config):
    if os.environ.get(IS_OURS) and not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[IS_OURS], ignore_errors=True)
