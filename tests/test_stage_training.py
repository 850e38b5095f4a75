"""Training of a model's transformers, in full and as LoRA; results load like any other model."""

import dataclasses
import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest
from flax import nnx
from test_training_batches import make_dataset

from bark_jax.checkpoints.lora import Base, load_lora, merge, save_lora
from bark_jax.errors import DeviceMemoryError, InputError
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel
from bark_jax.training.dataset import DatasetError
from bark_jax.training.loop import RunSettings
from bark_jax.training.network_training import NetworkTraining
from bark_jax.training.optimizer import OptimizerSettings
from bark_jax.training.stage_training import (
    STAGES,
    LoraSettings,
    StageSettings,
    fingerprint,
    make_training,
    train_stage,
    with_networks,
)

SPACES_OF_BARK = TokenSpaces()
RUN = RunSettings(n_steps=3, eval_every=2, save_every=2)
SETTINGS = StageSettings(batch_size=2, eval_share=0.3, history_share=0.5)
OPTIMIZER = OptimizerSettings(learning_rate=3e-3, warmup_steps=1)


@pytest.fixture(scope="module")
def model():
    return BarkModel.from_pretrained("tiny")


@pytest.fixture(scope="module")
def dataset(model):
    return make_dataset(model.spaces, [9, 20, 33, 50, 12, 30])


def train(model, name, dataset, folder, **changes):
    options = dict(settings=SETTINGS, optimizer=OPTIMIZER, show_progress=False) | changes
    return train_stage(model, name, dataset, folder, RUN, **options)


@pytest.fixture(scope="module")
def semantic_run(model, dataset, tmp_path_factory):
    """The folder of a training of the semantic network, and its result."""
    folder = tmp_path_factory.mktemp("runs") / "semantic"
    return folder, train(model, "semantic", dataset, folder)


def test_a_trained_network_speaks_in_the_model_and_survives_saving(model, semantic_run, tmp_path):
    before = fingerprint(model.semantic)
    _, trained = semantic_run
    assert fingerprint(model.semantic) == before != fingerprint(trained.network)
    assert trained.lora is None and trained.result.best_loss is not None

    changed = with_networks(model, {"semantic": trained.network})
    changed.save_pretrained(tmp_path / "model")
    reloaded = BarkModel.from_pretrained(str(tmp_path / "model"))
    assert fingerprint(reloaded.semantic) == fingerprint(trained.network)
    assert fingerprint(reloaded.coarse_acoustics) == fingerprint(model.coarse_acoustics)
    audio = changed.generate([[5, 9]], seed=0, max_new_tokens=8, allow_early_stop=False)
    np.testing.assert_array_equal(audio, reloaded.generate([[5, 9]], seed=0, max_new_tokens=8, allow_early_stop=False))


# The coarse network's step is the semantic one's with another loss, and costs as much to compile.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "coarse_acoustics")) for name in STAGES]
)
def test_a_lora_changes_a_network_and_can_be_added_again(model, dataset, tmp_path, name):
    settings = StageSettings(batch_size=2, eval_share=0.3, lora=LoraSettings(rank=2, alpha=4.0))
    trained = train(model, name, dataset, tmp_path / "run", settings=settings)
    assert fingerprint(trained.network) != fingerprint(getattr(model, name))
    size = sum(array.size for array in jax.tree.leaves(trained.lora))
    assert size < 0.1 * sum(array.size for array in jax.tree.leaves(trained.network))

    base = Base("tiny", {})
    save_lora(tmp_path / "changes.safetensors", {name: trained.lora}, base=base)
    again = merge(getattr(model, name), load_lora(tmp_path / "changes.safetensors", base=base)[name])
    assert fingerprint(again) == fingerprint(trained.network)


def test_a_model_in_bfloat16_stays_in_it(dataset, tmp_path):
    model = BarkModel.from_pretrained("tiny", dtype="bfloat16")
    trained = train(
        model, "semantic", dataset, tmp_path / "run", settings=StageSettings(2, dtype="bfloat16", eval_share=0.3)
    )
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trained.network)} == {"bfloat16"}


