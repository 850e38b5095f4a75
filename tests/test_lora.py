"""LoRA: the merged network against a dense sum, the LoRA file, and generation with it."""

import dataclasses
import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from networks import as_dtype

from bark_jax.checkpoints.lora import Base, Lora, base_of, init_lora, load_lora, merge, save_lora
from bark_jax.checkpoints.model_folder import parameter_shapes
from bark_jax.checkpoints.safetensors_file import read_safetensors
from bark_jax.cli import main
from bark_jax.errors import CheckpointError, InputError, ModelNotFoundError
from bark_jax.model import BarkModel

NETWORKS = ("semantic", "coarse_acoustics", "fine_acoustics")


@pytest.fixture(scope="module")
def tiny():
    return BarkModel.from_pretrained("tiny")


@pytest.fixture(scope="module")
def loras(tiny):
    """Changes of all three networks, large enough to be heard."""
    return {name: random_lora(getattr(tiny, name), rank) for name, rank in zip(NETWORKS, (2, 3, 4), strict=True)}


def random_lora(network, rank=2, **options) -> Lora:
    lora = init_lora(network, rank, 8.0, seed=rank, **options)
    rng = np.random.default_rng(rank)
    return dataclasses.replace(
        lora, b={name: as_dtype(rng.normal(0, 0.05, b.shape), jnp.float32) for name, b in lora.b.items()}
    )


def arrays_of(module) -> dict[str, np.ndarray]:
    return dict(zip(parameter_shapes(module), map(np.asarray, jax.tree.leaves(module)), strict=True))


def run(network, tokens):
    if hasattr(network, "head"):
        return jax.jit(lambda network: network(tokens))(network)
    return jax.jit(lambda network: network(3, jnp.broadcast_to(tokens[..., None], (*tokens.shape, 8))))(network)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_merged_kernel_is_the_dense_sum_and_all_else_stays(name, tiny, loras):
    network, lora = getattr(tiny, name), loras[name]
    before, after = arrays_of(network), arrays_of(merge(network, lora))
    changed = {f"blocks.{i}.{layer}.kernel" for i in range(2) for layer in LAYERS}
    assert set(lora.a) == set(lora.b) == changed
    for parameter, array in before.items():
        if parameter in changed:
            scale = 8.0 / lora.rank
            dense = array + scale * np.asarray(lora.a[parameter], np.float64) @ np.asarray(lora.b[parameter])
            np.testing.assert_allclose(after[parameter], dense, rtol=1e-5, atol=1e-6)
            assert np.abs(after[parameter] - array).max() > 1e-2
        else:
            np.testing.assert_array_equal(after[parameter], array)


LAYERS = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
@pytest.mark.parametrize("name", NETWORKS)
def test_a_new_lora_leaves_every_logit_bit_equal(name, dtype, tiny):
    network = jax.tree.map(lambda array: as_dtype(array, dtype), getattr(tiny, name))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 100, (2, 20)))
    merged = merge(network, init_lora(network, 4, 4.0, seed=0))
    assert {array.dtype for array in arrays_of(merged).values()} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(run(network, tokens), run(merged, tokens))


def test_gradients_reach_both_halves_through_the_merged_network(tiny):
    lora = random_lora(tiny.semantic)
    tokens = jnp.arange(20)[None]

    @jax.jit
    def loss(lora):
        return jnp.sum(jax.nn.log_softmax(merge(tiny.semantic, lora)(tokens))[0, :, 7])

    lora, grads = jax.tree.map(np.asarray, (lora, jax.jit(jax.grad(loss))(lora)))
    assert isinstance(grads, Lora) and grads.alpha == lora.alpha
    assert all(np.abs(grad).max() > 0 for grad in jax.tree.leaves(grads))
    # A small move along the gradient raises the loss by the gradient's norm times the step.
    step = 1e-3 / sum(float(np.sum(grad**2)) for grad in jax.tree.leaves(grads))
    steps = map(np.float32, (step, -step))
    ahead, behind = (loss(jax.tree.map(lambda x, g, s=s: x + s * g, lora, grads)) for s in steps)
    assert float(ahead - behind) == pytest.approx(2e-3, rel=0.1)


def test_targets_choose_kernels_by_the_end_of_their_names(tiny):
    def chosen(*targets):
        return set(init_lora(tiny.semantic, 1, 1.0, 0, targets).a)

    assert chosen("blocks.1.mlp.up", "head") == {"blocks.1.mlp.up.kernel", "head.kernel"}
    assert chosen("up") == {"blocks.0.mlp.up.kernel", "blocks.1.mlp.up.kernel"}
    for targets, message in [(("mlp.up", "p.up"), "p.up"), ((), "no target"), (("token_embedding",), "no kernel")]:
        with pytest.raises(InputError, match=message):
            chosen(*targets)
    for rank, alpha in [(0, 1.0), (4, 0.0), (4, float("nan"))]:
        with pytest.raises(InputError, match=f"rank is {rank} and alpha {alpha}"):
            init_lora(tiny.semantic, rank, alpha, 0)


