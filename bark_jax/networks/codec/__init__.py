"""EnCodec, the neural audio codec: audio to codes and back. Bark's has 24 kHz, in 75 frames a second of 320 samples.

Layers by file: `conv` and `lstm` (one layer each), `seanet` (their order), `quantizer` (codes), `encodec` (the codec).
"""
