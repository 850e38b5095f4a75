"""A small Bark checkpoint in transformers' layout with weights drawn by numpy, so it is reproducible without torch.

The networks have the built-in model's sizes and token spaces. Run as a script, with torch and transformers installed,
this writes what transformers computes from it, for the tests on machines without torch:

    PYTHONPATH=tests python -m golden.checkpoint
"""

import json
from pathlib import Path

import numpy as np
import toy
from safetensors.numpy import save_file

from bark_jax.config import CONFIG_FILE, GENERATION_CONFIG_FILE, save_json
from bark_jax.generation.tokens import TokenSpaces

FILE = Path(__file__).with_name("golden.npz")
SPACES = TokenSpaces.from_config(toy.GENERATION_CONFIG)
TEXT = np.array([9, 6, 13, 13, 16, 2, 7, 19, 16, 14, 2, 11, 2, 25])
N_SEMANTIC = 60


def voice_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    fine = rng.integers(0, SPACES.codebook_size, (SPACES.n_fine, 120))
    semantic = rng.integers(0, SPACES.semantic_vocab, 80)
    return {"semantic_prompt": semantic, "coarse_prompt": fine[: SPACES.n_coarse], "fine_prompt": fine}


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Draws every array of the checkpoint, in the order of the names."""
    rng = np.random.default_rng(4)
    arrays = {name: _draw(name, tuple(shapes[name]), rng) for name in sorted(shapes)}
    # transformers lets ids past the last codebook follow codebook 0; a row of zeros cannot win.
    n_ids = SPACES.semantic_vocab + SPACES.n_coarse * SPACES.codebook_size
    arrays["coarse_acoustics.lm_head.weight"][n_ids:] = 0
    return arrays


def _draw(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    drawn = rng.standard_normal(shape)
    if name.endswith("attn.bias"):
        return np.tril(np.ones(shape, bool))
    if "layernorm" in name and name.endswith("weight"):
        return (1 + 0.1 * drawn).astype(np.float32)
    if name.endswith(("original0", "cluster_size")):
        return (0.5 + np.abs(drawn)).astype(np.float32)
    if name.startswith("codec_model") and "embed" not in name:
        return (drawn * 0.3).astype(np.float32)
    return (drawn * (0.1 if "bias" in name else 0.3)).astype(np.float32)


def write_checkpoint(folder: Path, shapes: dict[str, list[int]], scale: float = 1.0) -> None:
    """`scale` is that of the transformers' matrices: their absolute rounding errors grow with it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_json(toy.CONFIG, folder / CONFIG_FILE)
    generation = json.loads(json.dumps(toy.GENERATION_CONFIG.to_dict()))
    for part in ("semantic_config", "coarse_acoustics_config"):
        generation[part] |= {"do_sample": False, "temperature": 1.0}
    generation["fine_acoustics_config"]["temperature"] = 1.0
    (folder / GENERATION_CONFIG_FILE).write_text(json.dumps(generation))
    arrays = weights(shapes)
    for name, array in arrays.items():
        if array.ndim == 2 and not name.startswith("codec_model"):
            array *= scale
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def _compute(folder: Path) -> dict[str, np.ndarray]:
    """Outputs of transformers on the checkpoint, by name."""
    import torch
    import transformers

    config = transformers.BarkConfig.from_dict(json.loads(json.dumps(toy.CONFIG.to_dict())))
    blank = transformers.BarkModel(config).state_dict()
    shapes = {
        name: list(array.shape) for name, array in blank.items() if not name.startswith("fine_acoustics.lm_heads.")
    }
    write_checkpoint(folder, shapes)
    model = transformers.BarkModel.from_pretrained(folder).eval().requires_grad_(False)
    ids, mask = np.zeros((1, SPACES.n_text), np.int64), np.zeros((1, SPACES.n_text), np.int64)
    ids[0, : len(TEXT)], mask[0, : len(TEXT)] = TEXT, 1
    golden = {"shapes": np.array(json.dumps(shapes))}
    for name, voice in (("plain", None), ("voice", voice_arrays())):
        prompt = None if voice is None else {key: torch.from_numpy(array) for key, array in voice.items()}
        options = dict(history_prompt=prompt, semantic_max_new_tokens=N_SEMANTIC, semantic_pad_token_id=123)
        audio = model.generate(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **options)
        golden[f"audio_{name}"] = audio[0].numpy()
    rng = np.random.default_rng(6)
    for network, vocabulary in (("semantic", 256), ("coarse_acoustics", 640)):
        read = rng.integers(0, vocabulary, (2, 12))
        golden[f"{network}_ids"] = read
        golden[f"{network}_logits"] = getattr(model, network)(torch.from_numpy(read)).logits.numpy()
    read = rng.integers(0, 257, (1, 12, 8))
    golden["fine_ids"] = read
    for codebook in (1, 7):
        golden[f"fine_logits_{codebook}"] = model.fine_acoustics(codebook, torch.from_numpy(read)).logits.numpy()
    waveform = np.random.default_rng(7).standard_normal((1, 1, 3200)).astype(np.float32) * 0.3
    golden["encoded"] = model.codec_model.encode(torch.from_numpy(waveform), bandwidth=4.8).audio_codes[0].numpy()
    return golden


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        np.savez_compressed(FILE, **_compute(Path(temporary)))
    print(f"wrote {FILE}, {FILE.stat().st_size} bytes")
