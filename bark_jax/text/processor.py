"""`BarkProcessor`: turns texts and voices into the arguments of `BarkModel.generate`, under transformers' names.

Source: transformers 5.23, models/bark/processing_bark.py. Equal texts get equal ids. Departures: each row of a batch
may have its own voice; a text that is too long, empty or not speakable raises an error instead of being silently
truncated or dropped; a voice is checked, and a name never reads a file outside of the model's folder; arrays are numpy
or JAX.
"""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from bark_jax.checkpoints.options import (
    CONTROL_TOKEN_LISTS,
    CONTROL_TOKENS,
    PROCESSOR_IGNORED,
    PROCESSOR_REFUSED,
    check_options,
    control_tokens,
)
from bark_jax.config import GENERATION_CONFIG_FILE, BarkGenerationConfig, read_config
from bark_jax.errors import InputError, UnsupportedError, VoiceError, quoted
from bark_jax.files import as_path, creation_errors, is_inner_path, output_errors, write_atomically
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.hub.source import Source, UnreachableError
from bark_jax.text.checks import check_texts
from bark_jax.text.prompts import PromptReader, Prompts
from bark_jax.text.sentences import Line, check_lines
from bark_jax.text.tokenizer import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    find_tokenizer,
    transformers_config,
    with_control_tokens,
)
from bark_jax.text.vocabulary import WORDS_FILE, read_words
from bark_jax.voices.files import write_npy
from bark_jax.voices.library import SPEAKER_EMBEDDINGS_FILE, VoiceLibrary, language_of, resolve_voice
from bark_jax.voices.voice import BARK_SPACES, Voice


