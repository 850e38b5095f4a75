"""Whole jobs, texts in and audio files out: `bark-jax batch` beside transformers in batches and one by one.

The texts are those of `texts.txt`. With random weights no row ends by itself, so lengths are imposed: every sentence
has the number of semantic tokens that its estimated length of speech takes (`texts.Text.seconds`), and none ends
earlier. transformers gives all rows of a batch the length of the longest, as it does with trained weights, where rows
that have ended are padded until the last one ends. Its batches hold sentences of similar length, so little is padded.
Audio is counted by the sentences' own lengths for all.

Every method runs in a process of its own, which gives its peak memory. Loading is not timed; this project's first run,
which compiles, is not timed either.
"""

import functools
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import soundfile

from bark_jax.batch import Job
from bark_jax.batch.manifest import MANIFEST_FILE, read_entries
from bark_jax.batch.runner import run_batch
from benchmarks.measures import peak_memory
from benchmarks.parts import Ended, claim, ended_parts, run_parts
from benchmarks.report import describe_run
from benchmarks.texts import Text, texts
from benchmarks.timing import seconds

TOKENS_PER_S = 49.9
LIMIT_S = 3600.0  # of a method
HEAD = ("method", "audio seconds a second", "rows a second", "peak memory", "cost of an hour of speech", "bark-jax is")


class Method(NamedTuple):
    """A way to run the job."""

    contender: str  # "bark-jax batch" or "transformers"
    n_rows: int  # slots, or rows of a batch

    @property
    def name(self) -> str:
        """Name in the table."""
        if self.contender != "transformers":
            return f"{self.contender}, {self.n_rows} slots"
        return "transformers, one by one" if self.n_rows == 1 else f"transformers, batches of {self.n_rows}"

    @property
    def part(self) -> str:
        """Name of its part's file."""
        return f"{self.contender.replace(' ', '-')}-{self.n_rows:03d}"


class JobCase(NamedTuple):
    """Model and texts of a job."""

    model: str
    dtype: str
    n_texts: int
    max_seconds: float  # a longer sentence is cut


def chosen_texts(case: JobCase) -> list[Text]:
    """The job's sentences: every language and length early, repeated if there are too few."""
    every = texts()
    # A stride that is coprime with their number visits all.
    stride = next(step for step in range(7, len(every) + 7) if math.gcd(step, len(every)) == 1)
    return [every[index * stride % len(every)] for index in range(case.n_texts)]


def lengths_s(case: JobCase) -> list[float]:
    """The imposed length of each sentence's speech, in seconds."""
    return [min(text.seconds, case.max_seconds) for text in chosen_texts(case)]


def run(
    case: JobCase, slots: Sequence[int], *, has_transformers: bool, price: float | None, minutes: float, out: Path
) -> Iterator[str]:
    """Runs every method that has no result in `out` yet; yields a line for each, then the table.

    Args:
      price: of an hour of the machine, in any currency.

    Raises:
      ClickException: `out` holds another job.
    """
    deadline = time.monotonic() + 60 * minutes
    methods = [Method("bark-jax batch", n) for n in slots]
    if has_transformers:
        methods += [Method("transformers", n) for n in (*slots, 1)]
    claim(out, case._asdict())
    work = functools.partial(run_method, case=case)
    for method in methods:
        # A process for each, so that its peak memory is its own.
        one = {method.part: method}
        for _, ended in run_parts(out, one, work, deadline=deadline, limit_s=LIMIT_S):
            yield f"{method.name}: {ended.failure or 'done'}, {ended.seconds:.0f} s"
    yield write_table(case, methods, price, out)


def run_method(method: Method, *, case: JobCase) -> dict[str, Any]:
    """Runs a method, in a process of its own. Returns its figures as a JSON object."""
    run_it = _run_batch if method.contender == "bark-jax batch" else _run_transformers
    with tempfile.TemporaryDirectory() as work:
        taken_s, memory = run_it(case, method.n_rows, Path(work))
        audio_s = sum(soundfile.info(path).duration for path in Path(work).rglob("timed/**/*.wav"))
    expected_s = sum(lengths_s(case))
    assert abs(audio_s - expected_s) < 0.05 * expected_s + 0.1 * case.n_texts, (audio_s, expected_s)
    about = describe_run()
    return {"taken_s": taken_s, "audio_s": audio_s, "memory": memory, "about": about}


