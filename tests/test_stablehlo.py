"""Exported programs: they run where bark_jax cannot be loaded, and give what the model gives, bit for bit."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx
from safetensors.numpy import load_file
from toy import CONFIG, GENERATION_CONFIG

import bark_jax
from bark_jax import Bark, BarkSemanticModel, EncodecModel
from bark_jax._system.own_jax_config import own_config
from bark_jax.cli import main
from bark_jax.config import EncodecConfig
from bark_jax.errors import InputError, OutputError, UnsupportedError, VoiceNotFoundError
from bark_jax.generation.rows import Row
from bark_jax.generation.runner import run_semantic
from bark_jax.generation.sampling import key_data
from bark_jax.generation.settings import resolve_settings
from bark_jax.generation.tokens import text_tokens
from bark_jax.networks.int8 import quantize
from bark_jax.stablehlo import export as exporting
from bark_jax.stablehlo.lowering import Target, check_network, lower, network_for
from bark_jax.stablehlo.programs import programs_of
from bark_jax.stablehlo.speak import load, speak
from bark_jax.stablehlo.voices import voice_arrays

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "export.md"
PLATFORMS = ("cpu", "cuda", "tpu")
STAGES = ("semantic", "coarse", "fine", "codec")
TEXTS, SEEDS, MAX_TOKENS = [[12, 20, 8], [40, 7]], [0, 1], 30  # those of the page

# The page's code, in a process that has no bark_jax and no Flax; then the same rows with a voice.
CONSUMER = """
import sys
sys.modules.update(dict.fromkeys(["bark_jax", "flax"]))
{page}
np.savez("plain.npz", **found)
voice = load_file("exported/voices/host.safetensors") | {{"semantic.max_tokens": 30, "coarse.top_k": 3}}
np.savez("voiced.npz", **speak(stages, [[12, 20, 8], [40, 7]], seeds=[2**40 + 5, 1], chosen=voice))
"""


@pytest.fixture(scope="module")
def bark(toy_folder):
    return Bark.from_pretrained(toy_folder)


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def folder(bark, toy_voice, steps, tmp_path_factory):
    """The toy exported for three platforms and any number of rows, in `exported` of an empty folder."""
    pytest.importorskip("flatbuffers")
    dst = tmp_path_factory.mktemp("stablehlo") / "exported"
    voices = {"host": toy_voice}
    assert bark_jax.export(bark, dst, platforms=PLATFORMS, voices=voices, on_step=steps.append) == dst
    return dst


def page_blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def spoken(folder):
    """What the page's code makes of the exported folder."""
    source = CONSUMER.format(page="\n".join(page_blocks()))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    import flatbuffers

    environment["PYTHONPATH"] = str(Path(flatbuffers.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder.parent,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(folder.parent / f"{name}.npz")) for name in ("plain", "voiced")}


def rows_of(model, seeds, voice=None, **settings):
    (resolved,) = resolve_settings({"max_new_tokens": MAX_TOKENS} | settings, 1, model.generation_config, model.spaces)
    texts = [text_tokens(np.array(ids), np.ones(len(ids)), model.spaces) for ids in TEXTS]
    return [Row(text, voice, key_data(seed), resolved) for text, seed in zip(texts, seeds, strict=True)]


def utterances(model, seeds, voice=None, **settings):
    return model.generate_rows(rows_of(model, seeds, voice, **settings))


def check_equal(found, expected):
    assert len(found["n_tokens"]) == len(expected)
    for row, utterance in enumerate(expected):
        n_tokens, n_frames, n_samples = (found[name][row] for name in ("n_tokens", "n_frames", "n_samples"))
        np.testing.assert_array_equal(found["tokens"][row, :n_tokens], utterance.semantic)
        np.testing.assert_array_equal(found["codes"][row, :, :n_frames], utterance.fine)
        np.testing.assert_array_equal(found["samples"][row, :n_samples], utterance.samples)
        assert n_frames > 0 and not found["samples"][row, n_samples:].any()


@pytest.mark.slow
def test_a_process_without_this_package_speaks_the_models_tokens(spoken, bark):
    check_equal(spoken["plain"], utterances(bark.model, SEEDS))


