"""Bark's token spaces: the meaning of ids in each network, and the exact rates between the tokens of stages.

The semantic network reads semantic tokens, their end, and text tokens in one vocabulary; the coarse network reads
semantic tokens and the codes of the first codebooks in another:

    semantic  0 .. 9,999 semantic | 10,000 end | 10,048 .. text (BERT id + 10,048) | 129,595 text pad | 129,599 infer
    coarse    0 .. 9,999 semantic | 10,000 .. 11,023 codebook 0 | .. 12,047 codebook 1 | 12,048 pad | 12,050 infer

Tokens and frames are counted in exact fractions. 75 frames a second to 49.9 semantic tokens a second is 750 to 499, so
n semantic tokens make n * 750 // 499 frames: 100 make 150, and 768, Bark's limit, make 1,154, or 15.4 s. (Both torch
references multiply floats; the results are equal for every length that fits.)
"""

import dataclasses
import functools
from fractions import Fraction
from typing import Any, Self

import numpy as np

from bark_jax.config import MAX_POSITIONS, BarkConfig, BarkGenerationConfig, require

STAGES = ("semantic", "coarse", "fine")  # that choose tokens, in their order


@dataclasses.dataclass(frozen=True)
class TokenSpaces:
    """The ids, window lengths and rates of one model. The defaults are Bark's; suno's names stand in the comments."""

    # Suno's vocabularies are padded: the semantic network predicts 10,048 = 157 * 64 ids, of which 10,001 have a
    # meaning; text ids start right after them.
    text_offset: int = 10_048  # TEXT_ENCODING_OFFSET
    # 10,048 + 119,547, one past the last text id: BERT's multilingual vocabulary has 119,547 words.
    text_pad: int = 129_595  # TEXT_PAD_TOKEN
    n_text: int = 256  # text tokens, and history tokens, that the semantic prompt has room for
    semantic_infer: int = 129_599  # SEMANTIC_INFER_TOKEN
    semantic_vocab: int = 10_000  # SEMANTIC_VOCAB_SIZE
    semantic_end: int = 10_000  # SEMANTIC_PAD_TOKEN; ends a row, and pads the history of the prompt
    max_semantic: int = 768  # n_tot_steps; 256 of prompt, the infer token and 767 tokens read back are 1,024 positions

    coarse_pad: int = 12_048  # COARSE_SEMANTIC_PAD_TOKEN
    coarse_infer: int = 12_050  # COARSE_INFER_TOKEN
    # Of these up to 209 cover the history and the rest lies ahead: 47 tokens, 0.94 s, of which the window says 20.
    n_coarse_semantic: int = 256  # semantic tokens that the coarse prompt has room for
    # 315 frames, 4.2 s.
    n_coarse_history: int = 630  # max_coarse_history
    coarse_window: int = 60  # sliding_window_len: tokens generated between two prompts, 30 frames
    n_coarse: int = 2  # N_COARSE_CODEBOOKS

    n_fine: int = 8  # N_FINE_CODEBOOKS
    codebook_size: int = 1024  # CODEBOOK_SIZE; also the id of a code that is not known yet
    # In seconds 6.8 of history and 13.7 of window.
    n_fine_history: int = 512  # frames; also the step between two windows
    fine_window: int = 1024  # frames of a window

    semantic_rate: Fraction = Fraction("49.9")  # SEMANTIC_RATE_HZ
    frame_rate: Fraction = Fraction(75)  # COARSE_RATE_HZ
    sample_rate: int = 24_000  # SAMPLE_RATE

    @classmethod
    def from_config(cls, config: BarkGenerationConfig) -> Self:
        """The token spaces of a generation_config.json. Rates become exact fractions: 49.9 is 499/10."""
        semantic, coarse, fine = config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config
        return cls(
            text_offset=semantic.text_encoding_offset,
            text_pad=semantic.text_pad_token,
            n_text=semantic.max_input_semantic_length,
            semantic_infer=semantic.semantic_infer_token,
            semantic_vocab=semantic.semantic_vocab_size,
            semantic_end=semantic.eos_token_id,
            max_semantic=semantic.max_new_tokens,
            coarse_pad=coarse.coarse_semantic_pad_token,
            coarse_infer=coarse.coarse_infer_token,
            n_coarse_semantic=coarse.max_coarse_input_length,
            n_coarse_history=coarse.max_coarse_history,
            coarse_window=coarse.sliding_window_len,
            n_coarse=coarse.n_coarse_codebooks,
            n_fine=fine.n_fine_codebooks,
            codebook_size=config.codebook_size,
            n_fine_history=fine.max_fine_history_length,
            fine_window=fine.max_fine_input_length,
            # By way of str: Fraction(49.9) is the binary float's value, 7022800668930867/140737488355328.
            semantic_rate=Fraction(str(semantic.semantic_rate_hz)),
            frame_rate=Fraction(str(coarse.coarse_rate_hz)),
            sample_rate=config.sample_rate,
        )

    @property
    def stream_per_semantic(self) -> Fraction:
        """Tokens of the coarse stream to one semantic token: 1500/499 in Bark, about 3.006."""
        return self.frame_rate * self.n_coarse / self.semantic_rate

    @property
    def max_semantic_history(self) -> int:
        """Semantic tokens that cover a full coarse history, rounded down: 630 / (1500/499) = 209.58, 209 in Bark."""
        return int(self.n_coarse_history / self.stream_per_semantic)

    def n_frames(self, n_semantic: Any) -> Any:
        """Frames of `n_semantic` semantic tokens, rounded down; an integer or an integer array."""
        frames_per_semantic = self.frame_rate / self.semantic_rate
        return n_semantic * frames_per_semantic.numerator // frames_per_semantic.denominator

    def n_stream_history(self, n_semantic: int) -> int:
        """Tokens of the coarse stream that cover `n_semantic` history tokens, rounded half to even; it can be odd."""
        # No ties: n * 1500 / 499 never ends in a half. torch's floats therefore cannot round to another integer here.
        return round(n_semantic * self.stream_per_semantic)

    def n_semantic_done(self, n_stream: int) -> int:
        """Semantic tokens that the first `n_stream` tokens of the coarse stream cover, rounded half to even."""
        # Nor here at Bark's windows: k * 60 * 499 / 1500 = 19.96 k never ends in a half. Other windows can tie, first
        # at 750 tokens, 249.5, which goes to 250.
        return round(n_stream / self.stream_per_semantic)


