"""Decoding steps: the layouts and the GPU kernels against the plain network, and caches that stay where they are.

The kernels run interpreted here, which shows what they compute; that a GPU compiles them is the probe's to say.
"""

import contextlib
import dataclasses
import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_stages import greedy

from bark_jax.config import BarkSemanticConfig
from bark_jax.models import attention, decoder
from bark_jax.models.attention import Implementations, resolve
from bark_jax.models.decoder import make_decoder
from bark_jax.models.gpt import BarkSemanticModel
from bark_jax.models.int8 import quantize
from bark_jax.models.kernel_probe import probe
from bark_jax.models.linear import TransposedLinear, transpose_weights
from bark_jax.stages import coarse, semantic
from bark_jax.tokens import TokenSpaces

N_SLOTS = 80

kernels = pytest.importorskip("bark_jax.models.decode_kernels")


def make_model(dtype=jnp.float32, step="xla", *, bias=False, hidden_size=48, num_heads=3):
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
    model = BarkSemanticModel(config, dtype=dtype, attn_implementation="xla", rngs=nnx.Rngs(0))
    for block in model.blocks:
        block.attention.implementations = Implementations("xla", step)
    return model


def read_on(reader, model, lengths, n_steps=2):
    """Logits of a few steps after prompts of these lengths."""
    tokens_BT = jax.random.randint(jax.random.key(1), (len(lengths), 64), 0, 70)

    @jax.jit
    def read(reader, model, tokens_BT, length_B):
        cache = model.prefill(model.embed(tokens_BT), length_B, N_SLOTS)
        found = []
        for step in range(n_steps):
            hidden_BD, cache = reader.decode(tokens_BT[:, step], cache)
            found.append(reader.logits(hidden_BD))
        return jnp.stack(found)

    return np.asarray(read(reader, model, tokens_BT, jnp.asarray(lengths)))


@pytest.fixture
def interpreted(monkeypatch):
    for name in ("linear", "attend"):
        monkeypatch.setattr(kernels, name, functools.partial(getattr(kernels, name), interpret=True))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", [[40], [64, 1, 17]])
def test_a_network_with_transposed_weights_reads_alike(lengths, bias):
    model = make_model(bias=bias)
    reader = jax.jit(transpose_weights)(model)
    assert isinstance(model.head, nnx.Linear) and isinstance(reader.head, TransposedLinear)
    np.testing.assert_allclose(read_on(reader, model, lengths), read_on(model, model, lengths), atol=1e-5)


@pytest.mark.parametrize(("dtype", "transposes"), [(jnp.float32, (True, False)), (jnp.bfloat16, (True, True))])
def test_what_reads_transposed_weights_on_a_cpu(dtype, transposes):
    model = make_model(dtype)
    for n_rows, is_transposed in zip((1, 2), transposes, strict=True):
        reader = make_decoder(model, n_rows)
        assert isinstance(reader.head, TransposedLinear) == is_transposed
        assert is_transposed or reader is model


@pytest.mark.parametrize(
    ("dtype", "lengths"), [(jnp.float16, [40]), (jnp.bfloat16, [64, 1]), (jnp.bfloat16, [5, 64, 1, 17, 33])]
)
def test_kernels_are_as_exact_as_the_plain_step(dtype, lengths, interpreted):
    plain, fused, exact = make_model(dtype), make_model(dtype, "pallas"), make_model()
    nnx.update(exact, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), nnx.state(plain)))
    reader = make_decoder(fused, len(lengths))
    assert (reader is fused) == (len(lengths) > decoder.MOST_KERNEL_ROWS)
    expected = read_on(exact, exact, lengths)
    errors = [np.std(read_on(*pair, lengths) - expected) for pair in ((plain, plain), (reader, fused))]
    assert 0 < errors[1] < 1.2 * errors[0]


