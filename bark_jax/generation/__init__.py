"""The four stages: one compiled function each, tokens in, tokens out. The only place with loops over time and keys.

    semantic   text tokens        -> semantic tokens    until the end token or a limit
    coarse     semantic tokens    -> coarse codes       in windows, each of which reads a prompt afresh
    fine       coarse codes       -> all codes          in overlapping windows, codebook by codebook
    codec      all codes          -> audio samples      one pass

Every stage takes a batch whose rows have their own prompt, voice, length, sampling and key. No row looks at another: a
row's tokens are those it gets alone. Within one compiled program (one number of rows) that holds bit for bit, in any
slot and beside any neighbours. Between programs the matrix products round differently in the last bits, so where the
two most likely tokens are nearly equal the choice can differ; see the README on running few row counts.

    tokens.py settings.py sampling.py seeds.py   token spaces and rates; settings of rows; draws and their keys
    windows.py                                   where the windows of coarse and fine are, for the trainer too
    transformers_settings.py                     settings of transformers that are taken without effect, or refused
    rows.py padding.py                           rows, and what callers give as arrays
    semantic.py coarse.py fine.py codec.py       the stages;  slots.py codec_steps.py: rows apart, frames apart
    runner.py                                    rows -> prompt -> device -> checked results, for every driver
    streaming.py engine.py                       drivers: one utterance as it comes; slots that are filled again
"""
