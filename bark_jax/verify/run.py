"""Runs the parts of a verification one after the other and writes the folder of the report.

No two parts have a model in memory at the same time. The order leaves what needs most memory to the end: if the system
ends the process there, the progress on stderr already lists what the other parts found.
"""

import datetime
import gc
import json
import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bark_jax import __version__
from bark_jax._system.own_jax_config import under_own_config
from bark_jax._system.versions import installed_versions
from bark_jax.checkpoints.find import find_model
from bark_jax.checkpoints.load import parse_dtype, read_configs
from bark_jax.errors import InputError
from bark_jax.files import as_path, atomic_folder, write_atomically
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.verify.checkpoint import size_of
from bark_jax.verify.machine import describe_machine
from bark_jax.verify.parts import PARTS, OnLine, Run
from bark_jax.verify.recordings import find_recordings
from bark_jax.verify.report import FAILED, JSON_FILE, MARKDOWN_FILE, Part, Report

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers", "pocketsphinx", "matplotlib")


@under_own_config
def verify(
    model: str,
    out: str | os.PathLike,
    *,
    revision: str | None = None,
    parts: Collection[str] = (),
    recordings: str | os.PathLike | None = None,
    dtype: str | None = None,
    is_quick: bool = False,
    overwrite: bool = False,
    on_line: OnLine = lambda line: None,
) -> Report:
    """Verifies a checkpoint and writes a folder with the report, clips and their figures, atomically.

        files        SHA-256 of the checkpoint's files
        recordings   logits, greedy tokens and codes, against those recorded of a published model
        clips        a clip in each language of the model, with figure and hashes of its tokens
        words        word error of a speech recogniser on English sentences
        speed        seconds and rate of each stage
        parity       comparison with transformers, stage by stage

    A part that fails does not end the others. The comparisons are in float32.

    Args:
      model: a Hub id, a folder, or "tiny".
      out: the folder to make.
      revision: of a Hub id.
      parts: names of PARTS; empty for all. Parts that cannot run here are skipped, with the reason.
      recordings: a folder of recordings (`verify.recordings`); None skips that part.
      dtype: of clips, words and speed, as for `Bark.from_pretrained`; None is the checkpoint's own.
      is_quick: less of each part: one clip, two sentences, one run a stage, short clips for the speed.
      overwrite: replaces a report that is in `out`.
      on_line: called with a line of text as each part starts, and with what it found.

    Returns:
      The report that was written, without paths and names of users.

    Raises:
      InputError: an argument is out of range, or `out` cannot be made; before a network is loaded.
      ModelNotFoundError: the model is neither on this machine nor on the Hub.
      OutputError: `out` cannot be written.
    """
    if unknown := set(parts) - set(PARTS):
        raise InputError(f"parts has {', '.join(sorted(map(str, unknown)))}, expected some of {', '.join(PARTS)}")
    parse_dtype(dtype)
    recorded = None if recordings is None else as_path(recordings, "the recordings' folder")
    if recorded is None and "recordings" in parts:
        raise InputError("the part 'recordings' needs the folder of the recordings (--recordings); see docs/verify.md")
    if recorded is not None:
        find_recordings(recorded)
    with atomic_folder(out, overwrite=overwrite, kind="report") as folder:
        found = find_model(model, revision=revision)
        config, generation_config = read_configs(found)
        spaces = TokenSpaces.from_config(generation_config)
        run = Run(model, revision, found, config, spaces, dtype, recorded, parts, is_quick, folder, on_line)
        done = [_run_part(run, name) for name in PARTS if not parts or name in parts]
        report = Report(_about(run), done).posted(_known_paths(run, out))
        for name, text in ((JSON_FILE, json.dumps(report.to_dict(), indent=2)), (MARKDOWN_FILE, report.to_markdown())):
            write_atomically(folder / name, text.encode())
    return report


def _run_part(run: Run, name: str) -> Part:
    """Runs one part. An error becomes a part that says so: whatever fails, the others are still worth having."""
    run.on_line(f"{name} ...")
    try:
        part = PARTS[name](run)
    except Exception as error:  # of a driver, a compiler or a library: any type
        part = Part(name, FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")
    gc.collect()  # the part's model, before the next one loads its own
    run.on_line(f"{name}: {part.status}{part.note and ', '}{part.note}")
    return part


def _about(run: Run) -> dict[str, Any]:
    versions = {"bark_jax": __version__, "Python": platform.python_version(), "system": platform.platform()}
    return {
        "model": _label(run.model),
        "revision": run.revision or "default",
        "size": size_of(run.config),
        "dtype": run.dtype or "the checkpoint's own",
        "quick": run.is_quick,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": describe_machine(),
        "versions": versions | installed_versions(PACKAGES),
    }


def _label(model: str) -> str:
    """A Hub id as it is; of a folder the name."""
    return Path(model).resolve().name if os.path.isdir(model) else model


def _known_paths(run: Run, out: str | os.PathLike) -> Mapping[str, str]:
    """Paths that messages of this run may have, and what to write for them."""
    given = {run.recordings: "RECORDINGS", out: "REPORT"} | ({run.model: "MODEL"} if os.path.isdir(run.model) else {})
    known = {str(run.found): "MODEL", str(run.folder): "REPORT"}
    for path, name in given.items():
        if path is not None:
            known |= {os.path.abspath(path): name, os.path.realpath(path): name}
            # A name without a folder could be a word of any message, and tells nothing.
            known |= {os.fspath(path): name} if len(Path(path).parts) > 1 else {}
    return {path: name for path, name in known.items() if path != "/"}
