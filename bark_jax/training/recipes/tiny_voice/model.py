"""Sizes, generation config and tokenizer of the built-in model: Bark's architecture at a small size.

semantic   characters -> phone states (123) at 50 a second      1.35 M parameters
coarse     phone states -> codes of two codebooks               1.50 M
fine       codes of two codebooks -> codes of all eight         0.90 M
codec      75 frames a second, eight codebooks of 256 codes     2.26 M
"""

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

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
from bark_jax.training.recipes.tiny_voice.speech import N_TOKENS, TOKEN_RATE
from bark_jax.training.recipes.tiny_voice.texts import DIGITS

CHARACTERS = " abcdefghijklmnopqrstuvwxyz.,?!'"
N_TEXT = 96  # maximum number of characters of a prompt
MAX_SEMANTIC = 254  # semantic tokens, 5 s
N_CODES = 256
N_STREAM = 2 * N_CODES  # number of ids in the coarse stream: two codebooks
SEMANTIC_WINDOW, STREAM_WINDOW = 128, 60
STREAM_HISTORY = 252  # codes of two codebooks: 126 frames, 1.7 s
FRAMES = 384  # of a fine window, 5.1 s

# Ids of the semantic model, in order: semantic tokens, their end token, text characters, text pad, infer.
END = N_TOKENS
TEXT_OFFSET = END + 1
SEMANTIC_IDS = 192

_CAUSAL = dict(num_layers=4, num_heads=5, hidden_size=160, bias=False)

CONFIG = BarkConfig(
    semantic_config=BarkSemanticConfig(
        block_size=N_TEXT + 1 + MAX_SEMANTIC + 2, input_vocab_size=SEMANTIC_IDS, output_vocab_size=END + 1, **_CAUSAL
    ),
    coarse_acoustics_config=BarkCoarseConfig(
        block_size=SEMANTIC_WINDOW + 1 + STREAM_HISTORY + STREAM_WINDOW,
        input_vocab_size=N_TOKENS + N_STREAM + 2,
        output_vocab_size=N_TOKENS + N_STREAM + 2,
        **_CAUSAL,
    ),
    fine_acoustics_config=BarkFineConfig(
        block_size=FRAMES,
        input_vocab_size=N_CODES + 1,
        output_vocab_size=N_CODES + 1,
        num_layers=3,
        num_heads=4,
        hidden_size=128,
        bias=False,
    ),
    codec_config=EncodecConfig(target_bandwidths=(4.8,), num_filters=12, hidden_size=64, codebook_size=N_CODES),
)

GENERATION_CONFIG = BarkGenerationConfig(
    semantic_config=BarkSemanticGenerationConfig(
        do_sample=True,
        temperature=0.1,  # this and the temperatures below were found by `choose`
        eos_token_id=END,
        max_new_tokens=MAX_SEMANTIC,
        text_encoding_offset=TEXT_OFFSET,
        text_pad_token=SEMANTIC_IDS - 2,
        semantic_infer_token=SEMANTIC_IDS - 1,
        semantic_vocab_size=N_TOKENS,
        max_input_semantic_length=N_TEXT,
        semantic_rate_hz=TOKEN_RATE,
    ),
    coarse_acoustics_config=BarkCoarseGenerationConfig(
        do_sample=True,
        temperature=0.6,
        coarse_semantic_pad_token=N_TOKENS + N_STREAM,
        coarse_infer_token=N_TOKENS + N_STREAM + 1,
        max_coarse_input_length=SEMANTIC_WINDOW,
        max_coarse_history=STREAM_HISTORY,
        sliding_window_len=STREAM_WINDOW,
    ),
    fine_acoustics_config=BarkFineGenerationConfig(
        temperature=0.5, max_fine_history_length=FRAMES // 3, max_fine_input_length=FRAMES
    ),
    codebook_size=N_CODES,
    sentences_per_prompt=1,  # every training example is one sentence
)


def make_tokenizer() -> Tokenizer:
    """A character tokenizer: lower-cases, spells out digits ("7" -> "seven"), replaces other characters by spaces."""
    ids = {name: index for index, name in enumerate(["[PAD]", "[UNK]", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    figures = [normalizers.Replace(str(value), f" {digit} ") for value, digit in enumerate(DIGITS)]
    clean = [
        normalizers.Replace(Regex(f"[^{CHARACTERS}]"), " "),
        normalizers.Replace(Regex(" +"), " "),
        normalizers.Strip(),
    ]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *figures, *clean])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    return tokenizer
