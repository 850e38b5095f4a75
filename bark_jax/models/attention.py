"""Multi-head self-attention, the KV cache, and the choice between XLA's attention and cuDNN's.

Both run through `jax.nn.dot_product_attention`, which never falls back by itself: an unsupported call to cuDNN raises
when it is compiled. So "auto" compiles one small call of each kind that the networks make, once a process, and takes
cuDNN only where they work.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import BarkSubModelConfig
from bark_jax.errors import InputError, UnsupportedError

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
FUSED_DTYPES = (jnp.bfloat16, jnp.float16)
GPU_BACKENDS = ("gpu", "cuda", "rocm")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every position read so far. Slots from `length_B` on hold garbage that nobody attends to."""

    keys: tuple[jax.Array, ...]  # one entry a layer, [B, S, N, H]
    values: tuple[jax.Array, ...]  # one entry a layer, [B, S, N, H]
    length_B: jax.Array  # int32, slots filled in each row


def make_linear(config: BarkSubModelConfig, n_in: int, n_out: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """A Linear of one of Bark's transformers, drawn as torch's Bark draws it."""
    return nnx.Linear(
        n_in,
        n_out,
        use_bias=config.bias,
        dtype=dtype,
        param_dtype=dtype,
        kernel_init=nnx.initializers.normal(config.initializer_range),
        rngs=rngs,
    )


class SelfAttention(nnx.Module):
    """Attention of every position to itself and its predecessors (is_causal) or to all positions."""

    def __init__(
        self,
        config: BarkSubModelConfig,
        *,
        is_causal: bool,
        dtype: jnp.dtype,
        attn_implementation: str,
        rngs: nnx.Rngs,
    ):
        D = config.hidden_size
        self.n_heads = config.num_heads
        self.is_causal = is_causal
        self.implementation = attn_implementation
        self.qkv = make_linear(config, D, 3 * D, dtype, rngs)
        self.out = make_linear(config, D, D, dtype, rngs)

    def __call__(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attends within `x_BTD`. Returns the output and the keys and values [B, T, N, H] that it made."""
        q_BTNH, k_BTNH, v_BTNH = self._project(x_BTD)
        y_BTNH = attend(q_BTNH, k_BTNH, v_BTNH, self.implementation, is_causal=self.is_causal)
        return self.out(y_BTNH.reshape(x_BTD.shape)), k_BTNH, v_BTNH

    def extend(
        self, x_B1D: jax.Array, keys_BSNH: jax.Array, values_BSNH: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attends from one new position a row to the cache and itself.

        Returns:
          The output [B, 1, D], and keys and values with the new position written into slot `length_B` of each row.
        """
        q_B1NH, k_B1NH, v_B1NH = self._project(x_B1D)
        keys_BSNH = write_slot(keys_BSNH, k_B1NH, length_B)
        values_BSNH = write_slot(values_BSNH, v_B1NH, length_B)
        y_B1NH = attend(q_B1NH, keys_BSNH, values_BSNH, self.implementation, key_value_seq_lengths=length_B + 1)
        return self.out(y_B1NH.reshape(x_B1D.shape)), keys_BSNH, values_BSNH

    def _project(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        B, T, D = x_BTD.shape
        qkv_BT3NH = self.qkv(x_BTD).reshape(B, T, 3, self.n_heads, D // self.n_heads)
        return qkv_BT3NH[:, :, 0], qkv_BT3NH[:, :, 1], qkv_BT3NH[:, :, 2]


def attend(q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, implementation: str, **options: Any) -> jax.Array:
    """`jax.nn.dot_product_attention`, in float16 also off the GPU.

    It asks for float16 products with float32 sums, which XLA has on GPUs alone: elsewhere they are made in float32.
    """
    dtype = q_BTNH.dtype
    if dtype == jnp.float16 and jax.default_backend() not in GPU_BACKENDS:
        q_BTNH, k_BSNH, v_BSNH = (x.astype(jnp.float32) for x in (q_BTNH, k_BSNH, v_BSNH))
    y_BTNH = jax.nn.dot_product_attention(q_BTNH, k_BSNH, v_BSNH, implementation=implementation, **options)
    return y_BTNH.astype(dtype)


def write_slot(cache_BSNH: jax.Array, new_B1NH: jax.Array, slot_B: jax.Array) -> jax.Array:
    """Writes one position into slot `slot_B` of each row. A slot past the end would overwrite the last: never ask."""
    if cache_BSNH.shape[0] == 1:  # a plain slice update runs in place everywhere; the batched form is a scatter
        return jax.lax.dynamic_update_slice(cache_BSNH, new_B1NH, (0, slot_B[0], 0, 0))
    return jax.vmap(lambda cache_SNH, new_1NH, slot: jax.lax.dynamic_update_slice(cache_SNH, new_1NH, (slot, 0, 0)))(
        cache_BSNH, new_B1NH, slot_B
    )


def resolve_implementation(name: str, dtype: jnp.dtype, head_size: int) -> str:
    """Turns attn_implementation "auto", "xla" or "cudnn" into what `dot_product_attention` takes.

    Raises:
      InputError: the name is none of the three.
      UnsupportedError: "cudnn" was asked for by name and cannot work here; the message has the reason.
    """
    if name not in IMPLEMENTATIONS:
        raise InputError(f"attn_implementation is {name!r}, expected one of {', '.join(IMPLEMENTATIONS)}")
    if name == "xla":
        return "xla"
    obstacle = find_cudnn_obstacle(jnp.dtype(dtype).name, head_size)
    if obstacle is None:
        return "cudnn"
    if name == "cudnn":
        raise UnsupportedError(f"attn_implementation 'cudnn' cannot work here: {obstacle}. Use 'auto' or 'xla'.")
    return "xla"


@functools.cache
def find_cudnn_obstacle(dtype_name: str, head_size: int) -> str | None:
    """Why cuDNN attention cannot serve this dtype and head size on the default device; None where a probe worked."""
    dtype = jnp.dtype(dtype_name)
    if dtype not in FUSED_DTYPES:
        return f"it takes float16 or bfloat16, not {dtype_name}"
    if jax.default_backend() not in ("gpu", "cuda"):
        return f"it needs an NVIDIA GPU, and JAX's default backend is {jax.default_backend()!r}"
    try:
        with jax.ensure_compile_time_eval():  # networks are also built while shapes are traced, where nothing runs
            _probe_cudnn(dtype, head_size)
    except Exception as error:  # cuDNN reports a missing plan, library or chip in many types
        return f"a small probe failed with {type(error).__name__}: {error}"
    return None


def _probe_cudnn(dtype: jnp.dtype, head_size: int) -> None:
    """Runs the three calls that the networks make, and compares them with XLA's."""
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
            key_value_seq_lengths=jnp.array([T // 2, T], jnp.int32),
            implementation=implementation,
        ),
    }
    for name, call in calls.items():
        fused = jax.jit(call, static_argnums=0)("cudnn").astype(jnp.float32)
        plain = jax.jit(call, static_argnums=0)("xla").astype(jnp.float32)
        difference = float(jnp.max(jnp.abs(fused - plain)))
        if not difference < 0.05:  # bfloat16 rounding at these values stays under 0.02
            raise RuntimeError(f"{name} attention is off by {difference}")
