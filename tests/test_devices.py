"""Out-of-memory errors and lost devices: reported with the stage, and the model still works afterwards."""

import types

import jax
import numpy as np
import pytest

from bark_jax import Bark
from bark_jax.config import EncodecConfig
from bark_jax.errors import BarkError, DeviceError, InputError
from bark_jax.generation import coarse, engine, fine, runner, semantic
from bark_jax.model import BarkModel
from bark_jax.networks import layout, platform, probes
from bark_jax.stage_models import EncodecModel

STAGES = {
    "semantic": (semantic, "generate_semantic"),
    "coarse": (coarse, "generate_coarse"),
    "fine": (fine, "generate_fine"),
    "codec": (runner, "decode_codes"),
}
STREAMED = STAGES | {"coarse": (coarse, "run_windows"), "codec": (None, "decode_next")}


@pytest.fixture(scope="module")
def bark(toy_folder):
    return Bark.from_pretrained(toy_folder)


def fail(*_, **__):
    raise jax.errors.JaxRuntimeError(fail.text)


@pytest.mark.parametrize("stage", STAGES)
def test_out_of_memory_is_reported_with_stage_and_sizes(stage, bark, monkeypatch):
    fail.text = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123456 bytes."
    with monkeypatch.context() as patch:
        patch.setattr(*STAGES[stage], fail)
        with pytest.raises(DeviceError, match=f"out of memory in the {stage} stage of 3 rows, with ") as caught:
            bark.generate(["one", "two", "three"], seed=0, max_new_tokens=4)
    message = str(caught.value)
    assert "123456 bytes" in message and "fewer rows" in message and "enable_cpu_offload" in message
    assert isinstance(caught.value, BarkError)
    assert isinstance(caught.value.__cause__, jax.errors.JaxRuntimeError)
    assert len(bark.generate(["one", "two", "three"], seed=0, max_new_tokens=4)) == 3


