"""The voices that a model has by name, and everything else that a caller may name a voice by."""

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

from bark_jax.config import read_json
from bark_jax.errors import BarkError, InputError, ModelNotFoundError, VoiceError, VoiceNotFoundError, quoted
from bark_jax.files import is_inner_path
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.hub.source import Source, UnreachableError
from bark_jax.voices.files import NUMBERS, read_npy
from bark_jax.voices.voice import BARK_SPACES, PROMPT_KEYS, Voice, as_voice, check_voice

SPEAKER_EMBEDDINGS_FILE = "speaker_embeddings_path.json"
PUBLISHED_REPOSITORY = "suno/bark"

LANGUAGES = {
    "en": "English",
    "de": "German",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "zh": "Chinese",
}

# What suno/bark and suno/bark-small list in their speaker_embeddings_path.json.
PRESET_NAMES = (
    "announcer",
    *(f"{prefix}{code}_speaker_{n}" for prefix in ("", "v2/") for code in LANGUAGES for n in range(10)),
)


@dataclasses.dataclass(frozen=True)
class VoiceLibrary:
    """Voices by name. An entry maps each of PROMPT_KEYS to a .npy file of `source`; it is checked when it is used."""

    entries: Mapping[str, Any]
    source: Source | None = None
    is_own: bool = True  # the model brings these voices itself
    # Voices read so far: every look into the Hub's cache asks the Hub first.
    _read: dict[str, Voice] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def published(cls, **hub_options: Any) -> Self:
        """Suno's 261 voices. Names are known without a download; a voice is fetched from the Hub when first used."""
        source = Source(PUBLISHED_REPOSITORY, **hub_options)
        entries = {name: {key: f"speaker_embeddings/{name}_{key}.npy" for key in PROMPT_KEYS} for name in PRESET_NAMES}
        return cls(entries, source, is_own=False)

    @classmethod
    def find(cls, source: Source, path: str, spaces: TokenSpaces) -> Self:
        """A model's own voices, or Suno's if the model has none and its tokens are Bark's; else none.

        Raises:
          VoiceError: the list at `path` is damaged.
        """
        try:
            library = cls.open(source, path)
        except VoiceNotFoundError:  # a Hub model whose list is not on this machine; Suno's voices may be
            library = None
        if library is not None:
            return library
        hub_options = {name: getattr(source, name) for name in ("token", "cache_dir", "local_files_only")}
        return cls.published(**hub_options) if fits_published(spaces) else cls({})

    @classmethod
    def open(cls, source: Source, path: str = SPEAKER_EMBEDDINGS_FILE) -> Self | None:
        """The voices that a model lists in its JSON file; None where it has no such file."""
        try:
            file = source.find(path)
            return None if file is None else cls(_checked_entries(read_json(file), str(file)), source)
        except InputError as error:
            raise VoiceError(str(error)) from error
        except BarkError as error:
            kind = VoiceNotFoundError if isinstance(error, FileNotFoundError) else VoiceError
            raise kind(f"the list of voices of {source.name}: {error}") from error

    @classmethod
    def from_voices(cls, voices: Iterable[Voice]) -> Self:
        """Voices in memory, by their own names."""
        library = cls({})
        for voice in voices:
            if voice.name is None or voice.name in library:
                raise VoiceError(f"a voice is called {quoted(voice.name)}, expected names that differ")
            library.entries[voice.name] = {}
            library._read[voice.name] = voice
        return library

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """The voices of transformers' `speaker_embeddings`: as in the JSON, "repo_or_path" a folder or Hub id."""
        home = entries.get("repo_or_path") if isinstance(entries, Mapping) else None
        source = None if home is None else Source(home)
        return cls(_checked_entries(entries, "speaker_embeddings"), source)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.entries

    def names(self, language: str | None = None) -> list[str]:
        """All names, or those of a language, given as "de" or "German"."""
        if language is None:
            return list(self.entries)
        code = _language_code(language)
        return [name for name in self.entries if name.rpartition("/")[2].startswith(f"{code}_")]

    def load(self, name: str, spaces: TokenSpaces = BARK_SPACES) -> Voice:
        """The voice called `name`.

        Raises:
          VoiceNotFoundError: no voice has this name, or its files are not on this machine and cannot be fetched.
          VoiceError: its entry leads out of the model's folder, or its files are no voice of such a model.
        """
        if name not in self:
            raise self._not_found(name)
        try:
            if name not in self._read:
                arrays = {key: read_npy(self._find(name, path), NUMBERS) for key, path in self._paths(name).items()}
                self._read[name] = dataclasses.replace(Voice.from_dict(arrays, spaces=None), name=name)
            return check_voice(self._read[name], spaces)
        except VoiceError as error:
            raise VoiceError(f"voice {quoted(name)} of {self._home()}: {error}") from error

    def _paths(self, name: str) -> dict[str, str]:
        """A voice's three paths below the source."""
        entry = self.entries[name]
        if not isinstance(entry, Mapping) or any(not is_inner_path(entry.get(key)) for key in PROMPT_KEYS):
            raise VoiceError(
                f"it is listed as {quoted(entry, 200)}, expected an object that maps each of {', '.join(PROMPT_KEYS)} "
                "to a .npy file below the model's folder"
            )
        return {key: entry[key] for key in PROMPT_KEYS}

    def _find(self, name: str, path: str) -> os.PathLike:
        if self.source is None:
            raise VoiceError("speaker_embeddings lacks 'repo_or_path', the folder or Hub repository of its files")
        try:
            file = self.source.find(path)
        except InputError as error:
            raise VoiceError(str(error)) from error
        except UnreachableError as error:
            raise VoiceNotFoundError(
                f"voice {name!r} of {self._home()} is not on this machine and the Hub cannot be reached. With a "
                f"connection, run: hf download {self._home()} --include '{path.removesuffix('semantic_prompt.npy')}*'"
            ) from error
        except ModelNotFoundError as error:
            raise VoiceNotFoundError(f"voice {name!r}: {error}") from error
        if file is None:
            raise VoiceNotFoundError(f"voice {name!r}: {self._home()} lists {path} but has no such file")
        return file

    def _home(self) -> str:
        return "speaker_embeddings" if self.source is None else self.source.name

    def _not_found(self, name: Any) -> VoiceNotFoundError:
        if not self.entries:
            known = "this model has no voices of its own"
        elif isinstance(name, str) and (near := difflib.get_close_matches(name[:64], self.entries)):
            known = f"the nearest of {len(self.entries)} names: {', '.join(near)}"
        else:
            known = f"there are {len(self.entries)} names, such as {next(reversed(self.entries))!r}"
        return VoiceNotFoundError(f"no voice is called {quoted(name)}; {known}. A file's path ends in .npz.")


