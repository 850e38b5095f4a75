"""Finds voices: by name in a model's list, among Suno's published ones, or by whatever else a caller gives."""

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

# The 261 voices that suno/bark and suno/bark-small list in their speaker_embeddings_path.json.
PRESET_NAMES = (
    "announcer",
    *(f"{prefix}{code}_speaker_{n}" for prefix in ("", "v2/") for code in LANGUAGES for n in range(10)),
)


@dataclasses.dataclass(frozen=True)
class VoiceLibrary:
    """Voices by name, each read and checked when it is first used.

    Attributes:
      entries: for each name, the three .npy files by PROMPT_KEYS, as paths relative to the source.
      source: the folder or Hub repository of the files; None for voices in memory.
      is_own: True if the voices are the model's own, False for Suno's published ones.
    """

    entries: Mapping[str, Any]
    source: Source | None = None
    is_own: bool = True
    # Voices read so far. Without it each use would look the files up again, which may connect to the Hub.
    _read: dict[str, Voice] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def published(cls, **hub_options: Any) -> Self:
        """Returns Suno's 261 voices. Their names need no download; a voice is downloaded when it is first used.

        Args:
          hub_options: token, cache_dir and local_files_only, as for `Source`.
        """
        source = Source(PUBLISHED_REPOSITORY, **hub_options)
        entries = {name: {key: f"speaker_embeddings/{name}_{key}.npy" for key in PROMPT_KEYS} for name in PRESET_NAMES}
        return cls(entries, source, is_own=False)

    @classmethod
    def find(cls, source: Source, path: str, spaces: TokenSpaces) -> Self:
        """Returns a model's own voices, or Suno's if it has none and its tokens are Bark's; else an empty library.

        Args:
          source: the model's folder or Hub repository.
          path: the JSON file in it that lists the voices.
          spaces: the model's token spaces.

        Raises:
          VoiceError: the list is damaged, or its path leads out of the folder.
        """
        try:
            library = cls.open(source, path)
        except VoiceNotFoundError:  # the list is not in the cache and the Hub unreachable; Suno's voices may be cached
            library = None
        if library is not None:
            return library
        hub_options = {name: getattr(source, name) for name in ("token", "cache_dir", "local_files_only")}
        return cls.published(**hub_options) if fits_published(spaces) else cls({})

    @classmethod
    def open(cls, source: Source, path: str = SPEAKER_EMBEDDINGS_FILE) -> Self | None:
        """Reads the list of a model's voices; None if it has no such file.

        Args:
          source: the model's folder or Hub repository.
          path: the JSON file in it that lists the voices.

        Raises:
          VoiceError: the list is damaged, or its path leads out of the folder.
          VoiceNotFoundError: the list is not in the cache and the Hub is unreachable.
        """
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
        """Makes a library of voices in memory, by their names. Raises VoiceError for equal or missing names."""
        library = cls({})
        for voice in voices:
            if voice.name is None or voice.name in library:
                raise VoiceError(f"a voice has the name {quoted(voice.name)}, expected a different name for each")
            library.entries[voice.name] = {}
            library._read[voice.name] = voice
        return library

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Self:
        """Makes a library from transformers' `speaker_embeddings`: the list of a JSON file, as a dict.

        Args:
          entries: names and their paths; "repo_or_path" is the folder or Hub id of the files.

        Raises:
          VoiceError: entries is no dict.
          ModelNotFoundError: "repo_or_path" is no folder and no Hub id.
        """
        home = entries.get("repo_or_path") if isinstance(entries, Mapping) else None
        source = None if home is None else Source(home)
        return cls(_checked_entries(entries, "speaker_embeddings"), source)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.entries

    def names(self, language: str | None = None) -> list[str]:
        """Lists the names, of one language ("de" or "German") or of all.

        Raises:
          InputError: not one of Bark's 13 languages.
        """
        if language is None:
            return list(self.entries)
        code = _language_code(language)
        return [name for name in self.entries if name.rpartition("/")[2].startswith(f"{code}_")]

    def load(self, name: str, spaces: TokenSpaces = BARK_SPACES) -> Voice:
        """Reads a voice by name and checks it for a model.

        Args:
          name: the name, such as "v2/en_speaker_6".
          spaces: the model's token spaces, Bark's by default.

        Raises:
          VoiceNotFoundError: no voice has this name, or its files are not in the cache and the Hub is unreachable.
          VoiceError: a path leads out of the model's folder, a file is damaged, or the voice is another model's.
        """
        if name not in self:
            raise self._not_found(name)
        try:
            if name not in self._read:
                arrays = {key: read_npy(self._find(name, path), NUMBERS) for key, path in self._paths(name).items()}
                self._read[name] = dataclasses.replace(Voice.from_dict(arrays, spaces=None), name=name)
            # Read once, but checked each time: the same voice may be asked for with another model's token spaces.
            return check_voice(self._read[name], spaces)
        except VoiceError as error:
            raise VoiceError(f"voice {quoted(name)} of {self._home()}: {error}") from error

    def is_read(self, name: str) -> bool:
        """Whether `load` needs no file for a voice any more, and so no download."""
        return name in self._read

    def _paths(self, name: str) -> dict[str, str]:
        """Returns a voice's three paths by PROMPT_KEYS. Raises VoiceError if one is missing or leads out."""
        entry = self.entries[name]
        if not isinstance(entry, Mapping) or any(not is_inner_path(entry.get(key)) for key in PROMPT_KEYS):
            raise VoiceError(
                f"it is listed as {quoted(entry, 200)}, expected an object that maps each of {', '.join(PROMPT_KEYS)} "
                "to a .npy file below the model's folder"
            )
        return {key: entry[key] for key in PROMPT_KEYS}

    def _find(self, name: str, path: str) -> os.PathLike:
        """Returns a local copy of a voice's file. Raises VoiceNotFoundError, with the remedy, if there is none."""
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
        """Returns the error for an unknown name, with the nearest known ones."""
        if not self.entries:
            known = "this model has no voices of its own"
        elif isinstance(name, str) and (near := difflib.get_close_matches(name[:64], self.entries)):
            known = f"the nearest of {len(self.entries)} names: {', '.join(near)}"
        else:
            known = f"there are {len(self.entries)} names, such as {next(reversed(self.entries))!r}"
        return VoiceNotFoundError(f"no voice is called {quoted(name)}; {known}. A file's path ends in .npz.")


