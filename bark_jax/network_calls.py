"""One stage on arrays: what `model.semantic.generate` and its like do, with transformers' arguments.

Tokens, log-probabilities aside, are those that `BarkModel.generate` has on the way, as the same programs run. Rows of
unequal length are padded with an id that says so: the end token, the coarse network's pad token, the codebook's size.
transformers pads with the end token in the first stage alone and goes on generating in the others.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.config import (
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
    JsonConfig,
)
from bark_jax.errors import InputError
from bark_jax.hub import shown
from bark_jax.model import (
    Row,
    as_integers,
    check_ids,
    check_rows,
    row_keys,
    run_coarse,
    run_fine,
    run_semantic,
    spread_prompts,
)
from bark_jax.models.fine_gpt import BarkFineModel
from bark_jax.models.gpt import BarkCoarseModel, BarkSemanticModel
from bark_jax.own_jax_config import under_own_config
from bark_jax.settings import check_flag, resolve_stage
from bark_jax.stages.padding import pad_rows, split_rows
from bark_jax.tokens import (
    TokenSpaces,
    check_coarse_fit,
    check_fine_fit,
    check_semantic_fit,
    deinterleave,
    interleave,
    text_tokens,
)
from bark_jax.voices import Voice, as_voice, check_voice

_NO_TEXT = np.zeros(0, np.int32)


@under_own_config
def generate_semantic(
    network: BarkSemanticModel,
    input_ids: Any,
    semantic_config: Any,
    history_prompt: Any,
    attention_mask: Any,
    seed: int | Sequence[int] | None,
    key: jax.Array | None,
    settings: Mapping[str, Any],
) -> jax.Array:
    """See `BarkSemanticModel.generate`."""
    semantic_config = _as_config("semantic", semantic_config, BarkSemanticGenerationConfig)
    config = BarkGenerationConfig(semantic_config=semantic_config)
    check_semantic_fit(BarkConfig(semantic_config=network.config), config)
    spaces = TokenSpaces.from_config(config)
    ids_BT, mask_BT = check_ids(input_ids, attention_mask, spaces, network.config.input_vocab_size)
    texts = [text_tokens(ids_T, mask_T, spaces) for ids_T, mask_T in zip(ids_BT, mask_BT, strict=True)]
    voices = _check_voices("semantic", history_prompt, len(texts), spaces)
    rows = _rows("semantic", texts, voices, seed, key, settings, config, spaces)
    tokens = [tokens for tokens, _ in run_semantic(network, rows, spaces)]
    # A row that ended by itself has its end token too, as in transformers.
    width = max(
        len(row) + (len(row) < each.settings.max_semantic_tokens) for row, each in zip(tokens, rows, strict=True)
    )
    return jnp.asarray(pad_rows(tokens, spaces.semantic_end, width))


@under_own_config
def generate_coarse(
    network: BarkCoarseModel,
    semantic_output: Any,
    semantic_config: Any,
    coarse_config: Any,
    codebook_size: int,
    history_prompt: Any,
    return_output_lengths: bool | None,
    seed: int | Sequence[int] | None,
    key: jax.Array | None,
    settings: Mapping[str, Any],
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """See `BarkCoarseModel.generate`."""
    config = BarkGenerationConfig(
        semantic_config=_as_config("semantic", semantic_config, BarkSemanticGenerationConfig),
        coarse_acoustics_config=_as_config("coarse", coarse_config, BarkCoarseGenerationConfig),
        codebook_size=codebook_size,
    )
    check_coarse_fit(BarkConfig(coarse_acoustics_config=network.config), config)
    wants_lengths = check_flag("return_output_lengths", return_output_lengths or False)
    spaces = TokenSpaces.from_config(config)
    tokens_BT = as_integers("semantic_output", semantic_output)
    tokens = split_rows("semantic_output", tokens_BT, spaces.semantic_vocab, (spaces.semantic_end, spaces.coarse_pad))
    voices = _check_voices("coarse", history_prompt, len(tokens), spaces)
    rows = _rows("coarse", [_NO_TEXT] * len(tokens), voices, seed, key, settings, config, spaces)
    streams = [interleave(codes_QT, spaces) for codes_QT, _ in run_coarse(network, rows, tokens, spaces)]
    coarse_output = jnp.asarray(pad_rows(streams, spaces.coarse_pad))
    lengths = jnp.asarray(np.array([len(stream) for stream in streams], np.int32))
    return (coarse_output, lengths) if wants_lengths else coarse_output


@under_own_config
def generate_fine(
    network: BarkFineModel,
    coarse_output: Any,
    semantic_config: Any,
    coarse_config: Any,
    fine_config: Any,
    codebook_size: int,
    history_prompt: Any,
    seed: int | Sequence[int] | None,
    key: jax.Array | None,
    settings: Mapping[str, Any],
) -> jax.Array:
    """See `BarkFineModel.generate`."""
    config = BarkGenerationConfig(
        semantic_config=_as_config("semantic", semantic_config, BarkSemanticGenerationConfig),
        coarse_acoustics_config=_as_config("coarse", coarse_config, BarkCoarseGenerationConfig),
        fine_acoustics_config=_as_config("fine", fine_config, BarkFineGenerationConfig),
        codebook_size=codebook_size,
    )
    check_fine_fit(BarkConfig(fine_acoustics_config=network.config), config)
    spaces = TokenSpaces.from_config(config)
    codes = _split_streams(as_integers("coarse_output", coarse_output), spaces)
    voices = _check_voices("fine", history_prompt, len(codes), spaces)
    rows = _rows("fine", [_NO_TEXT] * len(codes), voices, seed, key, settings, config, spaces)
    return jnp.asarray(pad_rows(run_fine(network, rows, codes, spaces), spaces.codebook_size))


def _as_config(stage: str, value: Any, config_class: type[JsonConfig]) -> Any:
    """A stage's generation config from ours, transformers' or a dict."""
    if isinstance(value, config_class):
        return value
    values = value.to_dict() if hasattr(value, "to_dict") else value
    if not isinstance(values, Mapping):
        part = "semantic_config" if stage == "semantic" else f"{stage}_acoustics_config"
        raise InputError(
            f"{stage}_generation_config is {shown(value)}, expected a {config_class.__name__}, such as "
            f"model.generation_config.{part}"
        )
    return config_class.from_dict(values)


def _check_voices(stage: str, history_prompt: Any, n_rows: int, spaces: TokenSpaces) -> list[Voice | None]:
    prompts = spread_prompts(history_prompt, n_rows)
    return [None if prompt is None else _check_voice(stage, as_voice(prompt), spaces) for prompt in prompts]


def _check_voice(stage: str, voice: Voice, spaces: TokenSpaces) -> Voice:
    """The voice, if the stage can be conditioned on it; what other stages read of it may be another model's."""
    if stage != "fine":
        spaces = dataclasses.replace(spaces, n_fine=len(voice.fine))
    if stage == "semantic":
        spaces = dataclasses.replace(spaces, n_coarse=len(voice.coarse), codebook_size=int(voice.fine.max()) + 1)
    return check_voice(voice, spaces)


