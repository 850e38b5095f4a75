"""Multi-head self-attention, the KV cache, and the choice between XLA's attention and cuDNN's.

Whole sequences (prompts, fine windows) go through `jax.nn.dot_product_attention`, and on a CPU through
`_attend_by_head`. `dot_product_attention` never falls back by itself: an unsupported call to cuDNN raises at
compilation. A constructor therefore picks what platform, dtype and head size allow, and `probes` checks on the machine,
when a model is loaded, whether that works.

A decoding step attends in one of three ways, each with its KV-cache layout:

    "xla"      [B * N, S, H]   two products over all S slots, masked past the row's length. One merged batch axis lets
                               XLA update the cache in place inside a loop; with B and N apart it copies the cache at
                               every step, on a CPU twice. On a CPU the cache is float32 whatever the network's dtype
    "xla"      [B, S, N * H]   on a TPU: heads side by side, see `tpu_cache`
    "pallas"   [B * N, S, H]   the kernel of `pallas_decode.py`, which reads the live slots only
    "cudnn"    [B, S, N, H]    cuDNN with a length for each row, live slots only

Bytes of the whole cache: 2 (keys, values) * layers * B * S * D * itemsize. One row of the large semantic network in
bfloat16, 24 layers of width 1,024 with S = 256 + 768 = 1,024 slots, takes 2 * 24 * 1,024 * 1,024 * 2 = 101 MB.
"""

import dataclasses
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax.config import BarkSubModelConfig
from bark_jax.errors import BarkWarning, InputError, UnsupportedError, quoted
from bark_jax.networks import tpu_cache
from bark_jax.networks.linear import Linear, multiply

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
TRANSFORMERS_IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2")  # taken as "auto"
FUSED_DTYPES = (jnp.bfloat16, jnp.float16)
CAUSAL_QUERIES = 256  # queries of a sequence that attend together on a CPU; see `_attend_in_head`


class AttentionNameWarning(BarkWarning):
    """An attn_implementation of transformers, which was taken as "auto"."""


class Implementations(NamedTuple):
    """Attention implementations of a network: one for whole sequences, one for decoding steps."""

    sequence: str  # whole sequences: "xla" or "cudnn"
    step: str  # decoding steps, one position a row: "xla", "pallas" or "cudnn"


