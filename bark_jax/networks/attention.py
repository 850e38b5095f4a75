"""Multi-head self-attention, the KV cache, and the choice between XLA's attention and cuDNN's.

Whole sequences go through `jax.nn.dot_product_attention`, on a CPU through products of our own. It never falls back by
itself: an unsupported call to cuDNN raises when it is compiled. A network is made with what its platform, dtype and
head size allow; whether that works on a machine `probes` finds out where a model is loaded.

A decoding step attends in one of three ways. "xla" is two products over all slots of a cache that lies head by head,
[B * N, S, H]: a single batch axis, which XLA writes in place; of a cache with B and N apart it makes a copy at every
step, on CPU twice. "pallas" reads the live slots of the same cache with the kernel of `pallas_decode.py`. "cudnn"
reads the live slots of a cache [B, S, N, H].
"""

import dataclasses
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import BarkSubModelConfig
from bark_jax.errors import BarkWarning, InputError, UnsupportedError, quoted
from bark_jax.networks.linear import Linear, multiply

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
TRANSFORMERS_IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2")  # taken as "auto"
FUSED_DTYPES = (jnp.bfloat16, jnp.float16)
CAUSAL_QUERIES = 256  # of a whole sequence on a CPU that attend together


class AttentionNameWarning(BarkWarning):
    """An attn_implementation of transformers, which was taken as "auto"."""


class Implementations(NamedTuple):
    """How a network attends."""

    sequence: str  # sequences: "xla" or "cudnn"
    step: str  # one position a row: "xla", "pallas" or "cudnn"


XLA = Implementations("xla", "xla")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every position read so far. Slots from `length_B` on hold garbage that nobody attends to."""

    keys: tuple[jax.Array, ...]  # one entry a layer, [B * N, S, H], or [B, S, N, H] for cuDNN
    values: tuple[jax.Array, ...]  # the same
    length_B: jax.Array  # int32, slots filled in each row

    @property
    def n_slots(self) -> int:
        return self.keys[0].shape[1]

    def replaced(self, is_replaced_B: jax.Array, other: "KVCache") -> "KVCache":
        """Some rows of another cache of the same shape, and the others of this one."""

        def choose(mine: jax.Array, theirs: jax.Array) -> jax.Array:
            is_replaced = jnp.repeat(is_replaced_B, len(mine) // len(is_replaced_B))
            return jnp.where(jnp.expand_dims(is_replaced, range(1, mine.ndim)), theirs, mine)

        return jax.tree.map(choose, self, other)


class SelfAttention(nnx.Module):
    """Attention of every position to itself and its predecessors (is_causal) or to all positions."""

    def __init__(
        self,
        config: BarkSubModelConfig,
        *,
        is_causal: bool,
        dtype: jnp.dtype,
        platform: str,
        implementations: Implementations,
        rngs: nnx.Rngs,
    ):
        D = config.hidden_size
        options = dict(
            use_bias=config.bias, deviation=config.initializer_range, dtype=dtype, platform=platform, rngs=rngs
        )
        self.n_heads = config.num_heads
        self.is_causal = is_causal
        self.platform, self.implementations = platform, implementations
        self.qkv = Linear(D, 3 * D, **options)
        self.out = Linear(D, D, **options)

    def __call__(
        self, x_BTD: jax.Array, is_attended_BT: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attends within `x_BTD`, to the positions that `is_attended_BT` names, or to all.

        Returns:
          The output and the keys and values [B, T, N, H] that it made.
        """
        q_BTNH, k_BTNH, v_BTNH = split_heads(self.qkv(x_BTD), self.n_heads)
        qkv = (x.astype(self.qkv.sequence_dtype) for x in (q_BTNH, k_BTNH, v_BTNH))
        if is_attended_BT is None:
            y_BTNH = attend(*qkv, self.implementations.sequence, self.platform, is_causal=self.is_causal)
        else:
            y_BTNH = attend_masked(*qkv, is_attended_BT, self.platform, is_causal=self.is_causal)
        return self.out(y_BTNH.reshape(x_BTD.shape).astype(x_BTD.dtype)), k_BTNH, v_BTNH

    def empty_cache(self, n_rows: int, n_slots: int) -> jax.Array:
        """Keys or values of no position."""
        H, dtype = self.out.in_features // self.n_heads, self.out.param_dtype
        return self.cached(jnp.zeros((n_rows, 0, self.n_heads, H), dtype), n_slots)

    def cached(self, x_BTNH: jax.Array, n_slots: int) -> jax.Array:
        """Keys or values of a prompt as a cache of n_slots slots: their numbers, on a CPU in float32.

        XLA would there make a whole cache of half precision float32 at every step, and half precision again.
        """
        B, T, N, H = x_BTNH.shape
        if self.implementations.step == "cudnn":
            return jnp.pad(x_BTNH, ((0, 0), (0, n_slots - T), (0, 0), (0, 0)))
        if self.implementations.step == "xla" and self.platform == "cpu":
            x_BTNH = x_BTNH.astype(jnp.float32)
        return jnp.pad(x_BTNH.swapaxes(1, 2).reshape(B * N, T, H), ((0, 0), (0, n_slots - T), (0, 0)))

    def extend(
        self, x_RD: jax.Array, keys: jax.Array, values: jax.Array, length_B: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attends from one new position a row to the cache and itself.

        Args:
          x_RD: of at least as many rows as `length_B` has; those beyond are there for the matrix products alone.

        Returns:
          The output [R, D], and keys and values with the new position written into slot `length_B` of each row.
        """
        B = len(length_B)
        step = {"xla": step_xla, "pallas": _step_pallas, "cudnn": _step_cudnn}[self.implementations.step]
        y_BNH, keys, values = step(self.qkv(x_RD)[:B], keys, values, length_B, self.n_heads)
        y_RD = jnp.pad(y_BNH.reshape(B, -1), ((0, len(x_RD) - B), (0, 0)))
        return self.out(y_RD), keys, values


def split_heads(qkv: jax.Array, n_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values [..., N, H] that lie side by side in [..., 3 * N * H]."""
    qkv = qkv.reshape(*qkv.shape[:-1], 3, n_heads, -1)
    return qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]


