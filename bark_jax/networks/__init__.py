"""The networks: weights and forward passes. Arrays in, arrays out; no loop over time, no file, no randomness.

Modules are Flax NNX modules used as frozen pytrees: nothing in them changes after loading, and what does change (a KV
cache) is a value that is passed in and returned.

Arrays carry their axes as a suffix, `x_BTD`; a scalar array has none.

    B  batch                                        Q  codebooks (residual quantisers), coarse first
    T  positions or frames being processed now      C  channels of a convolution
    S  slots of the KV cache; positions attended    A  audio samples
    D  width of the model                           V  vocabulary, as in logits_BV
    N  attention heads                              F  hidden width of the MLP, 4 D
    H  size of one head, N * H = D
"""