def test_a_seed_draws_the_same_changes_and_another_seed_others(tiny):
    first, again, other = (init_lora(tiny.semantic, 2, 4.0, seed).a["blocks.0.mlp.up.kernel"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_file_gives_back_what_was_saved(loras, tmp_path):
    path = tmp_path / "voice.safetensors"
    save_lora(path, loras, base=Base("tiny", {"semantic": "0" * 64}))
    found = load_lora(path)
    assert list(found) == list(loras)
    for name, lora in loras.items():
        assert (found[name].rank, found[name].alpha) == (lora.rank, lora.alpha)
        assert jax.tree.structure(found[name]) == jax.tree.structure(lora)
        jax.tree.map(np.testing.assert_array_equal, found[name], lora)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    save_lora(path, {"semantic": loras["semantic"]})
    assert list(load_lora(path)) == ["semantic"]


def test_the_same_changes_have_the_same_bytes(loras, tmp_path):
    """In whatever order they are given; the library's writer has another order of metadata at each call."""
    base = {"semantic": "0" * 64, "coarse_acoustics": "1" * 64}
    turned = {
        name: Lora(dict(reversed(lora.a.items())), dict(reversed(lora.b.items())), lora.alpha)
        for name, lora in reversed(loras.items())
    }
    found = set()
    for changes, base_of_them in [(loras, base), (turned, dict(reversed(base.items())))] * 4:
        save_lora(tmp_path / "a.safetensors", changes, base=Base("tiny", base_of_them))
        found.add((tmp_path / "a.safetensors").read_bytes())
    assert len(found) == 1
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        assert file.metadata()["base"] == "tiny" and len(file.metadata()) == 5


@pytest.mark.parametrize("read", [load_lora, read_safetensors])
def test_a_header_without_bound_is_refused_before_it_is_parsed(read, tmp_path, monkeypatch):
    path, size = tmp_path / "a.safetensors", 2**26
    with open(path, "wb") as file:
        file.write(size.to_bytes(8, "little") + b"{")
        file.truncate(8 + size)
    monkeypatch.setattr("bark_jax.checkpoints.safetensors_file.parse_json", None)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="claims a header of 67108864 bytes, more than the 4194304"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_save_that_fails_leaves_the_old_file(loras, tmp_path, monkeypatch):
    path = tmp_path / "voice.safetensors"
    save_lora(path, loras)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_lora(path, {"semantic": loras["semantic"]})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.fixture(scope="module")
def merged_folder(tiny, loras, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged") / "model"
    networks = {name: merge(getattr(tiny, name), lora) for name, lora in loras.items()}
    tiny.replace(**networks).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora_file(loras, tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / "voice.safetensors"
    save_lora(path, loras, base=base_of("tiny"))
    return path


def test_generation_with_a_lora_is_that_of_the_merged_model_saved_and_loaded(tiny, merged_folder, lora_file):
    ids = np.arange(2, 12)[None]
    clips = {}
    for name, model in {
        "lora": BarkModel.from_pretrained("tiny", lora=lora_file),
        "merged": BarkModel.from_pretrained(merged_folder),
        "plain": tiny,
    }.items():
        clips[name] = np.asarray(model.generate(ids, seed=1, max_new_tokens=20, allow_early_stop=False))
    np.testing.assert_array_equal(clips["lora"], clips["merged"])
    assert np.abs(clips["lora"] - clips["plain"]).max() > 1e-3, "a LoRA that nobody hears"


@pytest.mark.parametrize("network", NETWORKS)
def test_transformers_computes_the_same_logits_from_the_exported_merged_model(network, exported, tiny, loras):
    import torch

    tokens = np.random.default_rng(1).integers(0, 100, (2, 30))
    ours = np.asarray(run(merge(getattr(tiny, network), loras[network]), jnp.asarray(tokens)))
    theirs, tokens = getattr(exported, network), torch.from_numpy(tokens)
    with torch.no_grad():
        fine = network == "fine_acoustics"
        logits = (theirs(3, tokens[..., None].expand(-1, -1, 8)) if fine else theirs(tokens)).logits.numpy()
    assert np.abs(ours - logits).max() < 1e-5 * np.abs(logits).max()


@pytest.fixture(scope="module")
def exported(merged_folder, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    from bark_jax.checkpoints import export_transformers

    folder = export_transformers(merged_folder, tmp_path_factory.mktemp("exported") / "model")
    return transformers.BarkModel.from_pretrained(folder).eval()


def rewrite(path, folder, *, arrays=None, metadata=None, drop=()):
    """A copy of the file with other arrays or metadata."""
    with safetensors.safe_open(path, framework="numpy") as file:
        names = [name for name in file.keys() if name not in drop]  # noqa: SIM118, it is no dict
        content = {name: file.get_tensor(name) for name in names} | (arrays or {})
        about = {k: v for k, v in (file.metadata() | (metadata or {})).items() if v is not None}
    copy = folder / "other.safetensors"
    copy.write_bytes(safetensors.numpy.save(content, about))
    return copy


UP = "semantic.blocks.0.mlp.up.kernel"


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(metadata={"format": "lora"}), "format 'lora'"),
        (dict(metadata={"format": None}), "no LoRA of this project"),
        (dict(metadata={"version": "2"}), "version '2'"),
        (dict(metadata={"networks": "{"}), "networks.*JSON object"),
        (dict(metadata={"networks": "[]"}), "networks.*JSON object"),
        (dict(metadata={"networks": "[" * 100_000}), "networks.*JSON object"),
        (dict(metadata={"networks": None}), "no network"),
        (dict(metadata={"networks": '{"text": {"rank": 2, "alpha": 8.0}}'}), "'text'"),
        (dict(metadata={"networks": '{"semantic": {"rank": 2, "alpha": NaN}}'}), "alpha"),
        (dict(metadata={"networks": '{"semantic": {"rank": 0, "alpha": 1.0}}'}), "rank"),
        (dict(metadata={"networks": '{"semantic": 3}'}), "rank and alpha"),
        (dict(metadata={"networks": '{"semantic": {"rank": 2, "alpha": 8.0}}'}), "none of its networks: .*acoustics"),
        (dict(metadata={"base_sha256": "3"}), "base_sha256.*JSON object"),
        (dict(metadata={"base_sha256": json.dumps({"semantic": "0" * 64})}), "other weights of semantic .'toy'."),
        (dict(drop=[f"{UP}.a"]), "one half of semantic's change to blocks.0.mlp.up.kernel"),
        (dict(arrays={"semantic.b": np.ones(1, np.float32)}), "one half|none of its networks"),
        (dict(arrays={f"{UP}.a": np.ones((64, 3), np.float32)}), r"blocks.0.mlp.up.kernel.*\[in, 2\]"),
        (dict(arrays={f"{UP}.a": np.ones((64,), np.float32)}), r"blocks.0.mlp.up.kernel.*\[in, 2\]"),
        (dict(arrays={f"{UP}.a": np.ones((64, 2), np.float16)}), "blocks.0.mlp.up.kernel.*float32"),
        (dict(arrays={f"{UP}.a": np.full((64, 2), np.nan, np.float32)}), "blocks.0.mlp.up.kernel.*finite"),
        (
            dict(arrays={f"{UP}.a": np.ones((63, 2), np.float32)}),
            r"for semantic, .*blocks.0.mlp.up.kernel is \(63, 256\), expected",
        ),
        (
            dict(arrays={"semantic.blocks.2.mlp.up.kernel." + h: np.ones((2, 2), np.float32) for h in "ab"}),
            "unexpected: blocks.2.mlp.up.kernel",
        ),
    ],
)
def test_a_file_that_is_not_for_this_model_is_refused_by_name(change, message, lora_file, tmp_path):
    path = rewrite(lora_file, tmp_path, **change)
    with pytest.raises(CheckpointError, match=message):
        BarkModel.from_pretrained("tiny", lora=path)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"\xff" * 100])
