"""Speech over HTTP, with OpenAI's speech API: `bark-jax serve`, and `make_app` for other ASGI servers.

    app.py             the application: routes, and what surrounds them
    endpoints.py       what each route answers
    speech.py          the body of POST /v1/audio/speech, checked
    responses.py       audio and events to a client that reads slowly or leaves
    formats.py         audio samples to bytes of each format, complete or part by part
    errors.py          errors in OpenAI's form
    page.py            the page at /
    service.py         what the application asks of a model: `Service`, and `open_service`
    settings.py        `Settings`: the model, limits and access

It needs the extra `serve`: starlette, uvicorn and prometheus-client.
"""

from bark_jax.serve.app import make_app
from bark_jax.serve.service import Service, Speech, open_service
from bark_jax.serve.settings import Settings

__all__ = ["Service", "Settings", "Speech", "make_app", "open_service"]