XLA = Implementations("xla", "xla")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every position read so far, in a fixed number of slots S.

    Slots at and past `length_B` hold garbage, which the attention masks: a row can be cut back to a shorter length by
    its `length_B` alone, without a write to the cache.
    """

    keys: tuple[jax.Array, ...]  # one array a layer: [B * N, S, H]; for cuDNN [B, S, N, H]; for a TPU [B, S, N * H]
    values: tuple[jax.Array, ...]  # same shapes and dtypes as keys
    length_B: jax.Array  # int32, slots filled in each row

    @property
    def n_slots(self) -> int:
        """Slots S of each row; axis 1 in all layouts."""
        return self.keys[0].shape[1]

    def replaced(self, is_replaced_B: jax.Array, other: "KVCache") -> "KVCache":
        """Returns a cache with the rows of `other` where bool `is_replaced_B` holds, and of this one elsewhere.

        Both caches have the same shapes. The select writes the whole cache, so it is for batches of few rows, and for
        once a prompt rather than once a step; `slots.put_rows` writes some rows only.
        """

        def choose(mine: jax.Array, theirs: jax.Array) -> jax.Array:
            # The leading axis is B * N or B: rows are repeated N times or once.
            is_replaced = jnp.repeat(is_replaced_B, mine.shape[0] // is_replaced_B.shape[0])
            return jnp.where(jnp.expand_dims(is_replaced, range(1, mine.ndim)), theirs, mine)

        return jax.tree.map(choose, self, other)


class SelfAttention(nnx.Module):
    """Multi-head self-attention: causal (`is_causal`, semantic and coarse networks) or bidirectional (fine network)."""

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
        # One product instead of three, in the layout of the checkpoints: the columns are all queries, then all keys,
        # then all values (`split_heads`).
        self.qkv = Linear(D, 3 * D, **options)
        self.out = Linear(D, D, **options)

    def __call__(self, x_BTD: jax.Array, mask_BNTS: jax.Array | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attends within `x_BTD`.

        Args:
          x_BTD: hidden states after the LayerNorm, in the network's dtype.
          mask_BNTS: see `transformer.as_mask`; None attends to all.

        Returns:
          The output [B, T, D] in x's dtype, and the keys and values [B, T, N, H] for a KV cache.
        """
        q_BTNH, k_BTNH, v_BTNH = split_heads(self.qkv(x_BTD), self.n_heads)
        # bfloat16 where an int8 network multiplies sequences so on a CPU; elsewhere the network's dtype, no cast.
        qkv = (x.astype(self.qkv.sequence_dtype) for x in (q_BTNH, k_BTNH, v_BTNH))
        if mask_BNTS is None:
            y_BTNH = attend(*qkv, self.implementations.sequence, self.platform, is_causal=self.is_causal)
        else:
            y_BTNH = attend_masked(*qkv, mask_BNTS, self.platform, is_causal=self.is_causal)
        return self.out(y_BTNH.reshape(x_BTD.shape).astype(x_BTD.dtype)), k_BTNH, v_BTNH

    def weights(self, x_BTD: jax.Array, mask_BNTS: jax.Array | None = None) -> jax.Array:
        """Probabilities with which each query attends to each position: float32 [B, N, T, T], rows summing to 1.

        Arguments are those of a call. They are computed beside the attention of a call, which never stores them.
        """
        q_BTNH, k_BTNH, _ = split_heads(self.qkv(x_BTD), self.n_heads)
        # Rounded as a call rounds them, then multiplied in float32, which every platform has.
        q_BTNH, k_BTNH = (x.astype(self.qkv.sequence_dtype).astype(jnp.float32) for x in (q_BTNH, k_BTNH))
        logits_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BTNH) * q_BTNH.shape[-1] ** -0.5
        lowest = jnp.finfo(jnp.float32).min
        if mask_BNTS is not None and mask_BNTS.dtype != bool:
            logits_BNTS = jnp.maximum(logits_BNTS + mask_BNTS, lowest)
        elif mask_BNTS is not None:
            logits_BNTS = jnp.where(mask_BNTS, logits_BNTS, lowest)
        if self.is_causal:
            T = x_BTD.shape[1]
            logits_BNTS = jnp.where(jnp.tri(T, dtype=bool)[None, None], logits_BNTS, lowest)
        return jax.nn.softmax(logits_BNTS, axis=-1)

    def empty_cache(self, n_rows: int, n_slots: int) -> jax.Array:
        """Keys, or values, of an empty cache: zeros in the layout of `cached`, such as [B * N, S, H]."""
        H, dtype = self.out.in_features // self.n_heads, self.out.param_dtype
        return self.cached(jnp.zeros((n_rows, 0, self.n_heads, H), dtype), n_slots)

    def cached(self, x_BTNH: jax.Array, n_slots: int) -> jax.Array:
        """Lays keys or values [B, T, N, H] of a prompt out as a cache of S = n_slots slots, zeros past T.

        Returns [B, S, N, H] for cuDNN; [B, S, N * H] on a TPU, S rounded up (`tpu_cache.lay_out`); else [B * N, S, H].
        On a CPU the cache is float32, holding the same numbers: of a half-precision cache XLA:CPU would convert all
        slots to float32 and back at every step.
        """
        B, T, N, H = x_BTNH.shape
        if self._is_wide:
            return tpu_cache.lay_out(x_BTNH, n_slots)
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
          x_RD: hidden states after the LayerNorm; R >= B, and rows past B only pad the matrix products.
          keys, values: this layer's cache, in the layout of `cached`.
          length_B: int32, slots filled in each row; below S, which nothing checks.

        Returns:
          The output [R, D], and keys and values with the new position written into slot `length_B` of each row.
        """
        B = length_B.shape[0]
        steps = {"xla": step_xla, "pallas": _step_pallas, "cudnn": _step_cudnn}
        step = tpu_cache.step if self._is_wide else steps[self.implementations.step]
        y_BNH, keys, values = step(self.qkv(x_RD)[:B], keys, values, length_B, self.n_heads)
        # Rows past B stay finite through all layers: they start as zeros, and the LayerNorm's epsilon keeps a row of
        # zeros from 0 / 0.
        y_RD = jnp.pad(y_BNH.reshape(B, -1), ((0, x_RD.shape[0] - B), (0, 0)))
        return self.out(y_RD), keys, values

    @property
    def _is_wide(self) -> bool:
        """Whether the cache has a TPU's layout."""
        return self.platform == "tpu" and self.implementations.step == "xla"