def _rows(
    stage: str,
    texts: list[np.ndarray],
    voices: list[Voice | None],
    seed: int | Sequence[int] | None,
    key: jax.Array | None,
    settings: Mapping[str, Any],
    config: BarkGenerationConfig,
    spaces: TokenSpaces,
) -> list[Row]:
    n_rows = len(texts)
    check_rows(n_rows)
    keys, resolved = row_keys(seed, key, n_rows), resolve_stage(stage, settings, n_rows, config, spaces)
    return [Row(*row) for row in zip(texts, voices, keys, resolved, strict=True)]


def _split_streams(stream_BT: np.ndarray, spaces: TokenSpaces) -> list[np.ndarray]:
    """The coarse codes [n_coarse, T] of each row."""
    n_ids = spaces.semantic_vocab + spaces.n_coarse * spaces.codebook_size
    codes = []
    for index, stream_T in enumerate(split_rows("coarse_output", stream_BT, n_ids, (spaces.coarse_pad,))):
        if len(stream_T) % spaces.n_coarse:
            raise InputError(f"coarse_output[{index}] has {len(stream_T)} tokens, expected {spaces.n_coarse} a frame")
        codes_QT = deinterleave(stream_T, spaces).astype(np.int32)
        if not ((codes_QT >= 0) & (codes_QT < spaces.codebook_size)).all():
            raise InputError(
                f"coarse_output[{index}] holds tokens of another codebook than their place says; expected the tokens "
                f"of {spaces.n_coarse} codebooks, frame by frame"
            )
        codes.append(codes_QT)
    return codes