@pytest.mark.slow
def test_voices_settings_and_long_seeds_reach_the_programs(spoken, bark, toy_voice):
    check_equal(spoken["voiced"], utterances(bark.model, [2**40 + 5, 1], toy_voice, coarse_top_k=3))
    assert not np.array_equal(spoken["voiced"]["tokens"], spoken["plain"]["tokens"])


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "rows"), [("float32", 1), ("int8", 2), ("bfloat16", None)])
def test_fixed_rows_and_narrow_dtypes_give_the_models_tokens(dtype, rows, toy_folder, tmp_path):
    """The semantic stage alone: of the others' programs nothing else depends on dtype or rows. The model is a name."""
    pytest.importorskip("flatbuffers")
    exported = bark_jax.export(toy_folder, tmp_path / "exported", platforms="cpu", rows=rows, dtype=dtype)
    bark, stages = Bark.from_pretrained(toy_folder, dtype=dtype), load(exported)
    n_rows = rows or 2
    given = rows_of(bark.model, SEEDS)[:n_rows]
    expected = run_semantic(bark.model.semantic, given, bark.model.spaces)
    voice = load_file(tmp_path / "exported" / "voices" / "none.safetensors")
    chosen = voice | {"semantic.max_tokens": MAX_TOKENS}
    found = speak({"semantic": stages["semantic"]}, TEXTS[:n_rows], SEEDS[:n_rows], chosen)
    for row, (tokens, logprob) in enumerate(expected):
        np.testing.assert_array_equal(found["tokens"][row, : found["n_tokens"][row]], tokens)
        np.testing.assert_array_equal(found["logprob"][row, : found["n_tokens"][row]], logprob)


@pytest.mark.slow
def test_the_pages_code_is_the_script_that_is_written(folder):
    assert page_blocks()[0] == (folder / "speak.py").read_text(encoding="utf-8")
    assert len(page_blocks()[0].splitlines()) <= 45


@pytest.mark.slow
def test_the_manifest_names_what_each_program_takes_and_gives(folder):
    content = json.loads((folder / "programs.json").read_text())
    assert tuple(content["stages"]) == STAGES and content["rows"] is None
    for stage, entry in content["stages"].items():
        assert tuple(entry["platforms"]) == PLATFORMS
        for platform, files in entry["platforms"].items():
            program = jax.export.deserialize(bytearray((folder / files["program"]).read_bytes()))
            has_cache = platform == "tpu" and stage in ("semantic", "coarse")
            assert program.platforms == (platform,)
            assert files["custom_calls"] == (["LayoutConstraint"] if has_cache else [])
            weights = functools.reduce(dict.__or__, (load_file(folder / name) for name in files["weights"]))
            (given_weights, given), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
            assert {name: array.shape for name, array in given_weights.items()} == {
                name: array.shape for name, array in weights.items()
            }
            for arrays, described in (
                (given, entry["inputs"]),
                (jax.tree.unflatten(program.out_tree, program.out_avals), entry["outputs"]),
            ):
                found = {
                    name: ([str(size) for size in array.shape], array.dtype.name) for name, array in arrays.items()
                }
                assert found == {
                    name: (list(map(str, each["shape"])), each["dtype"]) for name, each in described.items()
                }, stage
            # Weights that a program does not read would be loaded for nothing.
            assert set(range(len(weights) + len(given))) == set(program.module_kept_var_idx)


@pytest.mark.slow
def test_programs_are_those_of_their_platform(folder):
    texts = {}
    for platform in PLATFORMS:
        data = (folder / f"coarse.{platform}.jax_export").read_bytes()
        texts[platform] = jax.export.deserialize(bytearray(data)).mlir_module()
    # The coarse prompt of 128 tokens, in the MLP of width 256: a CPU and a TPU read one row of it at a time, a
    # GPU up to eight, of any number here.
    wide = {name: set(re.findall(r"tensor<(.)x128x256xf32>", text)) for name, text in texts.items()}
    assert wide == {"cpu": {"1"}, "cuda": {"?"}, "tpu": {"1"}}
    assert len(set(texts.values())) == 3
    program = jax.export.deserialize(bytearray((folder / "codec.tpu.jax_export").read_bytes()))
    (weights, _), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    zeros = {name: jnp.zeros(array.shape, array.dtype) for name, array in weights.items()}
    codes = {"codes": jnp.zeros((1, 8, 256), jnp.int32), "n_frames": jnp.ones(1, jnp.int32)}
    with pytest.raises(ValueError, match="platforms"):
        program.call(zeros, codes)


