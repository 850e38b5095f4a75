"""Decoding steps: the layouts and the GPU kernels against the plain network, and caches that stay where they are.

The kernels run interpreted here, which shows what they compute; that a GPU compiles them is the probe's to say.
"""

import contextlib
import dataclasses
import functools
import gc
import weakref

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import as_dtype, drawn, jit
from test_stages import greedy

from bark_jax.config import BarkSemanticConfig
from bark_jax.generation import coarse, semantic
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel
from bark_jax.networks import attention, probes
from bark_jax.networks.attention import Implementations, kernel_obstacle, resolve, with_implementations
from bark_jax.networks.causal import BarkCausalModel
from bark_jax.networks.decoder import KernelDecoder, make_decoder
from bark_jax.networks.int8 import quantize
from bark_jax.networks.layout import (
    MAX_KERNEL_ROWS,
    copy_bytes,
    for_decoding,
    is_faster_transposed,
    with_transposed_weights,
)
from bark_jax.stage_models import BarkCoarseModel, BarkSemanticModel

N_SLOTS = 80

kernels = pytest.importorskip("bark_jax.networks.pallas_decode")


def make_model(dtype=jnp.float32, step="xla", platform="cpu", *, bias=False, hidden_size=48, num_heads=3):
    config = BarkSemanticConfig(
        block_size=N_SLOTS,
        input_vocab_size=70,
        output_vocab_size=70,
        num_layers=2,
        num_heads=num_heads,
        hidden_size=hidden_size,
        bias=bias,
        initializer_range=0.2,
    )
    options = dict(attn_implementation="xla", platform=platform, rngs=nnx.Rngs(0))
    return with_implementations(BarkSemanticModel(config, dtype=dtype, **options), Implementations("xla", step))


@jit
def read_on(models, length_B):
    """Logits [2, B, V] of two steps of each model, after prompts of these lengths."""
    tokens_BT = jnp.asarray(np.random.default_rng(1).integers(0, 70, (len(length_B), 64)))
    return [read_steps(model, tokens_BT, length_B) for model in models]


def read_steps(model, tokens_BT, length_B):
    reader = make_decoder(model)

    def step(cache, token_B):
        hidden_BD, cache = reader.decode(token_B, cache)
        return cache, reader.logits(hidden_BD)

    cache = model.prefill(model.embed(tokens_BT), length_B, N_SLOTS)
    return jax.lax.scan(step, cache, tokens_BT[:, :2].T)[1]


@pytest.fixture
def interpreted(monkeypatch):
    for name in ("linear", "attend"):
        monkeypatch.setattr(kernels, name, functools.partial(getattr(kernels, name), interpret=True))


@pytest.fixture
def quick_probe(monkeypatch):
    """Makes probes fast: their networks are drawn by numpy and compiled without expensive optimisations."""

    def make(*args, rngs, **options):
        return drawn(lambda: BarkCausalModel(*args, rngs=nnx.Rngs(0), **options))

    monkeypatch.setattr(jax, "jit", jit)
    monkeypatch.setattr(probes, "BarkCausalModel", make)


@pytest.mark.parametrize(("lengths", "bias"), [([40], False), ([64, 1, 17], True)])
def test_a_network_with_transposed_weights_reads_alike(lengths, bias):
    model = drawn(functools.partial(make_model, bias=bias))
    found, expected = read_on((with_transposed_weights(model), model), np.array(lengths))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "platform", "expected"),
    [
        (jnp.float32, "cpu", [True, False, False]),
        (jnp.float16, "cpu", [True, False, False]),
        (jnp.bfloat16, "cpu", [True, True, True]),
        (jnp.bfloat16, "gpu", [True, True, False]),
        (jnp.bfloat16, "tpu", [False, False, False]),
    ],
)
def test_what_reads_transposed_weights(dtype, platform, expected):
    model = nnx.eval_shape(lambda: make_model(dtype, "pallas" if platform == "gpu" else "xla", platform))
    assert [is_faster_transposed(model, n_rows) for n_rows in (1, 2, 3)] == expected


def test_the_copy_is_made_once_beside_a_network_that_stays_as_it_is():
    model = drawn(make_model)
    structure = jax.tree.structure(model)
    assert for_decoding(model, 2) is model and copy_bytes(model) == 0
    found = for_decoding(model, 1)
    assert for_decoding(model, 1) is found and jax.tree.structure(model) == structure
    kernels = n_bytes([model.blocks, model.head]) - n_bytes([block.attention_norm for block in model.blocks])
    assert copy_bytes(model) == kernels - n_bytes([block.mlp_norm for block in model.blocks])
    np.testing.assert_array_equal(found.head.transposed[...], model.head.kernel[...].T)
    assert found.head.kernel[...] is model.head.kernel[...]


