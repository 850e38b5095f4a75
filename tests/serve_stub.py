"""A service without a model, for tests of what is HTTP: a text says how it is spoken. And a server on a thread.

"N parts"    noise in N parts, seeded by the request's seed
"held"       one part, and the rest once `release` is set
"device"     the device fails; "late device" after a first part
"silent"     no audio
"bug"        an exception that should not happen
"""

import asyncio
import contextlib
import socket
import threading

import numpy as np
import uvicorn

from bark_jax.batch.job import Job
from bark_jax.errors import DeviceError, InputError
from bark_jax.generation.live import Usage
from bark_jax.serve import Settings, make_app
from bark_jax.voices.voice import Voice

RATE = 24_000
PART = 4_800  # samples


def noise(seed, n_parts):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n_parts * PART).astype(np.float32)


def voice_of(seed):
    """The voice that a seed's clip has."""
    codes_QT = np.full((8, 3), seed % 1000)
    return Voice(semantic=np.array([seed % 1000, 1]), coarse=codes_QT[:2], fine=codes_QT)


class StubService:
    def __init__(self, words=None):
        self.words = words
        self.model, self.sample_rate, self.voices = "stub", RATE, ["v2/de_speaker_3", "slt"]
        self.n_slots, self.n_waiting, self.usage = 2, 0, Usage()
        self.is_ready, self.fault = False, None
        self.requests, self.speeches = [], []

    async def start(self):
        self.is_ready = True
        self.release = asyncio.Event()

    async def stop(self):
        self.is_ready = False

    async def speak(self, request):
        self.requests.append(request)
        if request.text == "bug":  # its message is not in the source line, which the log shows
            raise ZeroDivisionError("a bug, at text " + "".join(reversed("terces")))
        if "temperature" in request.settings and request.settings["temperature"] == 0:
            raise InputError("temperature is 0, expected 0.001 to 1000")
        self.speeches.append(StubSpeech(self, request))
        return self.speeches[-1]


class StubSpeech:
    def __init__(self, service, request):
        self._service, self._request = service, request
        self.is_closed, self.has_ended = False, False
        self.voice = voice_of(request.seed)

    def close(self):
        self.is_closed = True

    async def __aiter__(self):
        text = self._request.text
        if text == "silent":
            raise InputError("there is no audio")
        if text == "device":
            raise DeviceError("the device failed in the semantic stage")
        n_parts = int(text.split()[0]) if text[:1].isdigit() else 2
        samples = noise(self._request.seed, n_parts)
        if self._request.stream_format is None:
            if text == "held":
                await self._service.release.wait()
            yield samples
        else:
            for number, part in enumerate(np.split(samples, n_parts)):
                if number == 1 and text == "held":
                    await self._service.release.wait()
                if number == 1 and text == "late device":
                    raise DeviceError("the device failed in the coarse stage")
                yield part
        self.has_ended = True


def settings(**options):
    return Settings(Job("stub"), **options)


class Served:
    """A server that runs on a thread."""

    def __init__(self, service, port, loop):
        self.service, self.port, self._loop = service, port, loop
        self.url = f"http://127.0.0.1:{port}"

    def call(self, function, *arguments):
        """Calls a function on the server's event loop."""
        self._loop.call_soon_threadsafe(function, *arguments)


@contextlib.contextmanager
def serving(service, its_settings):
    """Runs a service's application with uvicorn on a free port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(service, its_settings), log_config=None, ws="none", loop="asyncio"))
    found, is_up = {}, threading.Event()

    async def main():
        found["loop"] = asyncio.get_running_loop()
        serve = asyncio.create_task(server.serve([listening]))
        while not server.started and not serve.done():
            await asyncio.sleep(0.01)
        is_up.set()
        await serve

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    is_up.wait()
    try:
        yield Served(service, listening.getsockname()[1], found["loop"])
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
