"""Voices: saved (semantic, coarse, fine) triples that condition the stages.

A voice is what a stage reads before it generates: the tokens and codes of a few seconds of speech. Stages read its end:
the last n_text semantic tokens, the coarse history that goes with max_semantic_history of them, and n_fine_history
frames.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any, Self

import numpy as np

from bark_jax.errors import BarkWarning, InputError, VoiceError, quoted
from bark_jax.files import as_path
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.voices.files import NUMBERS, read_npy, read_npz, write_npz

PROMPT_KEYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")  # suno's and transformers' names

BARK_SPACES = TokenSpaces()

# A voice's frames against those that go with its semantic tokens, 1.503 a token in Bark. The 271 published voices have
# 1.500 to 1.503; within these bounds is what was cut by hand or counted otherwise, beyond them are two different clips.
MIN_FRAMES_RATIO = 0.5
MAX_FRAMES_RATIO = 2.0


class OddVoiceWarning(BarkWarning):
    """A voice conditions the stages, but its three arrays do not belong together: it may sound odd."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Voice:
    """A voice. Arrays of whole numbers of any type are taken and kept as read-only int32 copies.

    The arrays can also be read as those of transformers' `history_prompt`, by PROMPT_KEYS: voice["semantic_prompt"].

    Checked here is what holds for every model; `check_voice` knows a model's vocabularies. Two voices are equal where
    their arrays are, whatever their names.

    Each stage reads an array of its own, so coarse may have more or fewer frames than fine, and other codes.

    Raises:
      VoiceError: naming the array, its value and what was expected.
    """

    semantic: np.ndarray  # [S] semantic tokens
    coarse: np.ndarray  # [n_coarse, T] codes of the first codebooks
    fine: np.ndarray  # [n_fine, T] codes of all codebooks, the coarse ones first
    name: str | None = None

    def __post_init__(self):
        for field, axes in (("semantic", "[S]"), ("coarse", "[n_coarse, T]"), ("fine", "[n_fine, T]")):
            object.__setattr__(self, field, _as_tokens(getattr(self, field), field, axes))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], spaces: TokenSpaces | None = BARK_SPACES
    ) -> Self:
        """Reads a voice.

        Args:
          path: suno's .npz of semantic_prompt, coarse_prompt and fine_prompt, or three .npy files in this order.
          spaces: those of the model it is for; None leaves out `check_voice`.

        Raises:
          VoiceNotFoundError: there is no such file.
          VoiceError: it is damaged, hostile, or no voice of such a model.
        """
        if isinstance(path, (str, os.PathLike)):
            arrays, what = read_npz(path, PROMPT_KEYS), str(path)
        elif isinstance(path, Sequence) and len(path) == 3 and all(isinstance(p, (str, os.PathLike)) for p in path):
            arrays = {key: read_npy(each, NUMBERS) for key, each in zip(PROMPT_KEYS, path, strict=True)}
            what = str(path[0])
        else:
            raise VoiceError(f"a voice is loaded from one .npz file or three .npy files, not from {quoted(path)}")
        try:
            voice = cls.from_dict(arrays, spaces=None)
            return voice if spaces is None else check_voice(voice, spaces, f"the voice {what}")
        except VoiceError as error:
            raise VoiceError(f"{what}: {error}") from error

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Any], spaces: TokenSpaces | None = BARK_SPACES) -> Self:
        """Builds a voice from transformers' `history_prompt`: numpy, JAX or torch arrays under PROMPT_KEYS."""
        if not isinstance(arrays, Mapping):
            raise VoiceError(f"a voice is made of a dict of {', '.join(PROMPT_KEYS)}, not of {quoted(arrays)}")
        missing = [key for key in PROMPT_KEYS if key not in arrays]
        if missing:
            raise VoiceError(
                f"the voice has no {' and no '.join(missing)}; its keys are {quoted(list(arrays))}, expected "
                + ", ".join(PROMPT_KEYS)
            )
        voice = cls(*(arrays[key] for key in PROMPT_KEYS))
        return voice if spaces is None else check_voice(voice, spaces)

    def to_dict(self) -> dict[str, np.ndarray]:
        """The arrays under suno's and transformers' names."""
        return dict(zip(PROMPT_KEYS, (self.semantic, self.coarse, self.fine), strict=True))

    def __getitem__(self, key: str) -> np.ndarray:
        """The array under one of PROMPT_KEYS. Raises KeyError for any other."""
        return self.to_dict()[key]

    def __contains__(self, key: object) -> bool:
        return key in PROMPT_KEYS

    def __iter__(self) -> Iterator[str]:
        return iter(PROMPT_KEYS)

    def __len__(self) -> int:
        return len(PROMPT_KEYS)

    def keys(self) -> KeysView[str]:
        """PROMPT_KEYS."""
        return self.to_dict().keys()

    def values(self) -> ValuesView[np.ndarray]:
        """The arrays, in the order of PROMPT_KEYS."""
        return self.to_dict().values()

    def items(self) -> ItemsView[str, np.ndarray]:
        """The arrays under PROMPT_KEYS."""
        return self.to_dict().items()

    def get(self, key: str, default: Any = None) -> Any:
        """The array under one of PROMPT_KEYS, or `default` for any other key."""
        return self.to_dict().get(key, default)

    def save(self, path: str | os.PathLike[str], spaces: TokenSpaces | None = BARK_SPACES) -> None:
        """Writes suno's .npz, whole or not at all; bark and transformers read it.

        Args:
          spaces: those of the model it is for; None also writes a voice that suno's code does not take.

        Raises:
          VoiceError: suno's code would not take the voice.
          InputError, OutputError: no file can be written there.
        """
        path = as_path(path, "the voice's file")
        if path.suffix != ".npz":
            raise InputError(f"{quoted(str(path))} does not end in .npz, which voices are found by")
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} of {path.name} does not exist; make it first")
        if spaces is not None:
            _check_for_suno(self, spaces)
        write_npz(path, self.to_dict())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Voice):
            return NotImplemented
        mine, theirs = self.to_dict(), other.to_dict()
        return all(np.array_equal(mine[key], theirs[key]) for key in PROMPT_KEYS)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a voice that was pickled or deep-copied: numpy makes arrays that can be written."""
        for field, value in state.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, field, value)

    def __hash__(self) -> int:
        return hash((self.semantic.tobytes(), self.fine.tobytes()))

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}, "
        return f"Voice({name}{self.semantic.size} semantic tokens, {self.fine.shape[0]} x {self.fine.shape[1]} codes)"


def as_voice(value: Voice | Mapping[str, Any]) -> Voice:
    """A voice from a Voice or from transformers' dict of three arrays, not yet checked against a model."""
    if isinstance(value, Voice):
        return value
    if isinstance(value, Mapping):
        return Voice.from_dict(value, spaces=None)
    raise VoiceError(f"expected a Voice or a dict of {', '.join(PROMPT_KEYS)}, got {quoted(value)}")


