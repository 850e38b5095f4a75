"""Many rows: a file of texts to a folder of audio, at the engine's speed, resumable after anything.

    rows.py sources.py ids.py   lines to rows; where the lines come from; names that can be files', seeds, shards
    engine.py                   the slots of the accelerator: rows of any length mix
    speech.py                   rows to audio: long texts are cut, their sentences spoken and joined
    writer.py files.py shards.py   audio to files, on threads: one a row, or Parquet shards of many
    manifest.py run_folder.py   what was done; whose folder it is, and with what settings it is filled
    runner.py                   all of it as one call: `run_batch`
    merge.py                    the shards of many machines as one
    ray_engine.py               the same rows through Ray Data

A row is done once its line is in the manifest, which is written after its file. So whatever stops a run, the same call
again goes on with what is not done.
"""
