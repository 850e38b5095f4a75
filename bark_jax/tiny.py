"""The built-in model: all of Bark's parts at toy size, for a first try without a download.

Its weights are drawn from a seed, so what comes out is noise, through the same code as the real models' speech.
"""

from typing import TYPE_CHECKING

from bark_jax.config import (
    BarkCoarseConfig,
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticConfig,
    BarkSemanticGenerationConfig,
    EncodecConfig,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "tiny"
SEED = 0
CHARACTERS = " abcdefghijklmnopqrstuvwxyz0123456789.,;:?!'\"-"

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


def make_tokenizer() -> "Tokenizer":
    """One id a character; what the model does not know becomes id 1."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    names = ["[PAD]", "[UNK]", *CHARACTERS]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    return tokenizer
