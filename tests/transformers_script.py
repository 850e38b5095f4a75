"""The examples of transformers' Bark documentation as one script: a voice, settings, a batch, half precision.

tests/test_transformers_script.py says which lines of it change for bark_jax, and runs both.
"""

import numpy as np
import scipy.io.wavfile
import torch
from transformers import AutoProcessor, BarkModel

device = "cuda" if torch.cuda.is_available() else "cpu"
processor = AutoProcessor.from_pretrained("suno/bark-small")
model = BarkModel.from_pretrained("suno/bark-small").to(device)
sample_rate = model.generation_config.sample_rate

# A sentence in the voice of a preset, the same at every run.
inputs = processor("Hello, my dog is cute", voice_preset="v2/en_speaker_6").to(device)
greedy = model.generate(**inputs, do_sample=False, fine_temperature=None, semantic_max_new_tokens=16)
greedy = greedy.cpu().numpy().squeeze()
scipy.io.wavfile.write("greedy.wav", rate=sample_rate, data=greedy)

# Drawn, with settings for each of the networks.
drawn = model.generate(
    **inputs,
    do_sample=True,
    semantic_temperature=0.8,
    coarse_temperature=0.6,
    fine_temperature=0.5,
    semantic_max_new_tokens=16,
    min_eos_p=0.2,
)
scipy.io.wavfile.write("drawn.wav", rate=sample_rate, data=drawn[0].cpu().numpy())

# Several sentences in one voice.
inputs = processor(["Hello, my dog is cute", "Hush"], voice_preset="v2/en_speaker_6").to(device)
batch, lengths = model.generate(**inputs, semantic_max_new_tokens=16, return_output_lengths=True)
for row, length in enumerate(lengths):
    scipy.io.wavfile.write(f"row_{row}.wav", rate=sample_rate, data=batch[row, :length].cpu().numpy())

# Half precision, and only the network that runs on the accelerator.
model = BarkModel.from_pretrained("suno/bark-small", torch_dtype=torch.float16).to(device)
model.enable_cpu_offload()
inputs = processor("Hello, my dog is cute").to(device)
half = model.generate(**inputs, semantic_max_new_tokens=16)
half = half.cpu().numpy().squeeze().astype(np.float32)
scipy.io.wavfile.write("half.wav", rate=sample_rate, data=half)
