"""The training loop: metrics, checkpoints, resuming, and what may change the losses."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import xla_flags
from flax import nnx
from networks import begin_at_once, drawn, jit

from bark_jax.config import BarkSemanticConfig
from bark_jax.errors import CheckpointError, InputError
from bark_jax.stage_models import BarkSemanticModel
from bark_jax.training.loop import RunSettings, TrainingError, TrainingStopped, fit
from bark_jax.training.losses import Loss
from bark_jax.training.metrics import METRICS_FILE, read_metrics
from bark_jax.training.network_training import NetworkTraining, full_network
from bark_jax.training.optimizer import OptimizerSettings, learning_rate, make_optimizer

CONFIG = BarkSemanticConfig(
    block_size=12, input_vocab_size=11, output_vocab_size=11, num_layers=1, num_heads=2, hidden_size=8, bias=False
)
N_STEPS = 8
SETTINGS = RunSettings(n_steps=N_STEPS, eval_every=3, save_every=2)


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
    """Toy networks compile for far longer than they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", jit)
        begin_at_once(NetworkTraining, patch)
        yield


def make_module(dtype):
    return BarkSemanticModel(CONFIG, dtype=dtype, rngs=nnx.Rngs(0))


def make_network(dtype="float32"):
    """(parameters drawn by numpy, `assemble`), see `full_network`."""
    module = drawn(lambda: make_module(jnp.float32), CONFIG.initializer_range)
    return full_network(module, make_module, dtype)


def next_token_loss(model, batch):
    logits_BTV = jax.nn.log_softmax(model(batch["tokens"])[:, :-1])
    nll_BT = -jnp.take_along_axis(logits_BTV, batch["tokens"][:, 1:, None], axis=2)[:, :, 0]
    return Loss(jnp.sum(nll_BT), jnp.float32(nll_BT.size))


def make_batch(step, rows=8):
    """Tokens that count up, so that there is something to learn."""
    starts = np.random.default_rng([7, step]).integers(11, size=(rows, 1))
    return {"tokens": ((starts + np.arange(12)) % 11).astype(np.int32)}


@functools.cache
def make_training(dtype="float32", **options):
    params, assemble = make_network(dtype)
    optimizer = make_optimizer(OptimizerSettings(learning_rate=0.03, warmup_steps=2), N_STEPS)
    return NetworkTraining(params, assemble, next_token_loss, optimizer, **options)


def run(folder, training=None, batches=make_batch, settings=SETTINGS, **options):
    training = make_training() if training is None else training
    return fit(training, batches, folder, settings, evaluation=[make_batch(100)], **options)


