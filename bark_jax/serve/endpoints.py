"""Answers of the routes other than speech: models, voices, health and metrics."""

import time
from pathlib import PurePath

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from bark_jax.serve.access import RequireKey
from bark_jax.serve.errors import ApiError
from bark_jax.serve.limits import Admission
from bark_jax.serve.metrics import MEDIA_TYPE, Metrics
from bark_jax.serve.service import Service
from bark_jax.serve.settings import Settings
from bark_jax.serve.speaking import SpeechEndpoint
from bark_jax.voices.library import LANGUAGES


class Endpoints:
    """The routes' answers for one service."""

    def __init__(self, service: Service, settings: Settings):
        self._service, self._settings = service, settings
        admission = Admission(settings.max_requests, settings.max_open)
        self._metrics = Metrics(service, admission)
        self._speech = SpeechEndpoint(service, settings, admission, self._metrics)
        self._started = int(time.time())

    def routes(self) -> list[BaseRoute]:
        """All routes but those of the page. Those under /v1 and /metrics need the key."""
        with_key = [Middleware(RequireKey, key=self._settings.api_key)]
        return [
            Route("/v1/audio/speech", self._speech, methods=["POST"], middleware=with_key),
            Route("/v1/audio/voices", self.voices, middleware=with_key),
            Route("/v1/models", self.models, middleware=with_key),
            Route("/v1/models/{model:path}", self.one_model, middleware=with_key),
            Route("/metrics", self.metrics, middleware=with_key),
            Route("/health", self.health),
            Route("/ready", self.ready),
        ]

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

    async def metrics(self, request: Request) -> Response:
        """Returns the metrics."""
        return Response(self._metrics.text(), headers={"content-type": MEDIA_TYPE})

    async def health(self, request: Request) -> Response:
        """Says that the process works: 503 where it should be replaced."""
        fault = self._service.fault
        return JSONResponse({"status": fault or "ok"}, 503 if fault else 200)

    async def ready(self, request: Request) -> Response:
        """Says whether the programs are compiled: 503 until then. Requests that come earlier wait."""
        is_ready = self._service.is_ready
        return JSONResponse({"status": "ready" if is_ready else "starting"}, 200 if is_ready else 503)

    def _model(self) -> dict[str, object]:
        words, voice = self._service.words, self._settings.job.voice
        if voice is not None and voice not in self._service.voices:
            voice = PurePath(voice).stem  # of a file its name alone: where it lies concerns nobody
        return {
            "id": self._service.model,
            "object": "model",
            "created": self._started,
            "owned_by": "bark_jax",
            "sample_rate": self._service.sample_rate,
            "max_characters": self._settings.max_characters,
            "words": None if words is None else sorted(words),
            "default_voice": voice,
        }


def _described(name: str) -> dict[str, str | None]:
    code = name.rpartition("/")[2].partition("_")[0]
    return {"id": name, "name": name, "language": code if code in LANGUAGES else None}
