"""The networks: weights and forward passes. Arrays in, arrays out; no loop over steps, no file, no sampling.

Modules are Flax NNX modules used as frozen pytrees: nothing in them changes after loading. State that changes (a KV
cache, a codec's decoding state) is a value that a method takes and returns.

Arrays carry their axes as a suffix, `x_BTD`; a scalar array has none. In a shape, "[B, T, D]" means the same axes.

    B  batch                                        Q  codebooks (residual quantisers), coarse first
    T  positions or frames being processed now      C  channels of a convolution
    S  slots of the KV cache; positions attended    A  audio samples
    D  width of the model                           V  vocabulary, as in logits_BV
    N  attention heads                              F  hidden width of the MLP, 4 D
    H  size of one head, N * H = D

Letters of single files: M rows and heads flattened to one batch axis, B * N (`attention`); R rows of a matrix product
after padding, R >= B; K and N input and output features of a Linear; P parts of one row's attention (`pallas_decode`).

    transformer.py attention.py linear.py   the layers that all three transformers share
    causal.py fine.py                       the networks of the semantic and coarse stages; of the fine stage
    decoder.py pallas_decode.py layout.py   decoding steps: GPU kernels, and the weight layout [out, in] they read
    int8.py                                 Linear layers with int8 weights
    platform.py probes.py                   platform and device of a network; what works on this machine
    codec/                                  EnCodec
"""