def check_voice(voice: Voice, spaces: TokenSpaces, called: str | None = None) -> Voice:
    """The voice, if a model of these token spaces can be conditioned on it; with an OddVoiceWarning if it is odd.

    Args:
      called: what the warning calls it, instead of by its name.

    Raises:
      VoiceError: a number of codebooks or a token that the model does not have.
    """
    _check_tokens(voice, spaces)
    if oddities := _oddities(voice, spaces):
        called = called or ("a voice" if voice.name is None else f"the voice {quoted(voice.name)}")
        warnings.warn(
            OddVoiceWarning(f"{called} may sound odd, as its arrays are of different clips: {'; '.join(oddities)}"),
            stacklevel=3,
        )
    return voice


def _check_tokens(voice: Voice, spaces: TokenSpaces) -> None:
    _check_below(voice.semantic, spaces.semantic_vocab, "semantic", "semantic tokens")
    for field, n_codebooks in (("coarse", spaces.n_coarse), ("fine", spaces.n_fine)):
        codes_QT = getattr(voice, field)
        if codes_QT.shape[0] != n_codebooks:
            raise VoiceError(
                f"the voice's {field} has shape {codes_QT.shape}, expected [{n_codebooks}, T]: the model has "
                f"{n_codebooks} {field} codebooks, and the voice is another model's or damaged"
            )
        _check_below(codes_QT, spaces.codebook_size, field, "codes")


