"""Runs the application with uvicorn: listens, logs, and ends on a signal."""

import contextlib
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from bark_jax._system import stopping
from bark_jax.errors import InputError, quoted

# Connections at once, idle ones included. Each holds at most a header and a body of some 240 KB.
MAX_CONNECTIONS = 1024


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address to listen on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Opens the port, 0 for a free one.

    Raises:
      InputError: the host is no address, and no name of one.
      OSError: the port cannot be opened, such as one that is in use.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"host is {quoted(host)}, expected an address of this machine or its name: {error}") from error
    return socket.create_server(address[:2], family=family, backlog=MAX_CONNECTIONS)


def url_of(listening: socket.socket) -> str:
    """Returns the address of a listening socket for a browser."""
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: Starlette, listening: socket.socket, *, stop_within_s: float) -> None:
    """Serves until SIGINT or SIGTERM. Then it takes no more connections and finishes what runs.

    Args:
      stop_within_s: seconds for what runs; what is left then is cut off. A second signal ends the process at once.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        # uvloop would take the signals for itself, which `stopping` watches.
        loop="asyncio",
        ws="none",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(stop_within_s)),
    )
    server = _Server(config)
    with stopping.first_signal(server.stop):
        server.run(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn's server, which gets signals from `stopping` where that is installed."""

    def stop(self, number: int) -> None:
        """Takes a signal; its loop looks ten times a second."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the handlers alone where `stopping` has set its own."""
        with contextlib.nullcontext() if stopping.is_installed() else super().capture_signals():
            yield


def set_up_logging(*, is_quiet: bool) -> None:
    """Logs to stderr: one line a request, or with is_quiet warnings and errors alone."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("bark_jax.serve")
    logger.setLevel(logging.WARNING if is_quiet else logging.INFO)
    logger.addHandler(handler)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def leave() -> None:
    """Ends the process although XLA still computes or compiles on another thread, where a normal exit can crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