def attend(
    q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, implementation: str, platform: str, **options: Any
) -> jax.Array:
    """`jax.nn.dot_product_attention`, head by head on a CPU, and in float16 also on a TPU.

    It asks for float16 products with float32 sums, which XLA has on GPUs alone: elsewhere they are made in float32.
    """
    dtype = q_BTNH.dtype
    by_head = implementation == "xla" and platform == "cpu"
    if dtype == jnp.float16 and platform != "gpu":
        q_BTNH, k_BSNH, v_BSNH = (x.astype(jnp.float32) for x in (q_BTNH, k_BSNH, v_BSNH))
    if by_head:
        return _attend_by_head(q_BTNH, k_BSNH, v_BSNH, **options).astype(dtype)
    y_BTNH = jax.nn.dot_product_attention(q_BTNH, k_BSNH, v_BSNH, implementation=implementation, **options)
    return y_BTNH.astype(dtype)


def attend_masked(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    is_attended_BS: jax.Array,
    platform: str,
    *,
    is_causal: bool,
) -> jax.Array:
    """`attend` to some positions only, by XLA everywhere. A position that sees none gives finite numbers."""
    dtype = q_BTNH.dtype
    if dtype == jnp.float16 and platform != "gpu":
        q_BTNH, k_BSNH, v_BSNH = (x.astype(jnp.float32) for x in (q_BTNH, k_BSNH, v_BSNH))
    mask_B11S = is_attended_BS[:, None, None, :]
    y_BTNH = jax.nn.dot_product_attention(
        q_BTNH, k_BSNH, v_BSNH, mask=mask_B11S, is_causal=is_causal, implementation="xla"
    )
    return y_BTNH.astype(dtype)


def _attend_by_head(q_BTNH: jax.Array, k_BTNH: jax.Array, v_BTNH: jax.Array, *, is_causal: bool) -> jax.Array:
    """One head after the other, whose logits stay in a CPU's cache. The softmax is float32, and so is the result."""
    B, T, N, H = q_BTNH.shape
    qkv_MTH = [x.swapaxes(1, 2).reshape(B * N, T, H) for x in (q_BTNH * H**-0.5, k_BTNH, v_BTNH)]
    y_MTH = jax.lax.map(lambda qkv_TH: _attend_in_head(*qkv_TH, is_causal=is_causal), qkv_MTH)
    return y_MTH.reshape(B, N, T, H).swapaxes(1, 2)