def _oddities(voice: Voice, spaces: TokenSpaces) -> list[str]:
    """What suno's or transformers' code takes without a word, though no clip gives such a voice."""
    oddities = []
    n_coarse, n_frames = voice.coarse.shape
    if voice.fine.shape[1] != n_frames:
        oddities.append(f"its coarse has {n_frames} frames, its fine {voice.fine.shape[1]}")
    elif not np.array_equal(voice.fine[:n_coarse], voice.coarse):
        oddities.append(
            f"its coarse differs from the first {n_coarse} rows of fine, which are the same codes in a clip"
        )
    n_semantic = voice.semantic.size
    n_matching = n_semantic * spaces.frame_rate / spaces.semantic_rate
    if not math.floor(MIN_FRAMES_RATIO * n_matching) <= n_frames <= math.ceil(MAX_FRAMES_RATIO * n_matching):
        oddities.append(
            f"it has {n_frames} frames and {n_semantic} semantic tokens, which take about {round(n_matching)} frames"
        )
    return oddities


def _check_for_suno(voice: Voice, spaces: TokenSpaces) -> None:
    """Raises VoiceError where an assertion of suno's code would fail on the voice.

    Source: suno-ai/bark, bark/generation.py, `generate_text_semantic`, `generate_coarse` and `generate_fine`.
    """
    try:
        _check_tokens(voice, spaces)
    except VoiceError as error:
        raise VoiceError(f"Suno's code would not take this voice, so it is not saved: {error}") from error
    n_semantic, n_frames = voice.semantic.size, voice.coarse.shape[1]
    ratio, expected = n_frames / n_semantic, float(spaces.frame_rate / spaces.semantic_rate)
    if round(ratio, 1) != round(expected, 1):
        raise VoiceError(
            f"Suno's code would not take this voice, so it is not saved: it has {n_frames} frames and {n_semantic} "
            f"semantic tokens, {ratio:.2f} frames a token, expected {round(expected, 1)} when rounded. Cut the longer "
            "of the two, or save it with spaces=None for transformers and for this project"
        )


def _check_below(tokens: np.ndarray, limit: int, field: str, kind: str) -> None:
    """Raises VoiceError where a token is not below `limit`: of another model, where there are several of them."""
    if tokens.max() < limit:
        return
    place = np.unravel_index(np.argmax(tokens), tokens.shape)
    first = (
        f"the voice's {field}[{', '.join(str(int(i)) for i in place)}] is {tokens[place]}, expected 0 to {limit - 1}"
    )
    if np.unique(tokens[tokens >= limit]).size > 1:
        raise VoiceError(
            f"{first}: this voice has {kind} up to {tokens.max():,} and the model knows {limit:,}: it is another "
            "model's"
        )
    if tokens.min() >= limit:
        raise VoiceError(f"the voice's {field} is all padding: no token is below {limit}, where {kind} end")
    raise VoiceError(f"{first}; end and pad tokens are no part of a voice")


def _as_tokens(value: Any, field: str, axes: str) -> np.ndarray:
    """A read-only int32 copy of an array of tokens."""
    if not hasattr(value, "__array__"):
        raise VoiceError(
            f"the voice's {field} is {quoted(value)}, expected an array of integers {axes}; numpy.asarray makes one"
        )
    try:
        array = np.asarray(value)
    except Exception as error:  # such as a torch tensor on a GPU, which numpy cannot read
        raise VoiceError(f"the voice's {field} does not become a numpy array ({error}); move it to the CPU") from error
    if array.dtype.kind not in NUMBERS:
        raise VoiceError(f"the voice's {field} holds {quoted(str(array.dtype))}, expected integers")
    if array.dtype.kind == "f" and not (array == np.rint(array)).all():
        wrong = array[array != np.rint(array)][0]
        raise VoiceError(f"the voice's {field} holds {wrong} in {array.dtype}, expected whole numbers")
    if array.ndim != axes.count(",") + 1 or array.size == 0:
        raise VoiceError(f"the voice's {field} has shape {array.shape}, expected {axes} with no axis empty")
    for value in (array.min().item(), array.max().item()):
        if not 0 <= value <= np.iinfo(np.int32).max:
            raise VoiceError(f"the voice's {field} holds {value}, which is no token; tokens start at 0")
    tokens = np.array(array, np.int32, order="C")
    tokens.setflags(write=False)
    return tokens
