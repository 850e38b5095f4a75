"""The choice of attention, and that cuDNN's calls are the ones it fuses; no GPU is needed to lower for one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import in_numpy, jit, normal

from bark_jax.config import BarkFineConfig, BarkSemanticConfig
from bark_jax.errors import InputError, UnsupportedError
from bark_jax.networks import attention
from bark_jax.networks.attention import TRANSFORMERS_IMPLEMENTATIONS, AttentionNameWarning, resolve
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.stage_models import BarkFineModel

CONFIG = BarkSemanticConfig(
    block_size=64, input_vocab_size=64, output_vocab_size=64, num_layers=2, num_heads=2, hidden_size=128, bias=False
)
FINE_CONFIG = BarkFineConfig(
    **{field.name: getattr(CONFIG, field.name) for field in dataclasses.fields(CONFIG)}, n_codes_total=2
)


def test_auto_takes_xla_where_there_is_no_gpu():
    assert resolve("auto", jnp.bfloat16, 64) == ("xla", "xla")


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="attn_implementation is 'flex', expected one of auto, xla, cudnn"):
        resolve("flex", jnp.float32, 64)


@pytest.mark.parametrize("name", TRANSFORMERS_IMPLEMENTATIONS)
def test_names_of_transformers_are_taken_as_auto_with_a_line_that_says_so(name):
    with pytest.warns(AttentionNameWarning, match=f"'{name}' is transformers' and is taken as 'auto'"):
        assert resolve(name, jnp.float32, 64) == resolve("auto", jnp.float32, 64)


@pytest.mark.parametrize(("dtype", "reason"), [(jnp.float32, "not float32"), (jnp.bfloat16, "needs an NVIDIA GPU")])
def test_cudnn_by_name_says_why_it_cannot_work(dtype, reason):
    with pytest.raises(UnsupportedError, match=reason):
        nnx.eval_shape(lambda: BarkCausalModel(CONFIG, dtype=dtype, attn_implementation="cudnn", rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_compiles_where_xla_lacks_its_products(dtype, rng):
    """Only compiled code fails there: uncompiled, JAX notices and takes other products."""
    qkv = [normal(rng, (2, 9, 2, 16), dtype) for _ in range(3)]
    attend = in_numpy(jax.jit(lambda *qkv: attention.attend(*qkv, "xla", is_causal=True)))
    half, exact = attend(*qkv), attend(*(np.asarray(x, np.float32) for x in qkv))
    assert half.dtype == dtype
    np.testing.assert_allclose(half.astype(np.float32), exact, atol=0.03)


@pytest.mark.parametrize(
    ("T", "is_causal"), [(1, True), (256, True), (257, True), (600, True), (1, False), (257, False)]
)
def test_attention_on_a_cpu_is_jaxs(T, is_causal, rng):
    @jit
    def attend(q, k, v):
        expected = jax.nn.dot_product_attention(q, k, v, is_causal=is_causal, implementation="xla")
        return attention.attend(q, k, v, "xla", is_causal=is_causal), expected

    found, expected = attend(*(normal(rng, (2, T, 3, 16)) for _ in range(3)))
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_probe_that_computes_something_else_is_an_obstacle(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_probe_cudnn", lambda dtype, head_size: 1 / 0)
    attention._cudnn_failure.cache_clear()
    try:
        assert "ZeroDivisionError" in attention.find_cudnn_obstacle("bfloat16", 64)
        assert resolve("auto", jnp.bfloat16, 64) == ("xla", "xla")
    finally:
        attention._cudnn_failure.cache_clear()


def test_the_probe_runs_while_shapes_are_traced(monkeypatch):
    """Loading a network traces its constructor, and the probe has to compute real numbers even there."""

    def probe(dtype, head_size):
        assert float(jnp.ones((), dtype).sum()) == 1

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_probe_cudnn", probe)
    attention._cudnn_failure.cache_clear()
    try:
        nnx.eval_shape(lambda: BarkCausalModel(CONFIG, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
        assert attention.find_cudnn_obstacle("bfloat16", 64) is None
    finally:
        attention._cudnn_failure.cache_clear()


@pytest.fixture
def cudnn_is_there(monkeypatch):
    """For tracing only: our probe, and JAX's own look at the installed cuDNN, are told that there is one."""
    monkeypatch.setattr(attention, "find_cudnn_obstacle", lambda dtype_name, head_size: None)
    jax_side = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(jax_side, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(jax_side, "check_compute_capability", lambda capability: True)


def lowered_for_cuda(function, *args) -> str:
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def test_prefill_decode_and_fine_attention_lower_to_cudnns_kernel(cudnn_is_there):
    model = nnx.eval_shape(lambda: BarkCausalModel(CONFIG, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    embeds = jax.ShapeDtypeStruct((2, 32, 128), jnp.bfloat16)
    length_B = jax.ShapeDtypeStruct((2,), jnp.int32)
    prefill = lambda model, embeds, length_B: model.prefill(embeds, length_B, 64)  # noqa: E731
    assert "cudnn$fmhaSoftmax" in lowered_for_cuda(prefill, model, embeds, length_B)
    cache = jax.eval_shape(prefill, model, embeds, length_B)
    assert "cudnn$fmhaSoftmax" in lowered_for_cuda(BarkCausalModel.decode, model, length_B, cache)
    fine = nnx.eval_shape(lambda: BarkFineModel(FINE_CONFIG, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    codes = jax.ShapeDtypeStruct((2, 64, 2), jnp.int32)
    assert "cudnn$fmhaSoftmax" in lowered_for_cuda(lambda fine, codes: fine(1, codes), fine, codes)
