"""Model folders of this project's layout: written atomically, read back bit for bit, refused if inconsistent."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import jit, normal
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bark_jax.checkpoints import model_folder
from bark_jax.checkpoints.model_folder import (
    NETWORKS,
    FileRecord,
    Manifest,
    load_network,
    network_shapes,
    parameter_shapes,
    read_manifest,
    save_network,
    write_manifest,
    write_network,
)
from bark_jax.config import BarkConfig, BarkFineConfig, BarkSemanticConfig, EncodecConfig
from bark_jax.errors import CheckpointError, InputError, ModelNotFoundError
from bark_jax.files import atomic_folder, sha256_of
from bark_jax.stage_models import BarkFineModel, BarkSemanticModel, EncodecModel

SIZES = dict(num_layers=2, num_heads=2, hidden_size=16, block_size=32)
SEMANTIC = BarkSemanticConfig(input_vocab_size=40, output_vocab_size=24, bias=True, **SIZES)
FINE = BarkFineConfig(input_vocab_size=20, output_vocab_size=20, bias=False, **SIZES)
CODEC = EncodecConfig(num_filters=2, hidden_size=4, codebook_size=16, target_bandwidths=(0.6,))


def make_semantic(dtype):
    return BarkSemanticModel(SEMANTIC, dtype=dtype, rngs=nnx.Rngs(0))


def semantic(dtype=jnp.float32):
    return fill(lambda: make_semantic(dtype))


def fill(make):
    """The module with random values, without the compilations that drawing them in JAX takes."""
    graphdef, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(0)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: normal(rng, leaf.shape, leaf.dtype), state))


def write_folder(folder, module, network="semantic"):
    folder.mkdir(exist_ok=True)
    name = model_folder.weight_file(network)
    write_manifest(folder, Manifest("test", {name: save_network(module, folder / name)}))
    return folder


def arrays_of(module):
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(module))}


def assert_same_arrays(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", semantic())


@pytest.mark.parametrize(
    ("network", "module_class", "config"),
    [
        ("semantic", BarkSemanticModel, SEMANTIC),
        ("fine_acoustics", BarkFineModel, FINE),
        ("codec_model", EncodecModel, CODEC),
    ],
)
def test_a_saved_network_loads_bit_for_bit(tmp_path, network, module_class, config):
    module = fill(lambda: module_class(config, rngs=nnx.Rngs(0)))
    write_folder(tmp_path / "model", module, network)
    loaded = load_network(
        tmp_path / "model", network, lambda dtype: module_class(config, dtype=dtype, rngs=nnx.Rngs(0))
    )
    assert_same_arrays(arrays_of(loaded), arrays_of(module))


def test_a_loaded_network_computes_what_the_saved_one_does(folder):
    compute = jit(lambda network: network(np.arange(8)[None]))
    np.testing.assert_array_equal(compute(load_network(folder, "semantic", make_semantic)), compute(semantic()))


def test_loading_compiles_nothing(folder, caplog):
    with jax.log_compiles():
        load_network(folder, "semantic", make_semantic, jnp.float16)
        assert not [record for record in caplog.records if "Compiling" in record.getMessage()]
        jax.jit(lambda x: x + 1)(1.0)
    assert any("Compiling" in record.getMessage() for record in caplog.records)


def test_dtype_casts_parameters_and_activations(folder):
    loaded = load_network(folder, "semantic", make_semantic, jnp.bfloat16)
    assert_same_arrays(
        arrays_of(loaded), {name: array.astype(jnp.bfloat16) for name, array in arrays_of(semantic()).items()}
    )
    assert jax.eval_shape(loaded.embed, np.zeros((1, 1), np.int32)).dtype == jnp.bfloat16


def test_without_dtype_that_of_the_file_is_kept(tmp_path):
    folder = write_folder(tmp_path / "model", semantic(jnp.bfloat16))
    loaded = load_network(folder, "semantic", make_semantic)
    assert {array.dtype.name for array in arrays_of(loaded).values()} == {"bfloat16"}


def test_loading_makes_no_random_weights(folder):
    """The factory only ever sees tracers, so a network of any size takes no memory before it is read."""
    seen = []

    def make(dtype):
        module = make_semantic(dtype)
        seen.extend(jax.tree.leaves(nnx.state(module)))
        return module

    load_network(folder, "semantic", make)
    assert seen and all(isinstance(leaf, jax.core.Tracer) for leaf in seen)


def test_parameters_are_jax_arrays(folder):
    loaded = load_network(folder, "semantic", make_semantic)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nnx.state(loaded)))


def test_shapes_of_the_large_model_count_up_to_its_size():
    millions = {}
    for network in ("semantic", "coarse_acoustics", "fine_acoustics"):
        module_class, field = NETWORKS[network]
        shapes = network_shapes(module_class, getattr(BarkConfig.large(), field))
        millions[network] = round(sum(int(np.prod(shape.shape)) for shape in shapes.values()) / 1e6, 2)
    assert millions == {"semantic": 446.09, "coarse_acoustics": 327.86, "fine_acoustics": 311.79}


def test_the_file_opens_with_the_safetensors_library(folder):
    arrays = load_file(folder / "semantic.safetensors")
    assert_same_arrays(arrays, arrays_of(semantic()))
    with safe_open(folder / "semantic.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_bfloat16_files_open_with_the_safetensors_library(tmp_path):
    save_network(semantic(jnp.bfloat16), tmp_path / "x.safetensors")
    assert_same_arrays(load_file(tmp_path / "x.safetensors"), arrays_of(semantic(jnp.bfloat16)))


def test_arrays_are_written_one_by_one(tmp_path):
    shapes = {name: jax.ShapeDtypeStruct((4,), jnp.float32) for name in "abc"}
    asked = []

    def arrays():
        for name in shapes:
            asked.append((name, (tmp_path / "x").stat().st_size if (tmp_path / "x").exists() else 0))
            yield name, np.zeros(4, np.float32)

    record = write_network(tmp_path / "x", shapes, arrays())
    assert [name for name, _ in asked] == ["a", "b", "c"]
    assert record == FileRecord(sha256_of(tmp_path / "x"), (tmp_path / "x").stat().st_size, 3)


@pytest.mark.parametrize(
    "array", [np.zeros(3, np.float32), np.zeros(4, np.float16)], ids=["another shape", "another dtype"]
)
def test_an_array_that_was_not_announced_is_refused(tmp_path, array):
    with pytest.raises(ValueError, match="announced"):
        write_network(tmp_path / "x", {"a": jax.ShapeDtypeStruct((4,), jnp.float32)}, [("a", array)])


def test_a_flipped_bit_is_refused(folder):
    path = folder / "semantic.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"semantic\.safetensors is damaged: its SHA-256"):
        load_network(folder, "semantic", make_semantic)


def test_the_checksum_can_be_skipped(folder):
    path = folder / "semantic.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_network(folder, "semantic", make_semantic, check_sha256=False)


def test_a_file_cut_short_is_refused_without_reading_it(folder):
    path = folder / "semantic.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="bytes, expected"):
        load_network(folder, "semantic", make_semantic, check_sha256=False)


def rewrite(folder, arrays):
    """Replaces the network's file and makes the manifest agree."""
    path = folder / "semantic.safetensors"
    save_file(arrays, path)
    record = FileRecord(sha256_of(path), path.stat().st_size, len(arrays))
    write_manifest(folder, Manifest("test", {path.name: record}))