def text_tokens(ids_T: np.ndarray, mask_T: np.ndarray, spaces: TokenSpaces) -> np.ndarray:
    """Maps tokenizer ids [T] to the semantic network's vocabulary, int32 [T]; text_pad where the mask [T] is 0.

    BERT's id 101 becomes 101 + 10,048 = 10,149.
    """
    return np.where(mask_T == 1, ids_T + spaces.text_offset, spaces.text_pad).astype(np.int32)


def interleave(codes_QT: np.ndarray, spaces: TokenSpaces) -> np.ndarray:
    """Lays coarse codes out as the coarse network reads them: one stream, frame by frame.

    Code c of codebook q becomes semantic_vocab + q * codebook_size + c, so equal codes of two codebooks stay apart:

        [[5, 7],
         [6, 8]]   ->   [10005, 11030, 10007, 11032]

    Args:
      codes_QT: codes in [0, codebook_size), one row a codebook.

    Returns:
      The stream, [Q * T] tokens of the coarse vocabulary.

    Source: suno-ai/bark, bark/generation.py, `_flatten_codebooks`.
    """
    n_codebooks = codes_QT.shape[0]
    offset_Q1 = spaces.semantic_vocab + spaces.codebook_size * np.arange(n_codebooks)[:, None]
    return (codes_QT + offset_Q1).T.reshape(-1)


def deinterleave(stream_T: np.ndarray, spaces: TokenSpaces) -> np.ndarray:
    """Undoes `interleave` for a stream that starts on codebook 0: [Q * T] tokens -> codes_QT."""
    # A voice's trimmed stream may start on codebook 1 (`coarse.trim_history`); it must not come here.
    codes_TQ = stream_T.reshape(-1, spaces.n_coarse) - spaces.semantic_vocab
    return (codes_TQ - spaces.codebook_size * np.arange(spaces.n_coarse)[None]).T


