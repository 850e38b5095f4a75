"""Networks with a `generate` method that runs one stage on arrays, with transformers' arguments.

Tokens and codes equal those that `BarkModel.generate` draws on the way, as the same compiled programs run. Rows of
unequal length are padded with an id that no row contains: the end token in the semantic stage, the coarse network's pad
token in the coarse stage, the codebook size in the fine stage. transformers pads with the end token in the first stage
alone and continues to generate past a row's end in the others.
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
    """The network of the semantic stage, `BarkModel.semantic`: text tokens in, semantic tokens out.

    A voice's semantic tokens are embedded and added to the text's embeddings, position by position. Called, it gives
    the logits of every position; `generate` runs the stage. Arguments of the class are those of `BarkCausalModel`.
    """

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
        """Generates semantic tokens from tokenizer ids, with the arguments of transformers' method of this name.

            tokens = model.semantic.generate(input_ids, model.generation_config.semantic_config, seed=0)

        Args:
          input_ids: tokenizer ids, integers [B, T], from `BarkProcessor`.
          semantic_generation_config: model.generation_config.semantic_config, or another; a dict and transformers'
            class are accepted too.
          history_prompt: a `Voice` or a dict of its three arrays, for all rows, or a list with one or None per row.
          attention_mask: [B, T], 1 where input_ids is text and 0 where it is padding; None if there is no padding.
          seed: an integer from 0 to 2**64 - 1, for all rows or one per row; None draws a random one per row.
          key: a JAX key instead of seed, or an array with one per row.
          settings: the settings of the semantic stage in `GenerateSettings`, without a prefix.

        Returns:
          Semantic tokens, int32 [B, T], with end tokens past a row's end. The longest row has an end token too if it
          ended by itself.

        Raises:
          InputError: an array, an argument or a setting is out of range or of a wrong shape.
          ConfigError: a generation config does not fit this network.
          VoiceError: a voice is damaged or belongs to another model.
          DeviceMemoryError: the stage runs out of memory; give fewer rows.
        """
        return _generate_semantic(
            self, input_ids, semantic_generation_config, history_prompt, attention_mask, seed, key, settings
        )


class BarkCoarseModel(CoarseNetwork):
    """The network of the coarse stage, `BarkModel.coarse_acoustics`: semantic tokens in, coarse codes out.

    Called, it gives the logits of every position of a stream; `generate` runs the stage. Arguments of the class are
    those of `BarkCausalModel`.
    """

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
        """Generates coarse codes from semantic tokens, with the arguments of transformers' method of this name.

        Args:
          semantic_output: semantic tokens, integers [B, T], from `BarkSemanticModel.generate`; unlike in transformers
            the array is not modified.
          semantic_generation_config: model.generation_config.semantic_config, or another.
          coarse_generation_config: model.generation_config.coarse_acoustics_config, or another.
          codebook_size: the codebook_size of model.generation_config, 1,024 in Bark.
          history_prompt: a `Voice` or a dict of its three arrays, for all rows, or a list with one or None per row.
          return_output_lengths: True also returns each row's number of tokens.
          seed: an integer from 0 to 2**64 - 1, for all rows or one per row; None draws a random one per row.
          key: a JAX key instead of seed, or an array with one per row.
          settings: the settings of the coarse stage in `GenerateSettings`, without a prefix.

        Returns:
          The stream of coarse codes, int32 [B, T], frame by frame in the coarse vocabulary, with
          coarse_semantic_pad_token past a row's end; with return_output_lengths a pair of it and lengths, int32 [B].

        Raises:
          InputError: an array, an argument or a setting is out of range or of a wrong shape.
          ConfigError: a generation config does not fit this network.
          VoiceError: a voice is damaged or belongs to another model.
          DeviceMemoryError: the stage runs out of memory; give fewer rows.
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
    """The network of the fine stage, `BarkModel.fine_acoustics`: coarse codes in, codes of all codebooks out.

    Called, it gives the logits of one codebook, for every frame of a window at once; `generate` runs the stage.
    Arguments of the class are those of `BarkCausalModel`.
    """

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
        """Generates the codes of all codebooks from coarse codes, with the arguments of transformers' method.

        Args:
          coarse_output: the stream of coarse codes, integers [B, T], from `BarkCoarseModel.generate`.
          semantic_generation_config: model.generation_config.semantic_config, or another.
          coarse_generation_config: model.generation_config.coarse_acoustics_config, or another.
          fine_generation_config: model.generation_config.fine_acoustics_config, or another.
          codebook_size: the codebook_size of model.generation_config, 1,024 in Bark.
          history_prompt: a `Voice` or a dict of its three arrays, for all rows, or a list with one or None per row.
          seed: an integer from 0 to 2**64 - 1, for all rows or one per row; None draws a random one per row.
          key: a JAX key instead of seed, or an array with one per row.
          settings: the settings of the fine stage in `GenerateSettings`, without a prefix.

        Returns:
          Codes, int32 [B, n_fine, T], coarse codebooks first, with codebook_size past a row's end. They are what
          `BarkModel.codec_decode` takes.

        Raises:
          InputError: an array, an argument or a setting is out of range or of a wrong shape.
          ConfigError: a generation config does not fit this network.
          VoiceError: a voice is damaged or belongs to another model.
          DeviceMemoryError: the stage runs out of memory; give fewer rows.
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
    """The neural audio codec, EnCodec, `BarkModel.codec_model`: audio to codes and codes to audio.

    Audio is [B, A, channels] in about -1..1. Codes are integers [B, Q, T] in [0, config.codebook_size), one row per
    codebook of the residual vector quantiser. A = T * config.hop_length: 320 samples a frame at 24 kHz in Bark. The
    number of codebooks sets the bandwidth. `from_pretrained` loads one; EncodecModel(config) has random weights.
    """

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
        """Loads a codec, from a folder or from the Hugging Face Hub.

            codec = EncodecModel.from_pretrained("facebook/encodec_24khz")

        A PyTorch checkpoint is converted on first use; the result is cached by repository and revision.

        Args:
          pretrained_model_name_or_path: a Hub id or a folder, of an EnCodec or of a Bark, whose codec is loaded.
          dtype: "float32", "bfloat16" or "float16", or torch's dtype of that name; None and "auto" keep the
            checkpoint's.
          torch_dtype: the same as dtype, under transformers' older name.
          platform: as for `BarkModel.from_pretrained`.
          revision: a branch, tag or commit of the Hub repository; None is its default branch.
          token: as for `BarkModel.from_pretrained`.
          cache_dir: the folder of downloads and converted models; None is HF_HOME.
          local_files_only: never connects to the Hub; a file that is not in the cache is an error.
          force_download: downloads again what is in the cache.
          keep_compiled: caches compiled programs on disk for the next process.
          options: other arguments of transformers' method, ignored or refused; see `checkpoints.options`.

        Returns:
          The codec.

        Raises:
          InputError: an argument is unknown, has no such value, or would have no effect here.
          ModelNotFoundError: the model is neither on this machine nor on the Hub, or has no codec.
          CheckpointError: a weight file is damaged, or is not that of an EnCodec.
          ConfigError: the config is damaged.
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
    """Implements `BarkSemanticModel.generate`."""
    semantic_config = _as_config("semantic", semantic_config, BarkSemanticGenerationConfig)
    # The other stages' configs are Bark's defaults here; they have no effect on this stage.
    config = BarkGenerationConfig(semantic_config=semantic_config)
    check_semantic_fit(BarkConfig(semantic_config=network.config), config)
    spaces = TokenSpaces.from_config(config)
    ids_BT, mask_BT = check_ids(input_ids, attention_mask, spaces, network.config.input_vocab_size)
    texts = [text_tokens(ids_T, mask_T, spaces) for ids_T, mask_T in zip(ids_BT, mask_BT, strict=True)]
    voices = _check_voices("semantic", history_prompt, len(texts), spaces)
    rows = _rows("semantic", texts, voices, seed, key, settings, config, spaces)
    tokens = [tokens for tokens, _ in run_semantic(network, rows, spaces)]
    # A row that ended by itself shows its end token, as in transformers; one that reached the limit has none.
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
    """Implements `BarkCoarseModel.generate`."""
    config = BarkGenerationConfig(
        semantic_config=_as_config("semantic", semantic_config, BarkSemanticGenerationConfig),
        coarse_acoustics_config=_as_config("coarse", coarse_config, BarkCoarseGenerationConfig),
        codebook_size=codebook_size,
    )
    check_coarse_fit(BarkConfig(coarse_acoustics_config=network.config), config)
    wants_lengths = check_flag("return_output_lengths", return_output_lengths or False)
    spaces = TokenSpaces.from_config(config)
    tokens_BT = as_integers("semantic_output", semantic_output)
    # Either pad ends a row: 10,000 from the semantic stage, or 12,048, to which transformers changes it in place.
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
    """Implements `BarkFineModel.generate`."""
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
    """Returns a stage's generation config, read from ours, transformers' or a dict.

    Raises:
      InputError: it is none of them.
      ConfigError: a field has no such value.
    """
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
    """Returns the voice if this stage can be conditioned on it. Raises VoiceError if not.

    Only the arrays that this stage reads are checked against the model: the others may come from another model.
    """
    # A check is switched off by what it compares the voice with: here n_fine, below n_coarse and codebook_size.
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
    """Returns the coarse codes [n_coarse, T] of each row of a padded stream. Raises InputError if it is none."""
    n_ids = spaces.semantic_vocab + spaces.n_coarse * spaces.codebook_size
    codes = []
    for index, stream_T in enumerate(split_rows("coarse_output", stream_BT, n_ids, (spaces.coarse_pad,))):
        if len(stream_T) % spaces.n_coarse:
            raise InputError(f"coarse_output[{index}] has {len(stream_T)} tokens, expected {spaces.n_coarse} a frame")
        # A token of the other codebook shows as a code below 0 or of 1,024 and more.
        codes_QT = deinterleave(stream_T, spaces).astype(np.int32)
        if not ((codes_QT >= 0) & (codes_QT < spaces.codebook_size)).all():
            raise InputError(
                f"coarse_output[{index}] holds a token of another codebook than its position is for; expected the "
                f"tokens of {spaces.n_coarse} codebooks in turn, frame by frame"
            )
        codes.append(codes_QT)
    return codes
