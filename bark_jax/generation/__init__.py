"""The four stages: one compiled function each, tokens in, tokens out. Loops over steps and PRNG keys are here alone.

    semantic   text tokens        -> semantic tokens    49.9 a second, until the end token or a limit
    coarse     semantic tokens    -> coarse codes       75 frames of 2 a second, in windows that each read a prompt
    fine       coarse codes       -> all codes          8 a frame, in overlapping windows, codebook by codebook
    codec      all codes          -> audio samples      320 a frame, one pass

Every stage takes a batch whose rows have their own prompt, voice, length, sampling and key. Rows are independent: a
row's tokens are those that it gets alone. Within one compiled program (one number of rows) that holds bit for bit,
whatever its slot and the other rows. Between programs matrix products round differently in the last bits, so where the
two most likely tokens are nearly equal the choice can differ; see the README on running few row counts.

    tokens.py settings.py sampling.py seeds.py   token spaces and rates; settings of rows; draws and their keys
    windows.py                                   positions of the coarse and fine windows, for the trainer too
    transformers_settings.py                     settings of transformers that have no effect here, or are refused
    rows.py padding.py                           rows, and checks of callers' arrays
    semantic.py coarse.py fine.py codec.py       the stages
    slots.py codec_steps.py                      some rows of a batch at a time; the codec frame by frame (streaming)
    runner.py                                    rows -> prompt -> device -> checked results, for every driver
    streaming.py                                 driver: one utterance, its audio in parts as they are generated
    engine.py                                    driver: continuous batching, slots refilled as rows end
    stage_by_stage.py                            driver: one stage at a time, on one device or several
"""
