"""How far a generation is, told on stderr: a bar on a terminal, a line a stage elsewhere."""

import sys
from typing import Any, Self

import click

STAGES = ("semantic", "coarse", "fine", "codec")


class Progress:
    """An `on_stage` for `Bark.generate`."""

    def __init__(self, *, is_quiet: bool):
        self._is_quiet = is_quiet
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str) -> None:
        if self._is_quiet:
            return
        if not sys.stderr.isatty():
            click.echo(f"{stage} ...", err=True)
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=len(STAGES), leave=False, bar_format="{desc} {bar} {n_fmt}/{total_fmt} {elapsed}")
        self._bar.n = STAGES.index(stage)
        self._bar.set_description_str(f"{stage:8}")
