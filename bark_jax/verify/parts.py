"""The parts of a verification: each takes a `Run` and returns a `Part`.

They may raise anything: `run.verify` makes a part of the error.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from bark_jax.bark import Bark
from bark_jax.bench import DEFAULT_SECONDS, benchmark
from bark_jax.checkpoints import snapshots
from bark_jax.checkpoints.model_folder import read_manifest
from bark_jax.config import BarkConfig
from bark_jax.errors import UnsupportedError
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel
from bark_jax.parity.comparison import compare
from bark_jax.parity.reference import import_torch
from bark_jax.parity.rows import Row
from bark_jax.verify import checkpoint, machine
from bark_jax.verify.recordings import find_recordings
from bark_jax.verify.replay import BFLOAT16_BOUND, FLOAT16_BOUND, replay
from bark_jax.verify.report import FAILED, MEASURED, SKIPPED, Part, part_of_rows
from bark_jax.verify.speech import import_listen, measure_words, speak_languages

CLIPS_FOLDER = "clips"
FULL_PARITY_TOKENS, QUICK_PARITY_TOKENS = 200, 40
QUICK_SECONDS = 2.0
FULL_REPEATS, QUICK_REPEATS = 3, 1

OnLine = Callable[[str], None]  # called with a line about what starts or was found


@dataclasses.dataclass(frozen=True)
class Run:
    """The arguments of `verify`, and what is known of the model before networks are loaded."""

    model: str
    revision: str | None
    found: Path  # the model folder
    config: BarkConfig
    spaces: TokenSpaces
    dtype: str | None
    recordings: Path | None
    asked: Collection[str]  # parts that were asked for by name
    is_quick: bool
    folder: Path  # that is being filled
    on_line: OnLine

    def on_row(self, row: Row) -> None:
        """Reports a comparison."""
        self.on_line(f"{row.stage}: {row.check}: {row.found} {'ok' if row.is_within else 'WRONG'}")


def find_files(run: Run) -> Part:
    """Lists the checksums of the checkpoint, and of what it was converted to."""
    folder = checkpoint.source_folder(run.model, run.revision, run.found)
    rows = list(checkpoint.checksums(folder))
    values: dict[str, Any] = {"files": {name: {"sha256": sha256, "bytes": size} for name, sha256, size in rows}}
    if (commit := snapshots.snapshot_name(folder)) is not None:
        values["commit"] = commit
    if folder.resolve() != run.found.resolve():
        values["converted"] = {name: record.sha256 for name, record in read_manifest(run.found).files.items()}
    table = [("file", "SHA-256", "bytes"), *((name, sha256, f"{size:,}") for name, sha256, size in rows)]
    return Part("files", MEASURED, values.get("commit", ""), values, table)


def replay_recordings(run: Run) -> Part:
    """Compares the model with recordings of a published one."""
    if run.recordings is None:
        return Part("recordings", SKIPPED, "no recordings were given")
    # Without the decoding copy, which would take 2.6 GB more of the large model.
    model = BarkModel.from_pretrained(str(run.found), dtype="float32", attn_implementation="xla", decoding_copy=False)
    names, rows = find_recordings(run.recordings), []
    with jax.default_matmul_precision("highest"):
        for row in replay(model, run.recordings, names, is_quick=run.is_quick):
            run.on_row(row)
            rows.append(row)
    return part_of_rows("recordings", rows, _fit(rows, checkpoint.size_of(run.config)))


def _fit(rows: list[Row], size: str) -> str:
    """Says whether the recorded logits are of this model."""
    excess = [row.difference / row.bound for row in rows if row.difference is not None and row.bound]
    if not excess:
        return "" if any(row.n_total for row in rows) else f"no file could be replayed by this model (size: {size})"
    if max(excess) <= 1:
        return f"the recordings fit this model (size: {size})"
    if max(excess) <= BFLOAT16_BOUND / FLOAT16_BOUND:
        return f"the recorded logits are this model's (size: {size}), but differ by more than float16 explains"
    return f"the recorded logits do not fit this model (size: {size}); they may be of the other published size"


def make_clips(run: Run) -> Part:
    """Speaks a clip in each language."""
    bark = _load(run)
    clips = []
    for clip in speak_languages(bark, run.folder / CLIPS_FOLDER, is_quick=run.is_quick):
        run.on_line(f"clips: {clip['language']} {clip.get('problem', 'spoken')}")
        clips.append(clip)
    failed = [clip["language"] for clip in clips if "problem" in clip]
    table = [("language", "voice", "seconds", "semantic tokens' SHA-256", "fine codes' SHA-256", "files")]
    for clip in clips:
        tokens = clip.get("tokens", {})
        made = [f"{CLIPS_FOLDER}/{clip[kind]}" for kind in ("audio", "figure") if kind in clip]
        files = ", ".join(made) or clip["problem"]
        hashes = [tokens.get(stage, "")[:16] for stage in ("semantic", "fine")]
        table.append((clip["language"], clip.get("voice") or "none", str(clip.get("seconds", "")), *hashes, files))
    note = f"not spoken: {', '.join(failed)}" if failed else ""
    return Part("clips", FAILED if failed else MEASURED, note, {"clips": clips}, table)


def measure_word_error(run: Run) -> Part:
    """Scores what a recogniser hears; skipped if none is installed."""
    try:
        import_listen()  # before a model is loaded
    except UnsupportedError as error:
        return Part("words", SKIPPED, f"not installed: {error}")
    found = measure_words(_load(run), run.folder / CLIPS_FOLDER, is_quick=run.is_quick)
    wrong, control = found["word_error"], found["word_error_of_other_text"]
    note = f"{wrong:.0%} of the words are wrong; {control:.0%} where the text is another sentence's"
    table = [("text", "heard"), *((each["text"], each["heard"]) for each in found["sentences"])]
    return Part("words", MEASURED, note, found, table)


def measure_speed(run: Run) -> Part:
    """Measures each stage."""
    longest_s = float(run.spaces.max_semantic / run.spaces.semantic_rate)
    report = benchmark(
        str(run.found),
        dtypes=(run.dtype,),
        seconds=min(QUICK_SECONDS if run.is_quick else DEFAULT_SECONDS, longest_s),
        repeats=QUICK_REPEATS if run.is_quick else FULL_REPEATS,
        on_call=lambda line: run.on_line(f"speed: {line}"),
    )
    (measured,) = report.runs
    table = [("stage", "median s", "a second")]
    for stage, timing in measured.stages.items():
        table.append((stage, f"{timing.median_s:.3f}", f"{timing.rate:,.1f} {timing.unit}"))
    total = measured.end_to_end
    table.append(("end to end", f"{total.median_s:.3f}", f"{total.rate:.2f} x real time"))
    note = f"{measured.label}, {report.clip_s:.2f} s clip: {total.rate:.2f} x real time"
    return Part("speed", MEASURED, note, {"bench": report.to_dict()}, table)


def compare_with_transformers(run: Run) -> Part:
    """Compares the model with transformers'; skipped if that is not installed or memory is short."""
    try:
        import_torch()
    except UnsupportedError as error:
        return Part("parity", SKIPPED, f"not installed: {error}")
    needed, free = 2 * checkpoint.float32_bytes(run.config), machine.free_memory()
    if "parity" not in run.asked and free is not None and free < needed:
        return Part(
            "parity",
            SKIPPED,
            f"both models in float32 take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; --part parity runs it",
        )
    rows = compare(
        run.model,
        revision=run.revision,
        max_new_tokens=min(QUICK_PARITY_TOKENS if run.is_quick else FULL_PARITY_TOKENS, run.spaces.max_semantic),
        on_row=run.on_row,
    )
    return part_of_rows("parity", rows)


def _load(run: Run) -> Bark:
    return Bark.from_pretrained(run.model, revision=run.revision, dtype=run.dtype)


# In the order in which they run. The comparison with transformers is last, as it has two models in memory.
PARTS: Mapping[str, Callable[[Run], Part]] = {
    "files": find_files,
    "recordings": replay_recordings,
    "clips": make_clips,
    "words": measure_word_error,
    "speed": measure_speed,
    "parity": compare_with_transformers,
}
