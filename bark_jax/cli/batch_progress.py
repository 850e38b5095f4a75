"""Progress of a batch: a bar on a terminal, a line every half minute elsewhere, and with --json an event a line."""

import json
import sys
import time
from typing import Any, Self

import click

LINE_EVERY_S = 30.0
MAX_LISTED_FAILURES = 20


class BatchProgress:
    """Callback `on_event` of `run_batch`.

    "row" events come from the writer's thread alone and need no lock; "stopping" may come from another thread at the
    same time, and prints one line.

    Args:
      as_json: print each event as a JSON line on stdout.
      is_quiet: print nothing on stderr but the errors of rows, and that the run is stopping.
    """

    def __init__(self, *, as_json: bool, is_quiet: bool):
        self._as_json, self._is_quiet = as_json, is_quiet
        self._bar: Any = None
        self._n_failures = 0
        self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __call__(self, event: dict[str, Any]) -> None:
        if self._as_json:
            click.echo(json.dumps(event, ensure_ascii=False))
        getattr(self, f"_{event['event']}")(event)  # _start, _row, _stopping or _end

    def _start(self, event: dict[str, Any]) -> None:
        self._next_line = time.monotonic() + LINE_EVERY_S
        if self._is_quiet:
            return
        done = event["rows"] - event["rows_todo"]
        self._say(f"{event['folder']}: {event['rows_todo']:,} of {event['rows']:,} rows to do, {done:,} done before")
        if sys.stderr.isatty() and event["rows_todo"]:
            from tqdm import tqdm

            self._bar = tqdm(total=event["rows_todo"], unit="row", dynamic_ncols=True)

    def _row(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self._print_failure(event)
        if self._is_quiet:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"{event['rows_failed']} failed, {event['audio_seconds_per_second']} s of audio/s", refresh=False
            )
            self._bar.update()
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self._say(
                f"{event['rows_done']:,} of {event['rows_todo']:,} rows, {event['rows_failed']:,} failed, "
                f"{event['audio_seconds_per_second']} s of audio a second, {event['seconds_left']:.0f} s left"
            )

    def _stopping(self, _: dict[str, Any]) -> None:
        self._say("stopping after the rows in progress; press Ctrl-C again to stop at once")

    def _end(self, _: dict[str, Any]) -> None:
        self.__exit__()

    def _print_failure(self, event: dict[str, Any]) -> None:
        """Prints the error of a row, shortened; after MAX_LISTED_FAILURES only that there are more."""
        self._n_failures += 1
        if self._n_failures <= MAX_LISTED_FAILURES:
            self._say(f"row {event['id']}: {' '.join(event['error'].split())[:300]}")
        elif self._n_failures == MAX_LISTED_FAILURES + 1:
            self._say("more rows have failed; the manifest lists them all")

    def _say(self, line: str) -> None:
        """Prints a line on stderr, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)