def test_names_on_both_sides_are_listed(folder):
    arrays = arrays_of(semantic())
    arrays["surplus.kernel"] = arrays.pop("final_norm.scale")
    arrays["head.kernel"] = np.zeros((3, 5), np.float32)
    rewrite(folder, arrays)
    with pytest.raises(CheckpointError) as error:
        load_network(folder, "semantic", make_semantic)
    for part in ("missing: final_norm.scale", "unexpected: surplus.kernel", "head.kernel is (3, 5), expected (16, 24)"):
        assert part in str(error.value)


def test_long_lists_of_names_are_cut_and_counted(folder):
    rewrite(folder, {"nothing": np.zeros(1, np.float32)})
    with pytest.raises(CheckpointError, match=r"and \d\d more \(\d\d\)"):
        load_network(folder, "semantic", make_semantic)


def test_integers_are_refused(folder):
    rewrite(folder, {name: array.astype(np.int8) for name, array in arrays_of(semantic()).items()})
    with pytest.raises(CheckpointError, match="I8, expected floats"):
        load_network(folder, "semantic", make_semantic)


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"has no bark_jax\.json.*bark-jax convert"):
        load_network(tmp_path, "semantic", make_semantic)


def test_a_network_that_is_not_there_is_named(folder):
    with pytest.raises(ModelNotFoundError, match=r"fine_acoustics\.safetensors"):
        load_network(folder, "fine_acoustics", make_semantic)