def losses(folder):
    return [record["loss"] for record in read_metrics(folder) if "loss" in record]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """An uninterrupted run: its folder and result."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run(folder)


def test_it_learns_and_logs_every_step(uninterrupted):
    folder, result = uninterrupted
    records = read_metrics(folder)
    assert [record["step"] for record in records if "loss" in record] == list(range(1, N_STEPS + 1))
    assert [record["step"] for record in records if "eval_loss" in record] == [3, 6, 8]
    assert losses(folder)[-1] < losses(folder)[0] - 0.1
    assert (result.steps, result.stopped_early) == (N_STEPS, False)
    assert result.best_loss == min(record["eval_loss"] for record in records if "eval_loss" in record)
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("killed_at", [1, 3, 4, 5])
def test_a_killed_run_resumes_with_the_same_bits(uninterrupted, tmp_path, killed_at):
    def killed(step):
        if step == killed_at:
            raise KeyboardInterrupt
        return make_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", batches=killed)
    with open(tmp_path / "run" / METRICS_FILE, "a") as file:
        file.write('{"step": 7, "lo')  # a line cut short, as by a kill
    result = run(tmp_path / "run")
    assert (tmp_path / "run" / METRICS_FILE).read_text() == (uninterrupted[0] / METRICS_FILE).read_text()
    for name, array in result.state.params.items():
        np.testing.assert_array_equal(array, uninterrupted[1].state.params[name])


@pytest.mark.parametrize("stopped_at", [1, 4, 6])  # after no event, a checkpoint, a checkpoint with an evaluation
def test_a_stopped_run_resumes_with_the_same_bits(uninterrupted, tmp_path, stopped_at):
    asked = iter(range(1, N_STEPS))
    with pytest.raises(TrainingStopped, match=f"stopped after step {stopped_at} of 8; the same command resumes"):
        run(tmp_path / "run", stop=lambda: next(asked) == stopped_at)
    assert len(losses(tmp_path / "run")) == stopped_at

    def later(step):
        assert step >= stopped_at, "nothing runs twice"
        return make_batch(step)

    result = run(tmp_path / "run", batches=later, stop=lambda: False)
    assert (tmp_path / "run" / METRICS_FILE).read_text() == (uninterrupted[0] / METRICS_FILE).read_text()
    for name, array in result.state.params.items():
        np.testing.assert_array_equal(array, uninterrupted[1].state.params[name])


def test_a_run_that_has_ended_is_not_run_again(uninterrupted):
    before = (uninterrupted[0] / METRICS_FILE).read_text()

    def no_batch(step):
        raise AssertionError("a batch was asked for")

    assert run(uninterrupted[0], batches=no_batch).best_loss == uninterrupted[1].best_loss
    assert (uninterrupted[0] / METRICS_FILE).read_text() == before


def test_other_settings_are_refused_by_name(uninterrupted, tmp_path):
    with pytest.raises(InputError, match=r"run\.n_steps was 8, now 9"):
        run(uninterrupted[0], settings=RunSettings(n_steps=9, eval_every=3, save_every=2))
    with pytest.raises(InputError, match="data was None, now 'other'"):
        run(uninterrupted[0], identity={"data": "other"})
    (tmp_path / "letter.txt").write_text("not a run")
    with pytest.raises(InputError, match=r"holds no run"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_what_a_kill_leaves_of_the_settings_does_not_stop_the_next_run(tmp_path):
    left = tmp_path / ".settings.json.0123abcd.partial"
    left.write_text("{")
    (tmp_path / ".settings.json.notes.partial").write_text("dear")
    with pytest.raises(InputError, match=r"holds no run"):  # the other file may be a user's
        run(tmp_path)
    assert left.exists()
    (tmp_path / ".settings.json.notes.partial").unlink()
    run(tmp_path)
    assert not left.exists() and (tmp_path / "settings.json").is_file()


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "8").rglob("*"):
        if path.is_file() and "commit" not in path.name:
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="step 8"):
        run(tmp_path / "run")


def test_micro_batches_add_up(uninterrupted, tmp_path):
    run(tmp_path / "run", make_training(accumulate=4))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(uninterrupted[0]), rtol=1e-5)
    with pytest.raises(InputError, match="8 rows, expected a multiple of 3"):
        run(tmp_path / "other", make_training(accumulate=3))


def test_bfloat16_computes_beside_float32_masters(uninterrupted, tmp_path):
    result = run(tmp_path / "run", make_training("bfloat16"))
    assert {array.dtype for array in result.state.params.values()} == {np.dtype(np.float32)}
    found, expected = np.array(losses(tmp_path / "run")), np.array(losses(uninterrupted[0]))
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_gradients_that_are_not_finite_change_nothing_and_end_the_run(tmp_path):
    def broken_loss(model, batch):
        loss = next_token_loss(model, batch)
        return Loss(loss.total * jnp.where(batch["is_bad"].any(), jnp.nan, 1), loss.count)

    params, assemble = make_network()
    training = NetworkTraining(params, assemble, broken_loss, make_training().optimizer)

    def batches(bad):
        return lambda step: make_batch(step) | {"is_bad": np.full(8, step in bad)}

    state = training.init()
    before = jax.tree.map(np.asarray, state.params)
    state, metrics = training.step(state, batches({0})(0))
    assert (metrics["skipped"], state.step, state.skipped) == (1, 1, 1)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, state.params))

    settings = RunSettings(n_steps=N_STEPS, eval_every=N_STEPS, save_every=N_STEPS, max_skipped=3)
    fit(training, batches({2, 3, 5, 6}), tmp_path / "some", settings, show_progress=False)
    settings = RunSettings(n_steps=40, eval_every=40, save_every=40, max_skipped=3)
    with pytest.raises(TrainingError, match="of the 12 steps up to 32 were not finite"):
        fit(training, batches(set(range(20, 40))), tmp_path / "all", settings)


def test_patience_ends_a_run_and_keeps_the_best(tmp_path):
    settings = RunSettings(n_steps=40, eval_every=2, save_every=10, patience=2)
    params, assemble = make_network()
    wild = make_optimizer(OptimizerSettings(learning_rate=3.0, warmup_steps=6), 40)
    result = run(tmp_path / "run", NetworkTraining(params, assemble, next_token_loss, wild), settings=settings)
    evaluations = [record for record in read_metrics(tmp_path / "run") if "eval_loss" in record]
    best = min(evaluations, key=lambda record: record["eval_loss"])
    assert result.stopped_early and result.steps == evaluations[-1]["step"] == best["step"] + 2 * 2
    assert (result.best_step, int(result.state.step)) == (best["step"], best["step"])


def test_the_learning_rate_warms_up_and_falls():
    schedule = learning_rate(OptimizerSettings(learning_rate=1.0, warmup_steps=10, final_share=0.1), 110)
    np.testing.assert_allclose([jit(schedule)(step) for step in (0, 5, 10, 60, 110)], [0, 0.5, 1, 0.55, 0.1], atol=1e-6)


def test_only_matrices_decay():
    params = {"a.kernel": np.ones((2, 2)), "a.embedding": np.ones((2, 2)), "a.scale": np.ones(2)}
    settings = OptimizerSettings(learning_rate=0.5, warmup_steps=0, weight_decay=0.1, final_share=1.0)
    optimizer = make_optimizer(settings, 10)
    updates, _ = jit(
        lambda params: optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    )(params)
    moved = {name: float(np.abs(update).max()) for name, update in updates.items()}
    assert moved == pytest.approx({"a.kernel": 0.05, "a.embedding": 0, "a.scale": 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(n_steps=0), "n_steps is 0"),
        (dict(n_steps=5, eval_every=True), "eval_every is True"),
        (dict(n_steps=5, patience=-1), "patience is -1"),
    ],
)
def test_senseless_runs_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        RunSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(learning_rate=-1), "learning_rate is -1"),
        (dict(learning_rate=float("nan")), "learning_rate is nan"),
        (dict(weight_decay="much"), "weight_decay is 'much'"),
        (dict(warmup_steps=1.5), "warmup_steps is 1.5"),
    ],
)
def test_senseless_optimizers_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        OptimizerSettings(**settings)


DEVICES_SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import jax, conftest
from test_training_loop import losses, make_training, run
training = make_training(devices=tuple(jax.devices()))
result = run(sys.argv[2], training)
assert len(jax.tree.leaves(result.state.params)[0].devices()) == 8
print(json.dumps(losses(sys.argv[2])))
"""


@pytest.mark.slow
def test_eight_devices_have_the_losses_of_one(uninterrupted, tmp_path):
    environment = os.environ | {"XLA_FLAGS": xla_flags(8)}
    command = [sys.executable, "-c", DEVICES_SCRIPT, os.path.dirname(__file__), str(tmp_path / "run")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    np.testing.assert_allclose(json.loads(result.stdout), losses(uninterrupted[0]), rtol=1e-5)
