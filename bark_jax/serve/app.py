"""The ASGI application: routes, errors, and the service's life with it."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bark_jax.errors import BarkError, DeviceError, InputError, VoiceError, VoiceNotFoundError
from bark_jax.serve.endpoints import Endpoints
from bark_jax.serve.errors import ApiError
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
        exception_handlers={BarkError: _on_bark_error, HTTPException: _on_http_error},
        lifespan=lifespan,
    )


async def _on_bark_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return error.response()
    if isinstance(error, DeviceError):
        return ApiError(503, "the device failed; try again", kind="server_error", code="device_error").response()
    if isinstance(error, (InputError, VoiceError, VoiceNotFoundError)):
        return ApiError(400, str(error)).response()
    return ApiError(500, str(error), kind="server_error").response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:80]}: {error.detail}"
    return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()