def test_masters_leave_host_memory_once_they_are_on_the_device():
    model = BarkModel.from_pretrained("tiny", dtype="bfloat16")  # its float32 masters are no views of its own arrays
    training = make_training(model, "semantic", SETTINGS, OPTIMIZER, RUN, None)
    made = []

    def make_params():
        params = training.make_params()
        made.extend(map(weakref.ref, params.values()))
        return params

    state = jax.block_until_ready(dataclasses.replace(training, make_params=make_params).init())
    assert len(made) == len(state.params) > 0
    assert [array for array in made if array() is not None] == []


def test_a_run_of_another_start_or_with_other_settings_is_refused(model, dataset, semantic_run):
    folder, trained = semantic_run
    with pytest.raises(InputError, match=r"settings\.batch_size was 2, now 1"):
        train(model, "semantic", dataset, folder, settings=StageSettings(1, eval_share=0.3))
    with pytest.raises(InputError, match="start was"):
        train(with_networks(model, {"semantic": trained.network}), "semantic", dataset, folder)


def test_what_cannot_be_trained_is_refused(model, dataset, tmp_path):
    with pytest.raises(InputError, match="name is 'codec_model'"):
        train(model, "codec_model", dataset, tmp_path / "run")
    with pytest.raises(DatasetError, match="prepare the data again"):
        train(model, "semantic", make_dataset(SPACES_OF_BARK, [9, 20]), tmp_path / "run")
    with pytest.raises(InputError, match="raise eval_share"):
        train(model, "semantic", dataset, tmp_path / "run", settings=StageSettings(4, accumulate=4, eval_share=0.3))
    with pytest.raises(InputError, match="dtype is 'float16'"):
        StageSettings(dtype="float16")
    droppy = nnx.clone(model.semantic)
    droppy.config = dataclasses.replace(droppy.config, dropout=0.1)
    with pytest.raises(InputError, match=r"config of semantic has a dropout of 0\.1"):
        train(model.replace(semantic=droppy), "semantic", dataset, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "remedies"),
    [
        (StageSettings(4, eval_share=0), ["remat=True", "accumulate=2", "lora=", "bfloat16", "fewer rows"]),
        (StageSettings(2, accumulate=2, lora=LoraSettings(), eval_share=0), ["Give remat=True", ", dtype='bfloat16'"]),
    ],
)
def test_a_device_out_of_memory_is_reported_with_what_helps(model, dataset, tmp_path, monkeypatch, settings, remedies):
    def step(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes.")

    monkeypatch.setattr(NetworkTraining, "step", step)
    with pytest.raises(DeviceMemoryError, match=r"training semantic, .* rows at once: RESOURCE_EXHAUSTED") as caught:
        train(model, "semantic", dataset, tmp_path / "run", settings=settings)
    assert all(remedy in str(caught.value) for remedy in remedies), str(caught.value)
    # In the same folder, since only rounding changes.
    with pytest.raises(DeviceMemoryError, match=r"Give (?!remat)"):
        train(model, "semantic", dataset, tmp_path / "run", settings=settings, remat=True)


def test_another_failure_of_a_device_stays_as_it_is(model, dataset, tmp_path, monkeypatch):
    def step(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: the device has left")

    monkeypatch.setattr(NetworkTraining, "step", step)
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device has left"):
        train(model, "semantic", dataset, tmp_path / "run", settings=StageSettings(2, eval_share=0))


def test_every_public_name_is_there_and_none_is_loaded_before_it_is_used():
    import bark_jax.training as training

    assert all(callable(getattr(training, name)) and getattr(training, name).__doc__ for name in training.__all__)
    with pytest.raises(AttributeError, match="train_all"):
        training.train_all  # noqa: B018
    code = "import sys, bark_jax.training; print([name for name in ('jax', 'flax', 'orbax') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
