"""The four networks as one: text tokens in, audio samples and every stage's tokens out."""

import dataclasses
import functools
import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax import pretrained
from bark_jax.by_value import ByValue
from bark_jax.config import BarkConfig, BarkGenerationConfig
from bark_jax.devices import default_device, told_with_stage
from bark_jax.errors import BarkError, InputError, VoiceNotFoundError
from bark_jax.forks import check_process
from bark_jax.hub import Source, shown
from bark_jax.loading_options import MODEL_IGNORED, MODEL_REFUSED, check_options
from bark_jax.models.codec.encodec import EncodecModel
from bark_jax.models.fine_gpt import BarkFineModel
from bark_jax.models.gpt import BarkCoarseModel, BarkSemanticModel
from bark_jax.own_jax_config import under_own_config
from bark_jax.seeds import CANDIDATE, derive_keys
from bark_jax.settings import RowSettings, StageSettings, check_count, check_flag, resolve_settings
from bark_jax.stages import coarse, fine, semantic
from bark_jax.stages.codec import decode_codes
from bark_jax.stages.padding import check_codes, pad_audio
from bark_jax.stages.sampling import KEY_IMPLEMENTATION, Sampling, key_data
from bark_jax.tokens import TokenSpaces, check_fit, text_tokens
from bark_jax.voice_library import SPEAKER_EMBEDDINGS_FILE, VoiceLibrary, resolve_voice
from bark_jax.voices import Voice, as_voice, check_voice

OnStage = Callable[[str], None]
OnProgress = Callable[[str, int, int], None]
MOST_ROWS = 1024  # of one call of `BarkModel.generate`; their caches alone are 100 GB of a large Bark


@dataclasses.dataclass(frozen=True)
class Row:
    """One utterance to generate."""

    text: np.ndarray  # text tokens in the semantic network's vocabulary (`tokens.text_tokens`), at most n_text
    voice: Voice | None
    key: np.ndarray  # uint32 [2], what every draw of the row derives from (`stages.sampling.key_data`)
    settings: RowSettings


@dataclasses.dataclass(frozen=True, eq=False)
class Utterance(ByValue):
    """What one row became. T frames; no frames at all where the semantic stage ended at once."""

    semantic: np.ndarray  # int32 [S] semantic tokens
    coarse: np.ndarray  # int32 [n_coarse, T] codes
    fine: np.ndarray  # int32 [n_fine, T] codes
    samples: np.ndarray  # float32 [A] audio samples, or [A, channels] of a stereo codec
    semantic_logprob: np.ndarray  # float32 [S], of each token among the legal ones at temperature 1
    coarse_logprob: np.ndarray  # float32 [n_coarse, T], of each code within its codebook at temperature 1


