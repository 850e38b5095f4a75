"""A script written for transformers runs on bark_jax once the rules below have changed a few of its lines.

`transformers_script.py` is the script as it was. RULES says what changes in any such script, CHANGED_LINES what that
comes to in this one. Both forms run here, from one folder that both libraries read under the name that the script uses.
"""

import difflib
import json
import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.io.wavfile
import toy
from checkpoints import read_arrays
from golden.checkpoint import FILE, voice_arrays, write_checkpoint
from safetensors.numpy import save_file

from bark_jax import AttentionNameWarning
from bark_jax.text.tokenizer import SPECIAL_TOKENS
from bark_jax.voices.voice import PROMPT_KEYS

SCRIPT = Path(__file__).with_name("transformers_script.py")

# Pattern and replacement, one after the other.
RULES = (
    # The imports. The processor is the same under its own name.
    (r"from transformers import AutoProcessor, BarkModel\n", "from bark_jax import BarkModel, BarkProcessor\n"),
    (r"\bAutoProcessor\b", "BarkProcessor"),
    (r"import torch\n", ""),
    # Dtypes go by name.
    (r"\b(?:torch_)?dtype=torch\.(\w+)", r'dtype="\1"'),
    # JAX has put everything on its default device.
    (r"device = .*torch\.cuda.*\n", ""),
    (r"\.to\((?:model\.)?device\)", ""),
    # A jax.Array has no .cpu() and no .numpy(): numpy takes it as it is.
    (r"(\w+(?:\[[^]]*\])?|\w[\w.]*\([^()]*\))\.cpu\(\)\.numpy\(\)", r"np.asarray(\1)"),
)

CHANGED_LINES = """\
-import torch
-from transformers import AutoProcessor, BarkModel
+from bark_jax import BarkModel, BarkProcessor
-device = "cuda" if torch.cuda.is_available() else "cpu"
-processor = AutoProcessor.from_pretrained("suno/bark-small")
-model = BarkModel.from_pretrained("suno/bark-small").to(device)
+processor = BarkProcessor.from_pretrained("suno/bark-small")
+model = BarkModel.from_pretrained("suno/bark-small")
-inputs = processor("Hello, my dog is cute", voice_preset="v2/en_speaker_6").to(device)
+inputs = processor("Hello, my dog is cute", voice_preset="v2/en_speaker_6")
-greedy = greedy.cpu().numpy().squeeze()
+greedy = np.asarray(greedy).squeeze()
-scipy.io.wavfile.write("drawn.wav", rate=sample_rate, data=drawn[0].cpu().numpy())
+scipy.io.wavfile.write("drawn.wav", rate=sample_rate, data=np.asarray(drawn[0]))
-inputs = processor(["Hello, my dog is cute", "Hush"], voice_preset="v2/en_speaker_6").to(device)
+inputs = processor(["Hello, my dog is cute", "Hush"], voice_preset="v2/en_speaker_6")
-    scipy.io.wavfile.write(f"row_{row}.wav", rate=sample_rate, data=batch[row, :length].cpu().numpy())
+    scipy.io.wavfile.write(f"row_{row}.wav", rate=sample_rate, data=np.asarray(batch[row, :length]))
-model = BarkModel.from_pretrained("suno/bark-small", torch_dtype=torch.float16).to(device)
+model = BarkModel.from_pretrained("suno/bark-small", dtype="float16")
-inputs = processor("Hello, my dog is cute").to(device)
+inputs = processor("Hello, my dog is cute")
-half = half.cpu().numpy().squeeze().astype(np.float32)
+half = np.asarray(half).squeeze().astype(np.float32)
"""

WAVES = ("greedy.wav", "drawn.wav", "row_0.wav", "row_1.wav", "half.wav")
N_SAMPLES = 24 * 320  # 16 semantic tokens at 50 a second are 24 frames at 75


# What the page shows of speed: half precision with fused attention, in the forms that it had over the years.
OPTIMIZED = {
    "fused attention": """\
import torch
from transformers import AutoProcessor, BarkModel
device = "cuda" if torch.cuda.is_available() else "cpu"
model = BarkModel.from_pretrained(
    "suno/bark-small", torch_dtype=torch.float16, attn_implementation="flash_attention_2"
).to(device)
""",
    "fused attention, with offload": """\
import torch
from transformers import AutoProcessor, BarkModel
device = "cuda" if torch.cuda.is_available() else "cpu"
model = BarkModel.from_pretrained(
    "suno/bark-small", dtype=torch.float16, attn_implementation="flash_attention_2"
).to(device)
model.enable_cpu_offload()
""",
    "fused attention, placed by itself": """\
from transformers import AutoProcessor, BarkModel
model = BarkModel.from_pretrained(
    "suno/bark-small", dtype="float16", attn_implementation="flash_attention_2", device_map="auto"
)
model.enable_cpu_offload()
""",
}
SPEAK = """\
import numpy as np
inputs = AutoProcessor.from_pretrained("suno/bark-small")("Hello, my dog is cute").to(model.device)
half = model.generate(**inputs, semantic_max_new_tokens=16).cpu().numpy().squeeze().astype(np.float32)
"""


def as_ours(script: str, must_change: bool = True) -> str:
    for pattern, replacement in RULES:
        script, n_changes = re.subn(pattern, replacement, script)
        assert n_changes or not must_change, f"nothing in the script is changed by the rule for {pattern}"
    return script


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder that holds suno/bark-small in the Hub's form: small networks, a vocabulary and a preset."""
    home = tmp_path_factory.mktemp("published")
    folder = home / "suno" / "bark-small"
    with np.load(FILE) as golden:
        write_checkpoint(folder, json.loads(str(golden["shapes"])))
    make_it_draw_without_end(folder)
    write_vocabulary(folder)
    write_preset(folder, "v2/en_speaker_6")
    return home


