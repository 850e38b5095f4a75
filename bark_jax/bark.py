"""The high-level API: `Bark` has the networks, the tokenizer and the voices of a model. Text in, clips out."""

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
from bark_jax.generation.placement import placement_of
from bark_jax.generation.rows import Row, Utterance, check_rows, spread_prompts
from bark_jax.generation.runner import OnProgress, OnStage, as_on_stage
from bark_jax.generation.seeds import CANDIDATE, SENTENCE, derive_keys, row_keys, seed_of
from bark_jax.generation.settings import GenerateSettings, check_count, check_flag, resolve_settings
from bark_jax.generation.streaming import RowStream, stream_row
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.hub.source import Source
from bark_jax.model import BarkModel
from bark_jax.networks.platform import Devices, check_devices, check_platform
from bark_jax.networks.tensor_parallel import ChooseSharding
from bark_jax.text.processor import BarkProcessor
from bark_jax.text.prompts import Prompts, Script
from bark_jax.text.sentences import Line, LongClip, Sentence
from bark_jax.voices.library import resolve_voice
from bark_jax.voices.voice import Voice

# Default batch size, in rows. At 64 rows the KV cache of the large model takes 6.4 GB in bfloat16.
MAX_ROWS = 64


class StageArguments(GenerateSettings, total=False):
    """Keyword arguments of `Bark.text_to_semantic` and the other one-stage methods, for type checkers."""

    voice: Any
    seed: int | Sequence[int] | None
    key: jax.Array | None
    max_rows: int
    devices: Devices