@dataclasses.dataclass
class BarkModel:
    """Bark's four networks, called as in transformers: model.semantic(input_ids), model.fine_acoustics(codebook, ids).

    The networks are modules of their own; see `bark_jax.models`. Their parameters never change.
    """

    config: BarkConfig
    generation_config: BarkGenerationConfig
    semantic: BarkSemanticModel
    coarse_acoustics: BarkCoarseModel
    fine_acoustics: BarkFineModel
    codec_model: EncodecModel

    def __post_init__(self):
        check_fit(self.config, self.generation_config)
        self.spaces = TokenSpaces.from_config(self.generation_config)
        self._accelerator: jax.Device | None = None  # where networks go one at a time, if they are offloaded
        self._source: Source | None = None  # where the voices are that the model knows by name
        self._library: VoiceLibrary | None = None  # these voices, once one was asked for

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        dtype: Any = None,
        torch_dtype: Any = None,
        attn_implementation: str = "auto",
        revision: str | None = None,
        lora: str | os.PathLike | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **options: Any,
    ) -> Self:
        """Loads a model: a folder, a Hub id such as "suno/bark-small", or "tiny", which is built in.

        A PyTorch checkpoint is converted on first use and cached by repository and revision.

        Args:
          dtype: "float32", "bfloat16" or "float16" for all networks, or torch's object of that name; None and "auto"
            keep what the checkpoint has. "int8" rounds the transformers' weights to eight bits (`models.int8`), for
            speed on a CPU.
          torch_dtype: the same, under transformers' older name.
          attn_implementation: "auto", "xla" or "cudnn"; see `models.attention`. transformers' "eager", "sdpa" and
            "flash_attention_2" are taken as "auto", with an AttentionNameWarning.
          revision: a branch, tag or commit of the Hub repository.
          lora: a file of changes to these networks (`bark_jax.lora`), which are added to them.
          token, cache_dir, local_files_only, force_download: see `pretrained.find_model`.
          options: other arguments of transformers', which are ignored or refused; see `loading_options`.

        Raises:
          InputError: an argument that would have no effect here, or is unknown.
          ModelNotFoundError: neither here nor to be had; the message names the repository, the cache and the way out.
          CheckpointError, ConfigError: the files are damaged or are not those of a Bark.
        """
        check_options(options, cls.from_pretrained, MODEL_IGNORED, MODEL_REFUSED)
        dtype = pretrained.choose_dtype(dtype, torch_dtype)
        hub_options = dict(token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        folder = pretrained.find_model(
            pretrained_model_name_or_path, revision=revision, force_download=force_download, **hub_options
        )
        config, generation_config = pretrained.read_configs(folder)
        check_fit(config, generation_config)  # which does not wait for the weights
        networks = pretrained.load_networks(
            folder, dtype=dtype, attn_implementation=attn_implementation, config=config, lora=lora
        )
        model = cls(config, generation_config, **networks)
        model._source = Source(pretrained_model_name_or_path, revision=revision, **hub_options)
        return model

    @under_own_config
    def save_pretrained(self, folder: str, *, overwrite: bool = False) -> None:
        """Writes the model as a folder that `from_pretrained` reads; it appears whole or not at all."""
        networks = {name: getattr(self, name) for name in pretrained.NETWORKS}
        pretrained.save_networks(folder, self.config, self.generation_config, networks, overwrite=overwrite)

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
                f"accelerator is {shown(accelerator)}, expected a device of this process: jax.local_devices()[0]"
            )
        host = jax.local_devices(backend="cpu")[0]
        for name in pretrained.NETWORKS:
            setattr(self, name, jax.device_put(getattr(self, name), host))
        self._accelerator = accelerator

    @property
    def is_offloaded(self) -> bool:
        """Whether the networks are in host memory; see `enable_cpu_offload`."""
        return self._accelerator is not None

    def on_accelerator(self, network: Any) -> Any:
        """The network where its stage runs; an offloaded one is freed there once nobody holds what this returns."""
        return network if self._accelerator is None else jax.device_put(network, self._accelerator)

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
        return jax.tree.leaves([getattr(self, name) for name in pretrained.NETWORKS])

    @property
    def sample_rate(self) -> int:
        """Audio samples a second."""
        return self.generation_config.sample_rate

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
        **settings: Any,
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
            the others with seeds derived from it (`bark_jax.seeds`).
          settings: see `settings.resolve_settings`.

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
        audio = self._run_codec(codes)
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
        tell = as_on_stage(on_stage)
        if on_progress is not None and not callable(on_progress):
            raise InputError(
                f"on_progress is {shown(on_progress)}, expected a function of a stage's name and two counts"
            )
        if not isinstance(rows, (list, tuple)) or not rows:
            raise InputError(f"rows is {shown(rows)}, expected a list of one Row or more")
        tell("semantic")
        spoken = self.run_semantic(rows, on_progress)
        tell("coarse")
        coded = self.run_coarse(rows, [tokens for tokens, _ in spoken], on_progress)
        tell("fine")
        filled = self.run_fine(rows, [codes for codes, _ in coded])
        tell("codec")
        audio = self._run_codec(filled)
        return [
            Utterance(tokens, codes, all_codes, samples, semantic_logprob, coarse_logprob)
            for (tokens, semantic_logprob), (codes, coarse_logprob), all_codes, samples in zip(
                spoken, coded, filled, audio, strict=True
            )
        ]

    def run_semantic(
        self, rows: Sequence[Row], on_progress: OnProgress | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Semantic tokens and their log-probabilities."""
        return run_semantic(self.semantic, rows, self.spaces, self.on_accelerator, on_progress)

    def run_coarse(
        self, rows: Sequence[Row], tokens: list[np.ndarray], on_progress: OnProgress | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Coarse codes and their log-probabilities."""
        return run_coarse(self.coarse_acoustics, rows, tokens, self.spaces, self.on_accelerator, on_progress)

    def coarse_spaces(self, rows: Sequence[Row]) -> TokenSpaces:
        """The token spaces with the coarse windows that the rows, which agree in them, ask for."""
        return coarse_spaces(rows, self.spaces)

    def run_fine(self, rows: Sequence[Row], codes: list[np.ndarray]) -> list[np.ndarray]:
        """All codes."""
        return run_fine(self.fine_acoustics, rows, codes, self.spaces, self.on_accelerator)

    def _run_codec(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Audio samples."""
        idle = np.zeros((len(codes[0]), 0), np.int32)
        with told_with_stage("codec", self.codec_model, len(codes)):
            audio = decode_codes(self.on_accelerator(self.codec_model), _fill(codes, idle))[: len(codes)]
        for samples in audio:
            require_finite(samples, "codec")
        return audio

    def _check_voices(self, history_prompt: Any, n_rows: int) -> list[Voice | None]:
        return [self._check_voice(prompt) for prompt in spread_prompts(history_prompt, n_rows)]

    def _check_voice(self, prompt: Any) -> Voice | None:
        if not isinstance(prompt, (str, os.PathLike)):
            return None if prompt is None else check_voice(as_voice(prompt), self.spaces)
        is_file = isinstance(prompt, os.PathLike) or prompt.endswith(".npz")
        if not is_file and self._source is None:
            raise VoiceNotFoundError(
                f"history_prompt is {shown(prompt)}, and this model was made of its networks, without a folder of "
                "voices; give the Voice itself, such as processor(text, voice_preset=...) finds by its name"
            )
        if self._library is None and not is_file:
            self._library = VoiceLibrary.find(self._source, SPEAKER_EMBEDDINGS_FILE, self.spaces)
        return resolve_voice(prompt, self._library or VoiceLibrary({}), self.spaces)


_NOTHING = np.zeros(0, np.int32)


Place = Callable[[Any], Any]  # a network -> the network where its stage runs


def run_semantic(
    network: BarkSemanticModel,
    rows: Sequence[Row],
    spaces: TokenSpaces,
    place: Place = lambda network: network,
    on_progress: OnProgress | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The semantic stage of each row: tokens and their log-probabilities. Errors as for `BarkModel.generate_rows`."""
    idle = semantic.SemanticRow(_NOTHING, _NOTHING, max_tokens=0)
    prompt = semantic.make_prompt(_fill([as_semantic_row(row) for row in rows], idle), spaces)
    sampling = sampling_of(rows, "semantic")
    with told_with_stage("semantic", network, len(rows)):
        generate: Callable[..., semantic.SemanticTokens] = semantic.generate_semantic
        if on_progress is not None:
            most = max(row.settings.max_semantic_tokens for row in rows)
            generate = _in_parts(semantic.generate_in_parts, on_progress, "semantic", most)
        out = jax.device_get(generate(place(network), prompt, sampling, spaces=spaces))
    require_finite(out.logprob_BT, "semantic")
    return [(out.tokens_BT[b, :n], out.logprob_BT[b, :n]) for b, n in enumerate(out.length_B[: len(rows)].tolist())]


def run_coarse(
    network: BarkCoarseModel,
    rows: Sequence[Row],
    tokens: list[np.ndarray],
    spaces: TokenSpaces,
    place: Place = lambda network: network,
    on_progress: OnProgress | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The coarse stage of each row's semantic tokens: codes [n_coarse, T] and their log-probabilities."""
    spaces = coarse_spaces(rows, spaces)
    voices = [coarse_voice(row) for row in rows]
    prompt = coarse.make_prompt(_fill(tokens, _NOTHING), _fill(voices, None), spaces)
    sampling = sampling_of(rows, "coarse")
    with told_with_stage("coarse", network, len(rows)):
        generate: Callable[..., coarse.CoarseCodes] = coarse.generate_coarse
        if on_progress is not None:
            n_windows = int(np.max(spaces.n_windows(prompt.n_frames_B)))
            generate = _in_parts(coarse.generate_in_parts, on_progress, "coarse", n_windows)
        out = jax.device_get(generate(place(network), prompt, sampling, spaces=spaces))
    require_finite(out.logprob_BQT, "coarse")
    return [
        (out.codes_BQT[b, :, :n], out.logprob_BQT[b, :, :n]) for b, n in enumerate(out.length_B[: len(rows)].tolist())
    ]


def _in_parts(generate_in_parts: Callable, on_progress: OnProgress, stage: str, most: int) -> Callable:
    """A stage's `generate_in_parts` that tells `on_progress` of each part."""
    return functools.partial(generate_in_parts, on_part=lambda n_done: on_progress(stage, n_done, most))


def coarse_spaces(rows: Sequence[Row], spaces: TokenSpaces) -> TokenSpaces:
    """The token spaces with the coarse windows that the rows, which agree in them, ask for."""
    settings = rows[0].settings
    return dataclasses.replace(spaces, n_coarse_history=settings.n_coarse_history, coarse_window=settings.coarse_window)


def run_fine(
    network: BarkFineModel,
    rows: Sequence[Row],
    codes: list[np.ndarray],
    spaces: TokenSpaces,
    place: Place = lambda network: network,
) -> list[np.ndarray]:
    """The fine stage of each row's coarse codes: all codes [n_fine, T]."""
    histories = [None if row.voice is None else row.voice.fine for row in rows]
    idle = np.zeros((spaces.n_coarse, 0), np.int32)
    prompt = fine.make_prompt(_fill(codes, idle), _fill(histories, None), spaces)
    sampling = sampling_of(rows, "fine")
    with told_with_stage("fine", network, len(rows)):
        codes_BQT = np.asarray(fine.generate_fine(place(network), prompt, sampling, spaces=spaces))
    filled = [codes_BQT[b, :, : coarse_QT.shape[1]] for b, coarse_QT in enumerate(codes)]
    for codes_QT in filled:
        require_finite(codes_QT, "fine")
    return filled


def check_rows(n_rows: int) -> None:
    """Raises InputError for more rows than a call takes."""
    if n_rows > MOST_ROWS:
        raise InputError(
            f"that is {n_rows:,} rows at once, and a call takes {MOST_ROWS:,}; make several calls, or hand texts by "
            "the thousand to bark_jax.batch"
        )


def check_ids(
    input_ids: Any, attention_mask: Any, spaces: TokenSpaces, input_vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenizer ids and their mask, integers [B, T]. Raises InputError where they are no texts for such a model."""
    ids_BT = as_integers("input_ids", input_ids)
    if ids_BT.ndim != 2 or 0 in ids_BT.shape:
        raise InputError(f"input_ids has shape {ids_BT.shape}, expected [rows, tokens] with at least one of each")
    check_rows(len(ids_BT))
    if ids_BT.shape[1] > spaces.n_text:
        raise InputError(
            f"input_ids has {ids_BT.shape[1]} tokens a row, and the prompt has room for {spaces.n_text}; "
            "split the text or cut it"
        )
    mask_BT = np.ones_like(ids_BT) if attention_mask is None else as_integers("attention_mask", attention_mask)
    if mask_BT.shape != ids_BT.shape or not np.isin(mask_BT, (0, 1)).all():
        raise InputError(
            f"attention_mask has shape {mask_BT.shape} and values {np.unique(mask_BT)[:5].tolist()}, expected "
            f"0 and 1 in the shape of input_ids, {ids_BT.shape}"
        )
    if not mask_BT.any(1).all():
        raise InputError(f"attention_mask is all 0 in row {mask_BT.any(1).argmin()}: there is nothing to speak")
    if attention_mask is None and (ids_BT == 0).any():
        raise InputError(
            "input_ids has padding (id 0) and there is no attention_mask, so the padding would be read as text; "
            "pass the mask that the processor gives"
        )
    n_ids = input_vocab_size - spaces.text_offset
    unmasked = ids_BT[mask_BT == 1]
    if unmasked.size and not ((unmasked >= 0) & (unmasked < n_ids)).all():
        wrong = unmasked[(unmasked < 0) | (unmasked >= n_ids)][0]
        raise InputError(f"input_ids holds {wrong}, expected tokenizer ids from 0 to {n_ids - 1}")
    return ids_BT, mask_BT


def spread_prompts(history_prompt: Any, n_rows: int) -> Sequence[Any]:
    """One history_prompt a row from one for all or a list. Raises InputError for a list of another length."""
    if not isinstance(history_prompt, (list, tuple)):
        return [history_prompt] * n_rows
    if len(history_prompt) != n_rows:
        raise InputError(f"history_prompt has {len(history_prompt)} voices for {n_rows} rows; give one or None a row")
    return history_prompt


def as_on_stage(on_stage: OnStage | None) -> OnStage:
    """What to call as a stage starts. Raises InputError for what cannot be called."""
    if on_stage is not None and not callable(on_stage):
        raise InputError(f"on_stage is {shown(on_stage)}, expected a function of the stage's name")
    return on_stage or (lambda stage: None)


@under_own_config
def row_keys(seed: int | Sequence[int] | None, key: jax.Array | None, n_rows: int) -> list[np.ndarray]:
    """One key a row, uint32 [2], from what a caller gave; see `BarkModel.generate`."""
    check_process()
    if seed is not None and key is not None:
        raise InputError("give seed or key, not both")
    if key is not None:
        return _spread_keys(key, n_rows)
    if seed is None:
        seed = [secrets.randbits(32) for _ in range(n_rows)]
    is_one = not isinstance(seed, (list, tuple, np.ndarray)) or np.ndim(seed) == 0
    seeds = [seed] * n_rows if is_one else list(seed)
    if len(seeds) != n_rows:
        raise InputError(f"seed has {len(seeds)} values for {n_rows} rows; give one a row, or a single one for all")
    return [key_data(value) for value in seeds]


def _spread_keys(key: jax.Array, n_rows: int) -> list[np.ndarray]:
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise InputError(f"key is {shown(key)}, expected a key of JAX, jax.random.key(0); an integer goes into seed")
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        if jax.random.key_impl(key) != KEY_IMPLEMENTATION:
            raise InputError(
                f"key is of generator {jax.random.key_impl(key)}, expected {KEY_IMPLEMENTATION}; give seed=, or a key "
                f"that jax.random.key(seed, impl={KEY_IMPLEMENTATION!r}) makes"
            )
        key = jax.random.key_data(key)
    data = _as_numpy("key", key)
    if data.dtype != np.uint32 or data.shape not in ((2,), (n_rows, 2)):
        raise InputError(f"key has shape {data.shape} and dtype {data.dtype}, expected one key, or {n_rows} of them")
    return list(np.broadcast_to(data, (n_rows, 2)))


def _fill(rows: Sequence[Any], idle: Any, n_rows: int | None = None) -> list[Any]:
    """Adds idle rows up to n_rows, or to a power of two, so that batches of any size run few programs."""
    n_rows = 2 ** (len(rows) - 1).bit_length() if n_rows is None else n_rows
    return [*rows, *[idle] * (n_rows - len(rows))]


def as_semantic_row(row: Row) -> semantic.SemanticRow:
    """What the semantic stage needs to know of a row."""
    return semantic.SemanticRow(
        row.text,
        _NOTHING if row.voice is None else row.voice.semantic,
        row.settings.max_semantic_tokens,
        row.settings.min_end_probability,
        row.settings.may_end_early,
    )


def coarse_voice(row: Row) -> tuple[np.ndarray, np.ndarray] | None:
    """What the coarse stage needs to know of a row's voice."""
    return None if row.voice is None else (row.voice.semantic, row.voice.coarse)


def sampling_of(rows: Sequence[Row], stage: str, n_rows: int | None = None) -> Sampling:
    """How the rows choose tokens in "semantic", "coarse" or "fine", filled up with idle rows to n_rows; see `_fill`."""
    settings = _fill([getattr(row.settings, stage) for row in rows], StageSettings(temperature=0.0), n_rows)
    keys = np.stack(_fill([row.key for row in rows], np.zeros(2, np.uint32), n_rows))
    return Sampling(
        key_B=jax.random.wrap_key_data(keys, impl=KEY_IMPLEMENTATION),
        temperature_B=np.array([each.temperature for each in settings], np.float32),
        top_k_B=np.array([each.top_k for each in settings], np.int32),
        top_p_B=np.array([each.top_p for each in settings], np.float32),
        may_cut=any((each.top_k > 0 or each.top_p < 1) and each.temperature > 0 for each in settings),
    )


def require_finite(values: np.ndarray, stage: str) -> None:
    """Raises BarkError for numbers that are not finite, and for codes of -1, which come of such numbers."""
    if not np.isfinite(values).all() or (values.dtype.kind == "i" and (values < 0).any()):
        raise BarkError(
            f"the {stage} stage computed values that are not finite. The weights may be damaged, or too large for "
            "float16: try dtype='bfloat16' or 'float32'."
        )


def _as_numpy(name: str, values: Any, what: str = "") -> np.ndarray:
    try:
        return np.asarray(values)
    except Exception as error:  # rows of unequal length; arrays that were deleted, or are traced by jax.jit
        raise InputError(f"{name} is no array{what}: {shown(str(error), 200)}") from error


def as_integers(name: str, values: Any, axes: str = "[rows, tokens]") -> np.ndarray:
    """The values as int64. Raises InputError, naming them, where they are no array of integers; `axes` says of what."""
    if values is None:
        raise InputError(f"{name} is None, expected integers {axes}")
    array = _as_numpy(name, values, f" of integers {axes}, all rows of one length")
    if array.dtype.kind not in "iub":
        raise InputError(f"{name} has dtype {array.dtype}, expected integers")
    return array.astype(np.int64)
