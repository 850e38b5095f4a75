"""The four networks as one: text tokens in, audio samples and every stage's tokens out."""

import functools
import os
from collections.abc import Sequence
from typing import Any, Literal, Self, Unpack, overload

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax._system.forks import check_process
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.checkpoints import find, load
from bark_jax.checkpoints.compiled import keep_compiled_programs
from bark_jax.checkpoints.model_folder import NETWORKS
from bark_jax.checkpoints.options import MODEL_IGNORED, MODEL_REFUSED, check_options
from bark_jax.config import BarkConfig, BarkGenerationConfig
from bark_jax.errors import InputError, VoiceNotFoundError, quoted
from bark_jax.generation.padding import check_codes, pad_audio
from bark_jax.generation.rows import Row, Utterance, as_integers, check_ids, check_rows, spread_prompts
from bark_jax.generation.runner import OnProgress, OnStage, as_on_stage, run_codec, run_rows
from bark_jax.generation.seeds import CANDIDATE, derive_keys, row_keys
from bark_jax.generation.settings import GenerateSettings, check_count, check_flag, resolve_settings
from bark_jax.generation.tokens import TokenSpaces, check_fit, text_tokens
from bark_jax.hub.source import Source
from bark_jax.networks.attention import for_platform
from bark_jax.networks.platform import check_platform, default_device, on_its_platform, platform_of
from bark_jax.stage_models import NETWORK_CLASSES, BarkCoarseModel, BarkFineModel, BarkSemanticModel, EncodecModel
from bark_jax.voices.library import SPEAKER_EMBEDDINGS_FILE, VoiceLibrary, resolve_voice
from bark_jax.voices.voice import Voice, as_voice, check_voice


