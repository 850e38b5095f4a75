"""The choice of attention implementation, and that cuDNN's calls are lowered fused; needs no GPU."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import in_numpy, jit, normal
from test_decoder import an_h100
from test_stages import greedy

from bark_jax.config import BarkFineConfig, BarkSemanticConfig
from bark_jax.errors import InputError, UnsupportedError
from bark_jax.generation import fine, semantic
from bark_jax.model import BarkModel
from bark_jax.networks import attention, probes
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
    for platform in ("cpu", "tpu"):
        assert resolve("auto", platform, jnp.bfloat16, 64) == ("xla", "xla")


@pytest.mark.parametrize(
    ("dtype", "head_size", "expected"),
    [
        (jnp.bfloat16, 64, ("cudnn", "pallas")),
        (jnp.float16, 48, ("cudnn", "cudnn")),
        (jnp.float32, 64, ("xla", "xla")),
    ],
)
def test_a_constructor_chooses_by_its_arguments(dtype, head_size, expected, monkeypatch):
    monkeypatch.setattr(probes, "_failure", lambda *_: pytest.fail("a probe ran"))
    config = dataclasses.replace(CONFIG, hidden_size=2 * head_size)
    model = nnx.eval_shape(lambda: BarkCausalModel(config, dtype=dtype, platform="gpu", rngs=nnx.Rngs(0)))
    assert {block.attention.implementations for block in model.blocks} == {expected}


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="attn_implementation is 'flex', expected one of auto, xla, cudnn"):
        resolve("flex", "cpu", jnp.float32, 64)


@pytest.mark.parametrize("name", TRANSFORMERS_IMPLEMENTATIONS)
def test_names_of_transformers_are_taken_as_auto_with_a_line_that_says_so(name):
    with pytest.warns(AttentionNameWarning, match=f"'{name}' is transformers' and is taken as 'auto'"):
        assert resolve(name, "gpu", jnp.float16, 64) == resolve("auto", "gpu", jnp.float16, 64)


@pytest.mark.parametrize(("dtype", "reason"), [(jnp.float32, "not float32"), (jnp.bfloat16, "needs an NVIDIA GPU")])
def test_cudnn_by_name_says_why_it_cannot_work(dtype, reason):
    with pytest.raises(UnsupportedError, match=reason):
        nnx.eval_shape(lambda: BarkCausalModel(CONFIG, dtype=dtype, attn_implementation="cudnn", rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_compiles_where_xla_lacks_its_products(dtype, rng):
    """Only compiled code fails there: uncompiled, JAX notices and takes other products."""
    qkv = [normal(rng, (2, 9, 2, 16), dtype) for _ in range(3)]
    attend = in_numpy(jax.jit(lambda *qkv: attention.attend(*qkv, "xla", "cpu", is_causal=True)))
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
        return attention.attend(q, k, v, "xla", "cpu", is_causal=is_causal), expected

    found, expected = attend(*(normal(rng, (2, T, 3, 16)) for _ in range(3)))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.fixture
def probes_run(monkeypatch):
    """On this machine's device, whatever the platform."""
    monkeypatch.setattr(probes, "device_of", lambda platform: jax.devices()[0])
    monkeypatch.setattr(probes, "probe_kernels", lambda dtype, head_size: None)


def for_gpu(attn_implementation="auto"):
    options = dict(dtype=jnp.bfloat16, attn_implementation=attn_implementation, platform="gpu")
    return nnx.eval_shape(lambda: BarkCausalModel(CONFIG, rngs=nnx.Rngs(0), **options))


def test_a_probe_that_computes_something_else_is_an_obstacle(probes_run, monkeypatch):
    monkeypatch.setattr(probes, "probe_cudnn", lambda dtype, head_size: 1 / 0)
    assert "ZeroDivisionError" in probes.find_cudnn_obstacle("gpu", jnp.bfloat16, 64)
    network = probes.with_working_attention(for_gpu())
    assert {block.attention.implementations for block in network.blocks} == {("xla", "pallas")}
    with pytest.raises(UnsupportedError, match="'cudnn' cannot work here: a small probe failed with ZeroDivisionError"):
        probes.with_working_attention(for_gpu("cudnn"), requires_cudnn=True)


