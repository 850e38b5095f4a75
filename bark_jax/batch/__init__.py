"""Many rows: a file of texts to a folder of audio, at the engine's speed, resumable after anything.

    rows.py sources.py ids.py         lines to rows; where they come from; names that can be files', seeds, shards
    speech.py                         rows to audio by `generation.engine`: texts cut, spoken, joined
    job.py                            which model speaks them, and with what settings
    writer.py files.py parquet.py     audio to files, on threads: one a row, or Parquet parts of many
    manifest.py run_folder.py         what is done; who fills a folder, and with what settings
    runner.py tally.py interrupts.py  all of it as one run, which tells how far it is and can be told to stop
    merge.py                          the shards of many machines as one
    ray_engine.py                     the same rows through Ray Data

A row is done once its line is in the manifest, which is written after its file. So whatever stops a run, the same call
again goes on with what is not done. Nothing here imports JAX before a model is loaded.

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
    "merge_shards": "batch.merge",
    "run_batch": "batch.runner",
    "run_job": "batch.job",
}

if TYPE_CHECKING:
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