@pytest.mark.parametrize("text", ["INTERNAL: CUDA_ERROR_DEVICE_UNAVAILABLE", "UNAVAILABLE: TPU is gone"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_lost_device_is_reported_with_the_stage(stage, text, bark, monkeypatch):
    fail.text = text
    monkeypatch.setattr(*STAGES[stage], fail)
    with pytest.raises(DeviceError, match=f"failed in the {stage} stage of 1 row, .*{text}.*new process"):
        bark.generate("one", seed=0, max_new_tokens=4)


@pytest.mark.parametrize("stage", STREAMED)
def test_streams_tell_it_too(stage, bark, monkeypatch):
    from bark_jax.generation import streaming

    fail.text = "RESOURCE_EXHAUSTED: Out of memory"
    where, name = STREAMED[stage]
    monkeypatch.setattr(where or streaming, name, fail if where else fail_after_first(streaming.decode_next))
    with pytest.raises(DeviceError, match=f"out of memory in the {stage} stage of 1 row, "):
        list(bark.stream("one", seed=0, max_new_tokens=40, allow_early_stop=False))


def fail_after_first(decode_next):
    """Makes decode_next fail as soon as it decodes frames; the first call has none."""

    def decode(network, codes_QT, state):
        return decode_next(network, codes_QT, state) if not codes_QT.shape[1] else fail()

    return decode


IN_THE_ENGINE = {
    "semantic": (engine._SemanticSlots, "_advance"),
    "coarse": (engine._CoarseSlots, "_advance"),
    "fine": (engine, "fine_prompt"),
    "codec": (engine, "decode_codes"),
}


@pytest.mark.parametrize("stage", IN_THE_ENGINE)
def test_the_engine_tells_it_too(stage, bark, monkeypatch):
    fail.text = "INTERNAL: CUDA_ERROR_DEVICE_UNAVAILABLE"
    monkeypatch.setattr(*IN_THE_ENGINE[stage], fail)
    rows = bark.rows(["one"], None, [np.zeros(2, np.uint32)], {"max_new_tokens": 4, "allow_early_stop": False})
    with pytest.raises(DeviceError, match=f"failed in the {stage} stage of .*UNAVAILABLE.*new process"):
        list(engine.Engine(bark.model, n_slots=1).run([engine.Request(0, rows[0])]))


def test_weights_are_laid_out_once_whatever_runs(toy_folder, monkeypatch):
    bark, n_copied, transposed = Bark.from_pretrained(toy_folder), [], layout._transposed
    monkeypatch.setattr(layout, "_transposed", lambda kernels: n_copied.append(len(kernels)) or transposed(kernels))
    for _ in range(2):
        list(bark.stream("one", seed=0, max_new_tokens=40, allow_early_stop=False))
        bark.generate("one", seed=0, max_new_tokens=4)
    assert n_copied == [9, 9]  # four a layer and the head, of the semantic and of the coarse network


def test_an_offloaded_networks_way_to_the_device_counts(toy_folder, monkeypatch):
    bark = Bark.from_pretrained(toy_folder)
    bark.model.enable_cpu_offload()
    fail.text = "RESOURCE_EXHAUSTED: Out of memory"
    monkeypatch.setattr(type(bark.model), "on_accelerator", fail)
    with pytest.raises(DeviceError, match="semantic"):
        bark.generate("one", seed=0)


def test_other_errors_pass(bark, monkeypatch):
    monkeypatch.setattr(semantic, "generate_semantic", lambda *_, **__: np.zeros(0) / np.zeros((1, 2, 3))[0, 5])
    with pytest.raises(IndexError):
        bark.generate("one", seed=0)


@pytest.fixture
def beside_a_gpu(monkeypatch):
    """Makes JAX and the probes report a GPU that runs every kernel as the first device."""

    gpu, chosen = types.SimpleNamespace(platform="gpu"), platform.default_device
    monkeypatch.setattr(platform, "default_device", lambda: gpu if jax.config.jax_default_device is None else chosen())
    monkeypatch.setattr(probes, "_failure", lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_cpu_of_a_machine_with_a_gpu_computes_in_half_precision(dtype, toy_folder, request):
    def load(**options):
        return Bark.from_pretrained(toy_folder, dtype=dtype, **options)

    def samples_of(bark):
        assert bark.model.semantic.platform == "cpu"
        return bark.generate("one", seed=0, max_new_tokens=20, allow_early_stop=False).samples

    alone = samples_of(load())
    request.getfixturevalue("beside_a_gpu")
    elsewhere = load()
    assert elsewhere.model.semantic.platform == "gpu"
    assert elsewhere.model.semantic.blocks[0].attention.implementations == ("cudnn", "pallas")
    np.testing.assert_array_equal(samples_of(load(platform="cpu")), alone)
    with jax.default_device(jax.devices("cpu")[0]):
        here = load()
    np.testing.assert_array_equal(samples_of(here), alone)
    elsewhere.model.enable_cpu_offload(jax.devices("cpu")[0])
    np.testing.assert_array_equal(samples_of(elsewhere), alone)


def test_the_engine_runs_a_model_on_devices_of_another_platform(toy_folder):
    bark = Bark.from_pretrained(toy_folder, platform="tpu")
    rows = bark.rows(["one"], None, [np.zeros(2, np.uint32)], {"max_new_tokens": 4, "allow_early_stop": False})
    spoken = engine.Engine(bark.model, n_slots=1, devices=jax.devices("cpu")[:1])
    assert spoken._programs.coarse_model.platform == "cpu"
    (finished,) = spoken.run([engine.Request(0, rows[0])])
    assert finished.error is None


def test_weights_are_pinned_where_the_default_device_is_of_another_platform(toy_folder, request):
    def is_pinned(network):
        (pinned,) = {leaf.committed for leaf in jax.tree.leaves(network)}
        return pinned

    here = EncodecModel.from_pretrained(toy_folder)
    assert here.platform == "cpu" and not is_pinned(here) and platform.on_its_platform(here) is here
    request.getfixturevalue("beside_a_gpu")
    assert is_pinned(EncodecModel.from_pretrained(toy_folder, platform="cpu"))
    pinned = platform.on_its_platform(here)
    assert is_pinned(pinned) and platform.on_its_platform(pinned) is pinned
    assert not is_pinned(EncodecModel.from_pretrained(toy_folder))


@pytest.mark.parametrize("given", ["cuda", "CPU", "", 3, ["cpu"]])
def test_an_unknown_platform_is_refused_before_anything_is_read(given):
    for load in (Bark.from_pretrained, BarkModel.from_pretrained, EncodecModel.from_pretrained):
        with pytest.raises(InputError, match=r"^platform is .*, expected one of cpu, gpu, tpu, or None$"):
            load("/no/such/folder", platform=given)
    with pytest.raises(InputError, match="platform is"):
        EncodecModel(EncodecConfig(), platform=given)


def test_the_default_devices_platform_is_taken():
    for chosen in (None, "cpu", jax.devices("cpu")[0]):
        with jax.default_device(chosen):
            assert platform.resolve_platform() == jax.devices()[0].platform if chosen is None else "cpu"
    assert platform.device_of("cpu") == jax.devices("cpu")[0]