def resolve_voice(voice: Any, library: VoiceLibrary, spaces: TokenSpaces) -> Voice | None:
    """Returns the voice that a caller gave in any form, checked for the model; None for None.

    Args:
      voice: None; a `Voice`; transformers' dict of three arrays; a name of the library; the path of a .npz file as str
        or PathLike; or the paths of three .npy files (semantic, coarse, fine).
      library: the voices known by name.
      spaces: the model's token spaces.

    Raises:
      VoiceNotFoundError: no voice has this name, or the file does not exist.
      VoiceError: it is none of these forms, is damaged, or belongs to another model.
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
    """Returns the language in a preset's name, "de" of "v2/de_speaker_3"; "en" for any other voice and for None."""
    code = "" if voice is None or voice.name is None else voice.name.rpartition("/")[2].partition("_")[0]
    return code if code in LANGUAGES else "en"


def fits_published(spaces: TokenSpaces) -> bool:
    """Whether a model's tokens have the meaning that they have in Bark, so that Suno's voices can condition it."""
    fields = ("semantic_vocab", "n_coarse", "n_fine", "codebook_size", "semantic_rate", "frame_rate")
    return all(getattr(spaces, field) == getattr(BARK_SPACES, field) for field in fields)


def _named(name: str, library: VoiceLibrary, spaces: TokenSpaces) -> Voice:
    """Loads a voice by a string: a name of the library, which wins, or the path of a .npz file."""
    if name in library or not name.endswith(".npz"):
        return library.load(name, spaces)
    if "://" in name:
        raise VoiceNotFoundError(f"{quoted(name)} is a URL; download the file and give its path")
    return Voice.load(name, spaces)


def _is_npy(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and str(path).endswith(".npy")


def _checked_entries(entries: Any, what: str) -> dict[str, Any]:
    """Returns a list of voices without "repo_or_path". Raises VoiceError, beginning with `what`, if it is no object."""
    if not isinstance(entries, Mapping):
        raise VoiceError(f"{what} is {quoted(entries)}, expected an object that maps names to files")
    return {name: entry for name, entry in entries.items() if name != "repo_or_path"}


def _language_code(language: Any) -> str:
    """Returns the code of a language given by code or English name. Raises InputError for another one."""
    for code, english_name in LANGUAGES.items():
        if isinstance(language, str) and language.lower() in (code, english_name.lower()):
            return code
    known = ", ".join(f"{code} ({name})" for code, name in LANGUAGES.items())
    raise InputError(f"{quoted(language)} is no language of Bark's; expected one of {known}")
