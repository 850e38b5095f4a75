"""A decoding step in five GPU kernels a layer, for the few rows at which launching kernels costs more than arithmetic.

    1  `linear`   LayerNorm, query-key-value projection
    2  `attend`   attention to the live part of the KV cache, and the write of the new keys and values
    3  `linear`   joining of the attention's parts, output projection, residual
    4  `linear`   LayerNorm, first Linear of the MLP, GELU
    5  `linear`   second Linear, residual

Written in Pallas for its Triton backend. A model loaded on a GPU uses them where a probe shows that they work
(`probes`). Everything else, the tests' reference included, uses the plain step, `BarkCausalModel.decode`.

Weights have the layout [out, in], so that a program's output features are one contiguous piece of memory. A step of one
or two rows is limited by memory bandwidth: each weight is read once into registers and multiplied there, row by row,
without tensor cores, whose smallest tile has more rows than that. With more rows than `layout.MAX_KERNEL_ROWS`
XLA's matrix products are faster; then `attend` is the only one of these kernels in use.

Arrays have the dtype of the weights, bfloat16 or float16; sums, LayerNorms, softmax and parts of attention are float32.
Axes: R rows, K input and N output features of a Linear; P parts of a row's attention; M = B * n_heads.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

NORM_EPSILON = 1e-5  # as in `transformer.make_norm`
MAX_PARTS = 8  # parts into which `attend` cuts a row's live slots
# Programs that `attend` aims for: many short ones, so that no multiprocessor waits long for another's last.
WANTED_PROGRAMS = 4096
# Logit of a masked slot. exp of it is 0; -inf would give NaN in a part without keys, from -inf - -inf.
_NEVER = -1e30


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Division of a matrix product into GPU programs."""

    n_out: int  # output features of a program
    n_in: int  # input features that it multiplies at once, a power of two
    n_warps: int  # warps of 32 threads that share a program


