"""Being told to stop: once to finish what is under way, twice to stop at once."""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from bark_jax._system import stopping


class Interrupts:
    """Watches SIGINT (Ctrl-C) and SIGTERM, which schedulers send before they kill, while the block runs.

    The first sets `received`. The second ends a command at once (`stopping`), and in other programs raises
    KeyboardInterrupt where the program is. Off the main thread, where Python takes no signals, it watches nothing.
    """

    def __init__(self, tell: Callable[[], None] = lambda: None):
        self.received: int | None = None  # the signal's number
        self._tell = tell
        self._block = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if stopping.is_installed():
            self._block.enter_context(stopping.first_signal(self._receive_first))
        elif threading.current_thread() is threading.main_thread():
            for each in (signal.SIGINT, signal.SIGTERM):
                self._block.callback(signal.signal, each, signal.signal(each, self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        self._block.close()

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        with contextlib.suppress(RuntimeError):  # the program was just writing to the same stream
            self._tell()

    def _receive_first(self, number: int) -> None:
        self.received = number
        # On a thread of its own: to tell can take as long as nobody reads, and the second signal is not to wait for it.
        threading.Thread(target=self._tell, daemon=True).start()