@pytest.mark.parametrize("n_parts", [1, 3])
@pytest.mark.parametrize("length", [0, 32, 33, 79])
def test_attention_in_any_parts_reads_the_live_slots_alone(length, n_parts, rng):
    keys, values = (jnp.asarray(rng.normal(size=(2, N_SLOTS, 16)), jnp.float32) for _ in range(2))
    qkv_BF = jnp.asarray(rng.normal(size=(1, 96)), jnp.float32)
    dead = jnp.arange(N_SLOTS)[None, :, None] > length
    keys, values = (jnp.where(dead, jnp.nan, x) for x in (keys, values))
    parts, lse, new_keys, new_values = kernels.attend(
        qkv_BF, keys, values, jnp.asarray([length]), 2, n_parts=n_parts, block=16, interpret=True
    )
    q, k, v = qkv_BF.reshape(3, 1, 2, 16)
    for cache, new, found in ((keys, k, new_keys), (values, v, new_values)):
        np.testing.assert_array_equal(found, cache.at[:, length].set(new[0]))
    alive = (jnp.where(dead, 0.0, x) for x in (new_keys, new_values))
    expected = attention.attend_to_slots(q, *alive, jnp.asarray([length + 1]))
    np.testing.assert_allclose(kernels.join(parts, lse, jnp.float32).reshape(1, 2, 16), expected, atol=1e-5)


@pytest.mark.parametrize(("start", "size"), [(0, None), (8, 40), (16, 13)])
def test_a_linear_gives_the_features_asked_for(start, size, rng):
    x_RK, weight_NK = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 48), (70, 48)))
    found = kernels.linear(x_RK, weight_NK, start=start, size=size, interpret=True)
    expected = (x_RK @ weight_NK.T)[:, start:][:, :size]
    np.testing.assert_allclose(found[:, : expected.shape[1]], expected, atol=1e-5)


def test_a_start_within_a_program_is_refused():
    with pytest.raises(ValueError, match="start is 3, expected a multiple of 8"):
        kernels.linear(jnp.ones((1, 48)), jnp.ones((70, 48)), start=3, interpret=True)


def test_the_kernels_gelu_is_exact_to_single_precision():
    x = jnp.linspace(-6, 6, 2001)
    np.testing.assert_allclose(kernels._gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)


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
        return make_model(jnp.bfloat16, "pallas", hidden_size=hidden_size, num_heads=num_heads)

    def step(model, tokens_B, cache):
        reader = make_decoder(model, n_rows)
        hidden_BD, cache = reader.decode(tokens_B, cache)
        return reader.logits(hidden_BD, 0, 65), cache

    model = nnx.eval_shape(make)
    cache = jax.eval_shape(lambda model: model.empty_cache(n_rows, 1024), model)
    with an_h100():
        lowered = jax.jit(step).trace(model, jax.ShapeDtypeStruct((n_rows,), jnp.int32), cache)
        text = lowered.lower(lowering_platforms=("cuda",)).as_text()
    # five a layer and the head, or the attention of each layer
    assert text.count("xla.gpu.triton") == (11 if n_rows <= decoder.MOST_KERNEL_ROWS else 2)


@pytest.fixture
def a_gpu(monkeypatch):
    """Believed to be there by whatever asks; nothing is compiled for it."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    attention.find_kernel_obstacle.cache_clear()
    yield monkeypatch
    attention.find_kernel_obstacle.cache_clear()


def test_the_probe_accepts_kernels_that_work(interpreted):
    probe(jnp.dtype("bfloat16"), 32)


def test_the_probe_finds_kernels_that_compute_something_else(interpreted, monkeypatch):
    right = kernels.attend
    monkeypatch.setattr(kernels, "attend", lambda qkv, *rest, **options: right(qkv.at[:, 0].add(3), *rest, **options))
    with pytest.raises(RuntimeError, match="logits of 1 rows are off by"):
        probe(jnp.dtype("bfloat16"), 32)


@pytest.mark.parametrize(
    ("cudnn", "works", "expected"),
    [
        (None, True, ("cudnn", "pallas")),
        ("absent", True, ("xla", "pallas")),
        (None, False, ("cudnn", "cudnn")),
        ("absent", False, ("xla", "xla")),
    ],
)
def test_auto_takes_what_the_probes_say(cudnn, works, expected, a_gpu, monkeypatch):
    from bark_jax.models import kernel_probe

    monkeypatch.setattr(attention, "find_cudnn_obstacle", lambda dtype_name, head_size: cudnn)
    monkeypatch.setattr(kernel_probe, "probe", lambda dtype, head_size: None if works else 1 / 0)
    assert resolve("auto", jnp.bfloat16, 64) == expected
    assert resolve("xla", jnp.bfloat16, 64) == ("xla", "xla")


def test_the_probe_runs_while_shapes_are_traced(a_gpu, monkeypatch):
    """Loading a network traces its constructor, and the probe has to run real kernels even there."""
    from bark_jax.models import kernel_probe

    def probe(dtype, head_size):
        found = kernels.linear(jnp.ones((1, 16), dtype), jnp.ones((8, 16), dtype), interpret=True)
        assert float(found[0, 0]) == 16

    monkeypatch.setattr(kernel_probe, "probe", probe)
    found = []
    jax.eval_shape(lambda: found.append(attention.find_kernel_obstacle("bfloat16", 64)))
    assert found == [None]


@pytest.mark.parametrize(("dtype", "head_size", "reason"), [("float32", 64, "not float32"), ("bfloat16", 48, "not 48")])
def test_kernels_say_what_they_do_not_take(dtype, head_size, reason, a_gpu):
    assert reason in attention.find_kernel_obstacle(dtype, head_size)


def temporary_bytes(function, *args) -> int:
    return function.lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("n_rows", [1, 4])
def test_steps_write_the_cache_in_place(n_rows):
    """A cache that is donated is never copied: a loop's temporary memory stays far below one."""
    model = make_model(hidden_size=96)

    def run(model, tokens_B, cache):
        return jax.lax.fori_loop(0, 9, lambda _, cache: model.decode(tokens_B, cache)[1], cache)

    cache = model.empty_cache(n_rows, 4096)
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    run = jax.jit(run, donate_argnums=2)
    assert temporary_bytes(run, model, jnp.zeros(n_rows, jnp.int32), cache) < 0.1 * n_bytes


