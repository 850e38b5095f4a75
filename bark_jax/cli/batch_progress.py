"""How far a batch is: a bar on a terminal, a line every half minute elsewhere, or JSON."""

import json
import sys
import time
from typing import Any, Self

import click

LINE_EVERY_S = 30.0
MAX_LISTED_FAILURES = 20


class BatchProgress:
    """An `on_event` for `run_batch`. Events come from several threads, of which one at a time tells rows."""

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
        getattr(self, f"_{event['event']}")(event)

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
            self._tell_failure(event)
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
        self._say("stopping once the rows that are being spoken are done; again (Ctrl-C) stops at once")

    def _end(self, _: dict[str, Any]) -> None:
        self.__exit__()

    def _tell_failure(self, event: dict[str, Any]) -> None:
        self._n_failures += 1
        if self._n_failures <= MAX_LISTED_FAILURES:
            self._say(f"row {event['id']}: {' '.join(event['error'].split())[:300]}")
        elif self._n_failures == MAX_LISTED_FAILURES + 1:
            self._say("more rows have failed; the manifest has them all")

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            click.echo(line, err=True)