def test_a_probe_runs_once_a_process_on_the_platforms_device(probes_run, monkeypatch):
    seen = []
    monkeypatch.setattr(probes, "probe_cudnn", lambda *what: seen.append((*what, jax.config.jax_default_device)))
    for _ in range(2):
        network = for_gpu("cudnn")
        assert probes.with_working_attention(network, requires_cudnn=True) is network
    assert seen == [(jnp.dtype("bfloat16"), 64, jax.devices()[0])]


def test_what_can_only_be_lowered_here_is_taken_as_able(monkeypatch):
    monkeypatch.setattr(probes, "_failure", lambda *_: pytest.fail("a probe ran"))
    network = for_gpu("cudnn")
    assert probes.with_working_attention(network, requires_cudnn=True) is network


@pytest.fixture
def cudnn_is_there(monkeypatch):
    """Makes JAX believe that cuDNN is installed. Enough for tracing, not for running."""
    jax_side = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(jax_side, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(jax_side, "check_compute_capability", lambda capability: True)


def lowered_for_cuda(function, *args) -> str:
    return jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()


def test_prefill_decode_and_fine_attention_lower_to_cudnns_kernel(cudnn_is_there):
    model = for_gpu("cudnn")
    embeds = jax.ShapeDtypeStruct((2, 32, 128), jnp.bfloat16)
    length_B = jax.ShapeDtypeStruct((2,), jnp.int32)
    prefill = lambda model, embeds, length_B: model.prefill(embeds, length_B, 64)  # noqa: E731
    assert "cudnn$fmhaSoftmax" in lowered_for_cuda(prefill, model, embeds, length_B)
    cache = jax.eval_shape(prefill, model, embeds, length_B)
    assert "cudnn$fmhaSoftmax" in lowered_for_cuda(BarkCausalModel.decode, model, length_B, cache)
    fine = nnx.eval_shape(lambda: BarkFineModel(FINE_CONFIG, dtype=jnp.bfloat16, platform="gpu", rngs=nnx.Rngs(0)))
    codes = jax.ShapeDtypeStruct((2, 64, 2), jnp.int32)
    assert "cudnn$fmhaSoftmax" in lowered_for_cuda(lambda fine, codes: fine(1, codes), fine, codes)


def lower_stages(model, platform):
    """The programs of the stages as text, and what dtype a cache of the semantic stage has."""
    spaces, sampling = model.spaces, greedy(2)
    texts = [semantic.SemanticRow(np.arange(3), np.zeros(0), 9)] * 2
    prompt = semantic.make_prompt(texts, spaces)
    state = jax.eval_shape(functools.partial(semantic.start, spaces=spaces), model.semantic, prompt)
    fine_prompt = fine.make_prompt([np.zeros((2, 30), np.int32)] * 2, [None] * 2, spaces)
    stages = {
        "prompts": lambda: semantic.start.trace(model.semantic, prompt, spaces=spaces),
        "steps": lambda: semantic.run_steps.trace(model.semantic, prompt, sampling, state, 9, spaces=spaces),
        "fine": lambda: fine.generate_fine.trace(model.fine_acoustics, fine_prompt, sampling, spaces=spaces),
    }
    lowered = {}
    for name, trace in stages.items():
        # Pallas asks which GPU there is, and calls of cuDNN take no stand-in for one.
        with an_h100() if platform == "cuda" and name == "steps" else contextlib.nullcontext():
            lowered[name] = trace().lower(lowering_platforms=(platform,)).as_text()
    return lowered, state.cache.keys[0].dtype


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
def test_a_model_for_a_gpu_lowers_to_its_kernels_where_there_is_none(toy_folder, cudnn_is_there):
    model = BarkModel.from_pretrained(toy_folder, dtype="bfloat16", platform="gpu")
    programs, cache_dtype = lower_stages(model, "cuda")
    assert "cudnn$fmhaSoftmax" in programs["prompts"] and "cudnn$fmhaSoftmax" in programs["fine"]
    assert "xla.gpu.triton" in programs["steps"] and cache_dtype == jnp.bfloat16


def test_what_is_traced_asks_no_device(toy_folder, monkeypatch):
    model = BarkModel.from_pretrained(toy_folder, dtype="bfloat16", platform="tpu")
    for name in ("default_backend", "devices", "local_devices"):
        monkeypatch.setattr(jax, name, lambda *_, **__: pytest.fail("a device was asked for"))
    programs, cache_dtype = lower_stages(model, "tpu")
    # On a CPU a cache is float32, and windows are read one by one.
    assert cache_dtype == jnp.bfloat16 and "tensor<2x256x64xbf16>" in programs["fine"]