def test_semantic_steps_write_the_cache_in_place():
    model, spaces = make_semantic()
    prompt = semantic.make_prompt([semantic.SemanticRow(np.arange(3), np.zeros(0), 40)] * 2, spaces)
    state = semantic.start(model, prompt, spaces=spaces)
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache))
    n_weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    lowered = semantic.run_steps.lower(model, prompt, greedy(2), state, 9, spaces=spaces)
    # The decoder holds the weights once more.
    assert lowered.compile().memory_analysis().temp_size_in_bytes < n_weights + 0.1 * n_bytes


@pytest.mark.parametrize("kind", ["decoder", "network", "int8"])
def test_steps_read_a_head_that_was_cut_before_them(kind, monkeypatch):
    """Cut within the loop it would be copied at every step."""
    model, spaces = make_semantic()
    if kind == "network":
        monkeypatch.setattr(semantic, "make_decoder", lambda model, n_rows: model)
    if kind == "int8":
        quantize(model)
    prompt = semantic.make_prompt([semantic.SemanticRow(np.arange(3), np.zeros(0), 40)], spaces)
    state = jax.eval_shape(functools.partial(semantic.start, spaces=spaces), model, prompt)
    run = functools.partial(semantic.run_steps.__wrapped__, spaces=spaces)
    traced = jax.make_jaxpr(run)(model, prompt, greedy(1), state, 9)
    (loop,) = [equation for equation in traced.eqns if equation.primitive.name == "while"]
    shape = {spaces.semantic_end + 1, model.config.hidden_size}
    cut = [equation for equation in equations(traced.jaxpr) if is_cut(equation, shape)]
    within = [equation for equation in equations(loop.params["body_jaxpr"].jaxpr) if is_cut(equation, shape)]
    assert cut and not within


def equations(jaxpr):
    """All of a program's, in whatever they are nested."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def is_cut(equation, shape):
    return "slice" in equation.primitive.name and set(equation.outvars[0].aval.shape) == shape


def make_semantic():
    spaces = TokenSpaces(n_text=4000, max_semantic=96, semantic_vocab=30, semantic_end=30)
    config = BarkSemanticConfig(
        block_size=4097, input_vocab_size=129_600, output_vocab_size=40, num_layers=2, num_heads=2, hidden_size=32
    )
    return BarkSemanticModel(config, attn_implementation="xla", rngs=nnx.Rngs(0)), spaces


@pytest.mark.parametrize(("n_history", "n_stream", "going"), [(0, 0, range(1, 11)), (209, 628, ())])
def test_windows_go_on_while_nothing_has_left_the_prompt(n_history, n_stream, going):
    spaces = TokenSpaces()
    prompt = coarse.make_prompt([np.zeros(768, np.int32)], [None], spaces)
    prompt = dataclasses.replace(prompt, n_history_B=jnp.asarray([n_history]), n_stream_B=jnp.asarray([n_stream]))
    found = [
        window
        for window in range(39)
        if coarse._goes_on(prompt, coarse.WindowsDone(jnp.asarray([window]), None, None, None), spaces)[0]
    ]
    assert found == list(going)
