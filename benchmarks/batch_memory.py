"""Peak memory of a `bark-jax batch` process, for few rows and for many."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero")
WARM_UP = 40  # rows of the run that fills the compilation cache
COMMAND = [sys.executable, "-c", "from bark_jax.cli import main; main()", "batch"]


def write_rows(path: Path, n_rows: int) -> None:
    """Writes a JSON Lines file of rows: one to twelve words, max_seconds 0.05 to 0.3, every third with a voice."""
    dice = random.Random(0)
    with open(path, "w") as file:
        for number in range(n_rows):
            text = " ".join(dice.choice(WORDS) for _ in range(dice.randint(1, 12)))
            row = {"id": f"row-{number}", "text": text, "max_seconds": round(dice.uniform(0.05, 0.3), 2)}
            file.write(json.dumps(row | ({} if number % 3 else {"voice": "rms"})) + "\n")


def compare(counts: Sequence[int]) -> Iterator[str]:
    """Yields a line for each number of rows, then how much more memory the last takes than the first.

    Compiling takes memory too, so a short run before them fills the compilation cache and is not reported.

    Raises:
      SystemExit: a batch fails.
    """
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for index, n_rows in enumerate((WARM_UP, *counts)):
            rows, out = Path(folder, f"{index}.jsonl"), Path(folder, f"out-{index}")
            write_rows(rows, n_rows)
            started = time.perf_counter()
            process = subprocess.Popen([*COMMAND, rows, out, "-m", "tiny", "--quiet"], stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"bark-jax batch of {n_rows:,} rows ended with {process.returncode}")
            n_files = sum(1 for _ in Path(out, "audio").iterdir())
            if index == 0:
                continue
            peaks.append(used.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
            taken_s = time.perf_counter() - started
            yield f"{n_rows:,} rows: {n_files:,} files in {taken_s:,.0f} s, peak {peaks[-1] / 1e6:,.1f} MB"
    yield f"{counts[-1]:,} rows take {100 * (peaks[-1] / peaks[0] - 1):+.1f} % of the memory of {counts[0]:,}"