@functools.lru_cache(maxsize=16)  # called when a model is found, and again when it is made
def check_fit(config: BarkConfig, generation: BarkGenerationConfig) -> None:
    """Raises ConfigError, naming the field, where the networks' vocabularies or positions cannot hold the stages.

    Each limit is checked once against the field that is more likely wrong: the stage's where its value is above Bark's
    default, else the network's.
    """
    _check_vocabularies(config, generation)
    check_semantic_fit(config, generation)
    check_coarse_fit(config, generation)
    check_fine_fit(config, generation)
    _check_codec(config, generation)


def _check_vocabularies(config: BarkConfig, generation: BarkGenerationConfig) -> None:
    """Checks vocabularies before sums of them, so that a message names the field that is wrong and not the sum."""
    n_codes, fine, codec = generation.codebook_size, config.fine_acoustics_config, config.codec_config
    _check_semantic_vocabulary(config, generation)
    require(
        generation,
        n_codes < fine.input_vocab_size,
        "codebook_size",
        f"fewer codes than the fine network's {fine.input_vocab_size} ids: one more stands for an unknown code",
    )
    require(
        codec,
        n_codes <= codec.codebook_size,
        "codebook_size",
        f"at least the {n_codes} codes that the stages draw from",
    )


def _check_semantic_vocabulary(config: BarkConfig, generation: BarkGenerationConfig) -> None:
    network, semantic = config.semantic_config, generation.semantic_config
    for field in ("semantic_vocab_size", "eos_token_id"):
        require(
            semantic,
            getattr(semantic, field) + (field == "eos_token_id") <= network.output_vocab_size,
            field,
            f"{'an id below' if field == 'eos_token_id' else 'at most'} the semantic network's output_vocab_size "
            f"{network.output_vocab_size}",
        )


def check_semantic_fit(config: BarkConfig, generation: BarkGenerationConfig) -> None:
    """Raises ConfigError as `check_fit` does, for the semantic network alone."""
    _check_semantic_vocabulary(config, generation)
    network, stage = config.semantic_config, generation.semantic_config
    n_prompt = stage.max_input_semantic_length + 1
    if stage.max_input_semantic_length > type(stage).max_input_semantic_length:
        require(
            stage,
            n_prompt <= network.block_size,
            "max_input_semantic_length",
            f"at most {network.block_size - 1}: the semantic prompt takes one more, {n_prompt} of the network's "
            f"{network.block_size} positions (block_size)",
        )
    require(
        network,
        network.block_size >= n_prompt,
        "block_size",
        f"at least the semantic prompt's {n_prompt} positions (max_input_semantic_length + 1)",
    )
    require(
        stage,
        n_prompt + stage.max_new_tokens - 1 <= network.block_size,
        "max_new_tokens",
        f"at most {network.block_size - n_prompt + 1}: prompt and tokens share {network.block_size} positions",
    )
    require(
        stage,
        stage.text_encoding_offset > stage.eos_token_id,
        "text_encoding_offset",
        f"an id past eos_token_id {stage.eos_token_id}, so that text and semantic tokens stay apart",
    )
    for field in ("text_encoding_offset", "text_pad_token", "semantic_infer_token", "eos_token_id"):
        require(
            stage,
            getattr(stage, field) < network.input_vocab_size,
            field,
            f"an id below the semantic network's input_vocab_size {network.input_vocab_size}",
        )


def _check_coarse_vocabulary(config: BarkConfig, generation: BarkGenerationConfig) -> int:
    """Returns the number of ids of semantic tokens and codes, after checking that the coarse network holds them."""
    network, stage = config.coarse_acoustics_config, generation.coarse_acoustics_config
    n_semantic, n_codes = generation.semantic_config.semantic_vocab_size, generation.codebook_size
    n_ids = n_semantic + stage.n_coarse_codebooks * n_codes
    parts = (
        f"semantic tokens and codes take {n_ids} ids (semantic_vocab_size is {n_semantic}, n_coarse_codebooks is "
        f"{stage.n_coarse_codebooks}, codebook_size is {n_codes})"
    )
    for vocabulary in ("input_vocab_size", "output_vocab_size"):
        n_held = getattr(network, vocabulary)
        if stage.n_coarse_codebooks > type(stage).n_coarse_codebooks:
            limit = f"at most {(n_held - n_semantic) // n_codes}, which fit the coarse network's {vocabulary} {n_held}"
            require(stage, n_ids <= n_held, "n_coarse_codebooks", f"{limit}; {parts}")
        require(network, n_ids <= n_held, vocabulary, f"at least {n_ids}: {parts}")
    return n_ids


