"""What each route answers."""

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from bark_jax.serve.errors import ApiError
from bark_jax.serve.responses import answer
from bark_jax.serve.service import Service
from bark_jax.serve.settings import Settings
from bark_jax.serve.speech import parse_speech
from bark_jax.voices.library import LANGUAGES


class Endpoints:
    """The routes' answers for one service."""

    def __init__(self, service: Service, settings: Settings):
        self._service, self._settings = service, settings
        self._voices = frozenset(service.voices)
        self._started = int(time.time())

    def routes(self) -> list[BaseRoute]:
        """All routes but those of the page."""
        return [
            Route("/v1/audio/speech", self.speech, methods=["POST"]),
            Route("/v1/audio/voices", self.voices),
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.one_model),
            Route("/health", self.health),
            Route("/ready", self.ready),
        ]

    async def speech(self, request: Request) -> Response:
        """Speaks a text."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ApiError(415, f"the content type is {media_type!r}, expected application/json")
        body = await request.body()
        asked = parse_speech(
            body, model=self._service.model, voices=self._voices, max_characters=self._settings.max_characters
        )
        return await answer(self._service, asked)

    async def voices(self, request: Request) -> Response:
        """Lists the voices."""
        return JSONResponse({"voices": [_described(name) for name in self._service.voices]})

    async def models(self, request: Request) -> Response:
        """Lists the one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one_model(self, request: Request) -> Response:
        """Describes a model by its name."""
        if (name := request.path_params["model"]) != self._service.model:
            raise ApiError(404, f"the model {name[:80]!r} is not served here", param="model", code="model_not_found")
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        """Says that the process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Says whether the programs are compiled: 503 until then."""
        is_ready = self._service.is_ready
        return JSONResponse({"status": "ready" if is_ready else "starting"}, 200 if is_ready else 503)

    def _model(self) -> dict[str, object]:
        return {"id": self._service.model, "object": "model", "created": self._started, "owned_by": "bark_jax"}


def _described(name: str) -> dict[str, str | None]:
    code = name.rpartition("/")[2].partition("_")[0]
    return {"id": name, "name": name, "language": code if code in LANGUAGES else None}
