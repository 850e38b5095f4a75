"""A random Bark of toy size, built by the same code as the real ones, for tests that need no speech."""

import math
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from bark_jax.checkpoints.model_folder import (
    NETWORKS,
    Manifest,
    network_shapes,
    weight_file,
    write_manifest,
    write_network,
)
from bark_jax.config import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    EncodecConfig,
    save_json,
)
from bark_jax.text.tokenizer import TOKENIZER_FILE

SEED = 0
CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789.,;:?!'\"-üß[]"

_SIZES = dict(num_layers=2, num_heads=2, hidden_size=64, bias=False, initializer_range=0.1)

CONFIG = BarkConfig(
    semantic_config=BarkSemanticConfig(block_size=384, input_vocab_size=256, output_vocab_size=128, **_SIZES),
    coarse_acoustics_config=BarkCoarseConfig(block_size=512, input_vocab_size=640, output_vocab_size=640, **_SIZES),
    fine_acoustics_config=BarkFineConfig(block_size=256, input_vocab_size=257, output_vocab_size=257, **_SIZES),
    codec_config=EncodecConfig(
        target_bandwidths=(4.8,), num_filters=8, hidden_size=32, codebook_size=256, num_lstm_layers=1
    ),
)

GENERATION_CONFIG = BarkGenerationConfig(
    semantic_config=BarkSemanticGenerationConfig(
        do_sample=True,
        temperature=0.7,
        eos_token_id=123,
        max_new_tokens=250,
        text_encoding_offset=128,
        text_pad_token=254,
        semantic_infer_token=255,
        semantic_vocab_size=123,
        max_input_semantic_length=96,
        semantic_rate_hz=50,
    ),
    coarse_acoustics_config=BarkCoarseGenerationConfig(
        do_sample=True,
        temperature=0.7,
        coarse_semantic_pad_token=638,
        coarse_infer_token=639,
        max_coarse_input_length=128,
        max_coarse_history=312,
    ),
    fine_acoustics_config=BarkFineGenerationConfig(
        temperature=0.5, max_fine_history_length=128, max_fine_input_length=256
    ),
    codebook_size=256,
)


def make_tokenizer() -> Tokenizer:
    """A character tokenizer; unknown characters become id 1."""
    names = ["[PAD]", "[UNK]", *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    return tokenizer


def make_toy(
    folder: Path,
    config: BarkConfig = CONFIG,
    generation_config: BarkGenerationConfig = GENERATION_CONFIG,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Writes a model, drawn on the host: compiling the networks' own initialisers would take far longer."""
    rng = np.random.default_rng(SEED)
    folder.mkdir(parents=True)
    records = {}
    for name, (module_class, field) in NETWORKS.items():
        shapes = network_shapes(module_class, getattr(config, field))
        arrays = ((parameter, _draw(parameter, shape.shape, rng)) for parameter, shape in shapes.items())
        records[weight_file(name)] = write_network(folder / weight_file(name), shapes, arrays)
    save_json(config, folder / CONFIG_FILE)
    save_json(generation_config, folder / GENERATION_CONFIG_FILE)
    (tokenizer or make_tokenizer()).save(str(folder / TOKENIZER_FILE))
    write_manifest(folder, Manifest("toy", records))
    return folder


def _draw(parameter: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if parameter.endswith(("scale", "bias")):
        return np.full(shape, parameter.endswith("scale"), np.float32)
    deviation = 0.5 if parameter.endswith("embedding") else math.prod(shape[:-1]) ** -0.5
    return (rng.standard_normal(shape) * deviation).astype(np.float32)
