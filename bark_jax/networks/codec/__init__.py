"""EnCodec: audio to codes and back.

Layers by file: `conv` and `lstm` (one layer each), `seanet` (their order), `quantizer` (codes), `encodec` (the codec).
"""
