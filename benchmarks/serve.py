"""The server beside `bark-jax batch` and a loop over `generate`, on the same texts; and a server to load."""

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from bark_jax.batch import Job
from bark_jax.batch.runner import run_batch
from benchmarks.callers import Answer, ask_all, get, metrics
from benchmarks.throughput import write_texts
from benchmarks.timing import seconds

MAX_CALLERS = 64  # beside `bark-jax batch`


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """Runs `bark-jax serve` on a free port until the block ends; yields its address once it is ready."""
    command = [sys.executable, "-m", "bark_jax", "serve", "--port", "0", "--quiet", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines, copying = iter(process.stderr), list[threading.Thread]()
    try:
        url = next((line.split()[-1] for line in lines if " at http://" in line), None)
        assert url is not None, "the server did not start"
        copying.append(threading.Thread(target=lambda: sys.stderr.writelines(lines), daemon=True))
        copying[0].start()
        while get(url, "/ready")[0] != 200:
            assert process.poll() is None
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        for thread in copying:
            thread.join()
        process.stderr.close()


def voices_of(url: str) -> list[str]:
    """Names of the server's voices."""
    return [voice["id"] for voice in json.loads(get(url, "/v1/audio/voices")[1])["voices"]]


class Rate(NamedTuple):
    """Audio seconds, the seconds they took, and those of all cores in the process that made them."""

    audio_s: float
    taken_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Audio seconds a second."""
        return self.audio_s / self.taken_s

    @property
    def per_cpu_s(self) -> float:
        """Audio seconds a second of all cores."""
        return self.audio_s / self.cpu_s

    def plus(self, other: "Rate") -> "Rate":
        """Returns both runs as one."""
        return Rate(*(mine + its for mine, its in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{self.per_s:.2f} audio seconds a second, {self.per_cpu_s:.2f} a second of all cores"


def compare(
    model: str, dtype: str | None, n_slots: int, n_rows: int, n_each: int, repeats: int, callers: Sequence[int]
) -> Iterator[str]:
    """Yields a table of callers, and the ratios of the server's audio a second to those of batch and loop.

    The three take turns. Beside wall time stands that of all cores in the process, which other processes on the machine
    change less.
    """
    job = Job(model, dtype=dtype, n_slots=n_slots)
    speaker, made_with = job.open_speaker(), job.made_with()
    options = [
        "--slots",
        str(n_slots),
        "--max-requests",
        str(max(MAX_CALLERS, *callers)),
        *(["--dtype", dtype] if dtype else []),
    ]
    with tempfile.TemporaryDirectory() as work, running("-m", model, *options) as url:
        texts = write_texts(Path(work, "rows.jsonl"), n_rows)
        write_texts(Path(work, "few.jsonl"), n_slots)
        numbers = itertools.count()

        def batch(rows: str = "rows") -> Rate:
            out, cpu_s = Path(work, str(next(numbers))), time.process_time()
            taken_s = seconds(
                lambda: run_batch(
                    f"{work}/{rows}.jsonl", out, lambda _: speaker, model=model, made_with=lambda: made_with
                )
            )
            audio_s = sum(soundfile.info(path).duration for path in (out / "audio").iterdir())
            return Rate(audio_s, taken_s, time.process_time() - cpu_s)

        def loop(n_texts: int) -> Rate:
            clips, cpu_s = [], time.process_time()
            numbered = enumerate(texts[:n_texts])
            taken_s = seconds(lambda: clips.extend(speaker.bark.generate(text, seed=seed) for seed, text in numbered))
            return Rate(sum(clip.duration_s for clip in clips), taken_s, time.process_time() - cpu_s)

        def serve(n_callers: int, n_texts: int, stream_format: str | None = None) -> tuple[list[Answer], Rate]:
            bodies = [
                {"model": model, "input": text, "seed": seed, "response_format": "pcm", "stream_format": stream_format}
                for seed, text in enumerate(texts[:n_texts])
            ]
            cpu_s = metrics(url)["process_cpu_seconds_total"]
            answers, taken_s = ask_all(url, bodies, n_callers)
            assert all(answer.status == 200 for answer in answers)
            audio_s = sum(len(answer.data) for answer in answers) / 2 / speaker.bark.sample_rate
            return answers, Rate(audio_s, taken_s, metrics(url)["process_cpu_seconds_total"] - cpu_s)

        batch("few"), loop(1)  # compiles; the server has
        rates: dict[str, Rate] = {}
        for _ in range(repeats):
            for name, run in (
                ("server", lambda: serve(MAX_CALLERS, n_rows)[1]),
                ("bark-jax batch", batch),
                ("a loop over generate", lambda: loop(n_each)),
            ):
                rates[name] = rates.get(name, Rate(0, 0, 0)).plus(run())
        for name, rate in rates.items():
            yield f"{name}: {rate}"
        ours = rates.pop("server")
        for name, other in rates.items():
            yield (
                f"server, {MAX_CALLERS} callers: {ours.per_s / other.per_s:.2f} x {name}; "
                f"{ours.per_cpu_s / other.per_cpu_s:.2f} x by seconds of all cores"
            )
        yield "| callers | answers | requests a second | audio seconds a second | first audio, median | 95 % |"
        yield "|---|---|---|---|---|---|"
        for stream_format, n_callers in itertools.product((None, "audio"), callers):
            answers, rate = serve(n_callers, min(n_rows, n_each * n_callers), stream_format)
            first_s = [answer.first_s for answer in answers]
            kind = "files" if stream_format is None else "streams"
            yield (
                f"| {n_callers} | {kind} | {len(answers) / rate.taken_s:.2f} | {rate.per_s:.2f} "
                f"| {_s(first_s, 50)} | {_s(first_s, 95)} |"
            )


def _s(values: Sequence[float], percent: float) -> str:
    return f"{np.percentile(values, percent):.2f} s"
