"""Batches: speaks a file of texts into a folder of audio with continuous batching, resumable after a kill.

    sources.py forms.py json_array.py rows.py    input: opens it, detects its format, parses it into rows
    ids.py auto_shard.py                         ids: checks as file names, seeds, shards; the shard of this process
    speech.py                                    rows to audio with `generation.engine`: split, speak, join
    job.py                                       the model and settings that rows are spoken with
    writer.py files.py parquet.py                audio to storage, on threads: a file a row, or Parquet files
    manifest.py run_folder.py                    the record of finished rows; the folder's lock and settings
    runner.py tally.py interrupts.py             one run: order of the steps, progress events, signals
    merge.py                                     joins the shards of many machines
    ray_engine.py                                speaks rows on a Ray cluster

A row is done once its line is in the manifest, which is written after its audio is on the disk. So re-running the same
call after any stop resumes: it skips the rows that are done. Nothing here imports JAX before a model is loaded.

    from bark_jax.batch import Job, run_job

    run_job("rows.jsonl", "out", Job("suno/bark-small", voice="v2/en_speaker_6"))
"""

from typing import TYPE_CHECKING

from bark_jax._system.lazy import lazy_names

_MODULE_BY_NAME = {
    "Job": "batch.job",
    "Output": "batch.runner",
    "Shard": "batch.ids",
    "Speaker": "batch.speech",
    "Summary": "batch.tally",
    "find_shard": "batch.auto_shard",
    "merge_shards": "batch.merge",
    "run_batch": "batch.runner",
    "run_job": "batch.job",
}

if TYPE_CHECKING:
    from bark_jax.batch.auto_shard import find_shard as find_shard
    from bark_jax.batch.ids import Shard as Shard
    from bark_jax.batch.job import Job as Job
    from bark_jax.batch.job import run_job as run_job
    from bark_jax.batch.merge import merge_shards as merge_shards
    from bark_jax.batch.runner import Output as Output
    from bark_jax.batch.runner import run_batch as run_batch
    from bark_jax.batch.speech import Speaker as Speaker
    from bark_jax.batch.tally import Summary as Summary
else:
    __getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_BY_NAME)
