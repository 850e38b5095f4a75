"""Progress bar of a conversion, on a terminal."""

import sys
from typing import Any, Self


class BytesBar:
    """A progress bar that `convert` takes as `progress`: bytes written, one bar a file.

    It is hidden where stderr is no terminal, or where HF_HUB_DISABLE_PROGRESS_BARS disables the Hub client's bars.
    """

    def __init__(self):
        self._bar: Any = None
        self._label: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._label = None, None

    def __call__(self, label: str, done: int, total: int) -> None:
        from huggingface_hub.utils import are_progress_bars_disabled
        from tqdm import tqdm

        if label != self._label:
            self.__exit__()
            is_hidden = sys.stderr is None or not sys.stderr.isatty() or are_progress_bars_disabled()
            self._bar = tqdm(
                desc=f"converting {label}", total=total, unit="B", unit_scale=True, disable=is_hidden, leave=False
            )
            self._label = label
        self._bar.update(done - self._bar.n)  # tqdm takes an increment, `done` is a total
