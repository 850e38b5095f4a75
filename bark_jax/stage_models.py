"""One stage on arrays: what `model.semantic.generate` and its like do, with transformers' arguments.

Tokens, log-probabilities aside, are those that `BarkModel.generate` has on the way, as the same programs run. Rows of
unequal length are padded with an id that says so: the end token, the coarse network's pad token, the codebook's size.
transformers pads with the end token in the first stage alone and goes on generating in the others.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, overload

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax._system.own_jax_config import under_own_config
from bark_jax.checkpoints import find, load
from bark_jax.checkpoints.compiled import keep_compiled_programs
from bark_jax.checkpoints.options import MODEL_IGNORED, MODEL_REFUSED, check_options
from bark_jax.config import (
    BarkCoarseGenerationConfig,
    BarkConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
    JsonConfig,
)
from bark_jax.errors import InputError, quoted
from bark_jax.generation.padding import pad_rows, split_rows
from bark_jax.generation.rows import Row, as_integers, check_ids, check_rows, spread_prompts
from bark_jax.generation.runner import run_coarse, run_fine, run_semantic
from bark_jax.generation.seeds import row_keys
from bark_jax.generation.settings import check_flag, resolve_stage
from bark_jax.generation.tokens import (
    TokenSpaces,
    check_coarse_fit,
    check_fine_fit,
    check_semantic_fit,
    deinterleave,
    interleave,
    text_tokens,
)
from bark_jax.networks.causal import CoarseNetwork, SemanticNetwork
from bark_jax.networks.codec.encodec import Codec
from bark_jax.networks.fine import FineNetwork
from bark_jax.networks.platform import check_platform
from bark_jax.voices.voice import Voice, as_voice, check_voice

_NO_TEXT = np.zeros(0, np.int32)


class BarkSemanticModel(SemanticNetwork):
    """Text tokens, summed with a voice's semantic tokens, in; semantic tokens out."""

    def generate(
        self,
        input_ids: Any,
        semantic_generation_config: Any = None,
        history_prompt: Any = None,
        attention_mask: Any = None,
        *,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        **settings: Any,
    ) -> jax.Array:
        """The semantic stage on arrays, with the arguments of transformers' method of this name.

        Args:
          input_ids: tokenizer ids [B, T], as `BarkProcessor` gives them.
          semantic_generation_config: model.generation_config.semantic_config, or another; a dict or transformers' class
            is read as well.
          history_prompt: a Voice, or a dict of the three arrays, for all rows; or a list of one or None a row.
          attention_mask: [B, T] of 0 and 1; without it every id is text.
          seed, key: as for `BarkModel.generate`, whose tokens these are.
          settings: the semantic ones of `bark_jax.GenerateSettings`, without a prefix.

        Returns:
          tokens, int32 [B, T]: a row's semantic tokens, and end tokens past its end. A longest row that ended by itself
          has one too.

        Raises:
          InputError, ConfigError, VoiceError: before the network runs.
        """
        return _generate_semantic(
            self, input_ids, semantic_generation_config, history_prompt, attention_mask, seed, key, settings
        )