class BarkModel(nnx.Module):
    """Bark's four networks, called as in transformers: model.semantic(input_ids), model.fine_acoustics(codebook, ids).

    A module of modules (see `bark_jax.networks`), and so a pytree of their parameters, which never change: it goes
    through `jax.jit`, `jax.tree.map`, `nnx.split` and `jax.device_put` as a whole.
    """

    def __init__(
        self,
        config: BarkConfig,
        generation_config: BarkGenerationConfig,
        semantic: BarkSemanticModel,
        coarse_acoustics: BarkCoarseModel,
        fine_acoustics: BarkFineModel,
        codec_model: EncodecModel,
    ):
        check_fit(config, generation_config)
        self.config, self.generation_config = config, generation_config
        self.spaces = TokenSpaces.from_config(generation_config)
        self.semantic, self.coarse_acoustics = semantic, coarse_acoustics
        self.fine_acoustics, self.codec_model = fine_acoustics, codec_model
        self._accelerator: jax.Device | None = None  # where networks go one at a time, if they are offloaded
        self._voices: _NamedVoices | None = None  # those that the model knows by name

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        dtype: Any = None,
        torch_dtype: Any = None,
        attn_implementation: str = "auto",
        platform: str | None = None,
        revision: str | None = None,
        lora: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        keep_compiled: bool = True,
        decoding_copy: bool = True,
        **options: Any,
    ) -> Self:
        """Loads a model: a folder, a Hub id such as "suno/bark-small", or "tiny", which is built in.

        A PyTorch checkpoint is converted on first use and cached by repository and revision.

        Args:
          dtype: "float32", "bfloat16" or "float16" for all networks, or torch's object of that name; None and "auto"
            keep what the checkpoint has. "int8" rounds the transformers' weights to eight bits (`networks.int8`), for
            speed on a CPU.
          torch_dtype: the same, under transformers' older name.
          attn_implementation: "auto", "xla" or "cudnn"; see `networks.attention`. transformers' "eager", "sdpa" and
            "flash_attention_2" are taken as "auto", with an AttentionNameWarning.
          platform: "cpu", "gpu" or "tpu", which the networks' programs are made for; None takes the default device's.
            They run on a device of it. Where there is none they can be lowered, and not run:
            `jax.jit(f).trace(model.semantic, ids).lower(lowering_platforms=("tpu",))`.
          revision: a branch, tag or commit of the Hub repository.
          lora: a file of changes to these networks (`bark_jax.checkpoints.lora`), which are added to them.
          token, cache_dir, local_files_only, force_download: see `find.find_model`.
          keep_compiled: keep compiled programs on disk for the next process (`checkpoints.compiled`); also
            BARK_JAX_KEEP_COMPILED=0 switches it off.
          decoding_copy: keep a second copy of the semantic and the coarse weights once rows are generated that decode
            faster from it (`networks.layout`): one row, or bfloat16, on a CPU; one or two rows on a GPU. Without it
            such rows take longer, and near-ties may fall otherwise.
          options: other arguments of transformers', which are ignored or refused; see `checkpoints.options`.

        Raises:
          InputError: an argument that would have no effect here, or is unknown.
          ModelNotFoundError: neither here nor to be had; the message names the repository, the cache and the way out.
          CheckpointError, ConfigError: the files are damaged or are not those of a Bark.
        """
        check_options(options, cls.from_pretrained, MODEL_IGNORED, MODEL_REFUSED)
        check_flag("keep_compiled", keep_compiled)
        check_flag("decoding_copy", decoding_copy)
        dtype, platform = load.choose_dtype(dtype, torch_dtype), check_platform(platform)
        hub_options = dict(token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        folder = find.find_model(
            pretrained_model_name_or_path, revision=revision, force_download=force_download, **hub_options
        )
        return cls.from_found(
            load.FoundModel.read(folder),
            dtype=dtype,
            attn_implementation=attn_implementation,
            platform=platform,
            lora=lora,
            keep_compiled=keep_compiled,
            decoding_copy=decoding_copy,
            source=Source(pretrained_model_name_or_path, revision=revision, **hub_options),
        )

    @classmethod
    def from_found(
        cls,
        found: load.FoundModel,
        *,
        dtype: Any = None,
        attn_implementation: str = "auto",
        platform: str | None = None,
        lora: str | os.PathLike[str] | None = None,
        keep_compiled: bool = True,
        decoding_copy: bool = True,
        source: Source | None = None,
    ) -> Self:
        """Loads the networks of a model that was found; `source` has its voices, its folder if None.

        Other arguments and errors as for `from_pretrained`.
        """
        keep_compiled_programs(wanted=keep_compiled)
        networks = load.load_networks(
            found.folder,
            NETWORK_CLASSES,
            dtype=dtype,
            attn_implementation=attn_implementation,
            platform=platform,
            config=found.config,
            lora=lora,
            decoding_copy=decoding_copy,
        )
        model = cls(found.config, found.generation_config, **networks)
        model._voices = _NamedVoices(Source(str(found.folder)) if source is None else source, model.spaces)
        return model

    def replace(self, **networks: nnx.Module) -> Self:
        """A model with other networks in the places of some; it shares the rest.

        Args:
          networks: by attribute: semantic, coarse_acoustics, fine_acoustics, codec_model.
        """
        held = {name: getattr(self, name) for name in NETWORK_CLASSES}
        if unknown := sorted(networks.keys() - held.keys()):
            raise InputError(f"{unknown[0]} is no network of the model, which has {', '.join(held)}")
        for name, network in networks.items():
            if not isinstance(network, NETWORKS[name].module_class):
                expected = NETWORK_CLASSES[name].__name__
                raise InputError(f"{name} is {quoted(type(network).__name__)}, expected a {expected}")
        other = type(self)(self.config, self.generation_config, **(held | networks))
        other._accelerator, other._voices = self._accelerator, self._voices
        return other

    def __repr__(self) -> str:
        lines = [f"  {name}: {_described(getattr(self, name))}" for name in NETWORK_CLASSES]
        return "\n".join(["BarkModel(", *lines, ")"])

    __str__ = __repr__  # nnx has one of its own, which lists every array

    @under_own_config
    def save_pretrained(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the model as a folder that `from_pretrained` reads; it appears whole or not at all."""
        networks = {name: getattr(self, name) for name in NETWORK_CLASSES}
        load.save_networks(folder, self.config, self.generation_config, networks, overwrite=overwrite)

    @under_own_config
    def enable_cpu_offload(self, accelerator: jax.Device | None = None, *, accelerator_id: int | None = None) -> None:
        """Keeps the networks in host memory and each on the accelerator only while its stage runs.

        The results stay the same; a call takes longer by the time that the weights take to travel. `accelerator` is
        where the stages run, the default device if None; transformers' `accelerator_id` is its place in
        `jax.local_devices()`.
        """
        check_process()
        if accelerator_id is not None:
            if accelerator is not None:
                raise InputError("accelerator and accelerator_id are both given, expected one of them")
            devices = jax.local_devices()
            accelerator = devices[check_count("accelerator_id", accelerator_id, 0, len(devices) - 1)]
        accelerator = default_device() if accelerator is None else accelerator
        if not isinstance(accelerator, jax.Device) or accelerator.process_index != jax.process_index():
            raise InputError(
                f"accelerator is {quoted(accelerator)}, expected a device of this process: jax.local_devices()[0]"
            )
        host = jax.local_devices(backend="cpu")[0]
        for name in NETWORK_CLASSES:
            network = for_platform(getattr(self, name), platform_of(accelerator))
            setattr(self, name, jax.device_put(network, host))
        self._accelerator = accelerator

    @property
    def is_offloaded(self) -> bool:
        """Whether the networks are in host memory; see `enable_cpu_offload`."""
        return self._accelerator is not None

    def on_accelerator(self, network: Any) -> Any:
        """The network where its stage runs; an offloaded one is freed there once nobody holds what this returns."""
        return on_its_platform(network) if self._accelerator is None else jax.device_put(network, self._accelerator)

    @property
    def device(self) -> jax.Device:
        """Where the networks run: the device of their parameters, the first of several, or `enable_cpu_offload`'s."""
        if self._accelerator is not None:
            return self._accelerator
        return min(jax.tree.leaves(self.semantic)[0].devices(), key=lambda device: device.id)

    @classmethod
    def can_generate(cls) -> bool:
        """True: transformers asks this of every model."""
        return True

    def num_parameters(self) -> int:
        """How many numbers the networks' weights are; a fine head, which is an embedding table, counts once."""
        return sum(array.size for array in self._weights())

    def get_memory_footprint(self) -> int:
        """Bytes of the networks' weights, wherever they lie."""
        return sum(array.nbytes for array in self._weights())

    def _weights(self) -> list[jax.Array]:
        return jax.tree.leaves([getattr(self, name) for name in NETWORK_CLASSES])

    @property
    def sample_rate(self) -> int:
        """Audio samples a second."""
        return self.generation_config.sample_rate

    @overload
    def generate(
        self,
        input_ids: Any,
        history_prompt: Any = None,
        return_output_lengths: Literal[False] | None = None,
        *,
        attention_mask: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        num_return_sequences: int = 1,
        **settings: Unpack[GenerateSettings],
    ) -> jax.Array: ...

    @overload
    def generate(
        self,
        input_ids: Any,
        history_prompt: Any = None,
        *,
        return_output_lengths: Literal[True],
        attention_mask: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        num_return_sequences: int = 1,
        **settings: Unpack[GenerateSettings],
    ) -> tuple[jax.Array, list[int]]: ...

    @under_own_config
    def generate(
        self,
        input_ids: Any,
        history_prompt: Any = None,
        return_output_lengths: bool | None = None,
        *,
        attention_mask: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        num_return_sequences: int = 1,
        **settings: Unpack[GenerateSettings],
    ) -> jax.Array | tuple[jax.Array, list[int]]:
        """Generates audio from tokenizer ids, with the arguments of transformers' `BarkModel.generate`.

        Every row has its own voice, seed and settings, and the tokens that it would have alone.

        Args:
          input_ids: tokenizer ids [B, T], as `BarkProcessor` gives them.
          history_prompt: a voice for all rows, or a list of one or None a row: a Voice, a dict of the three arrays, a
            .npz file, or the name of a voice of the folder or repository that the model was loaded from.
          return_output_lengths: also give each row's number of audio samples.
          attention_mask: [B, T] of 0 and 1; without it every id is text.
          seed: an int for all rows, or one a row. A row's draws depend on its seed alone, so rows of equal text, voice
            and seed are equal. None draws one a row.
          key: instead of seed, one JAX key, or an array of one a row.
          num_return_sequences: audio for each row so many times, one after the other; the first with the row's seed,
            the others with seeds derived from it (`bark_jax.generation.seeds`).
          settings: see `bark_jax.GenerateSettings`.

        Returns:
          audio, float32 [B, A], zeros past a row's end; with `return_output_lengths` a pair with a list of lengths.

        Raises:
          InputError, VoiceError, VoiceNotFoundError: before any network runs.
        """
        n_vocab = self.config.semantic_config.input_vocab_size
        ids_BT, mask_BT = check_ids(input_ids, attention_mask, self.spaces, n_vocab)
        B = len(ids_BT)
        n_each = check_count("num_return_sequences", num_return_sequences)
        check_rows(B * n_each)
        wants_lengths = return_output_lengths is not None and check_flag("return_output_lengths", return_output_lengths)
        texts = [text_tokens(ids_T, mask_T, self.spaces) for ids_T, mask_T in zip(ids_BT, mask_BT, strict=True)]
        voices = self._check_voices(history_prompt, B)
        keys = row_keys(seed, key, B)
        row_settings = resolve_settings(settings, B, self.generation_config, self.spaces)
        rows = [
            Row(text, voice, candidate, row_setting)
            for text, voice, row_key, row_setting in zip(texts, voices, keys, row_settings, strict=True)
            for candidate in derive_keys(row_key, CANDIDATE, n_each)
        ]
        utterances = self.generate_rows(rows)
        lengths = [len(utterance.samples) for utterance in utterances]
        audio = jnp.asarray(pad_audio([utterance.samples for utterance in utterances], max(lengths)))
        return (audio, lengths) if wants_lengths else audio

    @overload
    def codec_decode(self, fine_output: Any, output_lengths: None = None) -> jax.Array: ...

    @overload
    def codec_decode(self, fine_output: Any, output_lengths: Any) -> list[jax.Array]: ...

    @under_own_config
    def codec_decode(self, fine_output: Any, output_lengths: Any = None) -> jax.Array | list[jax.Array]:
        """Turns codes into audio, each row as if it were alone.

        Args:
          fine_output: codes [B, Q, T], coarse codebook first, as `fine_acoustics.generate` gives them. Past a row's end
            they are the codebook's size.
          output_lengths: frames of each row, integers [B]; None takes the rows to their ends.

        Returns:
          audio, float32 [B, A], zeros past a row's end; with `output_lengths` a list of each row's [A].

        Raises:
          InputError: what is given is no codes of this model.
        """
        codes_BQT = as_integers("fine_output", fine_output, "[rows, codebooks, frames]")
        codes = check_codes(codes_BQT, output_lengths, self.spaces.codebook_size, self.config.codec_config)
        audio = run_codec(self.codec_model, codes, self.on_accelerator)
        if output_lengths is not None:
            return [jnp.asarray(samples) for samples in audio]
        return jnp.asarray(pad_audio(audio, codes_BQT.shape[2] * self.config.codec_config.hop_length))

    @under_own_config
    def generate_rows(
        self, rows: Sequence[Row], on_stage: OnStage | None = None, on_progress: OnProgress | None = None
    ) -> list[Utterance]:
        """Generates utterances, in the order of the rows.

        Args:
          rows: what to generate, at least one.
          on_stage: called with "semantic", "coarse", "fine" and "codec" as each starts.
          on_progress: called within the two long stages with the stage's name, how much is done and the most that it
            can become: semantic tokens of the longest row, coarse windows. The stages then run in parts, which give
            the same bits.

        Raises:
          DeviceError: the device has no memory for a stage, or fails in it.
          BarkError: a stage computed something that is not finite.
        """
        check_process()
        on_stage = as_on_stage(on_stage)
        if on_progress is not None and not callable(on_progress):
            raise InputError(
                f"on_progress is {quoted(on_progress)}, expected a function of a stage's name and two counts"
            )
        if not isinstance(rows, (list, tuple)) or not rows:
            raise InputError(f"rows is {quoted(rows)}, expected a list of one Row or more")
        return run_rows(self, rows, on_stage, on_progress)

    def _check_voices(self, history_prompt: Any, n_rows: int) -> list[Voice | None]:
        return [self._check_voice(prompt) for prompt in spread_prompts(history_prompt, n_rows)]

    def _check_voice(self, prompt: Any) -> Voice | None:
        if not isinstance(prompt, (str, os.PathLike)):
            return None if prompt is None else check_voice(as_voice(prompt), self.spaces)
        is_file = isinstance(prompt, os.PathLike) or prompt.endswith(".npz")
        if is_file:
            return resolve_voice(prompt, VoiceLibrary({}), self.spaces)
        if self._voices is None:
            raise VoiceNotFoundError(
                f"history_prompt is {quoted(prompt)}, and this model was made of its networks, without a folder of "
                "voices; give the Voice itself, such as processor(text, voice_preset=...) finds by its name"
            )
        return resolve_voice(prompt, self._voices.library, self.spaces)


class _NamedVoices:
    """Voices that a model knows by name, read when one is asked for. A static part, equal to itself alone."""

    def __init__(self, source: Source, spaces: TokenSpaces):
        self._source, self._spaces = source, spaces

    @functools.cached_property
    def library(self) -> VoiceLibrary:
        return VoiceLibrary.find(self._source, SPEAKER_EMBEDDINGS_FILE, self._spaces)


def _described(network: nnx.Module) -> str:
    """A network in some words: its class, dtype and size."""
    arrays = jax.tree.leaves(network)
    megabytes = sum(array.size * array.dtype.itemsize for array in arrays) / 1e6
    dtypes = ", ".join(sorted({array.dtype.name for array in arrays}))
    return f"{type(network).__name__}, {sum(array.size for array in arrays):,} numbers of {dtypes}, {megabytes:,.1f} MB"
