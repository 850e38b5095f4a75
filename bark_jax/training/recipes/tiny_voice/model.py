"""Sizes, generation configs and tokenizer of the built-in model: Bark's architecture at a small size, in two forms.

                                                               GRAMMAR    OPEN
    semantic   characters -> phone states (123) at 50 a second  1.35 M    1.38 M parameters
    coarse     phone states -> codes of two codebooks           1.50 M    1.50 M
    fine       codes of two codebooks -> codes of all eight     0.90 M    0.73 M
    codec      75 frames a second, eight codebooks of 256 codes 2.26 M    2.26 M

GRAMMAR reads one sentence a prompt, of the recipe's grammar. OPEN reads two, of any English words; its longer prompts
take parameters that its fine stage gives up, so that the model stays within 12 MB.
"""

import dataclasses
from collections.abc import Sequence

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
from bark_jax.training.recipes.tiny_voice.texts import DIGITS, vocabulary

CHARACTERS = " abcdefghijklmnopqrstuvwxyz.,?!'"
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


@dataclasses.dataclass(frozen=True)
class Form:
    """Sizes of a model, and the texts that it speaks.

    Args:
      n_text: maximum number of characters of a prompt.
      max_semantic: maximum number of semantic tokens of an utterance, 50 a second.
      n_sentences: maximum number of sentences of a prompt.
      fine_size: number of heads and width of the fine network.
      kinds: kinds of text that are measured.
      words: the words that it knows; None if it is to read any word.
    """

    n_text: int
    max_semantic: int
    n_sentences: int
    fine_size: tuple[int, int]
    kinds: tuple[str, ...]
    words: Sequence[str] | None

    @property
    def config(self) -> BarkConfig:
        """Sizes of the networks."""
        n_semantic = self.n_text + 1 + self.max_semantic + 2
        n_ids = N_TOKENS + N_STREAM + 2
        n_heads, width = self.fine_size
        return BarkConfig(
            semantic_config=BarkSemanticConfig(
                block_size=n_semantic, input_vocab_size=SEMANTIC_IDS, output_vocab_size=END + 1, **_CAUSAL
            ),
            coarse_acoustics_config=BarkCoarseConfig(
                block_size=SEMANTIC_WINDOW + 1 + STREAM_HISTORY + STREAM_WINDOW,
                input_vocab_size=n_ids,
                output_vocab_size=n_ids,
                **_CAUSAL,
            ),
            fine_acoustics_config=BarkFineConfig(
                block_size=FRAMES,
                input_vocab_size=N_CODES + 1,
                output_vocab_size=N_CODES + 1,
                num_layers=3,
                num_heads=n_heads,
                hidden_size=width,
                bias=False,
            ),
            codec_config=EncodecConfig(target_bandwidths=(4.8,), num_filters=12, hidden_size=64, codebook_size=N_CODES),
        )

    @property
    def generation_config(self) -> BarkGenerationConfig:
        """Token spaces and default settings."""
        return BarkGenerationConfig(
            semantic_config=BarkSemanticGenerationConfig(
                do_sample=True,
                temperature=0.1,  # this and the temperatures below were found by `choose`, for GRAMMAR
                eos_token_id=END,
                max_new_tokens=self.max_semantic,
                text_encoding_offset=TEXT_OFFSET,
                text_pad_token=SEMANTIC_IDS - 2,
                semantic_infer_token=SEMANTIC_IDS - 1,
                semantic_vocab_size=N_TOKENS,
                max_input_semantic_length=self.n_text,
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
            sentences_per_prompt=self.n_sentences,  # as in the training examples
        )


GRAMMAR = Form(96, 254, 1, (4, 128), ("digits", "sentences"), tuple(vocabulary()))
OPEN = Form(128, 450, 2, (7, 112), ("digits", "sentences", "pairs", "open"), None)


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
