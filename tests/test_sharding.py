"""Rows, parameters and training state divided among eight simulated devices, and the code of docs/sharding.md."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from compilations import xla_flags
from jax.sharding import PartitionSpec as P
from test_readme import ROOT, blocks_of
from toy import make_toy

from bark_jax import Bark, BarkModel, tensor_parallel
from bark_jax.batch import merge_shards
from bark_jax.errors import InputError, UnsupportedError
from bark_jax.generation.placement import Divided, Placement
from bark_jax.training import Dataset, Example, RunSettings, StageSettings, train_stage, write_dataset
from bark_jax.training.metrics import read_metrics

HANG_S = 900
PAGE = ROOT / "docs" / "sharding.md"


def make_mesh(shape=(1,), names=("model",)):
    return jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))


def write_example_data(folder, bark, n_examples=8):
    rng, spaces = np.random.default_rng(0), bark.model.spaces
    examples = [
        Example(np.ones(3, np.int32), rng.integers(0, spaces.semantic_vocab, 30), codes, 0)
        for codes in rng.integers(0, spaces.codebook_size, (n_examples, spaces.n_fine, 45))
    ]
    write_dataset(folder, examples, spaces)


@pytest.mark.parametrize(
    ("n_rows", "n_devices", "expected"),
    [(1, 1, 1), (3, 1, 4), (64, 1, 64), (1, 8, 8), (8, 8, 8), (9, 8, 16), (17, 8, 32), (3, 2, 4), (5, 3, 6)],
)
def test_each_device_has_a_power_of_two_of_rows(n_rows, n_devices, expected):
    placement = Divided([jax.devices()[0]]) if n_devices > 1 else Placement()
    placement.n_devices = n_devices
    assert placement.count(n_rows) == expected


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("semantic.blocks.11.attention.qkv.kernel", (8, 24), P(None, "model")),
        ("semantic.blocks.0.attention.qkv.bias", (24,), P("model")),
        ("coarse_acoustics.blocks.0.attention.out.kernel", (8, 8), P("model", None)),
        ("fine_acoustics.blocks.0.mlp.up.kernel", (8, 32), P(None, "model")),
        ("fine_acoustics.blocks.0.mlp.down.kernel", (32, 8), P("model", None)),
        ("fine_acoustics.token_embeddings.7.embedding", (10, 8), P("model", None)),
        ("semantic.token_embedding.embedding", (10, 8), P("model", None)),
        ("semantic.head.kernel", (8, 10), P(None, "model")),
        ("semantic.head.kernel", (8, 11), P()),  # odd
        ("semantic.position_embedding.embedding", (12, 8), P()),
        ("semantic.blocks.0.attention_norm.scale", (8,), P()),
        ("semantic.blocks.0.attention.out.bias", (8,), P()),
        ("codec_model.decoder.layers.0.conv.kernel", (8, 8, 8), P()),
    ],
)
def test_parameters_are_divided_by_name(name, shape, spec):
    mesh = jax.sharding.AbstractMesh((3, 2), ("data", "model"))
    assert tensor_parallel(mesh)(name, shape).spec == spec


def test_every_divided_axis_is_a_parameters(toy_model):
    from bark_jax.checkpoints.model_folder import parameter_shapes
    from bark_jax.networks.tensor_parallel import DIVIDED_AXES

    choose = tensor_parallel(jax.sharding.AbstractMesh((1,), ("model",)))
    divided = {
        f"{network}.{name}"
        for network in ("semantic", "coarse_acoustics", "fine_acoustics", "codec_model")
        for name, array in parameter_shapes(getattr(toy_model, network)).items()
        if any(choose(f"{network}.{name}", array.shape).spec)
    }
    without_bias = [pattern for pattern in DIVIDED_AXES if "bias" not in pattern]
    assert len(divided) == 3 * 2 * 4 + 2 + 2 + 8  # layers of three networks, two tables, two heads, eight tables
    assert len(without_bias) == 6


@pytest.mark.parametrize(
    ("sharding", "message"),
    [
        (lambda name, shape: make_mesh(), "sharding gives .* for semantic.*, expected a jax.sharding.Sharding"),
        ("auto", "sharding is 'auto', expected a function of a parameter's name and shape"),
        (lambda name, shape: P(), "sharding gives .* for semantic.*, expected a jax.sharding.Sharding"),
        (
            lambda name, shape: jax.sharding.NamedSharding(make_mesh(), P(*[None] * len(shape), "model")),
            r"sharding gives what does not fit semantic.*, of shape \(.*\): .*rank",
        ),
        (
            tensor_parallel(jax.sharding.AbstractMesh((1,), ("model",))),
            r"sharding gives what does not fit semantic.*AbstractMesh",
        ),
    ],
)
def test_what_is_no_sharding_is_refused_before_an_array_is_read(toy_folder, monkeypatch, sharding, message):
    monkeypatch.setattr("bark_jax.checkpoints.model_folder.read_to_device", None)
    with pytest.raises(InputError, match=message):
        BarkModel.from_pretrained(toy_folder, sharding=sharding)


def test_int8_is_not_divided(toy_folder):
    with pytest.raises(InputError, match="sharding divides no weights of eight bits"):
        Bark.from_pretrained(toy_folder, dtype="int8", sharding=tensor_parallel(make_mesh()))


def test_an_axis_that_the_mesh_lacks_is_refused():
    with pytest.raises(InputError, match="axis is 'heads', expected one of the mesh's: model"):
        tensor_parallel(make_mesh(), "heads")


@pytest.mark.parametrize("devices", ["every", [], [3], jax.devices() * 2, 2, {"cpu"}])
def test_other_devices_are_refused_before_a_network_runs(toy_folder, devices, monkeypatch):
    bark = Bark.from_pretrained(toy_folder)
    monkeypatch.setattr("bark_jax.generation.runner.run_semantic", None)
    for call in (
        lambda: bark.generate("One.", devices=devices),
        lambda: bark.generate_long("One. Two.", devices=devices),
        lambda: bark.model.generate([[5, 6]], devices=devices),
        lambda: bark.text_to_semantic("One.", devices=devices),
    ):
        with pytest.raises(InputError, match=r"devices is .*expected"):
            call()


def test_an_offloaded_model_is_on_one_device(toy_folder):
    bark = Bark.from_pretrained(toy_folder)
    bark.model.enable_cpu_offload()
    with pytest.raises(UnsupportedError, match="offloaded to one device; give devices=None"):
        bark.generate("One.", devices="all")


# After the blocks of the page, in their names: what they made equals what one device makes.
CHECKS = """
import json
import numpy as np
from bark_jax.training.metrics import read_metrics

