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

import numpy as np
import soundfile

from bark_jax.batch import Job
from bark_jax.batch.runner import run_batch
from benchmarks.callers import Answer, ask_all, get
from benchmarks.throughput import write_texts
from benchmarks.timing import seconds

CALLERS = (1, 4, 16, 64)
# Requests of each caller at most: one caller need not ask for all texts.
MAX_EACH = 8


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """Runs `bark-jax serve` on a free port until the block ends; yields its address once it is ready."""
    command = [sys.executable, "-m", "bark_jax", "serve", "--port", "0", "--quiet", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = iter(process.stderr)
    try:
        url = next((line.split()[-1] for line in lines if " at http://" in line), None)
        assert url is not None, "the server did not start"
        threading.Thread(target=lambda: sys.stderr.writelines(lines), daemon=True).start()
        while get(url, "/ready")[0] != 200:
            assert process.poll() is None
            time.sleep(0.2)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def voices_of(url: str) -> list[str]:
    """Names of the server's voices."""
    return [voice["id"] for voice in json.loads(get(url, "/v1/audio/voices")[1])["voices"]]


def compare(model: str, dtype: str | None, n_slots: int, n_rows: int) -> Iterator[str]:
    """Yields a table of callers, and the ratios of the server's audio a second to those of the other two.

    The three take turns, twice; the first of the server's and the batch's runs compiles and is not counted.
    """
    job = Job(model, dtype=dtype, n_slots=n_slots)
    speaker, made_with = job.open_speaker(), job.made_with()
    options = ["--slots", str(n_slots), "--max-requests", str(max(CALLERS)), *(["--dtype", dtype] if dtype else [])]
    with tempfile.TemporaryDirectory() as work, running("-m", model, *options) as url:
        texts = write_texts(Path(work, "rows.jsonl"), n_rows)
        numbers = itertools.count()

        def batch() -> float:
            out = Path(work, str(next(numbers)))
            taken_s = seconds(
                lambda: run_batch(
                    f"{work}/rows.jsonl", out, lambda _: speaker, model=model, made_with=lambda: made_with
                )
            )
            return sum(soundfile.info(path).duration for path in (out / "audio").iterdir()) / taken_s

        def loop() -> float:
            clips = []
            some = range(min(MAX_EACH, n_rows))
            taken_s = seconds(lambda: clips.extend(speaker.bark.generate(texts[seed], seed=seed) for seed in some))
            return sum(clip.duration_s for clip in clips) / taken_s

        def serve(n_callers: int, stream_format: str | None = None) -> tuple[list[Answer], float]:
            bodies = [
                {"model": model, "input": text, "seed": seed, "response_format": "pcm", "stream_format": stream_format}
                for seed, text in enumerate(texts[: MAX_EACH * n_callers])
            ]
            answers, taken_s = ask_all(url, bodies, n_callers)
            assert all(answer.status == 200 for answer in answers)
            return answers, taken_s

        def rate(found: tuple[list[Answer], float]) -> float:
            answers, taken_s = found
            return sum(len(answer.data) for answer in answers) / 2 / speaker.bark.sample_rate / taken_s

        batch(), loop()
        rates = {"batch": [], "server": [], "loop": []}
        for _ in range(2):
            rates["batch"].append(batch())
            rates["server"].append(rate(serve(max(CALLERS))))
            rates["loop"].append(loop())
        yield "| callers | answers | requests a second | audio seconds a second | first audio, median | 95 % |"
        yield "|---|---|---|---|---|---|"
        for stream_format, n_callers in itertools.product((None, "audio"), CALLERS):
            found = serve(n_callers, stream_format)
            first_s = [answer.first_s for answer in found[0]]
            kind = "files" if stream_format is None else "streams"
            yield (
                f"| {n_callers} | {kind} | {len(found[0]) / found[1]:.2f} | {rate(found):.2f} "
                f"| {_s(first_s, 50)} | {_s(first_s, 95)} |"
            )
        means = {name: float(np.mean(found)) for name, found in rates.items()}
        yield ", ".join(f"{name} {value:.2f}" for name, value in means.items()) + " audio seconds a second"
        yield f"server, {max(CALLERS)} callers: {means['server'] / means['batch']:.2f} x bark-jax batch"
        yield f"server, {max(CALLERS)} callers: {means['server'] / means['loop']:.2f} x a loop over generate"


def _s(values: Sequence[float], percent: float) -> str:
    return f"{np.percentile(values, percent):.2f} s"
