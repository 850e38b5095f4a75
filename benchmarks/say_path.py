"""Traces the calls of one `bark-jax say` through the package: files, moves between files, and runs of each check.

    python -m benchmarks.say_path

The built-in model speaks one text twice in this process. The first run imports and compiles; in the second every call
of a function of the package is counted. A move is a call in another file than the call before it. Loading and
generation loop over arrays, layers and stages, so moves are also counted without these loops. Counts of calls are the
same on every machine.
"""

import collections
import contextlib
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from click.testing import CliRunner

import bark_jax
from bark_jax.cli import main
from bark_jax.generation.tokens import check_fit

PACKAGE = Path(bark_jax.__file__).parent
COMMAND = ("say", "one two three", "-m", "tiny", "--seed", "0", "--max-seconds", "0.5", "-o", "say.wav", "-q")
# Checks and reads of a text, its settings and its model that should run once per command.
CHECKS = (
    "text.checks.check_text",
    "text.processor.BarkProcessor.__init__",
    "text.prompts.PromptReader._encode",
    "text.sentences.number_sentences",
    "voices.library.resolve_voice",
    "generation.settings.resolve_settings",
    "checkpoints.find.find_model",
    "checkpoints.load.read_configs",
    "checkpoints.model_folder.read_manifest",
    "config.read_json",
)
# Functions that loop over the four networks: loading them, and running them.
LOOPS = ("checkpoints.load.load_networks", "generation.runner.run_rows")


class SayPath(NamedTuple):
    """Calls that one command makes in the package."""

    n_moves: int
    n_outside: int  # moves without the calls inside LOOPS
    calls_by_file: dict[str, int]  # in order of the first call
    calls_by_function: collections.Counter[str]


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, str, bool]]]:
    """Records the package's calls in a `with` block: yields a list of (file, function, whether inside LOOPS)."""
    calls: list[tuple[str, str, bool]] = []
    prefix, depth = f"{PACKAGE}{os.sep}", 0

    def record(frame: FrameType, event: str, _: Any) -> None:
        nonlocal depth
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(prefix) or code.co_name == "<module>":
            return
        file = code.co_filename.removeprefix(prefix).removesuffix(".py")
        is_loop = _dotted(file, code.co_qualname) in LOOPS
        if event == "call":
            calls.append((file, code.co_qualname, depth > 0))
            depth += is_loop
        else:
            depth -= is_loop

    threading.setprofile(record)
    sys.setprofile(record)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def follow(command: tuple[str, ...] = COMMAND) -> SayPath:
    """Runs the command twice and counts the calls of the second run. Raises RuntimeError if the command fails."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _run(command)
        check_fit.cache_clear()  # its result is cached for the process, and a user's process starts without it
        with recorded() as calls:
            _run(command)
    files = [file for file, _, _ in calls]
    return SayPath(
        _moves(files),
        _moves([file for file, _, is_within in calls if not is_within]),
        dict(collections.Counter(files)),
        collections.Counter(_dotted(file, function) for file, function, _ in calls),
    )


def _run(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, list(command))
    if result.exit_code:
        raise RuntimeError(f"bark-jax {' '.join(command)} ended with {result.exit_code}: {result.output[:300]}")


def _dotted(file: str, function: str) -> str:
    return f"{file.replace(os.sep, '.')}.{function}"


def _moves(files: list[str]) -> int:
    return sum(one != other for one, other in itertools.pairwise(files))


def report(path: SayPath) -> str:
    """Formats the counts: totals, runs of each of CHECKS, and calls by file."""
    n_files = len(path.calls_by_file)
    lines = [
        f"{n_files} files, {path.n_moves} moves between them, {path.n_outside} outside of {' and '.join(LOOPS)}",
        "",
    ]
    lines += [f"{path.calls_by_function[name]:6}  {name}" for name in CHECKS]
    lines += ["", *(f"{count:6}  {file}" for file, count in path.calls_by_file.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(follow()))