assert len(jax.local_devices()) == 8
for clip, alone in zip(clips, bark.generate(texts, seed=seeds)):
    for name in ("semantic", "coarse", "fine"):
        np.testing.assert_array_equal(getattr(clip, name), getattr(alone, name))
    np.testing.assert_allclose(clip.samples, alone.samples, atol=1e-5)
for clip, row, filled in zip(clips, tokens, codes):
    np.testing.assert_array_equal(clip.semantic, row)
    np.testing.assert_array_equal(clip.fine, filled)
parts = []
again = bark.generate(texts, seed=seeds, devices="all", on_progress=lambda *part: parts.append(part))
assert all(np.array_equal(a.samples, b.samples) for a, b in zip(clips, again)) and len(parts) >= 2

for model in (divided.model, partly):
    qkv = model.semantic.blocks[0].mlp.up.kernel[...]
    assert qkv.addressable_shards[0].data.nbytes * 8 == qkv.nbytes
expected = bark.model.semantic(tokens[0][None])
np.testing.assert_allclose(logits, expected, atol=1e-4)
np.testing.assert_allclose(partly.semantic(tokens[0][None]), expected, atol=1e-4)
np.testing.assert_array_equal(clip_of_all.fine, bark.generate("Hi.", seed=1, max_seconds=1).fine)

held = [array for array in jax.tree.leaves(trained.result.state) if array.ndim > 1]
assert held and all(array.addressable_shards[0].data.nbytes * 8 == array.nbytes for array in held)
one = train_stage(bark.model, "coarse_acoustics", data, "one", run, settings=settings)
losses = [[record["loss"] for record in read_metrics(folder)] for folder in ("run", "one")]
np.testing.assert_allclose(*losses, rtol=1e-5)
print("done")
"""


@pytest.fixture
def published(tmp_path):
    """A folder with the toy under the name of the page's model, and a dataset for it."""
    make_toy(tmp_path / "suno" / "bark-small")
    write_example_data(tmp_path / "data", Bark.from_pretrained(tmp_path / "suno" / "bark-small"))
    return tmp_path


