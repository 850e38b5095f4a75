"""The thread that runs the engine for all callers."""

import logging
import threading
from collections.abc import Iterable
from typing import Protocol

from bark_jax.errors import BarkError, DeviceError
from bark_jax.generation.engine import Finished
from bark_jax.generation.live import LiveEngine, LiveRequest, Part
from bark_jax.generation.rows import Row
from bark_jax.serve.errors import without_message
from bark_jax.serve.inbox import Inbox

# Errors of the device one after the other, without a row that succeeds, after which the process should be replaced.
MAX_DEVICE_ERRORS = 3

_log = logging.getLogger(__name__)


class Caller(Protocol):
    """Whoever has requests in the engine. Both methods are called on the engine's thread and must return at once."""

    def receive(self, event: Finished | Part) -> None:
        """Takes a part or a result; the tag's second item is the number that the caller gave the request."""

    def fail(self, error: BarkError) -> None:
        """Takes an error of all of its requests."""


class EngineThread:
    """Runs a live engine on a thread of its own, for callers on other threads.

    Args:
      engine: nothing else may use it.
      warm_up_row: the row by which the programs are compiled (`LiveEngine.warm_up`).
    """

    def __init__(self, engine: LiveEngine, warm_up_row: Row):
        self.engine, self.inbox = engine, Inbox()
        self.is_ready = False
        self._row = warm_up_row
        self._device_errors = 0
        self._last_error: BarkError | None = None
        # A daemon, as the process must be able to end while XLA compiles.
        self._thread = threading.Thread(target=self._run, name="bark-jax-engine", daemon=True)

    def start(self) -> None:
        """Starts the thread, which compiles the programs and then speaks what waits."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends the thread once it has spoken what it has, or after timeout_s; no request may come any more."""
        self.inbox.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def fault(self) -> str | None:
        """Why it should be replaced, or None."""
        if self._thread.ident is not None and not self.is_alive:
            return "the engine's thread has ended"
        if self._device_errors >= MAX_DEVICE_ERRORS:
            return f"the device has failed {self._device_errors} times in a row"
        return None

    def submit(self, caller: Caller, requests: Iterable[LiveRequest]) -> None:
        """Hands requests to the engine. Their tags become (caller, second item of the tag)."""
        self.inbox.put(caller, [request._replace(tag=(caller, request.tag[1])) for request in requests])

    def cancel(self, caller: Caller) -> None:
        """Ends all requests of a caller, who may still receive what is on its way."""
        self.inbox.cancel(caller)

    def _run(self) -> None:
        self._warm_up()
        while not self._serve():
            pass

    def _warm_up(self) -> None:
        try:
            self.engine.warm_up(self._row)
        except BarkError as error:
            self._device_errors = MAX_DEVICE_ERRORS
            _log.error("the programs could not be compiled: %s", error)
        else:
            self.is_ready = True

    def _serve(self) -> bool:
        """Runs the engine until the inbox is closed; False after an error that should not happen."""
        try:
            for event in self.engine.serve(self.inbox):
                self._pass_on(event)
            return True
        except Exception as error:  # a bug; the callers get an answer, and those who come later another try
            _log.error("the engine failed", exc_info=without_message(error))
            for caller in self.inbox.take_all():
                caller.fail(BarkError("an internal error; the server's log has it"))
            return False

    def _pass_on(self, event: Finished | Part) -> None:
        caller = event.tag[0]
        if isinstance(event, Finished):
            self.inbox.finish(caller, event.tag)
            if event.error is None:
                self._device_errors, self.is_ready = 0, True
            elif isinstance(event.error, DeviceError) and event.error is not self._last_error:  # one for many rows
                self._device_errors += 1
            self._last_error = event.error
        caller.receive(event)
