"""Runs exported programs: text tokens to audio. Needs jax, flatbuffers, numpy and safetensors, and no bark_jax."""

import json
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors.flax import load_file


def load(folder: str, platform: str | None = None) -> dict:
    """Loads the stages of an exported folder, by default for the platform of JAX's default device."""
    stages = json.loads(Path(folder, "programs.json").read_text())["stages"]
    platform = platform or {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    for stage in stages.values():
        files = stage["platforms"][platform]
        stage["call"] = jax.jit(export.deserialize(bytearray(Path(folder, files["program"]).read_bytes())).call)
        stage["weights"] = {k: v for file in files["weights"] for k, v in load_file(Path(folder, file)).items()}
    return stages


def speak(stages: dict, texts: list, seeds: list, chosen: dict) -> dict:
    """Speaks rows, each of tokenizer ids and a seed; `chosen` is a voice's arrays, and settings by STAGE.NAME."""
    n_text = stages["semantic"]["inputs"]["text"]["shape"][1]
    known = {"text": np.array([list(ids) + [0] * (n_text - len(ids)) for ids in texts], np.int32)}
    known["n_text"] = np.array([len(ids) for ids in texts], np.int32)
    known["key"] = np.array([[seed >> 32, seed & 0xFFFFFFFF] for seed in seeds], np.uint32)
    for name, stage in stages.items():
        if name == "codec":  # its time grows with the frames that it gets, a multiple of 256
            known["codes"] = known["codes"][:, :, : max(256, -(-known["n_frames"].max() // 256) * 256)]
        given = {key: known[key] for key in stage["inputs"] if key in known}
        for key in stage["inputs"].keys() - given.keys():
            array = stage["inputs"][key]
            value = np.asarray(chosen.get(f"{name}.{key}", array.get("default")), array["dtype"])
            given[key] = np.broadcast_to(value, (len(texts), *value.shape))
        known |= jax.device_get(stage["call"](stage["weights"], given))
    return known
