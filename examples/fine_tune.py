"""Fine-tunes the coarse network as a LoRA, on recordings that the built-in voice makes in its speaker rms.

    pip install "bark-jax[train]" && python examples/fine_tune.py OUT

writes OUT/recordings, OUT/recordings.jsonl, OUT/data (the dataset), OUT/run (losses, checkpoints), OUT/lora.safetensors
and OUT/tuned.wav. Eight steps show the way and change little; some hundred steps on more recordings change the speaker.
"""

import json
import sys
from pathlib import Path

import bark_jax
from bark_jax import training

out = Path(sys.argv[1])
(out / "recordings").mkdir(parents=True, exist_ok=True)
bark = bark_jax.Bark.from_pretrained("tiny", dtype="float32")

# A line has the audio, what is said, and its semantic tokens: here those that the speech was made from.
with (out / "recordings.jsonl").open("w") as manifest:
    texts = ["One two three.", "Four five six.", "Seven eight nine.", "Zero one four."]
    for index, clip in enumerate(bark.generate(texts, voice="rms", seed=[1, 2, 3, 4])):
        clip.save(out / "recordings" / f"{index}.flac")
        line = {"audio": f"recordings/{index}.flac", "text": clip.text, "semantic": clip.semantic.tolist()}
        manifest.write(json.dumps(line) + "\n")

data = training.prepare_dataset(out / "recordings.jsonl", out / "data", bark=bark.model, processor=bark.processor)
settings = training.StageSettings(batch_size=2, history_share=0.0, eval_share=0.25, lora=training.LoraSettings(rank=8))
rate = training.OptimizerSettings(learning_rate=1e-2, warmup_steps=2)
run = training.RunSettings(n_steps=8, eval_every=4, save_every=4)
trained = training.train_stage(
    bark.model, "coarse_acoustics", data, out / "run", run, settings=settings, optimizer=rate
)
training.save_lora(out / "lora.safetensors", {"coarse_acoustics": trained.lora}, base=training.base_of("tiny"))

tuned = bark_jax.Bark.from_pretrained("tiny", lora=out / "lora.safetensors")
tuned.generate("One two three.", seed=0).save(out / "tuned.wav")
print(f"{trained.result.steps} steps, best evaluation loss {trained.result.best_loss:.3f}")