def _attend_in_head(q_TH: jax.Array, k_TH: jax.Array, v_TH: jax.Array, *, is_causal: bool) -> jax.Array:
    """Causal queries attend some after others, each with the keys that it may see: half of the logits are not made."""
    T, H = q_TH.shape
    # A column of ones gives the sum of the weights, for which XLA would make each of them a second time.
    v_TI = jnp.concatenate([v_TH, jnp.ones_like(v_TH[:, :1])], axis=1)
    pieces = []
    n_together = CAUSAL_QUERIES if is_causal else T
    for start in range(0, T, n_together):
        stop = min(start + n_together, T)
        logits_TS = multiply(q_TH[start:stop], k_TH[:stop], 1, "cpu", jnp.float32)
        if is_causal:
            is_attended_TS = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None]
            logits_TS = jnp.where(is_attended_TS, logits_TS, -jnp.inf)
        weights_TS = jnp.exp(logits_TS - jnp.max(logits_TS, axis=1, keepdims=True))
        y_TI = multiply(weights_TS.astype(v_TI.dtype), v_TI[:stop], 0, "cpu", jnp.float32)
        # Divided last, where it is H numbers a query and not S.
        pieces.append(y_TI[:, :H] / y_TI[:, H:])
    return jnp.concatenate(pieces)


