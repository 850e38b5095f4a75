"""A script written for transformers runs on bark_jax once the rules below have changed a few of its lines.

`transformers_script.py` is the script as it was. RULES says what changes in any such script, CHANGED_LINES what that
comes to in this one. Both forms run here, from one folder that both libraries read under the name that the script uses.
"""

import difflib
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
from golden.checkpoint import FILE, voice_arrays, write_checkpoint

from bark_jax import tiny

SCRIPT = Path(__file__).with_name("transformers_script.py")

# Pattern and replacement, one after the other.
RULES = (
    # The imports. The processor is the same under its own name.
    (r"from transformers import AutoProcessor, BarkModel\n", "from bark_jax import BarkModel, BarkProcessor\n"),
    (r"\bAutoProcessor\b", "BarkProcessor"),
    (r"import torch\n", ""),
    # Dtypes go by name.
    (r"torch_dtype=torch\.(\w+)", r'dtype="\1"'),
    # JAX has put everything on its default device.
    (r"device = .*torch\.cuda.*\n", ""),
    (r"\.to\(device\)", ""),
    # A jax.Array has no .cpu() and no .numpy(): numpy takes it as it is.
    (r"(\w+(?:\[[^]]*\])?)\.cpu\(\)\.numpy\(\)", r"np.asarray(\1)"),
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


def as_ours(script: str) -> str:
    for pattern, replacement in RULES:
        script, n_changes = re.subn(pattern, replacement, script)
        assert n_changes, f"nothing in the script is changed by the rule for {pattern}"
    return script


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder that holds suno/bark-small, in the Hub's form: small networks, a vocabulary and a preset.

    The semantic network never ends by itself: both scripts make WAV files of one length, whatever they draw.
    """
    home = tmp_path_factory.mktemp("published")
    folder = home / "suno" / "bark-small"
    with np.load(FILE) as golden:
        shapes = json.loads(str(golden["shapes"]))
    write_checkpoint(folder, shapes, change=keep_from_ending)
    write_generation_config(folder)
    write_vocabulary(folder)
    write_preset(folder, "v2/en_speaker_6")
    return home
