"""Signals during a batch: the first one finishes the rows in progress, the second one stops at once."""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from bark_jax._system import stopping


class Interrupts:
    """Handles SIGINT (Ctrl-C) and SIGTERM, which schedulers send before they kill, while the block runs.

    The first signal sets `received`. The second ends a command at once (`stopping`), and in other programs raises
    KeyboardInterrupt in the main thread. In other threads, where Python installs no handlers, it handles nothing.

    Args:
      on_first: called after the first signal, on any thread.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None):
        self.received: int | None = None  # the first signal's number
        self._on_first = on_first
        self._block = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if stopping.is_installed():
            self._block.enter_context(stopping.first_signal(self._receive_first))
        elif threading.current_thread() is threading.main_thread():
            for each in (signal.SIGINT, signal.SIGTERM):
                # The inner call installs the handler and returns the one before, which the callback restores.
                self._block.callback(signal.signal, each, signal.signal(each, self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        self._block.close()

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        with contextlib.suppress(RuntimeError):  # reentrant call: the signal interrupted a write to the same stream
            self._on_first()

    def _receive_first(self, number: int) -> None:
        self.received = number
        # On a thread of its own: printing blocks while nobody reads the pipe, and the second signal must not wait.
        threading.Thread(target=self._on_first, daemon=True).start()