class BarkCoarseModel(CoarseNetwork):
    """Semantic tokens and the coarse codes so far in; the next coarse code out."""

    @overload
    def generate(
        self,
        semantic_output: Any,
        semantic_generation_config: Any = None,
        coarse_generation_config: Any = None,
        codebook_size: int = 1024,
        history_prompt: Any = None,
        return_output_lengths: Literal[False] | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        **settings: Any,
    ) -> jax.Array: ...

    @overload
    def generate(
        self,
        semantic_output: Any,
        semantic_generation_config: Any = None,
        coarse_generation_config: Any = None,
        codebook_size: int = 1024,
        history_prompt: Any = None,
        *,
        return_output_lengths: Literal[True],
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        **settings: Any,
    ) -> tuple[jax.Array, jax.Array]: ...

    def generate(
        self,
        semantic_output: Any,
        semantic_generation_config: Any = None,
        coarse_generation_config: Any = None,
        codebook_size: int = 1024,
        history_prompt: Any = None,
        return_output_lengths: bool | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        **settings: Any,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """The coarse stage on arrays, with the arguments of transformers' method of this name.

        Args:
          semantic_output: tokens [B, T] as `BarkSemanticModel.generate` gives them; it is not changed.
          semantic_generation_config, coarse_generation_config: parts of model.generation_config.
          codebook_size: that of model.generation_config.
          return_output_lengths: also give each row's number of tokens.
          history_prompt, seed, key: as for `BarkSemanticModel.generate`.
          settings: the coarse ones of `bark_jax.GenerateSettings`, without a prefix.

        Returns:
          The stream of coarse codes, int32 [B, T], frame by frame in the coarse vocabulary, and past a row's end
          coarse_semantic_pad_token; with `return_output_lengths` a pair with int32 [B].

        Raises:
          InputError, ConfigError, VoiceError: before the network runs.
        """
        return _generate_coarse(
            self,
            semantic_output,
            semantic_generation_config,
            coarse_generation_config,
            codebook_size,
            history_prompt,
            return_output_lengths,
            seed,
            key,
            settings,
        )


class BarkFineModel(FineNetwork):
    """Codes of a window in; logits of one finer codebook out, for every frame at once."""

    def generate(
        self,
        coarse_output: Any,
        semantic_generation_config: Any = None,
        coarse_generation_config: Any = None,
        fine_generation_config: Any = None,
        codebook_size: int = 1024,
        history_prompt: Any = None,
        *,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        **settings: Any,
    ) -> jax.Array:
        """The fine stage on arrays, with the arguments of transformers' method of this name.

        Args:
          coarse_output: the stream [B, T] as `BarkCoarseModel.generate` gives it.
          semantic_generation_config, coarse_generation_config, fine_generation_config: parts of
            model.generation_config.
          codebook_size: that of model.generation_config.
          history_prompt, seed, key: as for `BarkSemanticModel.generate`.
          settings: the fine ones of `bark_jax.GenerateSettings`, without a prefix.

        Returns:
          codes, int32 [B, n_fine, T], coarse codebooks first, and codebook_size past a row's end.

        Raises:
          InputError, ConfigError, VoiceError: before the network runs.
        """
        return _generate_fine(
            self,
            coarse_output,
            semantic_generation_config,
            coarse_generation_config,
            fine_generation_config,
            codebook_size,
            history_prompt,
            seed,
            key,
            settings,
        )


class EncodecModel(Codec):
    """The codec. Audio is [B, A, channels], about -1..1; codes are integers [B, Q, T]; A = T * config.hop_length."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        dtype: Any = None,
        torch_dtype: Any = None,
        platform: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        keep_compiled: bool = True,
        **options: Any,
    ) -> Self:
        """Loads a codec: a folder, a Hub id such as "facebook/encodec_24khz"; of a whole Bark its codec.

        A PyTorch checkpoint is converted on first use and cached by repository and revision.

        Args:
          dtype: "float32", "bfloat16" or "float16", or torch's object of that name; None and "auto" keep what the
            checkpoint has.
          torch_dtype, platform, revision, token, cache_dir, local_files_only, force_download, keep_compiled, options:
            as for `BarkModel.from_pretrained`.

        Raises:
          ModelNotFoundError: neither here nor to be had, or it has no codec.
          CheckpointError, ConfigError: the files are damaged or are not those of an EnCodec.
          InputError: a dtype or a name that cannot be; an argument that would have no effect here, or is unknown.
        """
        check_options(options, cls.from_pretrained, MODEL_IGNORED, MODEL_REFUSED)
        keep_compiled_programs(wanted=check_flag("keep_compiled", keep_compiled))
        dtype, platform = load.choose_dtype(dtype, torch_dtype), check_platform(platform)
        folder = find.find_model(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return load.load_codec(folder, cls, dtype=dtype, platform=platform)


NETWORK_CLASSES = {
    "semantic": BarkSemanticModel,
    "coarse_acoustics": BarkCoarseModel,
    "fine_acoustics": BarkFineModel,
    "codec_model": EncodecModel,
}


@under_own_config
def _generate_semantic(
    network: SemanticNetwork,
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
def _generate_coarse(
    network: CoarseNetwork,
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
def _generate_fine(
    network: FineNetwork,
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
            f"{stage}_generation_config is {quoted(value)}, expected a {config_class.__name__}, such as "
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