def split_heads(qkv: jax.Array, n_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits a projection [..., 3 * N * H] into queries, keys and values [..., N, H], contiguous in this order."""
    qkv = qkv.reshape(*qkv.shape[:-1], 3, n_heads, -1)
    return qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]


def attend(
    q_BTNH: jax.Array, k_BSNH: jax.Array, v_BSNH: jax.Array, implementation: str, platform: str, **options: Any
) -> jax.Array:
    """Attention of queries [B, T, N, H] to keys and values [B, S, N, H]: [B, T, N, H] in the queries' dtype.

    It is `jax.nn.dot_product_attention`, and `_attend_by_head` for "xla" on a CPU. `options` go to either: is_causal,
    and for cuDNN key_value_seq_lengths.

    float16 is computed in float32 off GPUs: `dot_product_attention` asks for float16 products with float32 sums, which
    XLA has for GPUs alone.
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
    mask_BNTS: jax.Array,
    platform: str,
    *,
    is_causal: bool,
) -> jax.Array:
    """`attend` [B, T, N, H] under a mask as `transformer.as_mask` makes it, by XLA on every platform.

    cuDNN takes no arbitrary mask here, and masks come only from callers of a network, never from the stages. A query
    whose positions are all masked gives finite numbers, which mean nothing.
    """
    dtype = q_BTNH.dtype
    if dtype == jnp.float16 and platform != "gpu":
        q_BTNH, k_BSNH, v_BSNH = (x.astype(jnp.float32) for x in (q_BTNH, k_BSNH, v_BSNH))
    masked = {"mask" if mask_BNTS.dtype == bool else "bias": mask_BNTS}
    y_BTNH = jax.nn.dot_product_attention(q_BTNH, k_BSNH, v_BSNH, **masked, is_causal=is_causal, implementation="xla")
    return y_BTNH.astype(dtype)


def _attend_by_head(q_BTNH: jax.Array, k_BTNH: jax.Array, v_BTNH: jax.Array, *, is_causal: bool) -> jax.Array:
    """Attends head after head, so that one head's logits [T, T] stay in a CPU's cache. Returns float32 [B, T, N, H].

    All heads at once would write B * N * T * T float32 logits to memory: 64 MiB for 16 heads of 1,024 positions,
    against 4 MiB for one head.
    """
    B, T, N, H = q_BTNH.shape
    # The queries are scaled instead of the logits, T * H numbers instead of T * T. For Bark's heads of 64 the factor is
    # 1/8, so even bfloat16 queries are scaled exactly.
    qkv_MTH = [x.swapaxes(1, 2).reshape(B * N, T, H) for x in (q_BTNH * H**-0.5, k_BTNH, v_BTNH)]
    # map, not vmap: vmap would turn the heads into a batch axis of one product, and make the logits of all heads at
    # once after all.
    y_MTH = jax.lax.map(lambda qkv_TH: _attend_in_head(*qkv_TH, is_causal=is_causal), qkv_MTH)
    return y_MTH.reshape(B, N, T, H).swapaxes(1, 2)


def _attend_in_head(q_TH: jax.Array, k_TH: jax.Array, v_TH: jax.Array, *, is_causal: bool) -> jax.Array:
    """Attention of one head, queries, keys and values [T, H] to float32 [T, H]; queries come scaled by H**-0.5.

    Causal queries run in blocks of CAUSAL_QUERIES, each against the keys up to its own end, so that nearly half of the
    logits are never computed: T = 1,024 takes 256 * (256 + 512 + 768 + 1,024) = 655,360 instead of 1,048,576.
    """
    T, H = q_TH.shape
    # A column of ones gives the softmax's denominator in the same product; as a separate reduction XLA would compute
    # every exponential twice.
    v_TI = jnp.concatenate([v_TH, jnp.ones_like(v_TH[:, :1])], axis=1)
    pieces = []
    n_together = CAUSAL_QUERIES if is_causal else T
    for start in range(0, T, n_together):
        stop = min(start + n_together, T)
        logits_TS = multiply(q_TH[start:stop], k_TH[:stop], 1, "cpu", jnp.float32)
        if is_causal:
            is_attended_TS = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None]
            logits_TS = jnp.where(is_attended_TS, logits_TS, -jnp.inf)
        # The maximum is finite: a causal query attends at least to itself, so no row of logits is all -inf.
        weights_TS = jnp.exp(logits_TS - jnp.max(logits_TS, axis=1, keepdims=True))
        # The column of ones sums the weights as they are after this cast, so rounded weights still add up to 1.
        y_TI = multiply(weights_TS.astype(v_TI.dtype), v_TI[:stop], 0, "cpu", jnp.float32)
        # Normalised after the product: H divisions a query instead of S.
        pieces.append(y_TI[:, :H] / y_TI[:, H:])
    return jnp.concatenate(pieces)