def step_xla(
    qkv_BF: jax.Array, keys: jax.Array, values: jax.Array, length_B: jax.Array, n_heads: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Writes one position a row and attends from it: the output [B, N, H], keys and values."""
    q_BNH, k_BNH, v_BNH = split_heads(qkv_BF, n_heads)
    keys = write_slot_by_head(keys, k_BNH.astype(keys.dtype), length_B)
    values = write_slot_by_head(values, v_BNH.astype(values.dtype), length_B)
    return attend_to_slots(q_BNH, keys, values, length_B + 1), keys, values


def _step_pallas(qkv_BF, keys, values, length_B, n_heads):
    from bark_jax.networks import pallas_decode

    parts, lse, keys, values = pallas_decode.attend(qkv_BF, keys, values, length_B, n_heads)
    return pallas_decode.join(parts, lse, qkv_BF.dtype), keys, values


def _step_cudnn(qkv_BF, keys, values, length_B, n_heads):
    q_B1NH, k_B1NH, v_B1NH = split_heads(qkv_BF[:, None], n_heads)
    keys, values = write_slot(keys, k_B1NH, length_B), write_slot(values, v_B1NH, length_B)
    return attend(q_B1NH, keys, values, "cudnn", "gpu", key_value_seq_lengths=length_B + 1), keys, values


def attend_to_slots(q_BNH: jax.Array, keys_MSH: jax.Array, values_MSH: jax.Array, length_B: jax.Array) -> jax.Array:
    """Attention of one position a row to the first `length_B` slots of a cache that lies head by head.

    Returns:
      [B, N, H]. The softmax is float32.
    """
    B, N, H = q_BNH.shape
    batched = (((2,), (2,)), ((0,), (0,)))
    q_M1H = (q_BNH * jnp.asarray(H**-0.5, q_BNH.dtype)).reshape(B * N, 1, H).astype(keys_MSH.dtype)
    logits_M1S = jax.lax.dot_general(q_M1H, keys_MSH, batched, preferred_element_type=jnp.float32)
    is_live_BS = jnp.arange(keys_MSH.shape[1])[None] < length_B[:, None]
    weights_M1S = jax.nn.softmax(jnp.where(jnp.repeat(is_live_BS, N, axis=0)[:, None], logits_M1S, -jnp.inf), axis=-1)
    summed = (((2,), (1,)), ((0,), (0,)))
    y_M1H = jax.lax.dot_general(
        weights_M1S.astype(values_MSH.dtype), values_MSH, summed, preferred_element_type=jnp.float32
    )
    return y_M1H.astype(q_BNH.dtype).reshape(B, N, H)


def write_slot(cache_BSNH: jax.Array, new_B1NH: jax.Array, slot_B: jax.Array) -> jax.Array:
    """Writes one position into slot `slot_B` of each row. A slot past the end would overwrite the last: never ask."""
    return jax.vmap(lambda cache_SNH, new_1NH, slot: jax.lax.dynamic_update_slice(cache_SNH, new_1NH, (slot, 0, 0)))(
        cache_BSNH, new_B1NH, slot_B
    )


def write_slot_by_head(cache_MSH: jax.Array, new_BNH: jax.Array, slot_B: jax.Array) -> jax.Array:
    """`write_slot` for a cache that lies head by head."""
    B, N, H = new_BNH.shape
    if B == 1:  # a plain slice update; the batched form is a scatter
        return jax.lax.dynamic_update_slice(cache_MSH, new_BNH.reshape(N, 1, H), (0, slot_B[0], 0))
    return cache_MSH.at[jnp.arange(B * N), jnp.repeat(slot_B, N)].set(
        new_BNH.reshape(B * N, H), mode="promise_in_bounds", unique_indices=True
    )


def known_implementation(name: Any) -> Any:
    """The name of one of IMPLEMENTATIONS for one of transformers', with an AttentionNameWarning; others as they are."""
    if not isinstance(name, str) or name not in TRANSFORMERS_IMPLEMENTATIONS:
        return name
    message = f"attn_implementation {name!r} is transformers' and is taken as 'auto'; here there are 'xla' and 'cudnn'"
    warnings.warn(AttentionNameWarning(message), stacklevel=6)
    return "auto"


def resolve(name: str, platform: str, dtype: jnp.dtype, head_size: int) -> Implementations:
    """Turns attn_implementation "auto", "xla", "cudnn" or a name of transformers' into how a network attends.

    Nothing runs: what the platform should be able to do is taken as able; see `probes.with_working_attention`.

    Raises:
      InputError: the name is none of the three.
      UnsupportedError: "cudnn" was asked for by name and cannot serve this; the message has the reason.
    """
    name = known_implementation(name)
    if name not in IMPLEMENTATIONS:
        raise InputError(f"attn_implementation is {quoted(name)}, expected one of {', '.join(IMPLEMENTATIONS)}")
    obstacle = cudnn_obstacle(platform, dtype)
    if name == "cudnn":
        require_cudnn(obstacle)
        return Implementations("cudnn", "cudnn")
    if name == "xla" or obstacle is not None:
        return XLA
    return Implementations("cudnn", "cudnn" if kernel_obstacle(platform, dtype, head_size) else "pallas")


def require_cudnn(obstacle: str | None) -> None:
    """Raises UnsupportedError where there is an obstacle to cuDNN, which was asked for by name."""
    if obstacle is not None:
        raise UnsupportedError(f"attn_implementation 'cudnn' cannot work here: {obstacle}. Use 'auto' or 'xla'.")


def cudnn_obstacle(platform: str, dtype: jnp.dtype) -> str | None:
    """Why cuDNN attention cannot serve this dtype on this platform; None where it should."""
    if jnp.dtype(dtype) not in FUSED_DTYPES:
        return f"it takes float16 or bfloat16, not {jnp.dtype(dtype).name}"
    if platform != "gpu":
        return f"it needs an NVIDIA GPU, and the platform is {platform!r}"
    return None


def kernel_obstacle(platform: str, dtype: jnp.dtype, head_size: int) -> str | None:
    """Why the decoding kernels cannot serve this dtype and head size on this platform; None where they should."""
    if (obstacle := cudnn_obstacle(platform, dtype)) is not None:
        return obstacle
    if head_size < 16 or head_size & (head_size - 1):
        return f"they take a power of two of at least 16 as head size, not {head_size}"
    return None


def with_implementations(network: nnx.Module, implementations: Implementations) -> nnx.Module:
    """The transformer with another way to attend; itself where it is the same."""
    if network.blocks[0].attention.implementations == implementations:
        return network
    network = nnx.clone(network)
    for block in network.blocks:
        block.attention.implementations = implementations
    return network


def for_platform(network: nnx.Module, platform: str) -> nnx.Module:
    """The network with the programs of another platform, where XLA attends; itself where it is of that platform."""
    if network.platform == platform:
        return network
    network = nnx.clone(network)
    for _, module in nnx.iter_modules(network):
        if hasattr(module, "platform"):
            module.platform = platform
        if hasattr(module, "implementations"):
            module.implementations = XLA
    return network
