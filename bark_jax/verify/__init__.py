"""Verification: one report on a checkpoint that can be posted as it is.

    report = verify("suno/bark-small", "verify-bark-small", recordings="recordings")
    print(report.to_markdown())

Its files:

    run.py          runs the parts one after the other and writes the folder
    parts.py        one function for each part
    report.py       the report: parts, JSON, Markdown; private.py takes paths and names of users out of it
    checkpoint.py   checksums, size and memory of the checkpoint; machine.py: devices and free memory
    recordings.py   reads recordings of a published model; replay.py compares the model with them
    speech.py       a clip for each language; word error of a recogniser
"""

from typing import TYPE_CHECKING

from bark_jax._system.lazy import lazy_names

_MODULE_BY_NAME = {"Part": "verify.report", "Report": "verify.report", "verify": "verify.run"}

if TYPE_CHECKING:
    from bark_jax.verify.report import Part as Part
    from bark_jax.verify.report import Report as Report
    from bark_jax.verify.run import verify as verify

__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)