@pytest.mark.slow
def test_sizes_are_told_before_anything_is_written(folder, steps):
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    told = re.match(r"([\d.]+) MB of weights, and programs for cpu, cuda, tpu, to ", steps[0])
    assert float(told[1]) == pytest.approx(size / 1e6, rel=0.01)
    assert steps[1:] == [f"{stage} for {platform}" for stage in STAGES for platform in PLATFORMS]


@pytest.mark.slow
def test_a_voice_has_the_arrays_that_the_stages_make_of_it(bark, toy_voice, folder):
    written = load_file(folder / "voices" / "host.safetensors")
    for name, array in voice_arrays(toy_voice, bark.model.spaces).items():
        np.testing.assert_array_equal(written[name], array)
    none = load_file(folder / "voices" / "none.safetensors")
    assert none.keys() == written.keys() and not none["coarse.n_history"] and not none["fine.n_history"]


@pytest.mark.slow
def test_an_offloaded_model_exports_the_same_files(folder, toy_folder, tmp_path):
    offloaded = Bark.from_pretrained(toy_folder)
    offloaded.model.enable_cpu_offload()
    dst = bark_jax.export(offloaded, tmp_path / "offloaded", platforms="cpu")
    for name in [f"{stage}.safetensors" for stage in STAGES] + [f"{stage}.cpu.jax_export" for stage in STAGES]:
        assert (dst / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.slow
def test_an_export_replaces_an_export_and_nothing_else(bark, folder, tmp_path):
    with pytest.raises(InputError, match="exists and is not empty"):
        bark_jax.export(bark, folder, platforms=["cpu"])
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("text")
    with pytest.raises(InputError, match=r"not a programs folder \(it has no programs.json\)"):
        bark_jax.export(bark, other, platforms=["cpu"], overwrite=True)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_reported_before_anything_is_lowered(bark, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")
    usage = exporting.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    monkeypatch.setattr(exporting, "lower", None)
    with pytest.raises(OutputError, match=r"takes [\d.]+ MB, and its disk has 0.0 MB free"):
        bark_jax.export(bark, tmp_path / "out", platforms=["cpu"])
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_midway_leaves_nothing(bark, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")
    monkeypatch.setattr(exporting, "lower", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bark_jax.export(bark, tmp_path / "deep" / "out", platforms=["cpu"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"platforms": ["gpu"]}, InputError, "a gpu is cuda .NVIDIA. or rocm"),
        ({"platforms": ["vax"]}, InputError, "platform is 'vax', expected one of cpu, cuda, rocm, tpu"),
        ({"platforms": []}, InputError, "expected a list of cpu"),
        ({"rows": 0}, InputError, "rows is 0, expected an integer from 1 up to 1024"),
        ({"attn_implementation": "auto"}, InputError, "expected xla or cudnn"),
        ({"dtype": "float16"}, InputError, "the model is loaded already"),
        ({"decoding_copy": False}, InputError, "the model is loaded already"),
        ({"overwrite": 1}, InputError, "overwrite is 1"),
        ({"on_step": "print"}, InputError, "on_step is 'print'"),
        ({"voices": "host"}, InputError, "expected a list of names"),
        ({"voices": [None]}, InputError, "voices has None"),
        ({"voices": ["nobody"]}, VoiceNotFoundError, "nobody"),
        ({"attn_implementation": "cudnn"}, UnsupportedError, "for the platform cuda alone"),
    ],
)
def test_what_cannot_be_exported_is_refused(options, error, message, bark, tmp_path):
    pytest.importorskip("flatbuffers")
    with pytest.raises(error, match=message):
        bark_jax.export(bark, tmp_path / "out", **{"platforms": ["cpu"]} | options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "none", "", "a:b"])
def test_a_voice_is_written_inside_the_folder(name, bark, toy_voice, tmp_path):
    pytest.importorskip("flatbuffers")
    with pytest.raises(InputError, match="expected voices with different names that are file names"):
        bark_jax.export(bark, tmp_path / "out", platforms=["cpu"], voices={name: toy_voice})


def test_a_missing_flatbuffers_is_named_with_the_remedy(bark, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=re.escape("pip install 'bark-jax[export]'")):
        bark_jax.export(bark, tmp_path / "out", platforms=["cpu"])


def abstract_semantic(dtype, platform, is_int8=False):
    def make():
        network = BarkSemanticModel(CONFIG.semantic_config, dtype=dtype, platform=platform, rngs=nnx.Rngs(0))
        if is_int8:
            quantize(network)
        return network

    return nnx.eval_shape(make)


def test_int8_weights_are_exported_for_their_own_kind_of_platform():
    on_cpu = abstract_semantic(jnp.float32, "cpu", is_int8=True)
    check_network(on_cpu, Target(("cpu",), 2, "xla"))
    with pytest.raises(UnsupportedError, match="float32 on a CPU and bfloat16 elsewhere"):
        check_network(on_cpu, Target(("cpu", "tpu"), 2, "xla"))
    with pytest.raises(UnsupportedError, match=re.escape("give rows (--rows)")):
        check_network(on_cpu, Target(("cpu",), None, "xla"))
    check_network(abstract_semantic(jnp.bfloat16, "tpu", is_int8=True), Target(("tpu", "cuda"), None, "xla"))


def test_a_codec_that_looks_ahead_is_refused():
    codec = nnx.eval_shape(lambda: EncodecModel(EncodecConfig(use_causal_conv=False), rngs=nnx.Rngs(0)))
    with pytest.raises(UnsupportedError, match="looks ahead"):
        check_network(codec, Target(("cpu",), 2, "xla"))


def lowered_with_cudnn(bark, rows=2):
    network, target = abstract_semantic(jnp.bfloat16, "cpu"), Target(("cuda",), rows, "cudnn")
    check_network(network, target)
    spaces = bark.model.spaces
    program = programs_of(spaces, GENERATION_CONFIG, CONFIG.codec_config)["semantic"]
    with own_config():
        return lower(network_for(network, "cuda", target), program, "cuda", target.rows, spaces)


def test_calls_of_cudnn_are_exported_where_they_were_asked_for_and_named(bark, monkeypatch):
    jax_side = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(jax_side, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(jax_side, "check_compute_capability", lambda capability: True)
    lowered = lowered_with_cudnn(bark)
    (call,) = lowered.custom_calls
    assert f"custom_call @{call}(" in lowered.exported.mlir_module()
    assert list(lowered.exported.disabled_safety_checks) == [jax.export.DisabledSafetyCheck.custom_call(call)]
    with pytest.raises(UnsupportedError, match="has a fixed number of rows"):
        lowered_with_cudnn(bark, rows=None)


def test_a_machine_without_cudnn_says_so(bark, monkeypatch):
    jax_side = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")

    def fail():
        raise RuntimeError("cuDNN is not detected.")

    monkeypatch.setattr(jax_side, "check_cudnn_version", fail)
    with pytest.raises(UnsupportedError, match=r"on this machine: cuDNN is not detected\. Export where cuDNN is"):
        lowered_with_cudnn(bark, rows=3)  # JAX has kept its trace for two


def test_programs_of_one_row_read_the_layout_that_decodes_faster(bark):
    network = bark.model.semantic
    one, many = (network_for(network, "cpu", Target(("cpu",), rows, "xla")) for rows in (1, None))
    assert one.head.transposed is not None and many.head.transposed is None
    assert network_for(network, "tpu", Target(("tpu",), 1, "xla")).head.transposed is None


def test_the_command_writes_the_folder_and_prints_it(toy_folder, monkeypatch):
    given = {}

    def export(model, out, on_step, **options):
        given.update(options, model=model)
        on_step("1 MB")
        return out

    monkeypatch.setattr(exporting, "export", export)
    platforms = ["--platform", "tpu", "--platform", "cpu"]
    done = CliRunner().invoke(main, ["export", str(toy_folder), "out", *platforms, "--rows", "4", "--voice", "a"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "out\n", "1 MB\n")
    assert given["platforms"] == ("tpu", "cpu") and given["rows"] == 4 and given["voices"] == ("a",)
    assert CliRunner().invoke(main, ["export", "tiny", "out", "--platform", "gpu"]).exit_code == 2
    assert CliRunner().invoke(main, ["export", "tiny", "out"]).exit_code == 2
