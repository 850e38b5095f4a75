"""`bark-jax serve` on a Ray cluster: the same application before any number of models, which may die and come back.

    proxy of Ray ──▶ Door: the application, without a model ──▶ ModelReplica: a model on its device
                                                            ──▶ ModelReplica, on this or another machine

From the shell, with `app` and its arguments (docs/serve_ray.md):

    serve run bark_jax.serve.ray_app:app model=suno/bark-small replicas=4 gpus=1

It needs the extras `ray` and `serve` on all nodes.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from bark_jax.batch.job import Job
from bark_jax.errors import BarkError, DeviceError, InputError, UnsupportedError, quoted
from bark_jax.serve.app import make_app
from bark_jax.serve.service import Service, open_service
from bark_jax.serve.settings import LOOPBACK_NAMES, Settings
from bark_jax.serve.speech import SpeechRequest

try:
    from ray import serve
    from ray.serve.handle import DeploymentHandle

    from bark_jax.serve.ray_service import Description, Item, RayService
except ImportError as error:
    raise UnsupportedError("bark_jax.serve.ray_app needs Ray Serve: pip install 'bark-jax[ray,serve]'") from error

KEY_VARIABLE = "BARK_JAX_API_KEY"
# Ray asks a replica for its health this often, and gives up on one that has not answered for so long: a chunk of the
# engine's steps holds Python back for seconds on a slow machine.
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 5.0, 60.0
# Time that a replica has, once Ray stops it, for what it speaks; another one speaks the rest.
STOP_WITHIN_S = 30.0
_POLL_S = 0.2

Number = TypeVar("Number", int, float)


class ModelReplica:
    """A model on its device, with compiled programs."""

    async def __init__(self, settings: Settings, opener: Callable[[Settings], Service]):
        self._service = await asyncio.to_thread(opener, settings)
        await self._service.start()
        while not self._service.is_ready:
            self.check_health()
            await asyncio.sleep(_POLL_S)

    def describe(self) -> Description:
        """Returns what the application needs to know of the model."""
        return Description.of(self._service)

    async def speak(self, request: SpeechRequest) -> AsyncIterator[Item]:
        """Yields what `Item` describes."""
        try:
            speech = await self._service.speak(request)
            try:
                yield None
                async for samples in speech:
                    yield samples
                if request.wants_voice and speech.voice is not None:
                    yield speech.voice
            finally:
                speech.close()  # also where Ray cancels, as the caller has left
        except BarkError as error:
            yield error

    def check_health(self) -> None:
        """Called by Ray, which replaces the replica after an exception. Raises DeviceError for a service at fault."""
        if (fault := self._service.fault) is not None:
            raise DeviceError(fault)


class Door:
    """The application, which checks, encodes and counts, and has the replicas speak."""

    async def __init__(self, settings: Settings, models: "DeploymentHandle[Any]"):
        service = RayService(models, await models.describe.remote())
        self._app = make_app(service, settings)

    def __serve_build_asgi_app__(self) -> Any:
        return self._app


def make_application(
    settings: Settings,
    *,
    n_replicas: int = 1,
    n_gpus: float = 0,
    n_doors: int = 1,
    opener: Callable[[Settings], Service] = open_service,
) -> serve.Application:
    """Makes the application for `ray.serve.run`.

        serve.run(make_application(Settings(Job("suno/bark-small"), hosts=None), n_replicas=4, n_gpus=1))

    Args:
      settings: of each model and of the application. `hosts` has to hold the names by which clients call Ray's proxy.
      n_replicas: models.
      n_gpus: GPUs of each model; 0 for a model on a CPU. Replicas reserve no CPUs: on a machine with fewer of them Ray
        would wait for ever.
      n_doors: copies of the application. Each has its own bound on requests; they take little of a CPU.
      opener: opens a replica's service, in its process.
    """
    models = serve.deployment(ModelReplica).options(
        name="bark_model",
        num_replicas=n_replicas,
        # The door bounds the requests of all replicas; in a replica, those wait that its engine has no slot for.
        max_ongoing_requests=settings.max_requests,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=STOP_WITHIN_S,
        ray_actor_options={"num_cpus": 0, "num_gpus": n_gpus},
    )
    door = serve.deployment(serve.ingress()(Door)).options(
        name="bark_door",
        num_replicas=n_doors,
        # More than are let in, so that those beyond are answered 429 by the application.
        max_ongoing_requests=2 * settings.max_open,
        graceful_shutdown_timeout_s=STOP_WITHIN_S,
        ray_actor_options={"num_cpus": 0},
    )
    return door.bind(settings, models.bind(settings, opener))


def app(arguments: dict[str, str]) -> serve.Application:
    """Makes the application of `serve run` and of Ray Serve's config file, from their arguments.

    Args:
      arguments: model, and optionally voice, dtype, replicas, gpus (of each replica), doors, slots and hosts (names
        with commas between them, or "*" for any; without it any if there is a key, else those of this machine). The
        API key comes from the environment variable BARK_JAX_API_KEY.

    Raises:
      InputError: the model is missing, an argument is unknown, or a number is none.
    """
    given = dict(arguments)
    if "model" not in given:
        raise InputError("model is missing, expected an argument such as model=suno/bark-small")
    hosts, slots = given.pop("hosts", None), given.pop("slots", None)
    job = Job(
        given.pop("model"),
        voice=given.pop("voice", None),
        dtype=given.pop("dtype", None),
        n_slots=None if slots is None else _number("slots", slots, int),
    )
    key = os.environ.get(KEY_VARIABLE)
    settings = Settings(job, api_key=key, hosts=_hosts(hosts, has_key=key is not None))
    n_replicas, n_doors = (_number(name, given.pop(name, 1), int) for name in ("replicas", "doors"))
    n_gpus = _number("gpus", given.pop("gpus", 0), float)
    if given:
        raise InputError(f"{quoted(min(given))} is no argument of the application; docs/serve_ray.md lists them")
    return make_application(settings, n_replicas=n_replicas, n_gpus=n_gpus, n_doors=n_doors)


def _hosts(given: str | None, *, has_key: bool) -> tuple[str, ...] | None:
    if given is None:
        return None if has_key else LOOPBACK_NAMES
    return None if given == "*" else tuple(given.split(","))


def _number(name: str, value: Any, kind: type[Number]) -> Number:
    try:
        return kind(value)
    except ValueError as error:
        raise InputError(f"{name} is {quoted(value)}, expected a number") from error