@pytest.mark.parametrize("path", [("head", "kernel"), ("token_embedding", "embedding")])
def test_the_copy_is_made_again_once_a_parameter_is_replaced(path):
    model = drawn(make_model)
    before = for_decoding(model, 1)
    parameter = getattr(getattr(model, path[0]), path[1])
    parameter[...] = as_dtype(np.ones(parameter.shape), jnp.float32)
    found = for_decoding(model, 1)
    assert found is not before and for_decoding(model, 1) is found
    np.testing.assert_array_equal(getattr(getattr(found, path[0]), path[1])[...], parameter[...])
    np.testing.assert_array_equal(found.head.transposed[...], model.head.kernel[...].T)


def test_the_copy_goes_with_its_network():
    model = drawn(make_model)
    copy = weakref.ref(for_decoding(model, 1).head)
    del model
    gc.collect()
    assert copy() is None


def test_a_model_can_be_loaded_to_keep_no_copy(toy_folder):
    model = BarkModel.from_pretrained(toy_folder, decoding_copy=False)
    for network in (model.semantic, model.coarse_acoustics):
        assert is_faster_transposed(network, 1) and for_decoding(network, 1) is network


@pytest.mark.parametrize(
    ("dtype", "lengths"), [(jnp.float16, [40]), (jnp.bfloat16, [64, 1]), (jnp.bfloat16, [5, 64, 1, 17, 33])]
)
def test_kernels_are_as_exact_as_the_plain_step(dtype, lengths, interpreted):
    plain = drawn(functools.partial(make_model, dtype))
    fused = drawn(functools.partial(make_model, dtype, "pallas"))
    exact = drawn(make_model)
    nnx.update(exact, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), nnx.state(plain)))
    if len(lengths) <= MAX_KERNEL_ROWS:
        fused = with_transposed_weights(fused)
        assert isinstance(make_decoder(fused), KernelDecoder)
    expected, *found = map(np.asarray, read_on((exact, plain, fused), np.array(lengths)))
    errors = [np.std(logits - expected) for logits in found]
    assert 0 < errors[1] < 1.2 * errors[0]


@functools.partial(jit, static_argnames="n_parts")
def attend_in_parts(qkv_BF, keys, values, length_B, n_parts):
    parts, lse, *caches = kernels.attend(qkv_BF, keys, values, length_B, 2, n_parts=n_parts, block=16, interpret=True)
    return kernels.join(parts, lse, jnp.float32).reshape(1, 2, 16), caches


@pytest.mark.parametrize("n_parts", [1, 3])
@pytest.mark.parametrize("length", [0, 32, 33, 79])
def test_attention_in_any_parts_reads_the_live_slots_alone(length, n_parts, rng):
    caches = rng.normal(size=(2, 2, N_SLOTS, 16)).astype(np.float32)
    q, *new = qkv = rng.normal(size=(3, 1, 2, 16)).astype(np.float32)
    caches[:, :, length + 1 :] = np.nan
    found, found_caches = attend_in_parts(qkv.reshape(1, 96), *caches, np.array([length]), n_parts)
    caches[:, :, length] = np.concatenate(new)
    np.testing.assert_array_equal(found_caches, caches)
    expected = jit(attention.attend_to_slots)(q, *np.nan_to_num(caches), np.array([length + 1]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("start", "size"), [(0, None), (8, 40), (16, 13), (3, 13), (67, 3), (11, None)])
def test_a_linear_gives_the_features_asked_for(start, size, rng):
    x_RK, weight_NK = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 48), (70, 48)))
    found = jit(functools.partial(kernels.linear, start=start, size=size, interpret=True))(x_RK, weight_NK)
    expected = (x_RK @ weight_NK.T)[:, start:][:, :size]
    np.testing.assert_allclose(np.asarray(found)[:, : expected.shape[1]], expected, atol=1e-5)


def test_a_start_within_a_program_is_refused_beside_a_residual():
    options = dict(start=3, residual_RN=np.ones((1, 67)), interpret=True)
    with pytest.raises(ValueError, match="start is 3, expected a multiple of 8 beside a residual"):
        kernels.linear(np.ones((1, 48)), np.ones((70, 48)), **options)


