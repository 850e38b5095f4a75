"""Speech over HTTP, with OpenAI's speech API: `bark-jax serve`, and `make_app` for other ASGI servers.

    app.py             the application: routes, and what surrounds them
    settings.py        `Settings`: the model, limits and access
    access.py          who may ask: names of the server, origins of pages, the API key
    limits.py          size of a body, number of requests at once
    endpoints.py       what each route answers
    speech.py          the body of POST /v1/audio/speech, checked
    speaking.py        POST /v1/audio/speech: a file, a stream or events, to a client that reads slowly or leaves
    formats.py         audio samples to bytes of each format, complete or part by part
    voices.py          a voice in a request and in an event
    errors.py          errors in OpenAI's form
    metrics.py         /metrics
    page.py            the page at /
    service.py         what the application asks of a model: `Service`, and `open_service`
    spoken.py          a text of some caller, its sentences and their audio
    engine_thread.py   the thread that runs the engine for all callers
    inbox.py           requests on their way to that thread
    server.py          uvicorn: listens, logs, ends on a signal
    ray_app.py, ray_service.py    the application before models on a Ray cluster

It needs the extra `serve`: starlette, uvicorn and prometheus-client.
"""

from bark_jax.serve.app import make_app
from bark_jax.serve.service import Service, Speech, open_service
from bark_jax.serve.settings import Settings

__all__ = ["Service", "Settings", "Speech", "make_app", "open_service"]