def linear(
    x_RK: jax.Array,
    weight_NK: jax.Array,
    *,
    norm_K: jax.Array | None = None,
    lse_PRK: jax.Array | None = None,
    residual_RN: jax.Array | None = None,
    gelu: bool = False,
    start: int = 0,
    size: int | None = None,
    out_dtype: jnp.dtype | None = None,
    tiling: Tiling | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Output features `start` to `start + size` of a Linear without bias, fused with the operations around it.

    In order: join parts of attention or apply a LayerNorm, multiply, GELU, add a residual.

    A program makes `tiling.n_out` features. Where `start` is no multiple of that, as the first codebook's with a
    semantic vocabulary of 123, the features before it are computed too and cut off: 13 features from 123 on, 8 a
    program, come from programs 15 and 16, which compute 120 to 135, without the first 3.

    Args:
      x_RK: activations [R, K]; with `lse_PRK` the parts [P, R, K] from `attend`, float32.
      weight_NK: weights in the layout [out, in].
      norm_K: scale of a LayerNorm without bias that is applied to x.
      lse_PRK: log-sum-exp of each part, from `attend`, repeated over the features of a head; float32.
      residual_RN: added to the result after that is rounded to the weights' dtype, as in the plain step.
      gelu: whether to apply the exact GELU to the result.
      out_dtype: dtype of the result; the weights' if None.
      tiling: division into programs; measured ones if None.
      interpret: run in Pallas's interpreter, for tests without a GPU.

    Returns:
      [R, N] with N = size rounded up to whole programs, less what was cut off at the front; callers slice [:, :size].

    Raises:
      ValueError: `start` is within a program and there is a residual, whose blocks could not be aligned; or n_in is
        below K and there is a LayerNorm, whose statistics need all features at once.
    """
    R, K = x_RK.shape[-2:]
    size = weight_NK.shape[0] - start if size is None else size
    tiling = tiling or _tiling(K, size)
    # Bark's own starts, 0 and the codebooks' 10,000 and 11,024, are multiples of 8: there nothing is computed in vain.
    first, n_before = divmod(start, tiling.n_out)
    if n_before and residual_RN is not None:
        raise ValueError(f"start is {start}, expected a multiple of {tiling.n_out} beside a residual")
    n_programs = pl.cdiv(n_before + size, tiling.n_out)
    inputs = {"x": x_RK, "norm": norm_K, "lse": lse_PRK, "weight": weight_NK, "residual": residual_RN}
    inputs = {name: array for name, array in inputs.items() if array is not None}
    # Triton's blocks have powers of two as sizes, so blocks reach past K = 768, to 1,024; masks keep loads within it.
    wide = pl.cdiv(K, tiling.n_in) * tiling.n_in
    blocks = {
        "weight": pl.BlockSpec((tiling.n_out, wide), lambda i: (first + i, 0)),
        "residual": pl.BlockSpec((R, tiling.n_out), lambda i: (0, i)),
    }
    kernel = functools.partial(
        _linear_kernel,
        names=tuple(inputs),
        n_features=weight_NK.shape[0],
        K=K,
        first=first,
        tiling=tiling,
        gelu=gelu,
    )
    result_RN = pl.pallas_call(
        kernel,
        grid=(n_programs,),
        in_specs=[blocks.get(name, _full_block(array, wide)) for name, array in inputs.items()],
        out_specs=pl.BlockSpec((R, tiling.n_out), lambda i: (0, i)),
        out_shape=jax.ShapeDtypeStruct((R, n_programs * tiling.n_out), out_dtype or weight_NK.dtype),
        # One stage: with the measured tilings n_in covers all of K, so a program has no loop whose loads could be
        # pipelined.
        compiler_params=plgpu.CompilerParams(num_warps=tiling.n_warps, num_stages=1),
        interpret=interpret,
        name="linear",
    )(*inputs.values())
    return result_RN[:, n_before:] if n_before else result_RN


def _full_block(array: jax.Array, wide: int) -> pl.BlockSpec:
    """Gives every program all of an array, its last axis rounded up to `wide`."""
    return pl.BlockSpec((*array.shape[:-1], wide), lambda i: (0,) * array.ndim)


def _tiling(K: int, N: int) -> Tiling:
    """The fastest tiling on an H100 for a product of K input and N output features; see benchmarks/RESULTS.md."""
    # Programs of the small model: 288 for query, key and value, 192 for the output projection, 384 and 96 for the MLP,
    # 1,251 for the semantic head. n_in is 1,024, and 4,096 for the MLP's second Linear.
    if K > 1024:
        return Tiling(n_out=8, n_in=pl.next_power_of_2(K), n_warps=8)
    return Tiling(n_out=8 if N > K else 4, n_in=pl.next_power_of_2(K), n_warps=4)


def _linear_kernel(*refs, names: tuple[str, ...], n_features: int, K: int, first: int, tiling: Tiling, gelu: bool):
    """Computes n_out features of all rows; weights stay in registers, products are summed across a warp's lanes."""
    ref, out_ref = dict(zip(names, refs, strict=False)), refs[-1]
    dtype = ref["weight"].dtype
    R, parts = ref["x"].shape[-2], range(ref["x"].shape[0])
    if "norm" in ref and tiling.n_in < K:
        raise ValueError(f"n_in is {tiling.n_in}, and a norm needs all {K} features at once")
    is_out = (first + pl.program_id(0)) * tiling.n_out + jnp.arange(tiling.n_out) < n_features
    sums = [jnp.zeros((tiling.n_out,), jnp.float32) for _ in range(R)]
    for start in range(0, K, tiling.n_in):
        is_in = start + jnp.arange(tiling.n_in) < K
        at = pl.ds(start, tiling.n_in)
        weight = _loaded(ref["weight"].at[:, at], is_out[:, None] & is_in[None, :])
        for row in range(R):
            # Every program repeats the join and the norm of all K features. A kernel of their own would compute them
            # once, and cost a launch, about 2 us (benchmarks/RESULTS.md).
            if "lse" in ref:
                x = _joined(*([_row(ref[name], (part, row), at, is_in) for part in parts] for name in ("x", "lse")))
            else:
                x = _row(ref["x"], (row,), at, is_in)
            if "norm" in ref:
                # Rounded to the weights' dtype and back, as the LayerNorm of the plain step gives it.
                x = _normalized(x, is_in, K, _loaded(ref["norm"].at[at], is_in)).astype(dtype).astype(jnp.float32)
            sums[row] += jnp.sum(weight * x[None, :], axis=1)
    for row in range(R):
        result = _gelu(sums[row]) if gelu else sums[row]
        if "residual" in ref:
            result = ref["residual"][row, :].astype(jnp.float32) + result.astype(dtype).astype(jnp.float32)
        out_ref[row, :] = result.astype(out_ref.dtype)


def _row(ref, index: tuple[int, ...], at, is_in: jax.Array) -> jax.Array:
    # In interpret mode a masked load takes no Python int as an index.
    return _loaded(ref.at[(*map(jnp.int32, index), at)], is_in)


def _loaded(ref, is_in: jax.Array) -> jax.Array:
    return plgpu.load(ref, mask=is_in, other=0.0).astype(jnp.float32)


def _joined(parts: Sequence[jax.Array], lse: Sequence[jax.Array]) -> jax.Array:
    """Sums parts of an attention, each weighted by its share of the softmax: exp(lse - max lse), normalised.

    A part without live slots has lse near _NEVER, so its weight is 0.
    """
    max_lse = functools.reduce(jnp.maximum, lse)
    weights = [jnp.exp(value - max_lse) for value in lse]
    return sum(weight * part for weight, part in zip(weights, parts, strict=True)) / sum(weights)


def _normalized(x: jax.Array, is_in: jax.Array, K: int, norm: jax.Array) -> jax.Array:
    # Features past K were loaded as 0: they leave the mean alone, but would enter the variance as (0 - mean)**2.
    centred = jnp.where(is_in, x - jnp.sum(x) / K, 0.0)
    return centred * jax.lax.rsqrt(jnp.sum(centred * centred) / K + NORM_EPSILON) * norm


def _gelu(x: jax.Array) -> jax.Array:
    return 0.5 * x * (1 + _erf(x * math.sqrt(0.5)))


def _erf(x: jax.Array) -> jax.Array:
    """The error function to 1.5e-7: Pallas's Triton backend has no erf.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    t = 1 / (1 + 0.3275911 * jnp.abs(x))
    polynomial = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    magnitude = 1 - polynomial * jnp.exp(-x * x)
    return jnp.where(x < 0, -magnitude, magnitude)


def attend(
    qkv_BF: jax.Array,
    keys_MSH: jax.Array,
    values_MSH: jax.Array,
    length_B: jax.Array,
    n_heads: int,
    *,
    n_parts: int | None = None,
    block: int = 128,
    n_warps: int = 4,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
    """Attention of one new position a row, which is written into slot `length_B` of the KV cache, in place.

    One program reads one head's live slots of one row, or a part of them: with few rows there are fewer heads than
    multiprocessors, and parts (flash decoding) give all of them work. One row of 16 heads makes 16 * 8 = 128 programs.

    Args:
      qkv_BF: projection [B, 3 * D], queries, keys and values contiguous in this order.
      keys_MSH, values_MSH: this layer's cache, M = B * n_heads.
      length_B: int32, live slots of each row, below S.
      n_parts: parts P of a row's slots; by WANTED_PROGRAMS if None.
      block: slots that a program reads at once.
      n_warps, interpret: as for `linear`.

    Returns:
      With P = 1 (outputs [B, D] in qkv's dtype, None, keys, values). With P > 1 (parts float32 [P, B, D], their
      log-sum-exp float32 [P, B, D], keys, values): `linear` or `join` put the parts together. The log-sum-exp is
      repeated over a head's features, so that `linear` reads it as it reads the parts.
    """
    M, _, H = keys_MSH.shape
    B, D = M // n_heads, n_heads * H
    # 8 parts up to 32 rows of 16 heads, M = 512; 4 at 64 rows; 1, without a join, from 2,049 entries on.
    n_parts = n_parts or min(MAX_PARTS, max(1, WANTED_PROGRAMS // M))
    # No blocks: the kernel computes its own addresses, since a block's index cannot depend on length_B.
    anywhere = lambda: pl.BlockSpec(memory_space=pl.ANY)  # noqa: E731
    if n_parts > 1:
        out = [jax.ShapeDtypeStruct((n_parts, B, D), jnp.float32)] * 2
    else:
        out = [jax.ShapeDtypeStruct((B, D), qkv_BF.dtype)]
    caches = [jax.ShapeDtypeStruct(cache.shape, cache.dtype) for cache in (keys_MSH, values_MSH)]
    *outputs, keys_MSH, values_MSH = pl.pallas_call(
        functools.partial(_attend_kernel, n_heads=n_heads, n_parts=n_parts, block=block),
        grid=(M, n_parts),
        in_specs=[anywhere() for _ in range(4)],
        out_specs=[anywhere() for _ in [*out, *caches]],
        out_shape=[*out, *caches],
        # Inputs 2 and 3, the caches, are the last two outputs: a slot is written in place, and the rest is not copied.
        input_output_aliases={2: len(out), 3: len(out) + 1},
        compiler_params=plgpu.CompilerParams(num_warps=n_warps, num_stages=2),
        interpret=interpret,
        name="attend",
    )(length_B, qkv_BF.reshape(B, 3, n_heads, H), keys_MSH, values_MSH)
    return outputs[0], outputs[1] if n_parts > 1 else None, keys_MSH, values_MSH


def join(parts: jax.Array, lse_PBD: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    """Joins the parts [P, B, D] of `attend` into outputs [B, D] of this dtype; without lse_PBD they are one already.

    A Python loop over parts, as XLA compiles it to one kernel, and a softmax over the axis P to two.
    """
    return parts if lse_PBD is None else _joined(list(parts), list(lse_PBD)).astype(dtype)


def _attend_kernel(length_ref, qkv_ref, keys_ref, values_ref, *out_refs, n_heads: int, n_parts: int, block: int):
    """Attends for one head of a row over one part of its slots, with an online softmax over blocks of slots.

    The carry is (largest logit so far, sum of exp(logit - largest), sum of exp(logit - largest) * value). When a block
    has a larger logit, both sums shrink by exp(old - new).

    Slots of a part: ceil(length / (parts * block)) * block. 300 live slots in 2 parts, blocks of 128: 256 and 44.
    """
    *out_refs, new_keys_ref, new_values_ref = out_refs
    H = qkv_ref.shape[-1]
    row_head, part = pl.program_id(0), pl.program_id(1)
    row, head = row_head // n_heads, row_head % n_heads
    length = length_ref[row]
    query = qkv_ref[row, 0, head, :].astype(jnp.float32) * (1 / math.sqrt(H))
    key, value = qkv_ref[row, 1, head, :], qkv_ref[row, 2, head, :]
    is_first = part == 0

    @pl.when(is_first)
    def _():
        new_keys_ref[row_head, length, :] = key
        new_values_ref[row_head, length, :] = value

    # The new position is not read back from its slot, as programs of other parts cannot wait for the write. It is the
    # first part's initial carry instead.
    logit = jnp.sum(query * key.astype(jnp.float32))
    max_logit = jnp.where(is_first, logit, _NEVER)
    total = jnp.where(is_first, jnp.float32(1), jnp.float32(0))
    output = jnp.where(is_first, value.astype(jnp.float32), jnp.zeros((H,), jnp.float32))
    per_part = (length + n_parts * block - 1) // (n_parts * block) * block
    start = part * per_part
    stop = jnp.minimum(start + per_part, length)

    def step(i, carry):
        max_logit, total, output = carry
        first = start + i * block
        is_live = first + jnp.arange(block) < stop
        at = pl.ds(first, block)
        keys = plgpu.load(keys_ref.at[row_head, at, :], mask=is_live[:, None], other=0.0).astype(jnp.float32)
        values = plgpu.load(values_ref.at[row_head, at, :], mask=is_live[:, None], other=0.0).astype(jnp.float32)
        logits = jnp.where(is_live, jnp.sum(keys * query[None, :], axis=1), _NEVER)
        new_max = jnp.maximum(max_logit, jnp.max(logits))
        weights, shrink = jnp.exp(logits - new_max), jnp.exp(max_logit - new_max)
        return (
            new_max,
            total * shrink + jnp.sum(weights),
            output * shrink + jnp.sum(weights[:, None] * values, axis=0),
        )

    # A part past the live slots has stop < start.
    n_blocks = jnp.maximum(stop - start + block - 1, 0) // block
    max_logit, total, output = jax.lax.fori_loop(0, n_blocks, step, (max_logit, total, output))
    columns = pl.ds(head * H, H)
    # A part without slots ends with total 0: its output is 0 and not NaN, its log-sum-exp about _NEVER.
    output = output / jnp.maximum(total, 1e-30)
    if n_parts > 1:
        out_refs[0][part, row, columns] = output
        out_refs[1][part, row, columns] = jnp.full((H,), max_logit + jnp.log(jnp.maximum(total, 1e-30)))
    else:
        out_refs[0][row, columns] = output.astype(out_refs[0].dtype)