def resolve_voice(voice: Any, library: VoiceLibrary, spaces: TokenSpaces) -> Voice | None:
    """The voice that a caller means, checked for the model.

    Args:
      voice: None; a Voice; transformers' dict of three arrays; a name of the library; the path of a .npz file as str or
        PathLike; or the paths of three .npy files (semantic, coarse, fine).

    Raises:
      VoiceNotFoundError: no such name or file.
      VoiceError: anything that is no voice of such a model.
    """
    if voice is None:
        return None
    if isinstance(voice, (Voice, Mapping)):
        return check_voice(as_voice(voice), spaces)
    if isinstance(voice, str):
        return _named(voice, library, spaces)
    if isinstance(voice, os.PathLike):
        return Voice.load(voice, spaces)
    if isinstance(voice, (tuple, list)) and len(voice) == 3 and all(_is_npy(path) for path in voice):
        return Voice.load(voice, spaces)
    raise VoiceError(
        f"{quoted(voice)} is no voice; give a name such as 'v2/en_speaker_6', the path of a .npz file, those of three "
        f".npy files, a Voice, or a dict of {', '.join(PROMPT_KEYS)}"
    )


def language_of(voice: Voice | None) -> str:
    """The language in a preset's name, "de" for "v2/de_speaker_3"; English for any other voice."""
    code = "" if voice is None or voice.name is None else voice.name.rpartition("/")[2].partition("_")[0]
    return code if code in LANGUAGES else "en"


def fits_published(spaces: TokenSpaces) -> bool:
    """Whether a model's tokens mean what they mean in Bark, so that Suno's voices can condition it."""
    fields = ("semantic_vocab", "n_coarse", "n_fine", "codebook_size", "semantic_rate", "frame_rate")
    return all(getattr(spaces, field) == getattr(BARK_SPACES, field) for field in fields)


def _named(name: str, library: VoiceLibrary, spaces: TokenSpaces) -> Voice:
    if name in library or not name.endswith(".npz"):
        return library.load(name, spaces)
    if "://" in name:
        raise VoiceNotFoundError(f"{quoted(name)} is an address; download the file and give its path")
    return Voice.load(name, spaces)


def _is_npy(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and str(path).endswith(".npy")


def _checked_entries(entries: Any, what: str) -> dict[str, Any]:
    if not isinstance(entries, Mapping):
        raise VoiceError(f"{what} is {quoted(entries)}, expected an object that maps names to files")
    return {name: entry for name, entry in entries.items() if name != "repo_or_path"}


def _language_code(language: Any) -> str:
    for code, english_name in LANGUAGES.items():
        if isinstance(language, str) and language.lower() in (code, english_name.lower()):
            return code
    known = ", ".join(f"{code} ({name})" for code, name in LANGUAGES.items())
    raise InputError(f"{quoted(language)} is no language of Bark's; expected one of {known}")
