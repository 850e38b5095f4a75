"""Speaks many rows, each with a voice and a seed of its own, into a folder with a manifest.

    python examples/batch_of_lines.py OUT

writes OUT/rows.jsonl, OUT/speech/audio/*.flac and OUT/speech/manifest.jsonl. Run it again: rows that are done are not
spoken again. On the command line this is `bark-jax batch OUT/rows.jsonl OUT/speech -m tiny --audio flac`.
"""

import json
import sys
from pathlib import Path

from bark_jax.batch import Job, Output, run_job

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

lines = [
    ("door", "Please open the window.", "slt", 1),
    ("train", "We will leave at seven in the morning.", "rms", 2),
    ("number", "The number is one nine four.", "slt", 3),
    ("letter", "There are twelve letters on the table.", "rms", 4),
]
keys = ("id", "text", "voice", "seed")
rows = out / "rows.jsonl"
rows.write_text("".join(json.dumps(dict(zip(keys, line, strict=True))) + "\n" for line in lines))

summary = run_job(str(rows), out / "speech", Job("tiny"), Output(audio="flac"))
print(f"{summary.finished} finished, {summary.failed} failed")
for line in (out / "speech" / "manifest.jsonl").read_text().splitlines():
    entry = json.loads(line)
    print(entry["id"], entry.get("file"), entry.get("seconds"), entry.get("error", ""))
