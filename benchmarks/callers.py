"""Callers of a server, with the standard library alone: what benchmarks and load runs send, and what came back."""

import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """The answer to a request, and its times."""

    status: int  # 0 for a caller who left
    data: bytes
    first_s: float  # from the request to the first byte of the body
    total_s: float


def ask(url: str, body: Mapping[str, Any], *, leave_after_bytes: int | None = None, timeout_s: float = 600) -> Answer:
    """Asks for speech and reads the answer.

    Args:
      url: the server, "http://127.0.0.1:8000".
      leave_after_bytes: closes the connection after as much audio, with 0 before any.
    """
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=timeout_s)
    started = time.perf_counter()
    try:
        connection.request("POST", "/v1/audio/speech", json.dumps(body), {"Content-Type": "application/json"})
        if leave_after_bytes == 0:
            return Answer(0, b"", 0.0, time.perf_counter() - started)
        response = connection.getresponse()
        data = response.read1(1024)
        first_s = time.perf_counter() - started
        if leave_after_bytes is not None and response.status == 200:
            return Answer(0, data, first_s, first_s)
        while piece := response.read1(65_536):
            data += piece
        return Answer(response.status, data, first_s, time.perf_counter() - started)
    finally:
        connection.close()


def ask_all(url: str, bodies: Sequence[Mapping[str, Any]], n_callers: int) -> tuple[list[Answer], float]:
    """Has n_callers ask for all bodies, each caller one after the other. Returns the answers and the seconds taken."""
    answers: list[Answer | None] = [None] * len(bodies)
    numbers = iter(range(len(bodies)))
    lock = threading.Lock()

    def call() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            answers[number] = ask(url, bodies[number])

    taken_s = run_threads(call, n_callers)
    return [answer for answer in answers if answer is not None], taken_s


def run_threads(function: Callable[[], None], n: int) -> float:
    """Runs a function on n threads; returns the seconds until the last ends."""
    started = time.perf_counter()
    threads = [threading.Thread(target=function) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


def get(url: str, path: str) -> tuple[int, str]:
    """Reads a page of the server: status and text."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metrics(url: str) -> dict[str, float]:
    """Reads the server's metrics, by name and labels as Prometheus writes them."""
    lines = [line for line in get(url, "/metrics")[1].splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
