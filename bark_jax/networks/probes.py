"""Probes of the accelerator: small calls of cuDNN's attention and of the decoding kernels, compared with XLA's.

Driver, cuDNN, Triton and chip have to fit together, which no version number reveals. A probe compiles and runs, once a
process for a platform, dtype and head size, so it belongs where a model is loaded: never in a constructor, nor in
traced code.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import BarkSubModelConfig
from bark_jax.networks.attention import (
    XLA,
    Implementations,
    cudnn_obstacle,
    kernel_obstacle,
    require_cudnn,
    with_implementations,
)
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.decoder import make_decoder
from bark_jax.networks.layout import MAX_KERNEL_ROWS, for_decoding
from bark_jax.networks.platform import device_of

N_SLOTS = 192  # more than one of the kernel's blocks of 128 slots, and no multiple of it


def with_working_attention(network: nnx.Module, *, requires_cudnn: bool = False) -> nnx.Module:
    """Returns the network with the attention implementations that work on this machine; others fall back to XLA's.

    A codec is returned unchanged. So is a network whose platform has no device here, which can only be lowered.

    Args:
      requires_cudnn: whether "cudnn" was requested by name, so that it must not fall back.

    Raises:
      UnsupportedError: requires_cudnn, and its probe failed; the message has the reason.
    """
    if not hasattr(network, "blocks"):
        return network
    chosen = network.blocks[0].attention.implementations
    if chosen == XLA or device_of(network.platform) is None:
        return network
    here = network.platform, network.position_embedding.param_dtype, network.config.head_size
    obstacle = find_cudnn_obstacle(*here)
    if requires_cudnn:
        require_cudnn(obstacle)
    sequence = "xla" if obstacle else chosen.sequence
    step = "pallas" if chosen.step == "pallas" and not find_kernel_obstacle(*here) else sequence
    return with_implementations(network, Implementations(sequence, step))


def find_cudnn_obstacle(platform: str, dtype: jnp.dtype, head_size: int) -> str | None:
    """Reason why cuDNN attention cannot serve this dtype and head size on this machine; None where a probe worked."""
    return cudnn_obstacle(platform, dtype) or _failure(probe_cudnn, platform, jnp.dtype(dtype).name, head_size)


def find_kernel_obstacle(platform: str, dtype: jnp.dtype, head_size: int) -> str | None:
    """Reason why the decoding kernels cannot serve this dtype and head size here; None where a probe worked."""
    obstacle = kernel_obstacle(platform, dtype, head_size)
    return obstacle or _failure(probe_kernels, platform, jnp.dtype(dtype).name, head_size)


@functools.cache
def _failure(probe: Callable[[jnp.dtype, int], None], platform: str, dtype_name: str, head_size: int) -> str | None:
    """A probe's error on the platform's device, as a sentence; None where it works. Cached: it runs once a process."""
    try:
        with jax.default_device(device_of(platform)):
            probe(jnp.dtype(dtype_name), head_size)
    except Exception as error:  # drivers, compilers and chips raise errors of many types
        return f"a small probe failed with {type(error).__name__}: {error}"
    return None


def probe_cudnn(dtype: jnp.dtype, head_size: int) -> None:
    """Runs the networks' three forms of cuDNN attention: causal, bidirectional, and a decoding step with lengths.

    Raises:
      RuntimeError: a result differs from XLA's by 0.05 or more, or is not finite. cuDNN's own failures raise JAX's
        errors.
    """
    T = 128
    q_BTNH, k_BTNH, v_BTNH = (
        jax.random.normal(jax.random.key(seed), (2, T, 2, head_size), dtype=dtype) for seed in range(3)
    )
    calls = {
        "causal": lambda implementation: jax.nn.dot_product_attention(
            q_BTNH, k_BTNH, v_BTNH, is_causal=True, implementation=implementation
        ),
        "bidirectional": lambda implementation: jax.nn.dot_product_attention(
            q_BTNH, k_BTNH, v_BTNH, implementation=implementation
        ),
        "decode": lambda implementation: jax.nn.dot_product_attention(
            q_BTNH[:, :1],
            k_BTNH,
            v_BTNH,
            # One row ends within the cache: a kernel that ignored the lengths would attend to all of it.
            key_value_seq_lengths=jnp.array([T // 2, T], jnp.int32),
            implementation=implementation,
        ),
    }
    for name, call in calls.items():
        fused = jax.jit(call, static_argnums=0)("cudnn").astype(jnp.float32)
        plain = jax.jit(call, static_argnums=0)("xla").astype(jnp.float32)
        difference = float(jnp.max(jnp.abs(fused - plain)))
        if not difference < 0.05:  # bfloat16 rounding at these values stays under 0.02; "not <" refuses NaN too
            raise RuntimeError(f"{name} attention is off by {difference}")


def probe_kernels(dtype: jnp.dtype, head_size: int) -> None:
    """Runs a decoding step with all kernels (one row) and with the attention kernel alone (MAX_KERNEL_ROWS + 1 rows).

    Raises:
      RuntimeError: logits differ from those of the same step without kernels by a tenth of their deviation or more.
        Triton's own failures raise JAX's errors.
    """
    for n_rows in (1, MAX_KERNEL_ROWS + 1):
        fused, plain = (_logits(dtype, head_size, n_rows, step) for step in ("pallas", "xla"))
        difference = float(jnp.max(jnp.abs(fused - plain)))
        if not difference < 0.1 * float(jnp.std(plain)):  # rounding stays under 0.03 of it
            raise RuntimeError(f"logits of {n_rows} rows are off by {difference}")


def _logits(dtype: jnp.dtype, head_size: int, n_rows: int, step: str) -> jax.Array:
    """Logits [n_rows, 64] of one decoding step of a toy network, after prompts of 184, 183 ... tokens."""
    config = BarkSubModelConfig(
        block_size=N_SLOTS,
        input_vocab_size=64,
        output_vocab_size=64,
        num_layers=1,
        num_heads=2,
        hidden_size=2 * head_size,
        bias=False,
        initializer_range=0.2,  # large, so that a wrong attention changes the logits far beyond rounding
    )
    model = BarkCausalModel(config, dtype=dtype, attn_implementation="xla", rngs=nnx.Rngs(0))
    model = with_implementations(model, Implementations("xla", step))
    length = N_SLOTS - 8

    @jax.jit
    def read(model: BarkCausalModel, tokens_B: jax.Array) -> jax.Array:
        decoder = make_decoder(model)
        prompt_BT = jnp.broadcast_to(jnp.arange(length) % 64, (n_rows, length))
        # Lengths differ from row to row, to reveal a kernel that reads another row's. 184 live slots in 8 parts of
        # whole blocks are a full part, one of 56 slots, and six empty ones, which must weigh nothing.
        cache = model.prefill(model.embed(prompt_BT), length - jnp.arange(n_rows), N_SLOTS)
        hidden_BD, _ = decoder.decode(tokens_B, cache)
        return decoder.logits(hidden_BD)

    return read(for_decoding(model, n_rows), jnp.arange(n_rows))
