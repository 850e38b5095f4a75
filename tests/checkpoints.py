"""Small random checkpoints of the same weights in every supported layout.

`make_bark` makes the weights; the others write them again as other programs lay them out. torch is imported only when
one is called. The names of the other layouts are spelled out here once more, apart from the tables under test.
"""

import json
import re
from pathlib import Path

import numpy as np

SIZES = dict(hidden_size=16, num_layers=2, num_heads=2)
CODEC = dict(num_filters=4, hidden_size=8, codebook_dim=8, target_bandwidths=[1.5, 6.0])

SUNO_NAMES = (
    ("input_embeds_layers.", "transformer.wtes."),
    ("input_embeds_layer.", "transformer.wte."),
    ("position_embeds_layer.", "transformer.wpe."),
    ("layernorm_final.", "transformer.ln_f."),
    ("layernorm_", "ln_"),
    ("att_proj.", "c_attn."),
    ("attn.out_proj.", "attn.c_proj."),
    ("mlp.in_proj.", "mlp.c_fc."),
    ("mlp.out_proj.", "mlp.c_proj."),
)
SUNO_FILES = {"semantic": "text", "coarse_acoustics": "coarse", "fine_acoustics": "fine"}


def make_bark(folder: Path, *, seed: int = 0, bias: bool = False, codec: dict | None = None, **sizes) -> Path:
    """Saves a random Bark with transformers: config.json, generation_config.json, model.safetensors."""
    import torch
    from transformers import BarkConfig, BarkModel

    torch.manual_seed(seed)
    shared = dict(bias=bias, initializer_range=0.15) | SIZES | sizes
    config = BarkConfig(
        semantic_config=dict(input_vocab_size=129_600, output_vocab_size=10_048, **shared),
        coarse_acoustics_config=dict(input_vocab_size=12_096, output_vocab_size=12_096, **shared),
        fine_acoustics_config=dict(input_vocab_size=1056, output_vocab_size=1056, **shared),
        codec_config=CODEC | (codec or {}),
    )
    model = BarkModel(config)
    shake(model)
    model.save_pretrained(folder)
    write_generation_config(folder)
    return folder


def shake(model) -> None:
    """Randomises parameters that are constant in a new model: norms, biases, and the codec's codebooks."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "bias_" in name or "layernorm" in name or ".norm." in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif name.endswith(("original0", "weight_g")):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith(("embed", "embed_avg", "cluster_size")):
                buffer.copy_(torch.randn_like(buffer).abs() if name.endswith("size") else torch.randn_like(buffer))


def write_generation_config(folder: Path) -> None:
    from transformers.models.bark.generation_configuration_bark import (
        BarkCoarseGenerationConfig,
        BarkFineGenerationConfig,
        BarkGenerationConfig,
        BarkSemanticGenerationConfig,
    )

    config = BarkGenerationConfig.from_sub_model_configs(
        BarkSemanticGenerationConfig(do_sample=True, temperature=0.7, top_k=50),
        BarkCoarseGenerationConfig(do_sample=True, temperature=0.7, top_k=50),
        BarkFineGenerationConfig(temperature=0.5),
    )
    (folder / "generation_config.json").write_text(json.dumps(config.to_dict()))


def make_encodec(folder: Path, *, seed: int = 0, **sizes) -> Path:
    """Saves a random EnCodec with transformers."""
    import torch
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(seed)
    model = EncodecModel(EncodecConfig(**(CODEC | sizes)))
    shake(model)
    model.save_pretrained(folder)
    return folder


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def write_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "model.safetensors")


def as_tensors(arrays: dict[str, np.ndarray]) -> dict:
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def write_pickle(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes pytorch_model.bin in place of model.safetensors."""
    import torch

    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(as_tensors(arrays), folder / "pytorch_model.bin")