class Bark:
    """A text-to-audio model: its four networks, tokenizer and voices.

        bark = bark_jax.Bark.from_pretrained("suno/bark-small")
        bark.generate("Hello, my dog is cute [laughs]", voice="v2/en_speaker_6", seed=0).save("hello.wav")

    `generate` speaks short texts, `generate_long` texts of any length, `stream` gives audio while it is generated.
    `text_to_semantic`, `semantic_to_codes` and `codes_to_audio` run the stages one by one.

    Args:
      model: the networks.
      processor: the tokenizer and the voices; its token spaces must be those of the model.
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
        sharding: ChooseSharding | None = None,
    ) -> Self:
        """Loads a model with its tokenizer and its voices, from a folder or from the Hugging Face Hub.

            bark = Bark.from_pretrained("suno/bark", dtype="bfloat16")
            bark = Bark.from_pretrained("tiny")  # built in: needs no download

        A PyTorch checkpoint is converted on first use; the result is cached by repository and revision.

        Args:
          name_or_folder: a Hub id such as "suno/bark-small", a folder, or "tiny", the built-in model.
          dtype: "float32", "bfloat16", "float16" or "int8" (weights rounded to eight bits, for speed on a CPU); None
            keeps the checkpoint's dtype.
          attn_implementation: "auto" (default), "xla" or "cudnn".
          platform: "cpu", "gpu" or "tpu" to run on; None is that of JAX's default device.
          revision: a branch, tag or commit of the Hub repository; None is its default branch.
          lora: a LoRA file, whose changes are merged into the networks; None for none.
          tokenizer: a `tokenizers.Tokenizer`, or the path of a tokenizer's file or folder, for a checkpoint that has
            none; None takes the checkpoint's, or Bark's from the Hub.
          token: the Hub's access token, True for the one that is saved on this machine, None for huggingface_hub's
            default.
          cache_dir: the folder of downloads and converted models; None is HF_HOME.
          local_files_only: never connects to the Hub; a file that is not in the cache is an error.
          keep_compiled: caches compiled programs on disk for the next process. BARK_JAX_KEEP_COMPILED=0 also
            switches it off.
          decoding_copy: keeps a second copy of the semantic and coarse weights in the layout from which small batches
            decode faster; False saves its memory. See `BarkModel.from_pretrained`.
          sharding: divides parameters among devices, such as `bark_jax.tensor_parallel(mesh)`; see
            `BarkModel.from_pretrained`.

        Returns:
          The model, ready to generate.

        Raises:
          InputError: an argument has no such value.
          ModelNotFoundError: the model or its tokenizer is neither on this machine nor on the Hub.
          CheckpointError: a weight file is damaged, or is not that of a Bark.
          ConfigError: a config, the tokenizer or the word list is damaged.
          VoiceError: the list of voices is damaged.
          UnsupportedError: attn_implementation="cudnn" does not work on this machine.
          OutputError: the cache of converted models is full or not writable.
        """
        source = dict(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        # The small files first: their faults are reported before gigabytes of weights are read.
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
            sharding=sharding,
            source=Source(name_or_folder, **source),
        )
        return cls(model, processor)

    def save_pretrained(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the networks, tokenizer, word list and voices atomically, as a folder that `from_pretrained` reads.

        Suno's published voices are not copied; they stay available by name from the Hub.

        Args:
          folder: the folder to make.
          overwrite: replaces a model folder that is already there.

        Raises:
          InputError: the folder is not empty and overwrite is False, or it holds something other than a model.
          OutputError: the disk is full, or the path is not writable.
          VoiceError: a voice of the model is damaged, or its name is not usable as a file name.
          UnsupportedError: the model was loaded with dtype="int8", whose rounded weights are not saved.
        """
        with atomic_folder(folder, overwrite=overwrite) as partial:
            self.model.save_pretrained(partial)
            self.processor.save_pretrained(partial)

    def warm_up(
        self,
        rows: int | Sequence[int] = 1,
        *,
        seconds: float | Sequence[float] = 1.0,
        voice: Any = None,
        devices: Devices = None,
        **settings: Unpack[GenerateSettings],
    ) -> None:
        """Compiles the programs that `generate` will run, so that the first text does not wait for compilation.

            bark.warm_up(rows=[1, 8], seconds=[5, 14], voice="v2/en_speaker_6")

        It generates and drops clips of the given sizes. JAX compiles one program per shape: each number of rows,
        rounded up to a power of two, in every stage; each length of audio, rounded up to the fine stage's windows and
        the codec's step, in the fine stage and the codec.

        Args:
          rows: batch size (texts times candidates), one number or a list; 1 by default.
          seconds: length of audio in seconds, one number or a list; 1.0 by default. Every pair of rows and seconds is
            compiled.
          voice: the voice that `generate` will get: with one the fine stage has more windows.
          devices: the devices that `generate` will get. Numbers of rows are those of all of them together.
          settings: the settings that `generate` will get: top_k and top_p compile programs of their own.

        Raises:
          InputError: rows, seconds or a setting is out of range; before any network runs.
          VoiceError: the voice does not fit this model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
          DeviceMemoryError: a stage runs out of memory.
        """
        spaces = self.model.spaces
        voice = resolve_voice(voice, self.processor.library, spaces)
        batches = []
        for n_rows in rows if isinstance(rows, (list, tuple)) else [rows]:
            check_rows(check_count("rows", n_rows))
            for length_s in seconds if isinstance(seconds, (list, tuple)) else [seconds]:
                # No early end, so that the clip has the wanted length: lengths choose programs, and the text does not
                # matter.
                asked = settings | {"max_seconds": length_s, "allow_early_stop": False}
                batches.append(resolve_settings(asked, n_rows, self.model.generation_config, spaces))
        text = np.full(1, spaces.text_offset + 1, np.int32)
        for resolved in batches:
            keys = row_keys(0, None, len(resolved))
            batch = [Row(text, voice, *row) for row in zip(keys, resolved, strict=True)]
            self.model.generate_rows(batch, devices=devices)

    @property
    def sample_rate(self) -> int:
        """Audio samples per second: 24,000 in Bark."""
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
        devices: Devices = None,
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
        devices: Devices = None,
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
        devices: Devices = None,
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
        devices: Devices = None,
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
        devices: Devices = None,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> Clip | list[Clip] | list[list[Clip]]:
        """Generates speech for one text, or for several texts as one batch.

            clip = bark.generate("Hello [laughs]", voice="v2/en_speaker_6", seed=0)
            clips = bark.generate(["Hello.", "Bye."], voice=["v2/en_speaker_6", None], temperature=0.6)
            best = bark.generate("Hello.", best_of=8)

        Arguments are checked before any network runs. A text whose semantic stage ends at once gives an empty clip and
        an EmptyClipWarning.

        Args:
          text: a string, or a list or tuple of strings. Each must fit one prompt: at most 256 text tokens in Bark, one
            sentence in "tiny". It becomes up to about 15 s of audio. For longer texts use `generate_long`.
          voice: the name of a preset, the path of a .npz file, a `Voice`, a dict of its three arrays, or None
            (default), where the seed decides the speaker. One for all texts, or a list with one per text.
          seed: an integer from 0 to 2**64 - 1, for all texts or one per text. A clip's draws depend on its own seed
            alone, whatever else is in the batch. None draws a random seed per text; `Clip.seed` reports it.
          key: a JAX key instead of seed, or an array with one per text.
          best_of: number of candidates per text, of which the one with the highest `Clip.mean_logprob` is kept.
            Candidate 0 has the text's own seed, the others have seeds derived from it. None (default) ranks nothing.
          num_return_sequences: number of clips to keep per text. Without best_of these are the candidates in order;
            with it, the best ones, best first. None keeps one and returns it without a list.
          max_rows: batch size limit in rows (texts times candidates), 64 by default; more rows run as several
            batches. Lower it if the device runs out of memory. With devices it is the limit of each of them.
          devices: "all", or a list of devices of this process: each takes an equal share of a batch's rows, with its
            own copy of the networks, which is kept. None (default) runs on the model's own device.
          on_stage: called as `on_stage(stage)` with "semantic", "coarse", "fine" and "codec" as each starts, in every
            batch.
          on_progress: called as `on_progress(stage, n_done, n_max)` within the two long stages, which counts semantic
            tokens of the longest row ("semantic") and coarse windows ("coarse").
          settings: the settings of `GenerateSettings`, such as temperature=0.6 or max_seconds=5: one value for all
            texts, or a list with one per text. Left out, they are those of the checkpoint's generation_config.json.

        Returns:
          A `Clip` for a string, a list of them for a list of texts. With num_return_sequences each Clip becomes a list
          of Clips.

        Raises:
          InputError: a text is empty, too long or not speakable, or an argument or a setting is out of range.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
          DeviceMemoryError: a stage runs out of memory; lower max_rows.
          DeviceError: the device fails in a stage.
          BarkError: a stage computed values that are not finite.
        """
        script = self.script(text, voice, seed, key, settings)
        by_text = self.speak(
            script,
            best_of=best_of,
            num_return_sequences=num_return_sequences,
            max_rows=max_rows,
            devices=devices,
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
        devices: Devices = None,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[list[Clip]]:
        """Generates the clips of a checked `Script`, as `generate` does of texts.

        Args:
          script: texts and rows, made by `script`.
          best_of: as for `generate`.
          num_return_sequences: as for `generate`.
          max_rows: as for `generate`.
          devices: as for `generate`.
          on_stage: as for `generate`.
          on_progress: as for `generate`.

        Returns:
          A list of the kept clips for each text, also for a single text.

        Raises:
          InputError: best_of, num_return_sequences, max_rows, devices or a callback is invalid.
          DeviceMemoryError: a stage runs out of memory; lower max_rows.
        """
        n_candidates, n_kept = _check_candidates(best_of, num_return_sequences)
        how = _How(check_count("max_rows", max_rows), devices, on_stage, on_progress)
        candidates = [
            dataclasses.replace(row, key=candidate_key)
            for row in script.rows
            for candidate_key in derive_keys(row.key, CANDIDATE, n_candidates)
        ]
        candidate_texts = [text for text in script.texts for _ in range(n_candidates)]
        clips = self._speak(candidate_texts, candidates, how)
        by_text = [clips[start : start + n_candidates] for start in range(0, len(clips), n_candidates)]
        if best_of is not None:
            # Empty clips have -inf and come last; sorted is stable, so of equal clips the earlier candidate is kept.
            by_text = [sorted(takes, key=lambda clip: -clip.mean_logprob) for takes in by_text]
        by_text = [takes[:n_kept] for takes in by_text]
        # 4 levels: _warn_of_empty, speak, generate, and the caller.
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
        devices: Devices = None,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
        **settings: Unpack[GenerateSettings],
    ) -> LongClip:
        """Generates speech for a text of any length, or for a dialogue.

            bark.generate_long(open("chapter.txt").read(), voice="v2/en_speaker_6", seed=0).save("chapter.mp3")
            bark.generate_long([("v2/en_speaker_6", "How are you?"), ("v2/en_speaker_9", "Fine.")])

        The text is split into prompts at the ends of sentences, and a sentence that is too long near a clause's end;
        nothing of it is lost. Each prompt has a seed derived from `seed` and its number. To speak one again:

            s = long_clip.sentences[3]
            bark.generate(s.text, voice=s.voice, seed=s.clip.seed)  # and the same settings

        Arguments are checked before any network runs. A sentence whose semantic stage ends at once gives no audio and
        an EmptyClipWarning.

        Args:
          text: a string of up to 1,000,000 characters, or the lines of a dialogue: a list of (voice, text) pairs,
            where None stands for `voice`.
          voice: one voice, as for `generate`. With None, the first sentence that has audio becomes the voice of the
            others.
          seed: an integer from 0 to 2**64 - 1; None draws a random one. `LongClip.seed` reports it.
          voice_mode: "fixed" (default) conditions every sentence on the voice itself and runs them in batches. "carry"
            conditions each sentence on the speaker's previous one: the intonation continues, but sentences run one
            by one, which takes many times as long, and errors accumulate: after some minutes it may no longer sound
            like the voice. After an empty sentence the speaker starts again from the voice itself.
          silence_s: seconds of silence between two sentences, 0 to 60; 0.25 by default.
          max_tokens: text tokens per prompt at most, 1 to 256 in Bark. None takes what is spoken in 0.85 of the
            model's longest utterance: about 40 tokens, or 13 s, in Bark.
          language: a code such as "en" or "de", whose abbreviations do not end a sentence. None takes it from the
            preset's name, else "en". It affects the splitting alone.
          max_rows: sentences in one batch at most, 64 by default. Lower it if the device runs out of memory.
          devices: as for `generate`, in voice_mode "fixed"; sentences that run one by one keep to the first of them.
          on_stage: as for `generate`.
          on_progress: as for `generate`.
          settings: the settings of `GenerateSettings`, each one value for all sentences.

        Returns:
          A `LongClip`, the recording of all sentences with each sentence's text, voice, clip and start.

        Raises:
          InputError: a text is empty or not speakable, or an argument or a setting is out of range.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
          DeviceMemoryError: a stage runs out of memory; lower max_rows.
          DeviceError: the device fails in a stage.
          BarkError: a stage computed values that are not finite.
        """
        (base_key,) = row_keys(seed, None, 1)
        return self.speak_long(
            self.sentences(text, voice, base_key, max_tokens, language, settings),
            seed_of(base_key),
            voice_mode=voice_mode,
            silence_s=silence_s,
            max_rows=max_rows,
            devices=devices,
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
        devices: Devices = None,
        on_stage: OnStage | None = None,
        on_progress: OnProgress | None = None,
    ) -> LongClip:
        """Generates the recording of a checked `Script`, as `generate_long` does of a text.

        Args:
          script: sentences and rows, made by `sentences`.
          seed: the seed that the rows' keys derive from; it is stored in the result.
          voice_mode: as for `generate_long`.
          silence_s: as for `generate_long`.
          max_rows: as for `generate_long`.
          devices: as for `generate_long`.
          on_stage: as for `generate`.
          on_progress: as for `generate`.

        Returns:
          A `LongClip`.

        Raises:
          InputError: voice_mode, silence_s, max_rows, devices or a callback is invalid.
          DeviceMemoryError: a stage runs out of memory; lower max_rows.
        """
        check_silence(silence_s)
        how = _How(check_count("max_rows", max_rows), devices, on_stage, on_progress)
        if not isinstance(voice_mode, str) or voice_mode not in ("fixed", "carry"):
            raise InputError(f"voice_mode is {quoted(voice_mode)}, expected 'fixed' or 'carry'")
        speak = self._speak_carrying if voice_mode == "carry" else self._speak_fixed
        spoken = speak(*script, how)
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
        """Generates speech for a text of any length, or for a dialogue, and yields the audio while it is generated.

            for part in bark.stream("A long story. It has many sentences.", voice="v2/en_speaker_6"):
                play(part.samples, part.sample_rate)

        It goes sentence by sentence, as `generate_long` splits them, and within a sentence as coarse windows are done.
        Semantic tokens and coarse codes equal those of `generate_long`; fine codes differ, as they are chosen with a
        shorter look ahead. `bark_jax.generation.streaming` says what the first audio waits for. Arguments are checked
        by the call itself, before the first part is asked for.

        Args:
          text: as for `generate_long`.
          voice: as for `generate_long`.
          seed: as for `generate_long`; None draws a random one.
          silence_s: seconds of silence between two sentences, 0 to 60; 0.25 by default.
          max_tokens: as for `generate_long`.
          language: as for `generate_long`.
          first_windows: coarse windows in a sentence's first part, at least 1 (default), 0.4 s of Bark's audio each.
            More delay the first audio and give a slow machine a lead, so that playback does not run dry.
          on_stage: called as `on_stage(stage)` with "semantic" once per sentence, and with "coarse", "fine" and
            "codec" for every part.
          settings: the settings of `GenerateSettings`, each one value for all sentences.

        Returns:
          An iterator of `SpokenPart`s. Their samples, one after the other, are the audio. Nothing runs ahead of the
          caller, and dropping the iterator ends the work.

        Raises:
          InputError: a text is empty or not speakable, or an argument or a setting is out of range.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
          UnsupportedError: the model's codec looks ahead, so no audio can come before the end.
          DeviceError: while iterating: the device fails in a stage, or runs out of memory.
          BarkError: while iterating: a stage computed values that are not finite.
        """
        (base_key,) = row_keys(seed, None, 1)
        script = self.sentences(text, voice, base_key, max_tokens, language, settings)
        return self.stream_script(script, silence_s=silence_s, first_windows=first_windows, on_stage=on_stage)

    def stream_script(
        self, script: Script, *, silence_s: float = 0.25, first_windows: int = 1, on_stage: OnStage | None = None
    ) -> Iterator[SpokenPart]:
        """Generates the audio of a checked `Script` part by part, as `stream` does of a text.

        Args:
          script: sentences and rows, made by `sentences`.
          silence_s: as for `stream`.
          first_windows: as for `stream`.
          on_stage: as for `stream`.

        Returns:
          An iterator of `SpokenPart`s.

        Raises:
          InputError: silence_s, first_windows or on_stage is invalid; at once.
          UnsupportedError: the model's codec looks ahead; at once.
        """
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
        """Yields the parts of all sentences, with silence between them.

        `first` is the stream of the first row. The caller makes it, so that its arguments are checked before the first
        part is asked for: a generator function runs nothing until then.
        """
        found, n_samples = None, 0  # found: the first sentence that has audio, as the voice of rows without one
        for index, (text, row) in enumerate(zip(*script, strict=True)):
            if row.voice is None and found is not None:
                row = dataclasses.replace(row, voice=found)
            parts = first if index == 0 else start(row)
            for part in parts:
                samples = part.samples
                if n_samples and part.first_frame == 0:
                    # The silence belongs to the part that follows, so that nothing trails the last sentence, nor a
                    # sentence without audio.
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
        devices: Devices = None,
        **settings: Unpack[GenerateSettings],
    ) -> NDArray[np.int32] | list[NDArray[np.int32]]:
        """Runs the semantic stage alone; the tokens are those that `generate` draws with the same arguments.

            tokens = bark.text_to_semantic("Hello.", voice="v2/en_speaker_6", seed=0)
            codes = bark.semantic_to_codes(tokens, voice="v2/en_speaker_6", seed=0)
            bark.codes_to_audio(codes).save("hello.wav")

        Args:
          text: a string, or a list or tuple of any number of strings; each must fit one prompt, as for `generate`.
          voice: as for `generate`.
          seed: as for `generate`; None draws a random one per text.
          key: as for `generate`.
          max_rows: batch size limit of each device, 64 by default.
          devices: as for `generate`.
          settings: the settings of the semantic stage in `GenerateSettings`, with or without the prefix semantic_.

        Returns:
          Semantic tokens, int32 [S] in [0, 10,000) in Bark, 49.9 per second of audio; for several texts a list of such
          arrays. S is 0 where the stage ended at once.

        Raises:
          InputError: a text is not speakable, or an argument or a setting is out of range or of another stage.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
          UnsupportedError: devices is given for a model with `BarkModel.enable_cpu_offload`.
          DeviceMemoryError: the stage runs out of memory; lower max_rows.
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
        devices: Devices = None,
        **settings: Unpack[GenerateSettings],
    ) -> NDArray[np.int32] | list[NDArray[np.int32]]:
        """Runs the coarse and the fine stage; the codes are those that `generate` draws with the same voice and seed.

        Args:
          tokens: semantic tokens, integers [S] in [0, 10,000) in Bark, or a list or array [B, S] of such rows: from
            `text_to_semantic`, from `Clip.semantic`, or edited.
          voice: as for `generate`.
          seed: as for `generate`; None draws a random one per row.
          key: as for `generate`.
          max_rows: batch size limit of each device, 64 by default.
          devices: as for `text_to_semantic`.
          settings: the settings of the coarse and the fine stage in `GenerateSettings`.

        Returns:
          Codes, int32 [n_fine, T] in [0, 1024) in Bark, coarse codebooks first, 75 frames per second; for several rows
          a list of such arrays.

        Raises:
          InputError: tokens are not semantic tokens of this model, or an argument or a setting is out of range or of
            another stage.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
          UnsupportedError: devices is given for a model with `BarkModel.enable_cpu_offload`.
          DeviceMemoryError: a stage runs out of memory; lower max_rows.
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
        devices: Devices = None,
    ) -> list[Recording]: ...

    @overload
    def codes_to_audio(
        self, codes: Any, *, max_rows: int = MAX_ROWS, devices: Devices = None
    ) -> Recording | list[Recording]: ...

    def codes_to_audio(
        self, codes: Any, *, max_rows: int = MAX_ROWS, devices: Devices = None
    ) -> Recording | list[Recording]:
        """Decodes codes to audio with the codec.

        Args:
          codes: integers [n_fine, T] in [0, 1024) in Bark, or a list or array [B, n_fine, T] of such rows: from
            `semantic_to_codes` or from `Clip.fine`.
          max_rows: batch size limit of each device, 64 by default.
          devices: as for `text_to_semantic`.

        Returns:
          A `Recording` of T * 320 samples at 24 kHz in Bark; for several rows a list of them.

        Raises:
          InputError: codes are not codes of this model.
          UnsupportedError: devices is given for a model with `BarkModel.enable_cpu_offload`.
          DeviceMemoryError: the codec runs out of memory; lower max_rows.
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
        devices: Devices = None,
        **settings: Unpack[GenerateSettings],
    ) -> Recording | list[Recording]:
        """Runs the coarse stage, the fine stage and the codec: `semantic_to_codes`, then `codes_to_audio`.

        Args:
          tokens: semantic tokens, integers [S] or rows of them, as for `semantic_to_codes`.
          voice: as for `generate`.
          seed: as for `generate`; None draws a random one per row.
          key: as for `generate`.
          max_rows: batch size limit of each device, 64 by default.
          devices: as for `text_to_semantic`.
          settings: the settings of the coarse and the fine stage in `GenerateSettings`.

        Returns:
          A `Recording`; for several rows a list of them.

        Raises:
          InputError: as for `semantic_to_codes`.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
        """
        codes = self.semantic_to_codes(
            tokens, voice=voice, seed=seed, key=key, max_rows=max_rows, devices=devices, **settings
        )
        return self.codes_to_audio(codes, max_rows=max_rows, devices=devices)

    def voices(self, language: str | None = None) -> list[str]:
        """Lists the names that `voice` takes, such as "v2/en_speaker_6".

        Args:
          language: a code or an English name, "de" or "German"; None for all languages.

        Returns:
          The names; empty for a model without voices.

        Raises:
          InputError: not one of Bark's 13 languages.
        """
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
        """Checks a long text or a dialogue, splits it into sentences and makes a row for each, for `speak_long`.

        A row whose voice is None gets one later: the first such row that has audio.

        Args:
          text: as for `generate_long`.
          voice: as for `generate_long`.
          base_key: uint32 [2] (`generation.sampling.key_data`), from which the sentences' keys derive.
          max_tokens: as for `generate_long`.
          language: as for `generate_long`.
          settings: settings by their names in `GenerateSettings`.

        Returns:
          The sentences with their rows.

        Raises:
          InputError: a text is not speakable, or an argument or a setting is out of range.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
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
        """Checks texts and makes a row for each, for `speak`.

        Args:
          text: as for `generate`.
          voice: as for `generate`.
          seed: as for `generate`.
          key: a JAX key or an array of them, one per text, instead of seed; as for `generate`.
          settings: settings by their names in `GenerateSettings`.

        Returns:
          The texts with their rows; a row's text tokens are int32 [n_text].

        Raises:
          InputError: a text is not speakable, or an argument or a setting is out of range.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
        """
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
        """Checks texts and makes a row for each, as `script` does, given a key for each.

        Args:
          text: as for `generate`.
          voice: as for `generate`.
          keys: one key per text, uint32 [2] (`generation.sampling.key_data`).
          settings: settings by their names in `GenerateSettings`.
          is_split: True for texts that the processor's `split` made, whose sentences need no counting.

        Raises:
          InputError: a text is not speakable, or a setting is out of range.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
        """
        return self._script(self.processor.prompts(text, voice, is_split=is_split), keys, settings).rows

    def _script(self, prompts: Prompts, keys: list[np.ndarray], settings: Mapping[str, Any]) -> Script:
        spaces = self.model.spaces
        return prompts.script(keys, resolve_settings(settings, len(keys), self.model.generation_config, spaces), spaces)

    def _speak(self, texts: list[str], rows: list[Row], how: "_How") -> list[Clip]:
        """Generates the rows' clips, in batches of at most max_rows on each device."""
        clips, n_at_once = [], how.max_rows * placement_of(self.model, how.devices).n_devices
        for start in range(0, len(rows), n_at_once):
            batch = slice(start, start + n_at_once)
            timer = StageTimer(how.on_stage)
            utterances = self.model.generate_rows(rows[batch], timer, how.on_progress, how.devices)
            timer.stop()
            # Times are those of the batch: its rows run together, and each clip reports all of them.
            for text, row, utterance in zip(texts[batch], rows[batch], utterances, strict=True):
                clips.append(self._clip(text, row, utterance, timer.seconds))
        return clips

    def _speak_fixed(self, texts: list[str], rows: list[Row], how: "_How") -> list[tuple[Row, Clip]]:
        """Generates sentences with their fixed voices, in batches.

        Rows without a voice run one by one until one of them has audio; it becomes the voice of all others.

        Returns:
          Each row, with the voice that conditioned it, and its clip.
        """
        spoken: dict[int, tuple[Row, Clip]] = {}
        found = None  # that voice
        for index, row in enumerate(rows):
            if row.voice is None and found is None:
                (clip,) = self._speak([texts[index]], [row], how.on_one_device())
                spoken[index] = row, clip
                found = None if clip.is_empty else clip.as_voice()
        rest = {
            index: dataclasses.replace(row, voice=found) if row.voice is None else row
            for index, row in enumerate(rows)
            if index not in spoken
        }
        clips = self._speak([texts[index] for index in rest], list(rest.values()), how)
        spoken.update({index: (row, clip) for (index, row), clip in zip(rest.items(), clips, strict=True)})
        return [spoken[index] for index in range(len(rows))]

    def _speak_carrying(self, texts: list[str], rows: list[Row], how: "_How") -> list[tuple[Row, Clip]]:
        """Generates sentences one by one, each conditioned on the speaker's previous one.

        Returns:
          Each row, with the voice that conditioned it, and its clip.
        """
        spoken = []
        # Voices compare by value, so lines with equal voices are one speaker; None is a speaker too.
        latest: dict[Voice | None, Voice] = {}  # by the speaker's own voice: the latest sentence as a voice
        for text, first_row in zip(texts, rows, strict=True):
            row = dataclasses.replace(first_row, voice=latest.get(first_row.voice, first_row.voice))
            (clip,) = self._speak([text], [row], how.on_one_device())
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


