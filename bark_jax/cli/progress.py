"""Progress of one generation on stderr: a bar on a terminal, a line for each stage elsewhere."""

import sys
from typing import Any, Self

import click

UNITS = {"semantic": "tokens", "coarse": "windows"}  # of the bar of a stage; the fine stage and the codec count none
_UNCOUNTED = "{desc} {elapsed}"  # tqdm's bar_format of a stage without a count
# JAX records this event once a program is lowered, just before it is compiled or read from the compilation cache.
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"


class Progress:
    """Callback `on_stage` of `Bark.generate`; its property `on_progress` is the callback of that name."""

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
        """Callback for counts within a stage; None without a bar, so that each stage runs as one program, faster."""
        return self._advance if self._is_visible else None

    def _advance(self, stage: str, n_done: int, n_total: int) -> None:
        """Updates the bar to `n_done` of `n_total` UNITS; with `n_total` 0, which is unknown, it has no count."""
        self._stage = stage
        counted = f"{{desc}} {{bar}} {{n_fmt}}/{{total_fmt}} {UNITS.get(stage, '')} {{elapsed}}"
        self._bar.bar_format = counted if n_total else _UNCOUNTED
        self._bar.total, self._bar.n = n_total or None, n_done
        self._bar.set_description_str(f"{stage:8}")

    def _compiling(self, event: str, _: float, **__: object) -> None:
        """Listens to JAX's events: compiling takes most of a first run, and the bar does not move meanwhile."""
        if event == _LOWERED and self._bar is not None:
            self._bar.bar_format = _UNCOUNTED
            self._bar.set_description_str(f"{self._stage:8} compiling, once")
