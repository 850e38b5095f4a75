"""`BarkModel`: the four networks with the API of transformers. Token ids in, audio samples out."""

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
from bark_jax.generation.placement import placement_of
from bark_jax.generation.rows import Row, Utterance, as_integers, check_ids, check_rows, spread_prompts
from bark_jax.generation.runner import OnProgress, OnStage, as_on_stage, run_codec, run_rows
from bark_jax.generation.seeds import CANDIDATE, derive_keys, row_keys
from bark_jax.generation.settings import GenerateSettings, check_count, check_flag, resolve_settings
from bark_jax.generation.tokens import TokenSpaces, check_fit, text_tokens
from bark_jax.hub.source import Source
from bark_jax.networks.attention import for_platform
from bark_jax.networks.platform import Devices, check_platform, default_device, on_its_platform, platform_of
from bark_jax.networks.tensor_parallel import ChooseSharding
from bark_jax.stage_models import NETWORK_CLASSES, BarkCoarseModel, BarkFineModel, BarkSemanticModel, EncodecModel
from bark_jax.voices.library import SPEAKER_EMBEDDINGS_FILE, VoiceLibrary, resolve_voice
from bark_jax.voices.voice import Voice, as_voice, check_voice


class BarkModel(nnx.Module):
    """Bark's four networks, with the names, attributes and methods of transformers' `BarkModel`.

        model = BarkModel.from_pretrained("suno/bark-small")
        inputs = BarkProcessor.from_pretrained("suno/bark-small")("Hello.", voice_preset="v2/en_speaker_6")
        audio = model.generate(**inputs, seed=0)  # float32 [B, A]

    `Bark` is the simpler API. The networks are attributes that can be called: model.semantic(input_ids),
    model.coarse_acoustics(input_ids), model.fine_acoustics(codebook_idx, input_ids), model.codec_model.

    It is an nnx.Module whose parameters never change, and so a pytree: it goes as one argument through `jax.jit`,
    `jax.tree.map`, `nnx.split` and `jax.device_put`.

    Args:
      config: sizes of the networks.
      generation_config: token ids, windows and default settings of the stages.
      semantic: the network of the semantic stage.
      coarse_acoustics: the network of the coarse stage.
      fine_acoustics: the network of the fine stage.
      codec_model: the codec.

    Raises:
      ConfigError: generation_config does not fit config, such as a token id beyond the vocabulary.
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
        # Checked again after loading: a model can be built from networks without any file. The result is cached.
        check_fit(config, generation_config)
        self.config, self.generation_config = config, generation_config
        self.spaces = TokenSpaces.from_config(generation_config)
        self.semantic, self.coarse_acoustics = semantic, coarse_acoustics
        self.fine_acoustics, self.codec_model = fine_acoustics, codec_model
        self._accelerator: jax.Device | None = None  # where the stages run, if the networks are offloaded
        self._voices: _NamedVoices | None = None  # None for a model that was not loaded from files

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
        sharding: ChooseSharding | None = None,
        **options: Any,
    ) -> Self:
        """Loads the four networks, from a folder or from the Hugging Face Hub.

            model = BarkModel.from_pretrained("suno/bark", dtype="bfloat16")

        A PyTorch checkpoint is converted on first use; the result is cached by repository and revision.

        Args:
          pretrained_model_name_or_path: a Hub id such as "suno/bark-small", a folder, or "tiny", the built-in model.
          dtype: "float32", "bfloat16" or "float16" for all networks, or torch's dtype of that name; None and "auto"
            keep the checkpoint's. "int8" rounds the weights of the three transformers to eight bits
            (`networks.int8`), for speed on a CPU.
          torch_dtype: the same as dtype, under transformers' older name.
          attn_implementation: "auto" (default), "xla" or "cudnn"; see `networks.attention`. transformers' "eager",
            "sdpa" and "flash_attention_2" are taken as "auto", with an AttentionNameWarning.
          platform: "cpu", "gpu" or "tpu", for which the networks' programs are made and on whose device they run; None
            is that of JAX's default device. Without such a device the programs can be lowered, but not run:
            `jax.jit(f).trace(model.semantic, ids).lower(lowering_platforms=("tpu",))`.
          revision: a branch, tag or commit of the Hub repository; None is its default branch.
          lora: a LoRA file (`bark_jax.checkpoints.lora`), whose changes are merged into the networks; None for none.
          token: the Hub's access token, True for the one that is saved on this machine, None for huggingface_hub's
            default.
          cache_dir: the folder of downloads and converted models; None is HF_HOME.
          local_files_only: never connects to the Hub; a file that is not in the cache is an error.
          force_download: downloads again what is in the cache. A commit that was converted is not converted again.
          keep_compiled: caches compiled programs on disk for the next process (`checkpoints.compiled`).
            BARK_JAX_KEEP_COMPILED=0 also switches it off.
          decoding_copy: keeps a second copy of the semantic and coarse weights, in a layout that decodes small batches
            faster (`networks.layout`): one row, or bfloat16, on a CPU; one or two rows on a GPU. The copy is made when
            such rows are first generated. False saves its memory; decoding is slower, and the other order of float
            sums may decide a near-tie between tokens differently.
          sharding: a function of a parameter's name ("semantic.blocks.0.attention.qkv.kernel") and shape that gives its
            `jax.sharding.Sharding`. Each device reads its share alone. `tensor_parallel` makes one. None (default)
            puts all parameters on one device.
          options: other arguments of transformers' method. Those that make no difference are ignored, others refused;
            see `checkpoints.options`.

        Returns:
          The model. Its voices are read when one is first used by name.

        Raises:
          InputError: an argument is unknown, has no such value, or would have no effect here.
          ModelNotFoundError: the model is neither on this machine nor on the Hub; the message names the repository,
            the cache and the remedy.
          CheckpointError: a weight file is damaged, or is not that of a Bark.
          ConfigError: a config is damaged, or the configs do not fit each other.
          UnsupportedError: attn_implementation="cudnn" does not work on this machine.
          OutputError: the cache of converted models is full or not writable.
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
            sharding=sharding,
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
        sharding: ChooseSharding | None = None,
        source: Source | None = None,
    ) -> Self:
        """Loads the networks of a model folder whose configs have been read.

        Args:
          found: the folder and its configs.
          dtype: as for `from_pretrained`.
          attn_implementation: as for `from_pretrained`.
          platform: as for `from_pretrained`.
          lora: as for `from_pretrained`.
          keep_compiled: as for `from_pretrained`.
          decoding_copy: as for `from_pretrained`.
          sharding: as for `from_pretrained`.
          source: the folder or Hub repository of the model's voices; None is the folder itself.

        Returns:
          The model.

        Raises:
          InputError: an argument has no such value.
          CheckpointError: a weight file is damaged, or is not that of the network.
          ModelNotFoundError: a weight file or the LoRA file does not exist.
          UnsupportedError: attn_implementation="cudnn" does not work on this machine.
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
            sharding=sharding,
        )
        model = cls(found.config, found.generation_config, **networks)
        model._voices = _NamedVoices(Source(str(found.folder)) if source is None else source, model.spaces)
        return model

    def replace(self, **networks: nnx.Module) -> Self:
        """Returns a model in which some networks are replaced; this model is unchanged and shares the others with it.

            model.replace(semantic=trained)

        Args:
          networks: the new networks, by attribute: semantic, coarse_acoustics, fine_acoustics or codec_model.

        Raises:
          InputError: no network has this name, or the new one is of another class.
          ConfigError: a network's size does not fit generation_config.
        """
        held = {name: getattr(self, name) for name in NETWORK_CLASSES}
        if unknown := sorted(networks.keys() - held.keys()):
            raise InputError(f"{unknown[0]} is no network of the model, which has {', '.join(held)}")
        for name, network in networks.items():
            if not isinstance(network, NETWORKS[name].module_class):
                expected = NETWORK_CLASSES[name].__name__
                raise InputError(f"{name} is {quoted(type(network).__name__)}, expected a {expected}")
        other = type(self)(self.config, self.generation_config, **(held | networks))
        # The new network may be on the accelerator even if this model is offloaded; `on_accelerator` takes it from
        # anywhere.
        other._accelerator, other._voices = self._accelerator, self._voices
        return other

    def __repr__(self) -> str:
        lines = [f"  {name}: {_described(getattr(self, name))}" for name in NETWORK_CLASSES]
        return "\n".join(["BarkModel(", *lines, ")"])

    __str__ = __repr__  # nnx's own lists every array

    @under_own_config
    def save_pretrained(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the configs and the weights atomically, as a folder that `from_pretrained` reads.

        Voices and tokenizer are written by `BarkProcessor.save_pretrained`, or with all else by `Bark.save_pretrained`.

        Args:
          folder: the folder to make.
          overwrite: replaces a model folder that is already there.

        Raises:
          InputError: the folder is not empty and overwrite is False, or it holds something other than a model.
          OutputError: the disk is full, or the path is not writable.
          UnsupportedError: the model was loaded with dtype="int8", whose rounded weights are not saved.
        """
        networks = {name: getattr(self, name) for name in NETWORK_CLASSES}
        load.save_networks(folder, self.config, self.generation_config, networks, overwrite=overwrite)

    @under_own_config
    def enable_cpu_offload(self, accelerator: jax.Device | None = None, *, accelerator_id: int | None = None) -> None:
        """Moves the networks to host memory; each is on the accelerator only while its stage runs.

        It saves device memory: results are the same, and each call also takes the time to copy the weights.

        Args:
          accelerator: the device that the stages run on; None is JAX's default device.
          accelerator_id: the device as an index into `jax.local_devices()`, as in transformers.

        Raises:
          InputError: both are given, or it is no device of this process.
          UnsupportedError: this process was forked after JAX had run.
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
            # Stored on the host, yet traced for the accelerator: `on_accelerator` moves arrays and changes no program.
            network = for_platform(getattr(self, name), platform_of(accelerator))
            setattr(self, name, jax.device_put(network, host))
        self._accelerator = accelerator

    @property
    def is_offloaded(self) -> bool:
        """Whether the networks are kept in host memory; see `enable_cpu_offload`."""
        return self._accelerator is not None

    def on_accelerator(self, network: Any) -> Any:
        """Returns the network on the device where its stage runs.

        The copy of an offloaded network is freed there as soon as no reference to the returned value is left.
        """
        return on_its_platform(network) if self._accelerator is None else jax.device_put(network, self._accelerator)

    @property
    def device(self) -> jax.Device:
        """The device that the networks run on: the first that holds parameters, or `enable_cpu_offload`'s."""
        if self._accelerator is not None:
            return self._accelerator
        # The smallest id, as `devices` is a set; a sharded array is on several.
        return min(jax.tree.leaves(self.semantic)[0].devices(), key=lambda device: device.id)

    @classmethod
    def can_generate(cls) -> bool:
        """Returns True; transformers has this method on every model."""
        return True

    def num_parameters(self) -> int:
        """Counts the parameters of the four networks; a fine head that shares an embedding table counts once."""
        return sum(array.size for array in self._weights())

    def get_memory_footprint(self) -> int:
        """Counts the bytes of the four networks' weights, in host and in device memory, without decoding copies."""
        return sum(array.nbytes for array in self._weights())

    def _weights(self) -> list[jax.Array]:
        return jax.tree.leaves([getattr(self, name) for name in NETWORK_CLASSES])

    @property
    def sample_rate(self) -> int:
        """Audio samples per second: 24,000 in Bark."""
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
        devices: Devices = None,
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
        devices: Devices = None,
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
        devices: Devices = None,
        **settings: Unpack[GenerateSettings],
    ) -> jax.Array | tuple[jax.Array, list[int]]:
        """Generates audio from tokenizer ids, with the arguments of transformers' `BarkModel.generate`.

            inputs = processor(["Hello.", "Bye."], voice_preset="v2/en_speaker_6")
            audio, lengths = model.generate(**inputs, seed=0, return_output_lengths=True)

        Every row has its own voice, seed and settings, and draws the tokens that it would draw alone. Arguments are
        checked before any network runs.

        Args:
          input_ids: tokenizer ids, integers [B, T], from `BarkProcessor`.
          history_prompt: a voice for all rows, or a list with one or None per row: a `Voice`, a dict of its three
            arrays, the path of a .npz file, or the name of a voice of the folder or repository that the model was
            loaded from. None (default): the seed decides the speaker.
          return_output_lengths: True also returns each row's number of audio samples.
          attention_mask: [B, T], 1 where input_ids is text and 0 where it is padding; None if there is no padding.
          seed: an integer from 0 to 2**64 - 1, for all rows or one per row. A row's draws depend on its seed alone, so
            rows of equal text, voice and seed are equal. None draws a random one per row.
          key: a JAX key instead of seed, or an array with one per row.
          num_return_sequences: utterances per row, which are consecutive rows of the result: the first has the row's
            seed, the others seeds derived from it (`bark_jax.generation.seeds`).
          settings: the settings of `GenerateSettings`, one value for all rows or a list with one per row. Left out,
            they are those of generation_config.

        Returns:
          Audio, float32 [B * num_return_sequences, A] in about -1..1, zeros past a row's end; with
          return_output_lengths a pair of it and a list of lengths in samples.

        Raises:
          InputError: ids, an argument or a setting is out of range, or there are more than 1,024 rows.
          UnsupportedError: devices is given for a model with `enable_cpu_offload`.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
          DeviceMemoryError: a stage runs out of memory; give fewer rows.
          DeviceError: the device fails in a stage.
          BarkError: a stage computed values that are not finite.
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
        utterances = self.generate_rows(rows, devices=devices)
        lengths = [len(utterance.samples) for utterance in utterances]
        # Padded on the host: jnp.pad would compile a program for each length of a row.
        audio = jnp.asarray(pad_audio([utterance.samples for utterance in utterances], max(lengths)))
        return (audio, lengths) if wants_lengths else audio

    @overload
    def codec_decode(self, fine_output: Any, output_lengths: None = None) -> jax.Array: ...

    @overload
    def codec_decode(self, fine_output: Any, output_lengths: Any) -> list[jax.Array]: ...

    @under_own_config
    def codec_decode(self, fine_output: Any, output_lengths: Any = None) -> jax.Array | list[jax.Array]:
        """Decodes codes to audio with the codec; padding does not change a row's audio.

        Args:
          fine_output: codes, integers [B, Q, T], coarse codebooks first, from `fine_acoustics.generate`. Past a row's
            end they equal the codebook size: 1,024 in Bark.
          output_lengths: frames per row, integers [B]; None counts the frames before each row's padding.

        Returns:
          Audio, float32 [B, A] with A = T * hop_length, zeros past a row's end; with output_lengths a list of [A]
          arrays, one per row.

        Raises:
          InputError: fine_output or output_lengths has a wrong shape, or a code is not in the codebook.
          DeviceMemoryError: the codec runs out of memory; give fewer rows.
        """
        codes_BQT = as_integers("fine_output", fine_output, "[rows, codebooks, frames]")
        codes = check_codes(codes_BQT, output_lengths, self.spaces.codebook_size, self.config.codec_config)
        audio = run_codec(self.codec_model, codes, placement_of(self, None))
        if output_lengths is not None:
            return [jnp.asarray(samples) for samples in audio]
        return jnp.asarray(pad_audio(audio, codes_BQT.shape[2] * self.config.codec_config.hop_length))

    @under_own_config
    def generate_rows(
        self,
        rows: Sequence[Row],
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        devices: Devices = None,
    ) -> list[Utterance]:
        """Generates one utterance per row, as a single batch.

        Args:
          rows: what to generate: text tokens, voice, key and resolved settings; at least one row.
          on_stage: called as `on_stage(stage)` with "semantic", "coarse", "fine" and "codec" as each starts.
          on_progress: called as `on_progress(stage, n_done, n_max)` within the two long stages, which counts semantic
            tokens of the longest row ("semantic") and coarse windows ("coarse"). With it these stages run as several
            compiled calls, whose results are bit for bit the same.
          devices: as for `generate`.

        Returns:
          Utterances in the order of the rows, each with its tokens, codes, audio samples and log-probabilities.

        Raises:
          InputError: rows is no list of rows, devices are not this process's, or a callback is not callable.
          UnsupportedError: devices is given for a model with `enable_cpu_offload`.
          DeviceMemoryError: a stage runs out of memory; give fewer rows.
          DeviceError: the device fails in a stage.
          BarkError: a stage computed values that are not finite.
        """
        check_process()
        on_stage = as_on_stage(on_stage)
        if on_progress is not None and not callable(on_progress):
            raise InputError(
                f"on_progress is {quoted(on_progress)}, expected a function of a stage's name and two counts"
            )
        if not isinstance(rows, (list, tuple)) or not rows:
            raise InputError(f"rows is {quoted(rows)}, expected a list of one Row or more")
        return run_rows(self, rows, on_stage, on_progress, devices)

    def _check_voices(self, history_prompt: Any, n_rows: int) -> list[Voice | None]:
        return [self._check_voice(prompt) for prompt in spread_prompts(history_prompt, n_rows)]

    def _check_voice(self, prompt: Any) -> Voice | None:
        if not isinstance(prompt, (str, os.PathLike)):
            return None if prompt is None else check_voice(as_voice(prompt), self.spaces)
        # A name that ends in .npz is a path, as in Suno's code, and needs no library of voices.
        is_file = isinstance(prompt, os.PathLike) or prompt.endswith(".npz")
        if is_file:
            return resolve_voice(prompt, VoiceLibrary({}), self.spaces)
        if self._voices is None:
            raise VoiceNotFoundError(
                f"history_prompt is {quoted(prompt)}, and this model was built from networks, without a folder of "
                "voices to look the name up in; give the Voice itself: processor(text, voice_preset=...) finds it"
            )
        return resolve_voice(prompt, self._voices.library, self.spaces)


class _NamedVoices:
    """The voices that a model knows by name; their list is read when it is first needed.

    It is static metadata of the model's pytree and compares by identity, so `jax.jit` never compares voices.
    """

    def __init__(self, source: Source, spaces: TokenSpaces):
        self._source, self._spaces = source, spaces

    @functools.cached_property
    def library(self) -> VoiceLibrary:
        """The voices, or their names until each is used."""
        return VoiceLibrary.find(self._source, SPEAKER_EMBEDDINGS_FILE, self._spaces)


def _described(network: nnx.Module) -> str:
    """Describes a network in one line: class, parameters, dtype and megabytes."""
    arrays = jax.tree.leaves(network)
    megabytes = sum(array.size * array.dtype.itemsize for array in arrays) / 1e6
    dtypes = ", ".join(sorted({array.dtype.name for array in arrays}))
    return f"{type(network).__name__}, {sum(array.size for array in arrays):,} numbers of {dtypes}, {megabytes:,.1f} MB"