def check_coarse_fit(config: BarkConfig, generation: BarkGenerationConfig) -> None:
    """Raises ConfigError as `check_fit` does, for the coarse network alone."""
    network, stage = config.coarse_acoustics_config, generation.coarse_acoustics_config
    n_ids = _check_coarse_vocabulary(config, generation)
    for field in ("coarse_semantic_pad_token", "coarse_infer_token"):
        require(
            stage,
            n_ids <= getattr(stage, field) < network.input_vocab_size,
            field,
            f"an id from {n_ids}, past the codes, to {network.input_vocab_size - 1}",
        )
    n_prompt = stage.max_coarse_input_length + 1 + stage.max_coarse_history
    for field in ("max_coarse_input_length", "max_coarse_history", "sliding_window_len"):
        if getattr(stage, field) > getattr(type(stage), field):
            excess = n_prompt + stage.sliding_window_len - 1 - network.block_size
            limit = f"at most {getattr(stage, field) - excess}, with which prompt and window take the"
            require(stage, excess <= 0, field, f"{limit} {network.block_size} positions that there are (block_size)")
    require(
        network,
        n_prompt + stage.sliding_window_len - 1 <= network.block_size,
        "block_size",
        f"at least {n_prompt + stage.sliding_window_len - 1}: the coarse prompt takes {n_prompt} positions, "
        f"a window {stage.sliding_window_len - 1} more",
    )
    spaces = TokenSpaces.from_config(generation)
    require(
        stage,
        0 < spaces.n_frames(spaces.max_semantic) <= MAX_POSITIONS,
        "coarse_rate_hz",
        f"a rate at which {spaces.max_semantic} semantic tokens, {float(spaces.semantic_rate):g} a second, take 1 to "
        f"{MAX_POSITIONS} frames",
    )
    require(
        stage,
        spaces.max_semantic_history <= stage.max_coarse_input_length,
        "max_coarse_history",
        f"a history that goes with at most {stage.max_coarse_input_length} semantic tokens (max_coarse_input_length)",
    )


def check_fine_fit(config: BarkConfig, generation: BarkGenerationConfig) -> None:
    """Raises ConfigError as `check_fit` does, for the fine network alone."""
    network, stage = config.fine_acoustics_config, generation.fine_acoustics_config
    n_coarse = generation.coarse_acoustics_config.n_coarse_codebooks
    if network.n_codes_total == type(network).n_codes_total:
        is_same = stage.n_fine_codebooks == network.n_codes_total
        require(stage, is_same, "n_fine_codebooks", f"the fine network's n_codes_total {network.n_codes_total}")
    require(
        network,
        network.n_codes_total == stage.n_fine_codebooks,
        "n_codes_total",
        f"the fine stage's n_fine_codebooks {stage.n_fine_codebooks}",
    )
    require(stage, stage.n_fine_codebooks >= n_coarse, "n_fine_codebooks", f"at least the {n_coarse} coarse codebooks")
    require(
        stage,
        stage.max_fine_input_length <= network.block_size,
        "max_fine_input_length",
        f"at most the fine network's block_size {network.block_size}",
    )


def _check_codec(config: BarkConfig, generation: BarkGenerationConfig) -> None:
    stage, codec = generation.fine_acoustics_config, config.codec_config
    require(
        codec,
        codec.num_quantizers >= stage.n_fine_codebooks,
        "target_bandwidths",
        f"a codec with at least {stage.n_fine_codebooks} codebooks; these bandwidths give {codec.num_quantizers}",
    )