def write_shards(folder: Path, arrays: dict[str, np.ndarray], ending: str) -> None:
    """Writes two shards, `ending` "safetensors" or "bin", and their index."""
    import torch
    from safetensors.numpy import save_file

    stem = "model" if ending == "safetensors" else "pytorch_model"
    names = sorted(arrays)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"{stem}-{number:05}-of-00002.{ending}"
        held = {name: arrays[name] for name in part}
        if ending == "safetensors":
            save_file(held, folder / shard)
        else:
            torch.save(as_tensors(held), folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors").unlink(missing_ok=True)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


def with_old_weight_norm(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same under the names of torch before 2.0: weight_g and weight_v."""
    old = {"original0": "weight_g", "original1": "weight_v"}
    pattern = r"parametrizations\.weight\.(original[01])$"
    return {re.sub(pattern, lambda found: old[found[1]], name): array for name, array in arrays.items()}


def with_heads(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with the fine network's heads, which repeat its embedding tables."""
    heads = {
        f"fine_acoustics.lm_heads.{q}.weight": arrays[f"fine_acoustics.input_embeds_layers.{q + 1}.weight"]
        for q in range(7)
    }
    return arrays | heads


def make_suno(folder: Path, bark: Path, *, suffix: str = "", is_compiled: bool = True) -> Path:
    """Writes text.pt, coarse.pt and fine.pt (with `suffix` "_2" the large ones') as Suno's training left them."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((bark / "config.json").read_text())
    for network, stem in SUNO_FILES.items():
        model = suno_arrays(with_heads(read_arrays(bark)), network, is_compiled=is_compiled)
        checkpoint = {
            "model": as_tensors(model),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(1000), "exp_avg_sq": torch.zeros(1000)}}},
            "model_args": model_args(config[f"{network}_config"], is_fine=network == "fine_acoustics"),
            "iter_num": 1,
            "best_val_loss": np.float64(1.25),
        }
        torch.save(checkpoint, folder / f"{stem}{suffix}.pt")
    return folder


def suno_arrays(arrays: dict[str, np.ndarray], network: str, *, is_compiled: bool = True) -> dict[str, np.ndarray]:
    """Renames the arrays of a network to Suno's names."""
    renamed = {}
    for name, array in arrays.items():
        prefix, _, rest = name.partition(".")
        if prefix != network:
            continue
        for theirs, suno in SUNO_NAMES:
            rest = rest.replace(theirs, suno)
        rest = re.sub(r"^layers\.", "transformer.h.", rest)
        renamed[("_orig_mod." if is_compiled else "") + rest] = array
    return renamed


def model_args(config: dict, *, is_fine: bool) -> dict:
    args = {
        "n_layer": config["num_layers"],
        "n_head": config["num_heads"],
        "n_embd": config["hidden_size"],
        "block_size": config["block_size"],
        "bias": config["bias"],
        "dropout": config["dropout"],
        "input_vocab_size": config["input_vocab_size"],
        "output_vocab_size": config["output_vocab_size"],
    }
    return args | ({"n_codes_total": 8, "n_codes_given": 1} if is_fine else {})


def make_encodec_th(path: Path, bark: Path, *, transposed: tuple[int, ...] = (3, 6, 9, 12)) -> Path:
    """Writes the codec of a Bark, or an EnCodec, as the original EnCodec saves it, and its config beside it."""
    import torch

    arrays = with_old_weight_norm(read_arrays(bark))
    codec = {name.removeprefix("codec_model."): array for name, array in arrays.items() if _is_codec(name)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(as_tensors({_original_name(name, transposed): array for name, array in codec.items()}), path)
    config = json.loads((bark / "config.json").read_text())
    (path.parent / "config.json").write_text(json.dumps(config.get("codec_config", config)))
    return path


def _is_codec(name: str) -> bool:
    return name.startswith(("codec_model.", "encoder.", "decoder.", "quantizer."))


def _original_name(name: str, transposed: tuple[int, ...]) -> str:
    if name.startswith("quantizer."):
        return name.replace("quantizer.layers.", "quantizer.vq.layers.").replace(".codebook.", "._codebook.")
    is_transposed = name.startswith(tuple(f"decoder.layers.{i}." for i in transposed))
    wrapper = ".convtr" if is_transposed and ".block." not in name else ".conv"
    name = name.replace(".conv.", f"{wrapper}{wrapper}.").replace(".norm.", f"{wrapper}.norm.")
    return name.replace(".layers.", ".model.")