def make_it_draw_without_end(folder: Path) -> None:
    """Lets the networks draw as the published ones do, but not the end token: every recording has N_SAMPLES."""
    end = toy.GENERATION_CONFIG.semantic_config.eos_token_id
    arrays = read_arrays(folder)
    arrays["semantic.lm_head.weight"][end] = 0  # the 20 most likely tokens have logits above 0
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(json.dumps(toy.GENERATION_CONFIG.to_dict()))
    config["semantic_config"] |= {"top_k": 20, "pad_token_id": end}
    (folder / "generation_config.json").write_text(json.dumps(config))


def write_vocabulary(folder: Path) -> None:
    """Word pieces of one letter, within and at the start of a word."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*SPECIAL_TOKENS.values(), *letters, *letters.upper(), ",", ".", *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, **SPECIAL_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_preset(folder: Path, name: str) -> None:
    paths = {key: f"speaker_embeddings/{name}_{key}.npy" for key in PROMPT_KEYS}
    for key, array in voice_arrays().items():
        (folder / paths[key]).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / paths[key], array)
    (folder / "speaker_embeddings_path.json").write_text(json.dumps({"repo_or_path": "suno/bark-small", name: paths}))


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory):
    """Folder of the changed scripts and of the converted checkpoint."""
    return tmp_path_factory.mktemp("ours")


def run_ours(script: str, own_folder: Path, published: Path) -> tuple[dict, dict]:
    path = own_folder / "bark_jax_script.py"
    path.write_text(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bark_jax.checkpoints.find.cache_folder", lambda: own_folder / "cache")
        return run(path, published, patch)


@pytest.fixture(scope="module")
def ours(published, own_folder):
    """Results of the changed script: its variables, and its audio files by name."""
    return run_ours(as_ours(SCRIPT.read_text()), own_folder, published)


@pytest.fixture(scope="module")
def theirs(published):
    """Results of the unchanged script."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        # It needs a GPU and the package accelerate.
        patch.setattr(transformers.BarkModel, "enable_cpu_offload", lambda self: None)
        return run(SCRIPT, published, patch)


def run(script: Path, folder: Path, patch: pytest.MonkeyPatch) -> tuple[dict, dict]:
    patch.chdir(folder)
    variables = runpy.run_path(str(script))
    waves = {path.name: scipy.io.wavfile.read(path) for path in folder.glob("*.wav")}
    for name in waves:
        (folder / name).unlink()
    return variables, waves


def assert_is_complete(variables: dict, waves: dict) -> None:
    assert waves.keys() == set(WAVES)
    for rate, samples in waves.values():
        assert rate == variables["sample_rate"] == 24_000
        assert samples.dtype == np.float32 and samples.shape == (N_SAMPLES,)
        assert np.isfinite(samples).all() and np.abs(samples).max() > 0.01
    assert list(variables["lengths"]) == [N_SAMPLES] * 2


def test_the_rules_change_these_lines_and_no_others():
    theirs = SCRIPT.read_text()
    lines = difflib.unified_diff(theirs.splitlines(), as_ours(theirs).splitlines(), n=0, lineterm="")
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    assert changed == CHANGED_LINES.splitlines()


@pytest.mark.slow
def test_the_changed_script_runs(ours):
    variables, waves = ours
    assert_is_complete(variables, waves)
    assert isinstance(variables["drawn"], jax.Array) and variables["drawn"].dtype == np.float32
    assert variables["drawn"].shape == (1, N_SAMPLES) and variables["batch"].shape == (2, N_SAMPLES)
    assert {array.dtype for array in jax.tree.leaves(variables["model"].semantic)} == {np.dtype(np.float16)}


@pytest.mark.slow
def test_the_script_itself_runs(theirs):
    assert_is_complete(*theirs)


@pytest.mark.slow
def test_both_make_the_same_greedy_audio(ours, theirs):
    (_, our_waves), (_, their_waves) = ours, theirs
    np.testing.assert_allclose(our_waves["greedy.wav"][1], their_waves["greedy.wav"][1], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_setting_and_a_voice_change_the_audio(ours):
    _, waves = ours
    assert np.abs(waves["greedy.wav"][1] - waves["drawn.wav"][1]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZED)
def test_what_the_page_shows_of_speed_runs_and_sounds_the_same(name, ours, own_folder, published):
    script = as_ours(OPTIMIZED[name] + SPEAK, must_change=False).replace("=16)", "=16, seed=0)")
    with pytest.warns(AttentionNameWarning, match="'flash_attention_2' is transformers' and is taken as 'auto'"):
        variables, _ = run_ours(script, own_folder, published)
    model, half = variables["model"], variables["half"]
    assert model.is_offloaded == ("offload" in script)
    assert half.shape == (N_SAMPLES,) and half.dtype == np.float32 and np.abs(half).max() > 0.01
    assert {array.dtype for array in jax.tree.leaves(model.coarse_acoustics)} == {np.dtype(np.float16)}
    plain = ours[0]["model"].generate(**variables["inputs"], semantic_max_new_tokens=16, seed=0)
    np.testing.assert_array_equal(half, np.asarray(plain)[0].astype(np.float32))


def test_torch_may_stay_in_the_script(own_folder, published):
    pytest.importorskip("torch")
    kept = OPTIMIZED["fused attention"].replace("transformers", "bark_jax").replace("Auto", "Bark")
    with pytest.warns(AttentionNameWarning):
        variables, _ = run_ours(kept.replace(".to(device)", ""), own_folder, published)
    assert variables["model"].semantic.head.kernel.dtype == np.float16
