"""Limits: the size of a body, and the number of requests at once."""

import contextlib
from collections.abc import Iterator

from starlette.requests import Request

from bark_jax.serve.errors import ApiError

# Bounds of Retry-After, in seconds.
MIN_RETRY_S, MAX_RETRY_S = 1, 60
# Of an answer that leaves a body unread: the server does not read it to its end to keep the connection.
HANG_UP = {"Connection": "close"}


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Reads a body and never holds more than max_bytes of it.

    Raises:
      ApiError: 413 for a longer one.
      ClientDisconnect: the client left.
    """
    message = f"the body is too long, expected at most {max_bytes:,} bytes"
    too_long = ApiError(413, message, code="body_too_long", headers=HANG_UP)
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise too_long
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise too_long
    return bytes(body)


class Ticket:
    """Admission of one request; it is held until the answer has been sent."""

    def __init__(self, admission: "Admission"):
        self._admission, self._is_speaking = admission, True

    def end_speaking(self) -> None:
        """Says that the text is spoken, or given up, and only sending is left."""
        if self._is_speaking:
            self._is_speaking = False
            self._admission.n_speaking -= 1


class Admission:
    """Counts requests and refuses those beyond the limits. It is used on the event loop alone.

    A request that is spoken, and whose client reads slowly, counts as open alone, of which there may be more.

    Args:
      max_speaking: requests that are spoken or wait for it.
      max_open: requests without a complete answer.
    """

    def __init__(self, max_speaking: int, max_open: int):
        self._max_speaking, self._max_open = max_speaking, max_open
        self.n_speaking = self.n_open = 0
        self._usual_s = float(MIN_RETRY_S)  # how long a text takes to be spoken, lately

    @contextlib.contextmanager
    def enter(self) -> Iterator[Ticket]:
        """Admits a request for the length of the block.

        Raises:
          ApiError: 429 with Retry-After, at a limit.
        """
        if self.n_speaking >= self._max_speaking or self.n_open >= self._max_open:
            retry_s = round(min(max(self._usual_s, MIN_RETRY_S), MAX_RETRY_S))
            full = f"{self.n_open} answers are open, some of them read slowly"
            if self.n_speaking >= self._max_speaking:
                full = f"{self.n_speaking} texts are being spoken or wait"
            raise ApiError(
                429,
                f"{full}, the maximum; try again in {retry_s} s",
                kind="rate_limit_error",
                code="too_many_requests",
                headers={"Retry-After": str(retry_s)},
            )
        self.n_speaking += 1
        self.n_open += 1
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            ticket.end_speaking()
            self.n_open -= 1

    def observe(self, seconds: float) -> None:
        """Counts the seconds that a text took, from which Retry-After follows."""
        self._usual_s += 0.2 * (seconds - self._usual_s)
