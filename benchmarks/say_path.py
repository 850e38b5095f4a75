"""The way of one `bark-jax say` through the package: files crossed, moves between files, and how often each check runs.

    python -m benchmarks.say_path

The built-in model says one text in this process, twice: the first time imports and compiles, of the second every call
of a function of the package is counted. A move is a call in another file than the call before it. As they are counts of
calls, they are the same on every machine.
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

PACKAGE = Path(bark_jax.__file__).parent
COMMAND = ("say", "one two three", "-m", "tiny", "--seed", "0", "--max-seconds", "0.5", "-o", "say.wav", "-q")
# What a text, its settings and its model need to be asked for once.
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


class SayPath(NamedTuple):
    """What one command calls of the package."""

    n_moves: int
    n_outside: int  # moves where the calls of networks/, which loading builds layer by layer, are left out
    calls_by_file: dict[str, int]  # in the order in which they are first crossed
    calls_by_function: collections.Counter[str]


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple[str, str]]]:
    """Yields what the block calls of the package, call by call: file and function, both below the package."""
    calls: list[tuple[str, str]] = []
    prefix = f"{PACKAGE}{os.sep}"

    def record(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(prefix) and code.co_name != "<module>":
            file = code.co_filename.removeprefix(prefix).removesuffix(".py")
            calls.append((file, code.co_qualname))

    threading.setprofile(record)
    sys.setprofile(record)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def follow(command: tuple[str, ...] = COMMAND) -> SayPath:
    """Runs the command and counts. Raises RuntimeError where it fails."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _run(command)
        with recorded() as calls:
            _run(command)
    files = [file for file, _ in calls]
    return SayPath(
        _moves(files),
        _moves([file for file in files if not file.startswith(f"networks{os.sep}")]),
        dict(collections.Counter(files)),
        collections.Counter(f"{file.replace(os.sep, '.')}.{function}" for file, function in calls),
    )


def _run(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, list(command))
    if result.exit_code:
        raise RuntimeError(f"bark-jax {' '.join(command)} ended with {result.exit_code}: {result.output[:300]}")


def _moves(files: list[str]) -> int:
    return sum(one != other for one, other in itertools.pairwise(files))


def report(path: SayPath) -> str:
    n_files = len(path.calls_by_file)
    lines = [f"{n_files} files, {path.n_moves} moves between files, {path.n_outside} outside of networks/", ""]
    lines += [f"{path.calls_by_function[name]:6}  {name}" for name in CHECKS]
    lines += ["", *(f"{count:6}  {file}" for file, count in path.calls_by_file.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(follow()))