def environment(n_devices, **others):
    # Simulated devices are threads, and XLA ends the process where one of them waits for the others for 40 s: on a busy
    # machine a thread may get no core for so long.
    flags = f"{xla_flags(n_devices)} --xla_cpu_collective_call_terminate_timeout_seconds={HANG_S}"
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return os.environ | {"XLA_FLAGS": flags, "JAX_DEFAULT_MATMUL_PRECISION": "highest"} | path | others


@pytest.mark.slow
def test_the_pages_code_gives_on_eight_devices_what_one_gives(published):
    blocks = [source for _, source in blocks_of(PAGE, "python")]
    assert len(blocks) == 4
    script = "\n".join(blocks).replace("clip = divided.", "clip_of_all = divided.") + CHECKS
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=published, env=environment(8), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr[-3000:]


def titled_block(title):
    """The source of the page's block of this title: a program of its own."""
    text = PAGE.read_text(encoding="utf-8")
    start = text.index("\n", text.index(f'```python title="{title}"')) + 1
    return text[start : text.index("\n```\n", start)]


@pytest.mark.slow
def test_two_processes_speak_their_shards_and_train_with_the_losses_of_one(published):
    bark = Bark.from_pretrained(published / "suno" / "bark-small")
    (published / "rows.jsonl").write_text("".join(f'{{"id": "row-{i}", "text": "One."}}\n' for i in range(6)))
    # One program, to start two processes and not four: they are connected once.
    training = titled_block("train.py").replace("jax.distributed.initialize()", "")
    program = titled_block("speak.py") + "\n" + training + "\nprint(jax.process_index(), jax.device_count())"
    port = free_port()
    both = [start_of_two(published, program, number, port) for number in range(2)]
    try:
        outputs = [process.communicate(timeout=HANG_S) for process in both]
    finally:
        for process in both:
            process.kill()
    # gloo writes to the standard output too.
    assert [out.splitlines()[-1:] for out, _ in outputs] == [["0 2"], ["1 2"]], (
        outputs[0][1][-3000:] + outputs[1][1][-3000:]
    )

    merged = merge_shards(published / "out")
    assert (merged.shards, merged.rows, merged.failed) == (2, 6, 0)
    settings, run = StageSettings(batch_size=8, eval_share=0), RunSettings(n_steps=2)
    data = Dataset.open(published / "data")
    train_stage(bark.model, "coarse_acoustics", data, published / "one", run, settings=settings)
    losses = [[each["loss"] for each in read_metrics(published / name)] for name in ("run-on-all", "one")]
    assert len(losses[0]) == 2
    np.testing.assert_allclose(*losses, rtol=1e-5)
    trained = BarkModel.from_pretrained(published / "trained")
    assert not np.array_equal(*(model.coarse_acoustics.head.kernel[...] for model in (trained, bark.model)))


def start_of_two(folder, program, number, port):
    """Starts process `number` of two with the variables that srun gives it, from which JAX reads how to connect."""
    slurm = {"JOB_ID": "1", "STEP_NODELIST": "localhost", "NTASKS": "2", "PROCID": str(number), "LOCALID": "0"}
    variables = {f"SLURM_{name}": value for name, value in slurm.items()}
    variables |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(1, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# Runs the command of `gcloud ... ssh my-slice --worker=all --command COMMAND` once for each host of the slice.
GCLOUD = """#!/bin/bash
for host in 0 1 2 3; do
  HOSTNAME=my-slice-w-$host bash -c "${@: -1}" || exit
done
"""
BARK_JAX = """#!/bin/bash
exec "$PYTHON" -m bark_jax "$@"
"""


@pytest.mark.slow
def test_a_pod_slices_command_speaks_every_row(published):
    ((_, command),) = [block for block in blocks_of(ROOT / "docs" / "batch.md", "bash") if "gcloud" in block[1]]
    (published / "rows.jsonl").write_text("".join(f'{{"id": "row-{i}", "text": "One."}}\n' for i in range(6)))
    (published / "bin").mkdir()
    for name, script in (("gcloud", GCLOUD), ("bark-jax", BARK_JAX)):
        (published / "bin" / name).write_text(script)
        (published / "bin" / name).chmod(0o755)
    found = {"PATH": f"{published / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}
    model = {"BARK_JAX_MODEL": str(published / "suno" / "bark-small")}
    command = command.replace("/mnt/shared", str(published)).replace("--dtype bfloat16", "")
    done = subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=published,
        env=environment(4, **found, **model),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    entries = [json.loads(line) for line in (published / "out" / "manifest.jsonl").read_text().splitlines()]
    assert sorted(entry["id"] for entry in entries) == [f"row-{i}" for i in range(6)]