def test_the_kernels_gelu_is_exact_to_single_precision():
    x = np.linspace(-6, 6, 2001, dtype=np.float32)
    found, expected = jit(lambda x: (kernels._gelu(x), jax.nn.gelu(x, approximate=False)))(x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@contextlib.contextmanager
def an_h100():
    """Since 0.11 Pallas asks which GPU it lowers for."""
    if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        yield
        return
    from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

    device = AbstractDevice("NVIDIA H100 80GB HBM3", 1, "gpu")
    with use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        yield


# Where it has gone, the probe fails and the plain step runs.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("hidden_size", "num_heads"), [(768, 12), (1024, 16)])
@pytest.mark.parametrize("n_rows", [1, 2, 8, 64])
def test_a_step_of_barks_sizes_lowers_to_the_kernels(n_rows, hidden_size, num_heads):
    def make():
        model = make_model(jnp.bfloat16, "pallas", "gpu", hidden_size=hidden_size, num_heads=num_heads)
        return with_transposed_weights(model) if is_faster_transposed(model, n_rows) else model

    def step(model, tokens_B, cache):
        reader = make_decoder(model)
        hidden_BD, cache = reader.decode(tokens_B, cache)
        return reader.logits(hidden_BD, 0, 65), cache

    model = nnx.eval_shape(make)
    cache = jax.eval_shape(lambda model: model.empty_cache(n_rows, 1024), model)
    with an_h100():
        lowered = jax.jit(step).trace(model, jax.ShapeDtypeStruct((n_rows,), jnp.int32), cache)
        text = lowered.lower(lowering_platforms=("cuda",)).as_text()
    # five a layer and the head, or the attention of each layer
    assert text.count("xla.gpu.triton") == (11 if n_rows <= MAX_KERNEL_ROWS else 2)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("n_rows", [1, 2])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_coarse_stage_lowers_to_the_kernels_whatever_its_vocabulary(dtype, n_rows, toy_model):
    """The toy's codes start at 123, which is no multiple of what a kernel's program makes."""
    spaces, config = toy_model.spaces, toy_model.config.coarse_acoustics_config
    assert spaces.semantic_vocab % 8

    def make():
        model = BarkCoarseModel(config, dtype=dtype, attn_implementation="xla", platform="gpu", rngs=nnx.Rngs(0))
        return with_transposed_weights(with_implementations(model, Implementations("xla", "pallas")))

    prompt = coarse.make_prompt([np.arange(40)] * n_rows, [None] * n_rows, spaces)
    model = nnx.eval_shape(make)
    with an_h100():
        state = jax.eval_shape(functools.partial(coarse.start, spaces=spaces), model, prompt)
        run = jax.jit(functools.partial(coarse.run_windows.__wrapped__, spaces=spaces))
        traced = run.trace(model, prompt, greedy(n_rows), state, 3)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") >= 11


def test_the_probe_accepts_kernels_that_work(interpreted, quick_probe):
    probes.probe_kernels(jnp.dtype("bfloat16"), 32)


def test_the_probe_finds_kernels_that_compute_something_else(interpreted, quick_probe, monkeypatch):
    right = kernels.attend
    monkeypatch.setattr(kernels, "attend", lambda qkv, *rest, **options: right(qkv.at[:, 0].add(3), *rest, **options))
    with pytest.raises(RuntimeError, match="logits of 1 rows are off by"):
        probes.probe_kernels(jnp.dtype("bfloat16"), 32)


@pytest.mark.parametrize(
    ("cudnn", "works", "expected"),
    [
        (None, True, ("cudnn", "pallas")),
        ("absent", True, ("xla", "pallas")),
        (None, False, ("cudnn", "cudnn")),
        ("absent", False, ("xla", "xla")),
    ],
)
def test_auto_takes_what_the_probes_say(cudnn, works, expected, monkeypatch):
    monkeypatch.setattr(probes, "device_of", lambda platform: jax.devices()[0])
    monkeypatch.setattr(probes, "find_cudnn_obstacle", lambda *here: cudnn)
    monkeypatch.setattr(probes, "probe_kernels", lambda dtype, head_size: None if works else 1 / 0)
    chosen = nnx.eval_shape(lambda: abstract_for_gpu("auto"))
    assert chosen.blocks[0].attention.implementations == ("cudnn", "pallas")
    found = probes.with_working_attention(chosen)
    assert {block.attention.implementations for block in found.blocks} == {expected}
    plain = nnx.eval_shape(lambda: abstract_for_gpu("xla"))
    assert probes.with_working_attention(plain) is plain


def abstract_for_gpu(attn_implementation):
    config = BarkSemanticConfig(
        block_size=8, input_vocab_size=8, output_vocab_size=8, num_layers=2, num_heads=1, hidden_size=64
    )
    options = dict(dtype=jnp.bfloat16, platform="gpu", rngs=nnx.Rngs(0))
    return BarkSemanticModel(config, attn_implementation=attn_implementation, **options)


@pytest.mark.parametrize(("dtype", "head_size", "reason"), [("float32", 64, "not float32"), ("bfloat16", 48, "not 48")])
def test_kernels_say_what_they_do_not_take(dtype, head_size, reason):
    assert reason in kernel_obstacle("gpu", dtype, head_size)
    assert resolve("auto", "gpu", dtype, head_size).step != "pallas"


def temporary_bytes(lowered) -> int:
    return lowered.compile().memory_analysis().temp_size_in_bytes


def n_bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("n_rows", [1, 4])
def test_steps_write_the_cache_in_place(n_rows):
    """A cache that is donated is never copied: a loop's temporary memory stays far below one."""
    model = nnx.eval_shape(lambda: make_model(hidden_size=96))

    def run(model, tokens_B, cache):
        return jax.lax.fori_loop(0, 9, lambda _, cache: model.decode(tokens_B, cache)[1], cache)

    cache = jax.eval_shape(lambda model: model.empty_cache(n_rows, 4096), model)
    lowered = jax.jit(run, donate_argnums=2).lower(model, jax.ShapeDtypeStruct((n_rows,), jnp.int32), cache)
    assert temporary_bytes(lowered) < 0.1 * n_bytes(cache)


@pytest.mark.parametrize("n_rows", [1, 2])
def test_semantic_steps_copy_neither_the_cache_nor_the_weights(n_rows):
    model, prompt, sampling, state, spaces = begin_semantic(n_rows)
    lowered = semantic.run_steps.lower(model, prompt, sampling, state, 9, spaces=spaces)
    # The head is cut.
    assert temporary_bytes(lowered) < 1.1 * n_bytes(model.head.kernel) + 0.1 * n_bytes(state.cache)


@pytest.mark.parametrize("kind", ["laid out", "network", "int8"])
def test_steps_read_a_head_that_was_cut_before_them(kind):
    """Cut within the loop it would be copied at every step."""
    change = {"laid out": with_transposed_weights, "network": lambda model: model, "int8": quantized}[kind]
    model, *rest, spaces = begin_semantic(1, change)
    run = functools.partial(semantic.run_steps.__wrapped__, spaces=spaces)
    traced = jax.make_jaxpr(run)(model, *rest, 9)
    (loop,) = [equation for equation in traced.eqns if equation.primitive.name == "while"]
    shape = {spaces.semantic_end + 1, model.config.hidden_size}
    cut = [equation for equation in equations(traced.jaxpr) if is_cut(equation, shape)]
    within = [equation for equation in equations(loop.params["body_jaxpr"].jaxpr) if is_cut(equation, shape)]
    assert cut and not within


def equations(jaxpr):
    """All equations of a jaxpr, nested ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def is_cut(equation, shape):
    return "slice" in equation.primitive.name and set(equation.outvars[0].aval.shape) == shape


def quantized(model):
    quantize(model)
    return model


def begin_semantic(n_rows, change=None):
    """Arguments of `semantic.run_steps`: shapes of a network, of its state and of its sampling, and a prompt.

    The network is laid out for so many rows unless something else is asked for.
    """
    spaces = TokenSpaces(n_text=4000, max_semantic=96, semantic_vocab=30, semantic_end=30)
    config = BarkSemanticConfig(
        block_size=4097, input_vocab_size=129_600, output_vocab_size=40, num_layers=2, num_heads=2, hidden_size=32
    )

    def make():
        model = BarkSemanticModel(config, attn_implementation="xla", rngs=nnx.Rngs(0))
        if change is not None:
            return change(model)
        return with_transposed_weights(model) if is_faster_transposed(model, n_rows) else model

    prompt = semantic.make_prompt([semantic.SemanticRow(np.arange(3), np.zeros(0), 40)] * n_rows, spaces)
    model, sampling = nnx.eval_shape(make), jax.eval_shape(lambda: greedy(n_rows))
    state = jax.eval_shape(functools.partial(semantic.start, spaces=spaces), model, prompt)
    return model, prompt, sampling, state, spaces


N_WINDOWS = 39
extends_previous = functools.partial(jit, static_argnames="spaces")(coarse._extends_previous)


@pytest.mark.parametrize(("n_history", "n_stream", "going"), [(0, 0, range(1, 11)), (209, 628, ())])
def test_windows_go_on_while_nothing_has_left_the_prompt(n_history, n_stream, going):
    spaces, window_B = TokenSpaces(), np.arange(N_WINDOWS)
    prompt = coarse.make_prompt([np.zeros(768, np.int32)] * N_WINDOWS, [None] * N_WINDOWS, spaces)
    lengths = {"n_history_B": n_history, "n_stream_B": n_stream}
    prompt = dataclasses.replace(prompt, **{name: np.full(N_WINDOWS, n) for name, n in lengths.items()})
    found_B = extends_previous(prompt, coarse.WindowsDone(window_B, None, None, None), spaces)
    assert list(window_B[found_B]) == list(going)
