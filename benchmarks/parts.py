"""Runs the parts of a long measurement in a process of their own, and resumes: one JSON file a part.

    OUT/run.json           what all parts share; another run in the same folder must have the same
    OUT/parts/NAME.json    {"value": ..., "failure": null or a message, "seconds": ...} of a part that has ended

One process runs part after part, so that it loads models once. A part that raises is recorded as failed. A part that
ends its process, or takes too long, is recorded as failed too, and the next part gets a new process. No result that was
written is lost by what comes after it.
"""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import click

from bark_jax.files import write_atomically

PARTS_FOLDER, RUN_FILE = "parts", "run.json"
START_S = 5.0  # no part starts with less time than this left


class Ended(NamedTuple):
    """The record of a part that has ended."""

    value: Any  # JSON, as returned by the part; None if it failed
    failure: str | None
    seconds: float


def claim(folder: Path, about: Mapping[str, Any]) -> None:
    """Makes the folder of a run, or checks that its run.json has the same values.

    Raises:
      ClickException: the folder holds another run, or its run.json is damaged.
    """
    path = folder / RUN_FILE
    wanted = json.loads(json.dumps(about))
    if not path.is_file():
        (folder / PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(wanted, indent=2) + "\n").encode())
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise click.ClickException(f"{path} is damaged ({error}); give another folder, or delete this one") from error
    if found != wanted:
        names = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        differences = "; ".join(f"{name} was {found.get(name)!r}, now {wanted.get(name)!r}" for name in names)
        raise click.ClickException(f"{folder} holds another run: {differences}. Give another folder.")


def ended_parts(folder: Path, names: Iterable[str]) -> dict[str, Ended]:
    """Records of the parts that have ended, by name, in the order of `names`."""
    paths = {name: _path(folder, name) for name in names}
    return {name: Ended(**json.loads(path.read_text())) for name, path in paths.items() if path.is_file()}


def run_parts(
    folder: Path, parts: Mapping[str, Any], work: Callable[[Any], Any], *, deadline: float, limit_s: float
) -> Iterator[tuple[str, Ended]]:
    """Runs the parts that have no record yet, writes their records and yields them.

    Args:
      parts: arguments of `work` by name of the part, the most valuable first.
      work: makes the JSON value of a part; a function of a module, as another process imports it.
      deadline: of time.monotonic(). A part that runs then is stopped and leaves no record: the next run repeats it.
      limit_s: seconds after which a part counts as failed.
    """
    worker: _Worker | None = None
    try:
        for name, part in parts.items():
            if _path(folder, name).is_file():
                continue
            if time.monotonic() > deadline - START_S:
                return
            worker = worker or _Worker(work)
            ended = worker.run(part, deadline=deadline, limit_s=limit_s)
            if not worker.is_alive:
                worker = None
            if ended is None:
                return
            write_atomically(_path(folder, name), (json.dumps(ended._asdict()) + "\n").encode())
            yield name, ended
    finally:
        if worker is not None:
            worker.stop()


class _Worker:
    """A process that runs parts, one at a time."""

    def __init__(self, work: Callable[[Any], Any]):
        # spawn: a forked copy of a process that has used a GPU, or has threads, does not work.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # No daemon: such a process may have no children, and torch.compile starts some.
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=False)
        self._process.start()
        theirs.close()  # so that the end of the process ends the connection
        self.is_alive = True

    def run(self, part: Any, *, deadline: float, limit_s: float) -> Ended | None:
        """Runs a part. Returns its record; None if the deadline passed before its limit."""
        started = time.monotonic()
        try:
            self._connection.send(part)
            if not self._connection.poll(max(deadline - time.monotonic(), 0)):
                self.stop()  # while it was starting
                return None
            self._connection.recv()
            started = time.monotonic()  # what it imports is no part of the measurement
            until = min(deadline, started + limit_s)
            if not self._connection.poll(max(until - time.monotonic(), 0)):
                self.stop()
                return None if until == deadline else Ended(None, f"took more than {limit_s:.0f} s", limit_s)
            value, failure = self._connection.recv()
        except (EOFError, ConnectionError):
            self.stop()
            status = self._process.exitcode
            value, failure = None, f"its process ended with {status}"
        return Ended(value, failure, round(time.monotonic() - started, 2))

    def stop(self) -> None:
        """Ends the process."""
        self.is_alive = False
        self._connection.close()
        self._process.join(timeout=0.5)  # one that waits for a part, or has ended, ends by itself
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def error_line(error: BaseException) -> str:
    """An error as one short line for a table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    while True:
        try:
            part = connection.recv()
        except EOFError:
            return
        connection.send("started")
        try:
            answer = work(part), None
        except Exception as error:
            answer = None, error_line(error)
        connection.send(answer)


def _path(folder: Path, name: str) -> Path:
    return folder / PARTS_FOLDER / f"{name}.json"