class BarkInputs(dict[str, Any]):
    """The result of `BarkProcessor`: arguments of `BarkModel.generate`, a dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the inputs have no {name!r}; they have {', '.join(self)}") from None


class BarkProcessor(PromptReader):
    """Tokenizes texts and finds voices by name, with the API of transformers' `BarkProcessor`.

        processor = BarkProcessor.from_pretrained("suno/bark-small")
        inputs = processor(["Hello.", "Bye."], voice_preset="v2/en_speaker_6")
        audio = model.generate(**inputs, seed=0)

    Args:
      tokenizer: a `tokenizers.Tokenizer`, a tokenizer of transformers, or the path of a tokenizer's file or folder.
      speaker_embeddings: the voices known by name: a `VoiceLibrary`, or transformers' dict of names and paths, whose
        "repo_or_path" is the folder or Hub repository of the files. None for no voices.
      spaces: the model's token spaces, which say how many text tokens fit a prompt and which voices fit the model;
        Bark's by default.
      words: all words that the model knows, in lower case; for others an UnknownWordsWarning is given. None for a
        model that reads any word, as Bark does.
      max_sentences: sentences per prompt at most; None for no limit.

    Raises:
      InputError: tokenizer is no tokenizer, or max_sentences is no count.
      ModelNotFoundError: the tokenizer's file does not exist.
      ConfigError: the tokenizer is damaged, or has more tokens than the model.
      VoiceError: speaker_embeddings is neither a library nor a dict.
    """

    def __init__(
        self,
        tokenizer: Any,
        speaker_embeddings: VoiceLibrary | Mapping[str, Any] | None = None,
        *,
        spaces: TokenSpaces = BARK_SPACES,
        words: Collection[str] | None = None,
        max_sentences: int | None = None,
    ):
        super().__init__(tokenizer, spaces, words, max_sentences)
        if speaker_embeddings is None:
            speaker_embeddings = VoiceLibrary({})
        is_library = isinstance(speaker_embeddings, VoiceLibrary)
        self.library = speaker_embeddings if is_library else VoiceLibrary.from_dict(speaker_embeddings)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_processor_name_or_path: str | os.PathLike[str] | None = None,
        speaker_embeddings_dict_path: str | None = SPEAKER_EMBEDDINGS_FILE,
        *,
        pretrained_model_name_or_path: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
        spaces: TokenSpaces | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        **options: Any,
    ) -> Self:
        """Loads a model's tokenizer and the list of its voices; a voice itself is read when it is first used.

        A model without voices gets Suno's 261 published ones, by name from the Hub, if its tokens are Bark's. A model
        without a tokenizer gets Bark's, from the Hub.

        Args:
          pretrained_processor_name_or_path: a Hub id such as "suno/bark-small", a folder, or "tiny".
          speaker_embeddings_dict_path: the JSON file of the model that lists its voices; None for no voices.
          pretrained_model_name_or_path: the same as pretrained_processor_name_or_path, under AutoProcessor's name for
            it; give one of the two.
          revision: a branch, tag or commit of the Hub repository; None is its default branch.
          tokenizer: a `tokenizers.Tokenizer`, or the path of its file or folder; None is the model's own.
          spaces: the model's token spaces; None reads them from its generation_config.json.
          token: the Hub's access token, True for the one that is saved on this machine, None for huggingface_hub's
            default.
          cache_dir: the folder of downloads; None is HF_HOME.
          local_files_only: never connects to the Hub; a file that is not in the cache is an error.
          force_download: downloads again what is in the cache.
          options: bos_token, eos_token, sep_token, cls_token, mask_token or additional_special_tokens: control tokens,
            which are added to the tokenizer if it lacks them, and which no text may contain. Other arguments of
            transformers' method are ignored or refused; see `checkpoints.options`.

        Returns:
          The processor.

        Raises:
          InputError: an argument is unknown, has no such value, or would have no effect here.
          ModelNotFoundError: the model or its tokenizer is neither on this machine nor on the Hub.
          ConfigError: a config, the tokenizer or the word list is damaged.
          VoiceError: the list of voices is damaged.
        """
        name = _only_name(pretrained_processor_name_or_path, pretrained_model_name_or_path)
        control = {key: options.pop(key) for key in (*CONTROL_TOKENS, *CONTROL_TOKEN_LISTS) if key in options}
        check_options(options, cls.from_pretrained, PROCESSOR_IGNORED, PROCESSOR_REFUSED, CONTROL_TOKENS)
        hub_options = dict(token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        source = Source(name, revision=revision, force_download=force_download, **hub_options)
        config = _find_config(source)
        if spaces is None:
            spaces = BARK_SPACES if config is None else TokenSpaces.from_config(config)
        library = VoiceLibrary({})
        if speaker_embeddings_dict_path is not None:
            library = VoiceLibrary.find(source, speaker_embeddings_dict_path, spaces)
        tokenizer = find_tokenizer(source) if tokenizer is None else tokenizer
        tokenizer = with_control_tokens(tokenizer, control_tokens(control))
        max_sentences = None if config is None else config.sentences_per_prompt
        return cls(tokenizer, library, spaces=spaces, words=read_words(source), max_sentences=max_sentences)

    @property
    def speaker_embeddings(self) -> dict[str, Any] | None:
        """The voices known by name, as transformers' dict of names and paths; None if there are none."""
        if not self.library.entries:
            return None
        home = {} if self.library.source is None else {"repo_or_path": self.library.source.name}
        return {**home, **self.library.entries}

    @property
    def available_voice_presets(self) -> list[str]:
        """The names that `voice_preset` takes, such as "v2/en_speaker_6"."""
        return self.library.names()

    def voices(self, language: str | None = None) -> list[str]:
        """Lists the names that `voice_preset` takes.

        Args:
          language: a code or an English name, "de" or "German"; None for all languages.

        Raises:
          InputError: not one of Bark's 13 languages.
        """
        return self.library.names(language)

    def __call__(
        self,
        text: str | list[str] | tuple[str, ...],
        voice_preset: Any = None,
        return_tensors: str | None = "np",
        max_length: int | None = None,
        add_special_tokens: bool = False,
        return_attention_mask: bool = True,
        return_token_type_ids: bool = False,
        *,
        truncation: bool = False,
        padding: bool | str = "max_length",
        is_split: bool = False,
    ) -> BarkInputs:
        """Tokenizes one text, or several as one batch, and finds their voices.

            inputs = processor("Hello [laughs]", voice_preset="v2/en_speaker_6")
            inputs.input_ids.shape  # (1, 256)

        A cue such as [laughs] is text like any other. A control token of the tokenizer, such as [MASK], raises
        InputError: Suno's and transformers' code would pass it on as the control token, on which Bark was not trained.

        Args:
          text: a string, or a list or tuple of strings.
          voice_preset: a name, the path of a .npz file, the paths of three .npy files, a `Voice`, or a dict of its
            three arrays; None for no voice. One for all texts or, for a list of texts, a list with one per text.
          return_tensors: "np" (default) or None for numpy arrays, "jax" for JAX arrays.
          max_length: columns of the arrays, and tokens per text at most: 1 to spaces.n_text, which None stands for, 256
            in Bark. The model pads to spaces.n_text itself, so a smaller number gives the same audio.
          add_special_tokens: must be False; Bark reads text without [CLS] and [SEP].
          return_attention_mask: False leaves out attention_mask.
          return_token_type_ids: True adds token_type_ids, all zeros, which BERT reads and Bark does not.
          truncation: True truncates a text that is too long, with a TextCutWarning, instead of raising InputError.
          padding: "max_length" (default), or "longest" or True for as many columns as the longest text has tokens.
          is_split: True for texts that `split` made. Their sentences are not counted again, as a part of a sentence may
            look like several.

        Returns:
          A `BarkInputs` of input_ids and attention_mask, int32 [B, max_length], padded on the right and, if there is a
          voice, of history_prompt, a `Voice` or a list with one or None per text.

        Raises:
          InputError: a text is empty, not speakable or too long for one prompt, or an argument has no such value.
          ConfigError: the tokenizer cannot read the text; a sound one reads any.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
          UnsupportedError: return_tensors is "pt", "tf" or "mlx".
        """
        if add_special_tokens:
            raise InputError("add_special_tokens is true, expected false: Bark reads text without [CLS] and [SEP]")
        if not isinstance(truncation, bool):
            raise InputError(f"truncation is {quoted(truncation)}, expected true or false")
        to_array = _array_maker(return_tensors)
        max_length = self._check_max_length(max_length)
        texts = check_texts(text)
        _, rows = self._read(texts, _names(text), max_length, truncation=truncation, is_split=is_split)
        width = _width(padding, rows, max_length)
        arrays = {"input_ids": _padded(rows, width, self._pad_id)}
        if return_token_type_ids:
            arrays["token_type_ids"] = np.zeros((len(rows), width), np.int32)
        if return_attention_mask:
            arrays["attention_mask"] = _padded([[1] * len(ids) for ids in rows], width, 0)
        inputs = BarkInputs({name: to_array(array) for name, array in arrays.items()})
        if voice_preset is not None:
            inputs["history_prompt"] = self._voices(voice_preset, text)
        return inputs

    def prompts(self, text: str | list[str], voice: Any = None, *, is_split: bool = False) -> Prompts:
        """Checks and tokenizes texts and finds their voices, without making arrays of them.

        Args:
          text: as for a call of the processor.
          voice: as voice_preset of a call of the processor.
          is_split: as for a call of the processor.

        Returns:
          The texts with their token ids and voices.

        Raises:
          InputError: a text is empty, not speakable or too long for one prompt.
          ConfigError: the tokenizer cannot read the text.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
        """
        checked = check_texts(text)
        texts, ids = self._read(checked, _names(text), self.spaces.n_text, is_split=is_split)
        voices = self._voices(voice, text)
        return Prompts(texts, ids, voices if isinstance(voices, list) else [voices] * len(texts))

    def sentences(
        self, text: str | list[Line], voice: Any = None, *, max_tokens: int | None = None, language: str | None = None
    ) -> Prompts:
        """Splits a text of any length, or a dialogue, into prompts, and finds the voice of each.

        Args:
          text: a string, or the lines of a dialogue: (voice, text) pairs, where None stands for `voice`.
          voice: one voice, as voice_preset of a call of the processor.
          max_tokens: as for `split`.
          language: as for `split`; None takes it from the name of a line's preset, else "en".

        Returns:
          The sentences with their token ids and voices.

        Raises:
          InputError: a text is empty or not speakable, or an argument has no such value.
          ConfigError: the tokenizer cannot read the text.
          VoiceError: a voice is damaged or belongs to another model.
          VoiceNotFoundError: no voice has this name, or the file does not exist.
        """
        texts, voices = [], []
        for line_voice, line in check_lines(text, voice):
            found = resolve_voice(line_voice, self.library, self.spaces)
            pieces = self.split(line, max_tokens=max_tokens, language=language or language_of(found))
            texts += pieces
            voices += [found] * len(pieces)
        texts, ids = self._read(check_texts(texts), _names(texts), self.spaces.n_text, is_split=True)
        return Prompts(texts, ids, voices)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        speaker_embeddings_dict_path: str = SPEAKER_EMBEDDINGS_FILE,
        speaker_embeddings_directory: str = "speaker_embeddings",
    ) -> None:
        """Writes the tokenizer and the voices into a folder, as this class and transformers' BarkProcessor read them.

        Each file is written atomically, and none before all voices have been read and checked. Suno's published voices
        are not copied.

        Args:
          save_directory: the folder; it is made if it does not exist.
          speaker_embeddings_dict_path: the JSON file below it that lists the voices.
          speaker_embeddings_directory: the folder below it for the voices' .npy files.

        Raises:
          InputError: save_directory is a file, or one of the other paths is not below it.
          VoiceError: a voice is damaged, or its name is not usable as a file name.
          VoiceNotFoundError: a voice's file is neither on this machine nor on the Hub.
          OutputError: the disk is full, or the path is not writable.
        """
        for path in (speaker_embeddings_dict_path, speaker_embeddings_directory):
            if not is_inner_path(path):
                raise InputError(f"{quoted(path)} is no path below {save_directory}; give a relative one without '..'")
        names = self.available_voice_presets if self.library.is_own else []
        for name in names:
            if not is_inner_path(name) or name != name.strip():
                raise VoiceError(f"{quoted(name)} is no name for a voice's file: it has to stay below {save_directory}")
        voices = [self.library.load(name, self.spaces) for name in names]
        folder = as_path(save_directory, "the folder to make")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{save_directory} is a file; give the name of a folder to make")
        with output_errors(folder):
            self._write(folder, voices, speaker_embeddings_dict_path, speaker_embeddings_directory)

    def _write(self, folder: Path, voices: list[Voice], list_path: str, directory: str) -> None:
        with creation_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / TOKENIZER_FILE, self.tokenizer.to_str(pretty=True).encode())
        _write_json(folder / TOKENIZER_CONFIG_FILE, transformers_config(self.tokenizer))
        if self.words is not None:
            write_atomically(folder / WORDS_FILE, ("\n".join(sorted(self.words)) + "\n").encode())
        if not voices:
            return
        entries = {voice.name: _save_arrays(voice, folder, directory) for voice in voices}
        # "." makes both readers look for the files beside the list, so the folder may be moved.
        _write_json(folder / list_path, {"repo_or_path": ".", **entries})

    def _check_max_length(self, max_length: Any) -> int:
        n_text = self.spaces.n_text
        if max_length is None:
            return n_text
        if isinstance(max_length, bool) or not isinstance(max_length, (int, np.integer)):
            raise InputError(f"max_length is {quoted(max_length)}, expected an integer from 1 to {n_text}")
        if not 1 <= max_length <= n_text:
            raise InputError(
                f"max_length is {quoted(max_length)}, expected 1 to the {n_text} text tokens that the model reads"
            )
        return int(max_length)

    def _voices(self, voice_preset: Any, text: str | list[str] | tuple[str, ...]) -> Voice | list[Voice | None]:
        if isinstance(text, str) or not isinstance(voice_preset, list):
            return resolve_voice(voice_preset, self.library, self.spaces)
        if len(voice_preset) != len(text):
            raise InputError(f"voice_preset has {len(voice_preset)} voices for {len(text)} texts; give one a text")
        return [resolve_voice(each, self.library, self.spaces) for each in voice_preset]


