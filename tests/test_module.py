"""A Bark as an NNX module: jit, split, tree maps, shardings and checkpoints of all networks at once."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import xla_flags
from flax import nnx

from bark_jax.errors import InputError

IDS = np.arange(6)[None]
CODES = np.ones((1, 4, 8), int)
ASK = dict(input_ids=[[5, 9, 12]], seed=3, max_new_tokens=12, allow_early_stop=False)


@pytest.fixture(scope="module")
def logits(toy_model):
    return np.asarray(jax.jit(type(toy_model.semantic).__call__)(toy_model.semantic, IDS))


def test_a_jitted_function_takes_the_model(toy_model, logits):
    found = jax.jit(lambda model, ids: model.semantic(ids))(toy_model, IDS)
    np.testing.assert_array_equal(found, logits)


def test_it_splits_and_merges(toy_model):
    graphdef, state = nnx.split(toy_model)
    again = nnx.merge(graphdef, state)
    assert hash(graphdef) is not None and again.config == toy_model.config
    np.testing.assert_array_equal(again.generate(**ASK), toy_model.generate(**ASK))


def test_a_tree_map_makes_a_model(toy_model):
    halves = jax.jit(lambda model: jax.tree.map(lambda array: array.astype(jnp.float16), model))(toy_model)
    assert type(halves) is type(toy_model) and halves.spaces == toy_model.spaces
    assert halves.get_memory_footprint() * 2 == toy_model.get_memory_footprint()
    assert len(jax.tree.leaves(toy_model)) == sum(
        len(jax.tree.leaves(getattr(toy_model, name)))
        for name in ("semantic", "coarse_acoustics", "fine_acoustics", "codec_model")
    )


def test_networks_are_replaced_in_a_copy(toy_model):
    other = jax.tree.map(lambda array: array, toy_model.semantic)
    changed = toy_model.replace(semantic=other)
    assert changed.semantic is other and toy_model.semantic is not other
    assert changed.codec_model is toy_model.codec_model
    with pytest.raises(InputError, match="vocoder is no network of the model, which has semantic, coarse_acoustics"):
        toy_model.replace(vocoder=other)
    for network in (None, toy_model.fine_acoustics):
        with pytest.raises(InputError, match=f"semantic is '{type(network).__name__}', expected a BarkSemanticModel"):
            toy_model.replace(semantic=network)


def test_its_repr_has_a_line_a_network(toy_model):
    for text in (repr(toy_model), str(toy_model)):
        assert len(text.splitlines()) == 6 and "BarkFineModel, " in text and "float32" in text


def test_nnx_tabulates_a_network(toy_model):
    table = nnx.tabulate(toy_model.semantic, IDS, depth=2, console_kwargs={"width": 300})
    assert "BarkSemanticModel" in table and "blocks" in table


def test_orbax_keeps_it(toy_model, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    graphdef, state = nnx.split(toy_model)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", state)
        checkpointer.wait_until_finished()
        abstract = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), state)
        again = nnx.merge(graphdef, checkpointer.restore(tmp_path / "model", abstract))
    assert jax.tree.all(jax.tree.map(np.array_equal, toy_model, again))


def test_a_donated_model_is_given_up(toy_model):
    copy = jax.tree.map(lambda array: jax.device_put(np.array(array)), toy_model)
    scale = jax.jit(lambda model: jax.tree.map(lambda array: 2 * array, model), donate_argnums=0)
    scaled = scale(copy)
    assert jax.tree.leaves(copy)[0].is_deleted() and not jax.tree.leaves(scaled)[0].is_deleted()


def call_traced(model):
    jax.jit(lambda model, q, ids: model.fine_acoustics(q, ids))(model, 2, CODES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.semantic(np.arange(5)), r"input_ids has shape \(5,\), expected \[B, T\]"),
        (
            lambda model: model.semantic(inputs_embeds=np.ones((2, 3))),
            r"_embeds has shape \(2, 3\), expected \[B, T, D",
        ),
        (lambda model: model.fine_acoustics(2, CODES[0]), r"shape \(4, 8\), expected \[B, T, n_codes_total"),
        (lambda model: model.fine_acoustics(1.0, CODES), "codebook_idx is 1.0, expected a Python int"),
        (call_traced, "codebook_idx is .*give it to jax.jit as a static argument"),
    ],
)
def test_arrays_of_other_axes_and_a_traced_codebook_are_refused_in_a_sentence(toy_model, call, message):
    with pytest.raises(InputError, match=message):
        call(toy_model)


EIGHT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from bark_jax import BarkModel, UnsupportedError

model = BarkModel.from_pretrained(sys.argv[1])
ask = dict(input_ids=[[5, 9, 12]] * 8, seed=list(range(8)), max_new_tokens=12, do_sample=False, min_eos_p=None)
expected = np.asarray(model.generate(**ask))
mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
copies = jax.device_put(model, NamedSharding(mesh, P()))
np.testing.assert_allclose(copies.generate(**ask), expected, atol=1e-4)

def shard(path, array):
    is_kernel = jax.tree_util.keystr(path).endswith("['kernel'].value") or "kernel" in jax.tree_util.keystr(path)
    fits = is_kernel and array.ndim == 2 and array.shape[1] % 2 == 0
    return jax.device_put(array, NamedSharding(mesh, P(None, "model") if fits else P()))

parts = model.replace(semantic=jax.tree_util.tree_map_with_path(shard, model.semantic))
assert any(not array.sharding.is_fully_replicated for array in jax.tree.leaves(parts.semantic))
np.testing.assert_allclose(parts.generate(**ask), expected, atol=1e-4)
ids = jax.device_put(np.zeros((8, 5), int), NamedSharding(mesh, P("data")))
logits = jax.jit(lambda model, ids: model.semantic(ids))(parts, ids)
np.testing.assert_allclose(logits, model.semantic(np.zeros((8, 5), int)), atol=1e-4)

explicit = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
ids = jax.device_put(np.zeros((8, 5), int), NamedSharding(explicit, P("data")))
try:
    model.semantic(ids)
except UnsupportedError as error:
    print(error)
print("done")
"""


@pytest.mark.slow
def test_rows_and_kernels_are_divided_among_eight_devices(toy_folder):
    environment = os.environ | {"XLA_FLAGS": xla_flags(8), "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    command = [sys.executable, "-c", "import sys\n" + EIGHT, str(toy_folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr[-2000:]
    assert "(8, 5) is divided along 'data', an explicit axis of its mesh; make the mesh with axis_types" in done.stdout
