"""The ASGI application: routes, what every request passes, and the service's life with it."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from bark_jax.errors import BarkError
from bark_jax.serve.access import Guard
from bark_jax.serve.endpoints import Endpoints
from bark_jax.serve.errors import ApiError, as_api_error
from bark_jax.serve.page import page_routes
from bark_jax.serve.service import Service
from bark_jax.serve.settings import Settings


def make_app(service: Service, settings: Settings) -> Starlette:
    """Makes the application of a service, for any ASGI server. It starts the service and stops it.

    app = make_app(open_service(settings), settings)
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    return Starlette(
        routes=[*Endpoints(service, settings).routes(), *page_routes()],
        middleware=_middleware(settings),
        exception_handlers={BarkError: _on_bark_error, HTTPException: _on_http_error},
        lifespan=lifespan,
    )


def _middleware(settings: Settings) -> list[Middleware]:
    """Returns the checks that every request passes, the outermost first."""
    found = [Middleware(Guard, hosts=settings.hosts, origins=settings.cors_origins)]
    if settings.cors_origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
                expose_headers=["X-Seed", "X-Request-Id", "Retry-After"],
            )
        )
    return found


async def _on_bark_error(request: Request, error: Exception) -> Response:
    return as_api_error(error).response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:80]}: {error.detail}"
    return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()
