"""Text in, clips out: the networks, the tokenizer and the voices as one."""

import dataclasses
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, Unpack, overload

import jax
import numpy as np
from numpy.typing import NDArray

from bark_jax.audio.clip import Clip, EmptyClipWarning, Recording, SpokenPart, check_silence, join
from bark_jax.checkpoints import find, load
from bark_jax.errors import InputError, quoted
from bark_jax.files import atomic_folder
from bark_jax.generation import stage_by_stage
from bark_jax.generation.rows import Row, Utterance, check_rows, spread_prompts
from bark_jax.generation.runner import OnProgress, OnStage, as_on_stage
from bark_jax.generation.seeds import CANDIDATE, SENTENCE, derive_keys, row_keys, seed_of
from bark_jax.generation.settings import GenerateSettings, check_count, check_flag, resolve_settings
from bark_jax.generation.streaming import RowStream, stream_row
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.hub.source import Source
from bark_jax.model import BarkModel
from bark_jax.networks.platform import check_platform
from bark_jax.text.processor import BarkProcessor
from bark_jax.text.prompts import Prompts, Script
from bark_jax.text.sentences import Line, LongClip, Sentence
from bark_jax.voices.library import resolve_voice
from bark_jax.voices.voice import Voice

# Rows of one batch. The KV cache of as many rows of the large model takes 6.4 GB in bfloat16.
MAX_ROWS = 64


class StageArguments(GenerateSettings, total=False):
    """The keyword arguments of the stages one by one, as type checkers see them."""

    voice: Any
    seed: int | Sequence[int] | None
    key: jax.Array | None
    max_rows: int
    devices: Sequence[jax.Device] | None


