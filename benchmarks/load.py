"""A load run: mixed requests of many callers, some of them bad and some who leave, for as long as one likes."""

import collections
import dataclasses
import random
import threading
import time
from typing import Any

from benchmarks.callers import ask, metrics, run_threads

TEXTS = ("one two three", "thank you very much", "five", "nine eight seven six", "The weather is beautiful today.")
LONG = "one two three. four five six! seven eight nine?"
SHARE_BAD, SHARE_LEAVING = 0.1, 0.1
# Of a request that may be answered with any of these; all else is a fault of the server.
BAD = (
    {"voice": "../../etc/passwd"},
    {"input": 5},
    {"input": "a" * 100_000},
    {"temperature": -1},
    {"no_such_setting": 1},
    {"response_format": "aac"},
    {"speed": 3},
)
# Later memory is compared with that of this part of the run: caches of the allocator and of JAX fill up before.
WARM_UP_SHARE = 0.25
MAX_GROWTH = 0.05  # of memory after that part; more is a fault


@dataclasses.dataclass
class Report:
    """Figures of a load run."""

    seconds: float = 0.0
    answers: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # by what was asked, status
    wrong: list[str] = dataclasses.field(default_factory=list)  # faults of the server, the first hundred
    audio_s: float = 0.0  # that the server counts
    memory_mb: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # (seconds, resident)
    left_open: float = 0.0  # requests and slots in use after the end

    @property
    def warm_memory_mb(self) -> float:
        """Most memory within the first part of the run."""
        return max(memory for second, memory in self.memory_mb if second <= WARM_UP_SHARE * self.seconds + 1)

    @property
    def growth(self) -> float:
        """Memory at the end over the most within the first part of the run, less 1."""
        return self.memory_mb[-1][1] / self.warm_memory_mb - 1

    def lines(self) -> list[str]:
        """The report as text."""
        counts = ", ".join(f"{asked} {status}: {count:,}" for (asked, status), count in sorted(self.answers.items()))
        return [
            f"{sum(self.answers.values()):,} requests in {self.seconds:.0f} s ({counts})",
            f"{self.audio_s:.0f} s of audio, {self.audio_s / self.seconds:.2f} a second",
            f"memory {self.memory_mb[0][1]:.0f} MB at the start, {self.warm_memory_mb:.0f} MB at most in the first "
            f"quarter, {self.memory_mb[-1][1]:.0f} MB at the end, {100 * self.growth:+.1f} %",
            f"{len(self.wrong)} wrong answers, {self.left_open:.0f} requests or slots left open",
            *self.wrong[:10],
        ]


def make_requests(voices: list[str | None], model: str, **settings: Any) -> list[dict[str, Any]]:
    """Requests of several texts, voices, seeds and formats, plain and streamed, whose answers are always the same.

    Not of Opus, whose files begin with a number that is drawn.
    """
    return [
        {
            "model": model,
            "input": text,
            "voice": voices[number % len(voices)],
            "seed": number,
            "response_format": ("pcm", "wav", "mp3", "flac")[number % 4],
            "stream_format": (None, "audio", "sse")[number // 2 % 3],
        }
        | settings
        for number, text in enumerate((*TEXTS, LONG) * 2)
    ]


def run_load(url: str, requests: list[dict[str, Any]], seconds: float, n_callers: int) -> Report:
    """Has n_callers send requests for some seconds, and compares each audio with that of the same request alone."""
    expected = [ask(url, request) for request in requests]
    assert all(answer.status == 200 for answer in expected), [answer.data[:200] for answer in expected]
    report, lock, numbers = Report(), threading.Lock(), iter(range(10**9))
    before, started = metrics(url), time.perf_counter()

    def observe() -> None:
        while not is_over.wait(2):
            report.memory_mb.append((time.perf_counter() - started, _memory_mb(url)))

    def call() -> None:
        while time.perf_counter() - started < seconds:
            with lock:
                dice = random.Random(next(numbers))
            asked, status, fault = _ask_something(url, requests, expected, dice)
            with lock:
                report.answers[asked, status] += 1
                if fault and len(report.wrong) < 100:
                    report.wrong.append(fault)

    is_over = threading.Event()
    report.memory_mb.append((0.0, _memory_mb(url)))
    observer = threading.Thread(target=observe)
    observer.start()
    report.seconds = run_threads(call, n_callers)
    is_over.set()
    observer.join()
    report.memory_mb.append((report.seconds, _memory_mb(url)))
    report.audio_s = metrics(url)["bark_jax_audio_seconds_total"] - before["bark_jax_audio_seconds_total"]
    report.left_open = _wait_until_closed(url)
    return report


def _ask_something(url: str, requests: list, expected: list, dice: random.Random) -> tuple[str, int, str | None]:
    """Sends one request of any kind: what was asked, the status, and what was wrong with the answer."""
    number, kind = dice.randrange(len(requests)), dice.random()
    request = requests[number]
    if kind < SHARE_BAD:
        bad = dice.choice(BAD)
        answer = ask(url, request | bad)
        fault = None if 400 <= answer.status < 500 else f"{answer.status} to {str(bad)[:80]}"
        return "bad", answer.status, fault
    if kind < SHARE_BAD + SHARE_LEAVING:
        time_s = dice.random()
        answer = ask(url, request, leave_after_bytes=0 if time_s < 0.5 else 1)
        return "leaving", answer.status, None if answer.status in (0, 429) else f"{answer.status} to one who leaves"
    answer = ask(url, request)
    if answer.status == 429:
        time.sleep(1)
        return "good", 429, None
    if answer.status != 200:
        return "good", answer.status, f"{answer.status}: {answer.data[:200]!r}"
    is_right = answer.data == expected[number].data
    return "good", 200, None if is_right else f"other audio for request {number}, {request['response_format']}"


def _memory_mb(url: str) -> float:
    return metrics(url)["process_resident_memory_bytes"] / 2**20


def _wait_until_closed(url: str) -> float:
    """Waits for those who left to be noticed; returns requests and slots that are still in use after a minute."""
    names = (
        "bark_jax_requests_open",
        'bark_jax_slots_in_use{stage="semantic"}',
        'bark_jax_slots_in_use{stage="coarse"}',
    )
    for _ in range(60):
        found = metrics(url)
        if not (left := sum(found[name] for name in names)):
            return 0.0
        time.sleep(1)
    return left