def _run_batch(case: JobCase, n_slots: int, work: Path) -> tuple[float, int]:
    """Seconds and peak bytes of `bark-jax batch`: its runner, engine and files, with the model loaded before."""
    rows = [
        {"id": str(number), "text": text.text, "settings": {"max_seconds": length_s, "allow_early_stop": False}}
        for number, (text, length_s) in enumerate(zip(chosen_texts(case), lengths_s(case), strict=True))
    ]
    source = work / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = Job(case.model, dtype=case.dtype, n_slots=n_slots)
    speaker, made_with = job.open_speaker(), job.made_with()

    def speak(out: Path) -> None:
        summary = run_batch(str(source), out, lambda _: speaker, model=case.model, made_with=lambda: made_with)
        if summary.finished != case.n_texts:
            entries = read_entries(out / MANIFEST_FILE)
            raise ValueError(next(entry["error"] for entry in entries if "error" in entry))

    speak(work / "first")
    return seconds(lambda: speak(work / "timed")), _peak_bytes(peak_memory())


def _run_transformers(case: JobCase, n_rows: int, work: Path) -> tuple[float, int]:
    """Seconds and peak bytes of transformers' `generate` on batches of similar length, and of writing the files."""
    import torch
    import transformers

    device = "cuda" if jax.default_backend() in ("gpu", "cuda") and torch.cuda.is_available() else "cpu"
    processor = transformers.BarkProcessor.from_pretrained(case.model)
    model = transformers.BarkModel.from_pretrained(case.model, dtype=getattr(torch, case.dtype)).to(device).eval()
    transformers.logging.set_verbosity_error()
    rows = sorted(zip(chosen_texts(case), lengths_s(case), strict=True), key=lambda row: row[1])
    (work / "timed").mkdir()

    def speak(first: int, n_tokens: int) -> None:
        batch = rows[first : first + n_rows]
        inputs = processor([text.text for text, _ in batch]).to(device)
        lengths = dict(semantic_max_new_tokens=n_tokens, semantic_min_new_tokens=n_tokens)
        with torch.inference_mode():
            audio_BA = model.generate(**inputs, **lengths, do_sample=True).float().cpu().numpy()
        rate = model.generation_config.sample_rate
        for number, (_, length_s) in enumerate(batch, first):
            samples = audio_BA.reshape(len(batch), -1)[number - first, : round(length_s * rate)]
            soundfile.write(work / "timed" / f"{number}.wav", samples, rate)

    def speak_all() -> None:
        for first in range(0, len(rows), n_rows):
            speak(first, max(1, round(max(length_s for _, length_s in rows[first : first + n_rows]) * TOKENS_PER_S)))

    speak(0, 20)  # loads what it loads late
    taken_s = seconds(speak_all)
    return taken_s, _peak_bytes(torch.cuda.max_memory_allocated() if device == "cuda" else None)


def _peak_bytes(on_device: int | None) -> int:
    """Peak bytes of the device if it counts them, else of this process."""
    if on_device is not None:
        return on_device
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_table(case: JobCase, methods: Sequence[Method], price: float | None, out: Path) -> str:
    """Writes OUT/jobs.md from the methods that have ended. Returns it."""
    ended = ended_parts(out, [method.part for method in methods])
    described = next((each.value["about"] for each in ended.values() if each.value is not None), None)
    if described is None:
        return "nothing was measured: " + "; ".join(f"{name}: {each.failure}" for name, each in ended.items())
    versions = ", ".join(f"{name} {version}" for name, version in described["versions"].items() if version)
    total_s = sum(lengths_s(case))
    lines = [
        f"`{described['command']}`",
        "",
        f"{described['device']}; {described['processor']}, {described['cpu_cores']} cores; {versions}.",
        f"{case.n_texts} sentences, {total_s:.1f} s of speech, of imposed lengths; {case.dtype}.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
        *(_table_row(case, method, ended, price) for method in methods if method.part in ended),
    ]
    report = "\n".join(lines) + "\n"
    (out / "jobs.md").write_text(report)
    return report


def _table_row(case: JobCase, method: Method, ended: Mapping[str, Ended], price: float | None) -> str:
    found = ended[method.part]
    if found.value is None:
        return f"| {method.name} | failed: {found.failure} | | | | |"
    rate = found.value["audio_s"] / found.value["taken_s"]
    cost = "" if price is None else f"{price / rate:.4g}"
    ratio = ""
    ours = ended.get(Method("bark-jax batch", method.n_rows).part)
    if method.n_rows == 1:  # beside the fastest of this project's
        rates = [each.value["audio_s"] / each.value["taken_s"] for name, each in ended.items() if _is_ours(name, each)]
        ratio = f"{max(rates) / rate:.2f} x as fast" if rates else ""
    elif method.contender == "transformers" and ours is not None and ours.value is not None:
        ratio = f"{ours.value['audio_s'] / ours.value['taken_s'] / rate:.2f} x as fast"
    memory = f"{found.value['memory'] / 1e9:.2f} GB"
    return f"| {method.name} | {rate:.3g} | {case.n_texts / found.value['taken_s']:.3g} | {memory} | {cost} | {ratio} |"


def _is_ours(name: str, ended: Ended) -> bool:
    return name.startswith("bark-jax") and ended.value is not None