def _names(text: str | list[str]) -> list[str]:
    """Returns the name of each text in messages."""
    return ["text"] if isinstance(text, str) else [f"text[{row}]" for row in range(len(text))]


def _only_name(processor_name: Any, model_name: Any) -> Any:
    """Returns the one name that was given. Raises InputError if it is none or both."""
    if (processor_name is None) == (model_name is None):
        raise InputError(
            "give one of pretrained_processor_name_or_path and pretrained_model_name_or_path, a folder or a Hub id"
        )
    return model_name if processor_name is None else processor_name


def _find_config(source: Source) -> BarkGenerationConfig | None:
    """Reads a model's generation config; None if it has none, or if it is not in the cache and the Hub unreachable."""
    try:
        file = source.find(GENERATION_CONFIG_FILE)
    except UnreachableError:
        file = None
    return None if file is None else read_config(file, BarkGenerationConfig)


def _array_maker(return_tensors: str | None) -> Any:
    """Returns the function that makes arrays of this kind. Raises UnsupportedError for another framework's."""
    if return_tensors in (None, "np"):
        return np.asarray
    if return_tensors == "jax":
        import jax.numpy as jnp

        return jnp.asarray
    if return_tensors in ("pt", "tf", "mlx"):
        raise UnsupportedError(
            f"return_tensors is {return_tensors!r}; this package makes 'np' and 'jax' arrays. Leave it out: "
            "BarkModel.generate takes the numpy arrays."
        )
    raise InputError(f"return_tensors is {quoted(return_tensors)}, expected 'np', 'jax' or None")


def _width(padding: bool | str, rows: list[list[int]], max_length: int) -> int:
    """Returns the number of columns. Raises InputError for another kind of padding."""
    if isinstance(padding, str) and padding == "max_length":
        return max_length
    if padding is True or (isinstance(padding, str) and padding == "longest"):
        return max(len(ids) for ids in rows)
    raise InputError(f"padding is {quoted(padding)}, expected 'max_length' or 'longest': rows are of one length")


def _padded(rows: list[list[int]], width: int, value: int) -> np.ndarray:
    """Returns an array of the rows, int32 [B, width], padded on the right."""
    array = np.full((len(rows), width), value, np.int32)
    for row, ids in enumerate(rows):
        array[row, : len(ids)] = ids
    return array


def _save_arrays(voice: Voice, folder: Path, directory: str) -> dict[str, str]:
    """Writes a voice's three .npy files. Returns their paths relative to the folder, by name of the array."""
    paths = {key: f"{directory}/{voice.name}_{key}.npy" for key in voice.to_dict()}
    for key, array in voice.to_dict().items():
        (folder / paths[key]).parent.mkdir(parents=True, exist_ok=True)
        write_npy(folder / paths[key], array)
    return paths


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