class _How(NamedTuple):
    """Batch size and devices of a generation, and callbacks that report which stage runs and how far it is."""

    max_rows: int  # rows of a batch on each device
    devices: Devices
    on_stage: OnStage | None
    on_progress: OnProgress | None

    def on_one_device(self) -> "_How":
        """For a row that runs alone: other devices would only wait for it. None stays None."""
        return self if self.devices is None else self._replace(devices=check_devices(self.devices)[:1])


def _check_candidates(best_of: int | None, num_return_sequences: int | None) -> tuple[int, int]:
    """Returns the number of candidates per text and how many are kept. Raises InputError if more are kept than made."""
    n_kept = 1 if num_return_sequences is None else check_count("num_return_sequences", num_return_sequences)
    n_candidates = n_kept if best_of is None else check_count("best_of", best_of)
    if n_candidates < n_kept:
        raise InputError(f"best_of ({best_of}) must be at least num_return_sequences ({n_kept})")
    return n_candidates, n_kept


def _warn_of_empty(by_text: list[list[Clip]], stacklevel: int, name: str = "text") -> None:
    """Gives an EmptyClipWarning for each clip without audio, attributed to the caller of `generate`."""
    for index, takes in enumerate(by_text):
        for clip in takes:
            if clip.is_empty:
                message = (
                    f"{name}[{index}], {clip.text[:60]!r}, has no audio: with seed {clip.seed} the semantic network "
                    "ended at once. Try another seed, or min_eos_p=None."
                )
                warnings.warn(EmptyClipWarning(message), stacklevel=stacklevel)


class StageTimer:
    """An `on_stage` callback that measures each stage and calls another callback.

    Args:
      on_stage: called as each stage starts, or None.

    Raises:
      InputError: on_stage is not callable.

    Attributes:
      seconds: wall-clock seconds of each stage that has ended, by its name.
    """

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
        """Ends the measurement of the stage that runs, if one does."""
        if self._stage is not None:
            self.seconds[self._stage] = time.perf_counter() - self._started
        self._stage = None
