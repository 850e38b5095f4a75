"""Access: the names of the server, the origins of web pages, and the API key.

A web page of any site can make its visitor's browser send requests to this machine. So, whatever the address:

    Host       Only the server's own names are answered while it listens on this machine alone. A site whose name is
               pointed at 127.0.0.1 (DNS rebinding) is a name of its own. /health and /ready answer to any name, as
               probes call a machine by its address, and say nothing that a name protects.
    Origin     A browser names the page that asks. Only the server's own page is answered, and those that --cors-origin
               names.
    Content-Type    A body is JSON and says so: a form of another site cannot, without a question that CORS answers no.

Programs send no Origin, and are told apart by the key alone.
"""

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bark_jax.errors import quoted
from bark_jax.serve.errors import ApiError

PROBES = ("/health", "/ready")


class Guard:
    """Middleware that refuses requests of other hosts and origins.

    Args:
      hosts: names that `Host` may have, without port; None for any.
      origins: origins besides the server's own.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None, origins: tuple[str, ...]):
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with an error, or passes the request on."""
        refused = None
        if scope["type"] in ("http", "websocket"):
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            refused = self._refuse(Headers(scope=scope), is_probe=path in PROBES)
        app = self._app if refused is None else refused.response()
        await app(scope, receive, send)

    def _refuse(self, headers: Headers, *, is_probe: bool) -> ApiError | None:
        host = headers.get("host", "").lower()
        if self._hosts is not None and not is_probe and _without_port(host) not in self._hosts:
            return ApiError(
                421,
                f"the server is not called {quoted(host)}; it answers to {', '.join(sorted(self._hosts))}. Name others "
                "with --allow-host",
                code="unknown_host",
            )
        origin = headers.get("origin")
        if origin is None or origin in self._origins or _netloc(origin) == host:
            return None
        return ApiError(
            403, f"pages of {quoted(origin)} may not use this server; allow them with --cors-origin", code="origin"
        )


class RequireKey:
    """Middleware that refuses requests without the API key, "Authorization: Bearer KEY"; None for no key."""

    def __init__(self, app: ASGIApp, key: str | None):
        self._app = app
        self._digest = None if key is None else _digest(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with an error, or passes the request on."""
        if self._digest is None or self._has_key(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        refused = ApiError(
            401,
            "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refused.response()(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        assert self._digest is not None
        # Digests of one length, so that the time tells nothing of the key's length either.
        return scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._digest)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _without_port(host: str) -> str:
    """Returns "localhost" of "localhost:8000", and "[::1]" of "[::1]:8000"."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _netloc(origin: str) -> str | None:
    """Returns host and port of an origin; None for "null", which sandboxed pages and files have."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
