"""Jitted calls of networks: eager calls would compile one program for each operation."""

import functools

import jax


@jax.jit
def logits(network, tokens):
    """Logits of a causal network, [B, T, V], of ids [B, T]."""
    return network(tokens)


@functools.partial(jax.jit, static_argnums=2)
def fine_logits(network, codes_BTQ, codebook):
    """Logits of the fine network for one codebook, [B, T, V]."""
    return network(codebook, codes_BTQ)


@jax.jit
def decode(codec, codes_BQT):
    return codec.decode(codes_BQT)


@functools.partial(jax.jit, static_argnums=2)
def encode(codec, audio_BA, bandwidth=None):
    return codec.encode(audio_BA, bandwidth=bandwidth)