def test_a_file_that_is_no_safetensors_file_is_refused(content, tmp_path):
    path = tmp_path / "voice.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is empty|no safetensors file"):
        load_lora(path)


def test_there_has_to_be_a_file_and_something_to_save(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        load_lora(tmp_path / "nowhere")
    for loras in ({}, {"text": None}):
        with pytest.raises(InputError, match="semantic"):
            save_lora(tmp_path / "empty", loras)
    assert not list(tmp_path.iterdir())


def test_say_speaks_with_a_lora_and_tells_a_wrong_one(lora_file, tmp_path):
    def say(lora, name):
        args = ["say", "hi", "-m", "tiny", "--seed", "1", "--max-seconds", "0.3", "--json", "-o", str(tmp_path / name)]
        return CliRunner().invoke(main, [*args, *(["--lora", str(lora)] if lora else [])])

    reports = [json.loads(say(lora, name).stdout) for lora, name in ((lora_file, "with.wav"), (None, "without.wav"))]
    assert [each["lora"] for each in reports] == [str(lora_file), None]
    assert (tmp_path / "with.wav").read_bytes() != (tmp_path / "without.wav").read_bytes()
    refused = say(tmp_path / "nowhere", "never.wav")
    assert refused.exit_code != 0 and "nowhere" in refused.stderr and not (tmp_path / "never.wav").exists()
