"""The page at /: one file, `page/index.html`, with its script and style in it."""

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

PAGE = Path(__file__).parent / "page" / "index.html"

_INLINE = {
    "script-src": re.compile(r"<script>(.*?)</script>", re.DOTALL),
    "style-src": re.compile(r"<style>(.*?)</style>", re.DOTALL),
}


def page_routes() -> list[BaseRoute]:
    """Returns the page's route. The page is read once; it is the same for everybody and holds no secret."""
    html = PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": content_security_policy(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    async def page(request: Request) -> Response:
        return Response(html, headers=headers, media_type="text/html")

    return [Route("/", page)]


def content_security_policy(html: str) -> str:
    """Returns the header by which a browser runs the page's own script and style, and loads nothing of other hosts.

    Both are named by their hashes, so a script that found its way into the page would not run.
    """
    inline = {name: " ".join(_hash(text) for text in pattern.findall(html)) for name, pattern in _INLINE.items()}
    policy = {
        "default-src": "'none'",
        **inline,
        "connect-src": "'self'",
        "img-src": "data:",
        "media-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in policy.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
