"""Being told to stop: once to finish what is under way, twice to stop at once."""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Interrupts:
    """Watches SIGINT (Ctrl-C) and SIGTERM, which schedulers send before they kill, while the block runs.

    The first sets `received`; the second raises KeyboardInterrupt where the program is. Off the main thread, where
    Python takes no signals, it watches nothing.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None):
        self.received: int | None = None  # the signal's number
        self._tell = tell
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._receive) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        with contextlib.suppress(RuntimeError):  # the program was just writing to the same stream
            self._tell()
