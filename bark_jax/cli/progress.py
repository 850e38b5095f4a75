"""How far a generation is, told on stderr: a bar on a terminal, a line a stage elsewhere."""

import sys
from typing import Any, Self

import click

# What is counted within a stage.
UNITS = {"semantic": "tokens", "coarse": "windows"}
_UNCOUNTED = "{desc} {elapsed}"
# JAX records it when a program goes to the compiler, or is looked for among those on disk.
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"


class Progress:
    """An `on_stage` for `Bark.generate`, whose `on_progress` is what to pass as that."""

    def __init__(self, *, is_quiet: bool):
        self._is_quiet = is_quiet
        self._is_visible = not is_quiet and sys.stderr is not None and sys.stderr.isatty()
        self._stage = ""
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._is_visible:
            import jax

            jax.monitoring.register_event_duration_secs_listener(self._compiling)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_visible:
            import jax

            jax.monitoring.unregister_event_duration_listener(self._compiling)
        self._is_visible = False
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str) -> None:
        if self._is_quiet:
            return
        if not self._is_visible:
            click.echo(f"{stage} ...", err=True)
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(leave=False, dynamic_ncols=True, bar_format=_UNCOUNTED)
        self._advance(stage, 0, 0)

    @property
    def on_progress(self) -> Any:
        """None where nothing would be shown: stages then run as one program each."""
        return self._advance if self._is_visible else None

    def _advance(self, stage: str, n_done: int, most: int) -> None:
        """`most` is 0 where it is not known: nothing is counted then."""
        self._stage = stage
        counted = f"{{desc}} {{bar}} {{n_fmt}}/{{total_fmt}} {UNITS.get(stage, '')} {{elapsed}}"
        self._bar.bar_format = counted if most else _UNCOUNTED
        self._bar.total, self._bar.n = most or None, n_done
        self._bar.set_description_str(f"{stage:8}")

    def _compiling(self, event: str, _: float, **__: object) -> None:
        if event == _LOWERED and self._bar is not None:
            self._bar.bar_format = _UNCOUNTED
            self._bar.set_description_str(f"{self._stage:8} compiling, once")