def step_xla(
    qkv_BF: jax.Array, keys: jax.Array, values: jax.Array, length_B: jax.Array, n_heads: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Writes one position a row into the cache and attends from it.

    Args:
      qkv_BF: projection [B, 3 * N * H] of the new position.
      keys, values: [B * N, S, H]; float32 on a CPU, see `SelfAttention.cached`.
      length_B: int32, slots filled so far; the new position goes into slot `length_B`.

    Returns:
      The output [B, N, H], and keys and values with the position in them.
    """
    q_BNH, k_BNH, v_BNH = split_heads(qkv_BF, n_heads)
    keys = write_slot_by_head(keys, k_BNH.astype(keys.dtype), length_B)
    values = write_slot_by_head(values, v_BNH.astype(values.dtype), length_B)
    # The new position is written first, since it attends to itself: hence length + 1. It also leaves no row without a
    # live slot, an idle row of length 0 included.
    return attend_to_slots(q_BNH, keys, values, length_B + 1), keys, values


def _step_pallas(qkv_BF, keys, values, length_B, n_heads):
    # Imported here, so that a JAX without Pallas's Triton backend fails in the probe, where loading falls back to
    # another implementation, and not when this module is imported.
    from bark_jax.networks import pallas_decode

    parts, lse, keys, values = pallas_decode.attend(qkv_BF, keys, values, length_B, n_heads)
    return pallas_decode.join(parts, lse, qkv_BF.dtype), keys, values


def _step_cudnn(qkv_BF, keys, values, length_B, n_heads):
    q_B1NH, k_B1NH, v_B1NH = split_heads(qkv_BF[:, None], n_heads)
    keys, values = write_slot(keys, k_B1NH, length_B), write_slot(values, v_B1NH, length_B)
    return attend(q_B1NH, keys, values, "cudnn", "gpu", key_value_seq_lengths=length_B + 1), keys, values


def attend_to_slots(q_BNH: jax.Array, keys_MSH: jax.Array, values_MSH: jax.Array, length_B: jax.Array) -> jax.Array:
    """Attention of one position a row to the first `length_B` slots of a cache [B * N, S, H].

    All S slots are multiplied and those past the length masked, since shapes are static: time is proportional to S,
    not to the length. "pallas" and "cudnn" read live slots only.

    Returns:
      [B, N, H] in the queries' dtype. The softmax is float32.
    """
    B, N, H = q_BNH.shape
    # Products over [B * N, S, H]: N counts as batch, so the cache is read in its own layout, without a transpose.
    batched = (((2,), (2,)), ((0,), (0,)))
    q_M1H = (q_BNH * jnp.asarray(H**-0.5, q_BNH.dtype)).reshape(B * N, 1, H).astype(keys_MSH.dtype)
    logits_M1S = jax.lax.dot_general(q_M1H, keys_MSH, batched, preferred_element_type=jnp.float32)
    is_live_BS = jnp.arange(keys_MSH.shape[1])[None] < length_B[:, None]
    # The mask gives garbage slots a weight of 0, and 0 times a NaN is NaN: slots past the length must hold finite
    # numbers. They do: zeros, keys and values of padding, or those of a token that was cut back.
    weights_M1S = jax.nn.softmax(jnp.where(jnp.repeat(is_live_BS, N, axis=0)[:, None], logits_M1S, -jnp.inf), axis=-1)
    summed = (((2,), (1,)), ((0,), (0,)))
    y_M1H = jax.lax.dot_general(
        weights_M1S.astype(values_MSH.dtype), values_MSH, summed, preferred_element_type=jnp.float32
    )
    return y_M1H.astype(q_BNH.dtype).reshape(B, N, H)


def write_slot(cache_BSNH: jax.Array, new_B1NH: jax.Array, slot_B: jax.Array) -> jax.Array:
    """Writes one position into slot `slot_B` of each row of a cuDNN cache: [B, S, N, H].

    A slot past the end overwrites the last one, as `dynamic_update_slice` clamps; callers keep slot_B below S.
    """
    return jax.vmap(lambda cache_SNH, new_1NH, slot: jax.lax.dynamic_update_slice(cache_SNH, new_1NH, (slot, 0, 0)))(
        cache_BSNH, new_B1NH, slot_B
    )


def write_slot_by_head(cache_MSH: jax.Array, new_BNH: jax.Array, slot_B: jax.Array) -> jax.Array:
    """`write_slot` for a cache [B * N, S, H]; callers keep slot_B below S, which "promise_in_bounds" relies on."""
    B, N, H = new_BNH.shape
    if B == 1:  # all heads share one slot, so a slice update does; the general form below is a scatter
        return jax.lax.dynamic_update_slice(cache_MSH, new_BNH.reshape(N, 1, H), (0, slot_B[0], 0))
    # Index pairs (entry, slot) differ in the entry, so they are unique even where rows have equal lengths; XLA then
    # needs no order among the writes.
    return cache_MSH.at[jnp.arange(B * N), jnp.repeat(slot_B, N)].set(
        new_BNH.reshape(B * N, H), mode="promise_in_bounds", unique_indices=True
    )


def known_implementation(name: Any) -> Any:
    """Maps transformers' names to "auto", with an AttentionNameWarning; returns anything else unchanged, unchecked."""
    if not isinstance(name, str) or name not in TRANSFORMERS_IMPLEMENTATIONS:
        return name
    message = f"attn_implementation {name!r} is transformers' and is taken as 'auto'; here there are 'xla' and 'cudnn'"
    warnings.warn(AttentionNameWarning(message), stacklevel=6)
    return "auto"


def resolve(name: str, platform: str, dtype: jnp.dtype, head_size: int) -> Implementations:
    """Chooses Implementations for attn_implementation "auto", "xla", "cudnn" or one of transformers' names.

    Nothing is compiled or run: the choice follows from platform, dtype and head size alone. Whether it works on this
    machine is checked by `probes.with_working_attention`.

        "auto", bfloat16 on a GPU, heads of 64    sequences cudnn, steps pallas
        "auto", float32, or no GPU                sequences xla, steps xla
        "cudnn", bfloat16 on a GPU                sequences cudnn, steps cudnn

    Raises:
      InputError: the name is unknown.
      UnsupportedError: "cudnn" was requested by name and cannot serve this platform or dtype; the message says why.
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
    """Raises UnsupportedError, with the obstacle as the reason, where "cudnn" was requested by name and cannot work."""
    if obstacle is not None:
        raise UnsupportedError(f"attn_implementation 'cudnn' cannot work here: {obstacle}. Use 'auto' or 'xla'.")


def cudnn_obstacle(platform: str, dtype: jnp.dtype) -> str | None:
    """Reason why cuDNN attention cannot serve this dtype on this platform; None where it should work."""
    if jnp.dtype(dtype) not in FUSED_DTYPES:
        return f"it takes float16 or bfloat16, not {jnp.dtype(dtype).name}"
    if platform != "gpu":
        return f"it needs an NVIDIA GPU, and the platform is {platform!r}"
    return None


def kernel_obstacle(platform: str, dtype: jnp.dtype, head_size: int) -> str | None:
    """Reason why the decoding kernels cannot serve this platform, dtype and head size; None where they should work.

    The kernels load a head as one block, and Triton's blocks have powers of two as sizes. Bark's heads of 64 qualify.
    """
    if (obstacle := cudnn_obstacle(platform, dtype)) is not None:
        return obstacle
    if head_size < 16 or head_size & (head_size - 1):
        return f"they take a power of two of at least 16 as head size, not {head_size}"
    return None


def with_implementations(network: nnx.Module, implementations: Implementations) -> nnx.Module:
    """Returns a transformer that attends by `implementations` and shares its arrays; itself where nothing changes."""
    if network.blocks[0].attention.implementations == implementations:
        return network
    # A clone has new modules and Variables around the same arrays, so the caller's network keeps its own attributes.
    network = nnx.clone(network)
    for block in network.blocks:
        block.attention.implementations = implementations
    return network


def for_platform(network: nnx.Module, platform: str) -> nnx.Module:
    """Returns the network for another platform, with XLA attention, sharing its arrays; itself where nothing changes.

    No array moves: callers put the result onto a device of that platform.
    """
    if network.platform == platform:
        return network
    network = nnx.clone(network)
    for _, module in nnx.iter_modules(network):
        if hasattr(module, "platform"):
            module.platform = platform
        if hasattr(module, "implementations"):
            module.implementations = XLA
    return network