def test_an_unknown_network_is_refused(folder):
    with pytest.raises(InputError, match="'text', expected one of semantic"):
        load_network(folder, "text", make_semantic)


@pytest.mark.parametrize(
    "content",
    [
        "nonsense",
        "[]",
        "{}",
        '{"format": "bark_jax", "version": 2, "source": "", "files": {}}',
        '{"format": "bark_jax", "version": 1, "source": "", "files": {"semantic.safetensors": {}}}',
        '{"format": "bark_jax", "version": 1, "source": "", "files": []}',
        '{"format": "bark_jax", "version": 1, "source": "", "files": {"semantic.safetensors": '
        '{"sha256": 1, "bytes": "2", "arrays": 3}}}',
    ],
)
def test_a_manifest_that_is_none_is_refused(folder, content):
    (folder / "bark_jax.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"bark_jax\.json is not a manifest"):
        read_manifest(folder)


def test_the_manifest_comes_back(tmp_path):
    for dtype in (None, "float32"):
        manifest = Manifest("suno/bark-small@main", {"semantic.safetensors": FileRecord("ab", 2, 1)}, dtype)
        write_manifest(tmp_path, manifest)
        assert read_manifest(tmp_path) == manifest
    assert json.loads((tmp_path / "bark_jax.json").read_text())["version"] == 1


def test_parameter_names_are_paths_in_the_module():
    names = parameter_shapes(semantic())
    assert {"token_embedding.embedding", "blocks.1.attention.qkv.kernel", "head.kernel"} <= names.keys()


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "x").read_text() == "x"
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("x")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_the_folder_has_ordinary_permissions(tmp_path):
    (tmp_path / "plain").mkdir()
    with atomic_folder(tmp_path / "made"):
        pass
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "dst").mkdir()
    with atomic_folder(tmp_path / "dst") as folder:
        (folder / "x").write_text("x")
    assert os.listdir(tmp_path / "dst") == ["x"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(InputError, match="not empty"), atomic_folder(tmp_path):
        pytest.fail("entered")
    assert (tmp_path / "config.json").read_text() == "mine"


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "dst").write_text("mine")
    with pytest.raises(InputError, match="is a file"), atomic_folder(tmp_path / "dst", overwrite=True):
        pytest.fail("entered")


def test_overwrite_replaces_a_model(tmp_path):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "config.json").write_text("old")
    with atomic_folder(tmp_path / "dst", overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert os.listdir(tmp_path / "dst") == ["new"]
    assert os.listdir(tmp_path) == ["dst"]


def test_a_failed_overwrite_keeps_the_old_model(tmp_path):
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst" / "config.json").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "dst", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "dst" / "config.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["dst"]


def test_overwrite_spares_what_is_no_model(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="not a model folder"), atomic_folder(tmp_path, overwrite=True):
        pytest.fail("entered")


def test_a_folder_that_appears_meanwhile_is_left_as_it_is(tmp_path):
    with pytest.raises(InputError, match="made by another process"), atomic_folder(tmp_path / "dst") as folder:
        (folder / "x").write_text("x")
        (tmp_path / "dst").mkdir()
        (tmp_path / "dst" / "y").write_text("y")
    assert os.listdir(tmp_path / "dst") == ["y"]
    assert os.listdir(tmp_path) == ["dst"]
