"""A small decoding step through the kernels, compared with the same step without them."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import BarkSubModelConfig
from bark_jax.networks.attention import Implementations
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.decoder import MOST_KERNEL_ROWS, make_decoder

N_SLOTS = 192


def probe(dtype: jnp.dtype, head_size: int) -> None:
    """Runs both forms in which networks use the kernels.

    Raises:
      RuntimeError: they compute something else. What else may fail here raises its own.
    """
    for n_rows in (1, MOST_KERNEL_ROWS + 1):
        fused, plain = (_logits(dtype, head_size, n_rows, step) for step in ("pallas", "xla"))
        difference = float(jnp.max(jnp.abs(fused - plain)))
        if not difference < 0.1 * float(jnp.std(plain)):  # rounding stays under 0.03 of it
            raise RuntimeError(f"logits of {n_rows} rows are off by {difference}")


def _logits(dtype: jnp.dtype, head_size: int, n_rows: int, step: str) -> jax.Array:
    config = BarkSubModelConfig(
        block_size=N_SLOTS,
        input_vocab_size=64,
        output_vocab_size=64,
        num_layers=1,
        num_heads=2,
        hidden_size=2 * head_size,
        bias=False,
        initializer_range=0.2,  # so that the attention is much of the result
    )
    model = BarkCausalModel(config, dtype=dtype, attn_implementation="xla", rngs=nnx.Rngs(0))
    for block in model.blocks:
        block.attention.implementations = Implementations("xla", step)
    return jax.jit(functools.partial(_read))(model, jnp.arange(n_rows))


def _read(model: BarkCausalModel, tokens_B: jax.Array) -> jax.Array:
    decoder, length = make_decoder(model, len(tokens_B)), N_SLOTS - 8
    prompt_BT = jnp.broadcast_to(jnp.arange(length) % 64, (len(tokens_B), length))
    cache = model.prefill(model.embed(prompt_BT), length - jnp.arange(len(tokens_B)), N_SLOTS)
    hidden_BD, _ = decoder.decode(tokens_B, cache)
    return decoder.logits(hidden_BD)