class Bark:
    """Text to audio.

    bark = Bark.from_pretrained("suno/bark-small")
    bark.generate("Hello, my dog is cute [laughs]", voice="v2/en_speaker_6", seed=0).save("hello.wav")
    """

    def __init__(self, model: BarkModel, processor: BarkProcessor):
        self.model = model
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str,
        *,
        dtype: Any = None,
        attn_implementation: str = "auto",
        platform: str | None = None,
        revision: str | None = None,
        lora: str | os.PathLike[str] | None = None,
        tokenizer: Any = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        keep_compiled: bool = True,
        decoding_copy: bool = True,
    ) -> Self:
        """Loads networks, tokenizer and voices; arguments and errors as for `BarkModel.from_pretrained`.

        Args:
          tokenizer: a tokenizer file, folder or `tokenizers.Tokenizer`, for checkpoints that bring none.
        """
        source = dict(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        # The small files first: what is wrong with them is told before gigabytes of weights are read.
        platform = check_platform(platform)
        found = load.FoundModel.read(find.find_model(name_or_folder, **source))
        spaces = TokenSpaces.from_config(found.generation_config)
        processor = BarkProcessor.from_pretrained(name_or_folder, tokenizer=tokenizer, spaces=spaces, **source)
        model = BarkModel.from_found(
            found,
            dtype=dtype,
            attn_implementation=attn_implementation,
            platform=platform,
            lora=lora,
            keep_compiled=check_flag("keep_compiled", keep_compiled),
            decoding_copy=check_flag("decoding_copy", decoding_copy),
            source=Source(name_or_folder, **source),
        )
        return cls(model, processor)

    def save_pretrained(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes networks, tokenizer, words and voices as a folder for `from_pretrained`, whole or not at all."""
        with atomic_folder(folder, overwrite=overwrite) as partial:
            self.model.save_pretrained(partial)
            self.processor.save_pretrained(partial)

    def warm_up(
        self,
        rows: int | Sequence[int] = 1,
        *,
        seconds: float | Sequence[float] = 1.0,
        voice: Any = None,
        **settings: Unpack[GenerateSettings],
    ) -> None:
        """Compiles what `generate` will run, by speaking nonsense, so that the first text does not wait for it.

        Each number of rows, rounded up to a power of two, is a program of its own in every stage; each length of audio,
        rounded up to the fine stage's windows and the codec's step, one in the last two.

        Args:
          rows: of one batch, one number or several.
          seconds: of audio that is spoken for it, one length or several.
          voice, settings: those that `generate` will be given: a voice makes the fine stage's windows more, and top_k
            and top_p are programs of their own.

        Raises:
          InputError, VoiceError, VoiceNotFoundError: before any network runs.
        """
        spaces = self.model.spaces
        voice = resolve_voice(voice, self.processor.library, spaces)
        batches = []
        for n_rows in rows if isinstance(rows, (list, tuple)) else [rows]:
            check_rows(check_count("rows", n_rows))
            for length_s in seconds if isinstance(seconds, (list, tuple)) else [seconds]:
                asked = settings | {"max_seconds": length_s, "allow_early_stop": False}
                batches.append(resolve_settings(asked, n_rows, self.model.generation_config, spaces))
        text = np.full(1, spaces.text_offset + 1, np.int32)
        for resolved in batches:
            keys = row_keys(0, None, len(resolved))
            self.model.generate_rows([Row(text, voice, *row) for row in zip(keys, resolved, strict=True)])

    @property
    def sample_rate(self) -> int:
        """Audio samples a second."""
        return self.model.sample_rate

    @overload
    def generate(
        self,
        text: str,
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        best_of: int | None = None,
        num_return_sequences: None = None,
        max_rows: int = MAX_ROWS,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> Clip: ...

    @overload
    def generate(
        self,
        text: str,
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        best_of: int | None = None,
        num_return_sequences: int,
        max_rows: int = MAX_ROWS,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> list[Clip]: ...

    @overload
    def generate(
        self,
        text: list[str] | tuple[str, ...],
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        best_of: int | None = None,
        num_return_sequences: None = None,
        max_rows: int = MAX_ROWS,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> list[Clip]: ...

    @overload
    def generate(
        self,
        text: list[str] | tuple[str, ...],
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        best_of: int | None = None,
        num_return_sequences: int,
        max_rows: int = MAX_ROWS,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> list[list[Clip]]: ...

    def generate(
        self,
        text: str | list[str] | tuple[str, ...],
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        best_of: int | None = None,
        num_return_sequences: int | None = None,
        max_rows: int = MAX_ROWS,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> Clip | list[Clip] | list[list[Clip]]:
        """Speaks one text, or several as one batch.

        A text whose semantic tokens end at once gives an empty clip, with an EmptyClipWarning.

        Args:
          text: a text, or a list of them; each fits one prompt (256 tokens in Bark, one sentence in "tiny") and becomes
            up to about 15 s.
          voice: a preset's name, a .npz file, a Voice or None; one for all texts or a list of one a text.
          seed: an int for all texts or one a text; a clip depends on its own seed alone. None draws one a text.
          key: instead of seed, one JAX key, or an array of one a text.
          best_of: generates so many candidates a text and keeps the one of the greatest `Clip.mean_logprob`. Candidate
            0 has the text's own seed, the others have seeds derived from it (`generation.seeds`); `Clip.seed` tells.
          num_return_sequences: keeps so many clips a text instead of one: the candidates in their order, or with
            best_of the best of them, best first.
          max_rows: most rows (texts times candidates) in one batch; more run as several batches.
          on_stage: called with "semantic", "coarse", "fine" and "codec" as each starts, in every batch.
          on_progress: called within a stage with its name, how much is done and the most that it can become: semantic
            tokens of the longest row, coarse windows.
          settings: see `bark_jax.GenerateSettings`, such as temperature=0.6 or semantic_max_seconds=5.

        Returns:
          One Clip for one text, a list for a list. With num_return_sequences each Clip becomes a list of Clips.

        Raises:
          InputError, VoiceError, VoiceNotFoundError: before any network runs.
        """
        script = self.script(text, voice, seed, key, settings)
        by_text = self.speak(
            script,
            best_of=best_of,
            num_return_sequences=num_return_sequences,
            max_rows=max_rows,
            on_stage=on_stage,
            on_progress=on_progress,
        )
        kept = [takes[0] for takes in by_text] if num_return_sequences is None else by_text
        return kept[0] if isinstance(text, str) else kept

    def speak(
        self,
        script: Script,
        *,
        best_of: int | None = None,
        num_return_sequences: int | None = None,
        max_rows: int = MAX_ROWS,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[list[Clip]]:
        """`generate` of what has been checked: the clips that are kept of each text. Arguments as there."""
        n_candidates, n_kept = _check_candidates(best_of, num_return_sequences)
        max_rows = check_count("max_rows", max_rows)
        candidates = [
            dataclasses.replace(row, key=candidate_key)
            for row in script.rows
            for candidate_key in derive_keys(row.key, CANDIDATE, n_candidates)
        ]
        candidate_texts = [text for text in script.texts for _ in range(n_candidates)]
        listeners = _Listeners(on_stage, on_progress)
        clips = self._speak(candidate_texts, candidates, max_rows, listeners)
        by_text = [clips[start : start + n_candidates] for start in range(0, len(clips), n_candidates)]
        if best_of is not None:
            by_text = [sorted(takes, key=lambda clip: -clip.mean_logprob) for takes in by_text]
        by_text = [takes[:n_kept] for takes in by_text]
        _warn_of_empty(by_text, stacklevel=4)
        return by_text

    def generate_long(
        self,
        text: str | Sequence[Line],
        *,
        voice: Any = None,
        seed: int | None = None,
        voice_mode: Literal["fixed", "carry"] = "fixed",
        silence_s: float = 0.25,
        max_tokens: int | None = None,
        language: str | None = None,
        max_rows: int = MAX_ROWS,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> LongClip:
        """Speaks a text of any length, or a dialogue.

        The text is cut into sentences that make good prompts (see `sentences.split_text`); nothing of it is lost. Each
        has a seed of its own, derived from `seed` and its number (`generation.seeds`): a sentence is spoken again by
        `generate` from what the result tells of it.

        Args:
          text: a text, or the lines of a dialogue: (voice, text) pairs, where None means `voice`.
          voice: as for `generate`. Without one the first sentence finds a voice, which speaks the others too.
          seed: an int; None draws one.
          voice_mode: "fixed" speaks all sentences with the voice itself, in batches. "carry" makes each sentence the
            voice of the speaker's next one, one by one: intonation runs on from sentence to sentence, but takes many
            times as long, and what a sentence gets wrong the next ones copy, so that after some minutes it may no
            longer sound like the voice. After an empty sentence a speaker starts again from the voice itself.
          silence_s: seconds between two sentences, 0 to 60.
          max_tokens: most text tokens of a sentence, 1 to 256 in Bark; None for what takes 0.85 of the model's longest
            utterance to say in English: some 40 in Bark, 13 s.
          language: "en", "de" ...: whose abbreviations do not end sentences; None takes it from a preset's name, else
            English. Only the cutting depends on it.
          max_rows: most sentences in one batch.
          on_stage, on_progress: as for `generate`.
          settings: as for `generate`, each one value for all sentences.

        Raises:
          InputError, VoiceError, VoiceNotFoundError: before any network runs.
        """
        (base_key,) = row_keys(seed, None, 1)
        return self.speak_long(
            self.sentences(text, voice, base_key, max_tokens, language, settings),
            seed_of(base_key),
            voice_mode=voice_mode,
            silence_s=silence_s,
            max_rows=max_rows,
            on_stage=on_stage,
            on_progress=on_progress,
        )

    def speak_long(
        self,
        script: Script,
        seed: int,
        *,
        voice_mode: Literal["fixed", "carry"] = "fixed",
        silence_s: float = 0.25,
        max_rows: int = MAX_ROWS,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
    ) -> LongClip:
        """`generate_long` of what has been checked, whose keys derive from `seed`. Arguments as there."""
        check_silence(silence_s)
        max_rows = check_count("max_rows", max_rows)
        if not isinstance(voice_mode, str) or voice_mode not in ("fixed", "carry"):
            raise InputError(f"voice_mode is {quoted(voice_mode)}, expected 'fixed' or 'carry'")
        listeners = _Listeners(on_stage, on_progress)
        if voice_mode == "carry":
            spoken = self._speak_carrying(*script, listeners)
        else:
            spoken = self._speak_alike(*script, max_rows, listeners)
        _warn_of_empty([[clip] for _, clip in spoken], stacklevel=4, name="sentence")
        samples, starts_s = join([clip for _, clip in spoken], silence_s)
        sentences = [
            Sentence(clip.text, row.voice, clip, start_s) for (row, clip), start_s in zip(spoken, starts_s, strict=True)
        ]
        return LongClip(samples, self.sample_rate, sentences, seed)

    def stream(
        self,
        text: str | Sequence[Line],
        *,
        voice: Any = None,
        seed: int | None = None,
        silence_s: float = 0.25,
        max_tokens: int | None = None,
        language: str | None = None,
        first_windows: int = 1,
        on_stage: OnStage | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> Iterator[SpokenPart]:
        """Speaks a text of any length, or a dialogue, and gives the audio while it is generated.

        Sentence by sentence, as `generate_long` cuts them; and within a sentence as its coarse windows are done. The
        tokens of the first two stages are those of `generate_long`. The fine codes are not: they are chosen with less
        of a view ahead; see `bark_jax.generation.streaming`, which also says what the first audio waits for.

        Args:
          first_windows: coarse windows of a sentence's first part, 0.4 s of Bark's audio each. More start later and
            give a slow machine a lead.
          text, voice, seed, silence_s, max_tokens, language, on_stage, settings: as for `generate_long`.

        Returns:
          An iterator of SpokenParts; their samples, one after the other, are the audio. Dropping it ends the work.

        Raises:
          InputError, VoiceError, VoiceNotFoundError, UnsupportedError: at once, before any network runs.
        """
        (base_key,) = row_keys(seed, None, 1)
        script = self.sentences(text, voice, base_key, max_tokens, language, settings)
        return self.stream_script(script, silence_s=silence_s, first_windows=first_windows, on_stage=on_stage)

    def stream_script(
        self, script: Script, *, silence_s: float = 0.25, first_windows: int = 1, on_stage: OnStage | None = None
    ) -> Iterator[SpokenPart]:
        """`stream` of what has been checked. Arguments as there."""
        check_silence(silence_s)
        start = functools.partial(stream_row, self.model, first_windows=first_windows, on_stage=as_on_stage(on_stage))
        return self._stream_sentences(script, silence_s, start, first=start(script.rows[0]))

    def _stream_sentences(
        self,
        script: Script,
        silence_s: float,
        start: Callable[[Row], RowStream],
        first: RowStream,
    ) -> Iterator[SpokenPart]:
        """`first` is the stream of the first row, made by the caller so that its arguments are checked at once."""
        found, n_samples = None, 0
        for index, (text, row) in enumerate(zip(*script, strict=True)):
            if row.voice is None and found is not None:
                row = dataclasses.replace(row, voice=found)
            parts = first if index == 0 else start(row)
            for part in parts:
                samples = part.samples
                if n_samples and part.first_frame == 0:
                    silence = np.zeros((round(silence_s * self.sample_rate), *samples.shape[1:]), np.float32)
                    samples = np.concatenate([silence, samples])
                yield SpokenPart(samples, self.sample_rate, text, n_samples / self.sample_rate)
                n_samples += len(samples)
            spoken = parts.utterance
            if row.voice is None and len(spoken.samples):
                found = Voice(semantic=spoken.semantic, coarse=spoken.coarse, fine=spoken.fine)

    @overload
    def text_to_semantic(self, text: str, **arguments: Unpack[StageArguments]) -> NDArray[np.int32]: ...

    @overload
    def text_to_semantic(
        self, text: list[str] | tuple[str, ...], **arguments: Unpack[StageArguments]
    ) -> list[NDArray[np.int32]]: ...

    def text_to_semantic(
        self,
        text: str | list[str] | tuple[str, ...],
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        max_rows: int = MAX_ROWS,
        devices: Sequence[jax.Device] | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> NDArray[np.int32] | list[NDArray[np.int32]]:
        """Runs the semantic stage alone: the tokens that `generate` would have with the same arguments.

        Args:
          text: one text, or any number of them.
          voice, seed, key, max_rows: as for `generate`.
          devices: of this process, such as jax.local_devices(); each takes batches in turn. None is the model's own.
          settings: those of `generate` for the semantic stage, with or without the prefix semantic_.

        Returns:
          Semantic tokens, int32 [S] in [0, 10,000) in Bark; for several texts a list of them. [0] where the stage ended
          at once.

        Raises:
          InputError, VoiceError, VoiceNotFoundError: before the network runs.
        """
        _check_stages(settings, ("coarse", "fine"), "text_to_semantic")
        max_rows = check_count("max_rows", max_rows)
        script = self.script(text, voice, seed, key, settings)
        tokens = stage_by_stage.semantic_tokens(self.model, script.rows, max_rows, devices)
        return tokens[0] if isinstance(text, str) else tokens

    @overload
    def semantic_to_codes(
        self, tokens: Sequence[np.ndarray | jax.Array], **arguments: Unpack[StageArguments]
    ) -> list[NDArray[np.int32]]: ...

    @overload
    def semantic_to_codes(
        self, tokens: Any, **arguments: Unpack[StageArguments]
    ) -> NDArray[np.int32] | list[NDArray[np.int32]]: ...

    def semantic_to_codes(
        self,
        tokens: Any,
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        max_rows: int = MAX_ROWS,
        devices: Sequence[jax.Device] | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> NDArray[np.int32] | list[NDArray[np.int32]]:
        """Runs the coarse and the fine stage: the codes that `generate` would have with the same voice and seed.

        Args:
          tokens: semantic tokens, integers [S], or a list or an array of such rows; made by `text_to_semantic`, of a
            clip, or changed by hand.
          voice, seed, key, max_rows: as for `generate`.
          devices: as for `text_to_semantic`.
          settings: those of `generate` for the coarse and the fine stage.

        Returns:
          Codes, int32 [n_fine, T] in [0, 1024) in Bark, coarse codebooks first; for several rows a list of them.

        Raises:
          InputError, VoiceError, VoiceNotFoundError: before a network runs.
        """
        _check_stages(settings, ("semantic",), "semantic_to_codes")
        max_rows, spaces = check_count("max_rows", max_rows), self.model.spaces
        semantic, is_one = stage_by_stage.check_tokens(tokens, spaces)
        resolved = resolve_settings(settings, len(semantic), self.model.generation_config, spaces)
        resolve = functools.partial(resolve_voice, library=self.processor.library, spaces=spaces)
        found = [resolve(each) for each in voice] if isinstance(voice, (list, tuple)) else resolve(voice)
        voices = spread_prompts(found, len(semantic), "voice")
        keys, no_text = row_keys(seed, key, len(semantic)), np.zeros(0, np.int32)
        rows = [Row(no_text, *row) for row in zip(voices, keys, resolved, strict=True)]
        codes = stage_by_stage.all_codes(self.model, rows, semantic, max_rows, devices)
        return codes[0] if is_one else codes

    @overload
    def codes_to_audio(
        self,
        codes: Sequence[np.ndarray | jax.Array],
        *,
        max_rows: int = MAX_ROWS,
        devices: Sequence[jax.Device] | None = None,
    ) -> list[Recording]: ...

    @overload
    def codes_to_audio(
        self, codes: Any, *, max_rows: int = MAX_ROWS, devices: Sequence[jax.Device] | None = None
    ) -> Recording | list[Recording]: ...

    def codes_to_audio(
        self, codes: Any, *, max_rows: int = MAX_ROWS, devices: Sequence[jax.Device] | None = None
    ) -> Recording | list[Recording]:
        """Runs the codec.

        Args:
          codes: integers [n_fine, T], or a list or an array of such rows, as `semantic_to_codes` gives them.
          max_rows, devices: as for `text_to_semantic`.

        Raises:
          InputError: what is given are no codes of this model.
        """
        max_rows = check_count("max_rows", max_rows)
        rows, is_one = stage_by_stage.check_codes(codes, self.model.spaces)
        audio = stage_by_stage.audio_samples(self.model, rows, max_rows, devices)
        recordings = [Recording(samples, self.sample_rate) for samples in audio]
        return recordings[0] if is_one else recordings

    @overload
    def semantic_to_audio(
        self, tokens: Sequence[np.ndarray | jax.Array], **arguments: Unpack[StageArguments]
    ) -> list[Recording]: ...

    @overload
    def semantic_to_audio(self, tokens: Any, **arguments: Unpack[StageArguments]) -> Recording | list[Recording]: ...

    def semantic_to_audio(
        self,
        tokens: Any,
        *,
        voice: Any = None,
        seed: int | Sequence[int] | None = None,
        key: jax.Array | None = None,
        max_rows: int = MAX_ROWS,
        devices: Sequence[jax.Device] | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> Recording | list[Recording]:
        """`codes_to_audio` of `semantic_to_codes`, whose arguments and errors these are."""
        codes = self.semantic_to_codes(
            tokens, voice=voice, seed=seed, key=key, max_rows=max_rows, devices=devices, **settings
        )
        return self.codes_to_audio(codes, max_rows=max_rows, devices=devices)

    def voices(self, language: str | None = None) -> list[str]:
        """Names of the voices that this model knows, of one language ("de") or of all."""
        return self.processor.voices(language)

    def sentences(
        self,
        text: str | Sequence[Line],
        voice: Any,
        base_key: np.ndarray,
        max_tokens: int | None,
        language: str | None,
        settings: Mapping[str, Any],
    ) -> Script:
        """A long text or a dialogue as sentences, with a row for each: what `generate_long` speaks.

        Rows without a voice are still to get that of the first of them that is not empty.

        Args:
          base_key: uint32 [2] (`generation.sampling.key_data`), from which the sentences' keys derive.
          text, voice, max_tokens, language, settings: as for `generate_long`, and its errors.
        """
        prompts = self.processor.sentences(text, voice, max_tokens=max_tokens, language=language)
        return self._script(prompts, derive_keys(base_key, SENTENCE, len(prompts.texts)), settings)

    def script(
        self,
        text: str | Sequence[str],
        voice: Any,
        seed: int | Sequence[int] | None,
        key: jax.Array | None,
        settings: Mapping[str, Any],
    ) -> Script:
        """What `generate` speaks: texts, with a row for each. Arguments and errors are those of `generate`."""
        prompts = self.processor.prompts(text, voice)
        return self._script(prompts, row_keys(seed, key, len(prompts.texts)), settings)

    def rows(
        self,
        text: str | Sequence[str],
        voice: Any,
        keys: list[np.ndarray],
        settings: Mapping[str, Any],
        *,
        is_split: bool = False,
    ) -> list[Row]:
        """The rows of `script`, given a key for each.

        Args:
          is_split: the texts are what the processor's `split` makes.
        """
        return self._script(self.processor.prompts(text, voice, is_split=is_split), keys, settings).rows

    def _script(self, prompts: Prompts, keys: list[np.ndarray], settings: Mapping[str, Any]) -> Script:
        spaces = self.model.spaces
        return prompts.script(keys, resolve_settings(settings, len(keys), self.model.generation_config, spaces), spaces)

    def _speak(self, texts: list[str], rows: list[Row], max_rows: int, listeners: "_Listeners") -> list[Clip]:
        """The rows' clips, in batches of at most max_rows."""
        clips = []
        for start in range(0, len(rows), max_rows):
            batch = slice(start, start + max_rows)
            timer = StageTimer(listeners.on_stage)
            utterances = self.model.generate_rows(rows[batch], timer, listeners.on_progress)
            timer.stop()
            for text, row, utterance in zip(texts[batch], rows[batch], utterances, strict=True):
                clips.append(self._clip(text, row, utterance, timer.seconds))
        return clips

    def _speak_alike(
        self, texts: list[str], rows: list[Row], max_rows: int, listeners: "_Listeners"
    ) -> list[tuple[Row, Clip]]:
        """Clips in the rows' voices; rows without a voice take that of the first of them that is not empty."""
        spoken: dict[int, tuple[Row, Clip]] = {}
        found = None
        for index, row in enumerate(rows):
            if row.voice is None and found is None:
                (clip,) = self._speak([texts[index]], [row], max_rows, listeners)
                spoken[index] = row, clip
                found = None if clip.is_empty else clip.as_voice()
        rest = {
            index: dataclasses.replace(row, voice=found) if row.voice is None else row
            for index, row in enumerate(rows)
            if index not in spoken
        }
        clips = self._speak([texts[index] for index in rest], list(rest.values()), max_rows, listeners)
        spoken.update({index: (row, clip) for (index, row), clip in zip(rest.items(), clips, strict=True)})
        return [spoken[index] for index in range(len(rows))]

    def _speak_carrying(self, texts: list[str], rows: list[Row], listeners: "_Listeners") -> list[tuple[Row, Clip]]:
        """Clips one by one, each the voice of the next with the same voice at first."""
        spoken = []
        latest: dict[Voice | None, Voice] = {}
        for text, first_row in zip(texts, rows, strict=True):
            row = dataclasses.replace(first_row, voice=latest.get(first_row.voice, first_row.voice))
            (clip,) = self._speak([text], [row], 1, listeners)
            spoken.append((row, clip))
            if clip.is_empty:
                latest.pop(first_row.voice, None)
            else:
                latest[first_row.voice] = clip.as_voice()
        return spoken

    def _clip(self, text: str, row: Row, utterance: Utterance, stats: dict[str, float]) -> Clip:
        return Clip(
            samples=utterance.samples,
            sample_rate=self.sample_rate,
            text=text,
            semantic=utterance.semantic,
            coarse=utterance.coarse,
            fine=utterance.fine,
            semantic_logprob=utterance.semantic_logprob,
            coarse_logprob=utterance.coarse_logprob,
            seed=seed_of(row.key),
            stats=dict(stats),
        )


def _check_stages(settings: Mapping[str, Any], stages: tuple[str, ...], method: str) -> None:
    """Raises InputError for a setting of a stage that the method does not run, where it would have no effect."""
    for name in settings:
        if name.startswith(tuple(f"{stage}_" for stage in stages)):
            raise InputError(f"{method} has no setting {name}: it does not run that stage")


class _Listeners(NamedTuple):
    """Who is told how far the work is."""

    on_stage: OnStage | None
    on_progress: OnProgress | None


def _check_candidates(best_of: int | None, num_return_sequences: int | None) -> tuple[int, int]:
    """How many candidates a text has, and how many of them are kept."""
    n_kept = 1 if num_return_sequences is None else check_count("num_return_sequences", num_return_sequences)
    n_candidates = n_kept if best_of is None else check_count("best_of", best_of)
    if n_candidates < n_kept:
        raise InputError(f"best_of is {best_of} and num_return_sequences {n_kept}, of which it cannot be the best")
    return n_candidates, n_kept


def _warn_of_empty(by_text: list[list[Clip]], stacklevel: int, name: str = "text") -> None:
    for index, takes in enumerate(by_text):
        for clip in takes:
            if clip.is_empty:
                message = (
                    f"{name}[{index}], {clip.text[:60]!r}, has no audio: with seed {clip.seed} the semantic network "
                    "ended at once. Try another seed, or min_eos_p=None."
                )
                warnings.warn(EmptyClipWarning(message), stacklevel=stacklevel)


class StageTimer:
    """An `on_stage` that notes how long each stage takes and passes the call on."""

    def __init__(self, on_stage: OnStage | None):
        self.seconds: dict[str, float] = {}
        self._on_stage = as_on_stage(on_stage)
        self._stage: str | None = None
        self._started = 0.0

    def __call__(self, stage: str) -> None:
        self.stop()
        self._stage, self._started = stage, time.perf_counter()
        self._on_stage(stage)

    def stop(self) -> None:
        if self._stage is not None:
            self.seconds[self._stage] = time.perf_counter() - self._started
        self._stage = None
