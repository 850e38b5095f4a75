"""Voices: saved (semantic, coarse, fine) triples that condition the stages.

A voice is what a stage reads before it generates: the tokens and codes of a few seconds of speech. Stages read its end:
the last n_text semantic tokens, the coarse history that goes with max_semantic_history of them, and n_fine_history
frames.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from bark_jax.errors import InputError, VoiceError
from bark_jax.folders import as_path
from bark_jax.hub import shown
from bark_jax.tokens import TokenSpaces
from bark_jax.voice_files import read_npy, read_npz, write_npz

PROMPT_KEYS = ("semantic_prompt", "coarse_prompt", "fine_prompt")  # suno's and transformers' names

BARK_SPACES = TokenSpaces()

# A voice's frames against those that go with its semantic tokens, 1.503 a token in Bark. The 271 published voices have
# 1.500 to 1.503; these bounds let through what was cut by hand or counted otherwise, not two halves of different clips.
MIN_FRAMES_RATIO = 0.5
MAX_FRAMES_RATIO = 2.0


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Voice:
    """A voice. Arrays of any integer type are taken and kept as read-only int32 copies.

    Checked here is what holds for every model; `check_voice` knows a model's vocabularies. Two voices are equal where
    their arrays are, whatever their names.

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
        n_coarse, n_frames = self.coarse.shape
        if self.fine.shape[1] != n_frames:
            raise VoiceError(
                f"the voice's coarse has {n_frames} frames, its fine {self.fine.shape[1]}; expected as many"
            )
        if self.fine.shape[0] < n_coarse or not np.array_equal(self.fine[:n_coarse], self.coarse):
            raise VoiceError(
                f"the voice's coarse differs from the first {n_coarse} rows of fine; they are the same codes, so the "
                "two arrays are of different clips"
            )

    @classmethod
    def load(
        cls, path: str | os.PathLike | Sequence[str | os.PathLike], spaces: TokenSpaces | None = BARK_SPACES
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
            arrays, what = {key: read_npy(p) for key, p in zip(PROMPT_KEYS, path, strict=True)}, str(path[0])
        else:
            raise VoiceError(f"a voice is loaded from one .npz file or three .npy files, not from {shown(path)}")
        try:
            return cls.from_dict(arrays, spaces)
        except VoiceError as error:
            raise VoiceError(f"{what}: {error}") from error

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Any], spaces: TokenSpaces | None = BARK_SPACES) -> Self:
        """Builds a voice from transformers' `history_prompt`: numpy, JAX or torch arrays under PROMPT_KEYS."""
        if not isinstance(arrays, Mapping):
            raise VoiceError(f"a voice is made of a dict of {', '.join(PROMPT_KEYS)}, not of {shown(arrays)}")
        missing = [key for key in PROMPT_KEYS if key not in arrays]
        if missing:
            raise VoiceError(
                f"the voice has no {' and no '.join(missing)}; its keys are {shown(list(arrays))}, expected "
                + ", ".join(PROMPT_KEYS)
            )
        voice = cls(*(arrays[key] for key in PROMPT_KEYS))
        return voice if spaces is None else check_voice(voice, spaces)

    def to_dict(self) -> dict[str, np.ndarray]:
        """The arrays under suno's and transformers' names."""
        return dict(zip(PROMPT_KEYS, (self.semantic, self.coarse, self.fine), strict=True))

    def save(self, path: str | os.PathLike) -> None:
        """Writes suno's .npz, whole or not at all; bark and transformers read it."""
        path = as_path(path, "the voice's file")
        if path.suffix != ".npz":
            raise InputError(f"{shown(str(path))} does not end in .npz, which voices are found by")
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} of {path.name} does not exist; make it first")
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
    raise VoiceError(f"expected a Voice or a dict of {', '.join(PROMPT_KEYS)}, got {shown(value)}")


def check_voice(voice: Voice, spaces: TokenSpaces) -> Voice:
    """The voice, if a model of these token spaces can be conditioned on it.

    Raises:
      VoiceError: a number of codebooks, a token or a length that the model does not have.
    """
    _check_below(voice.semantic, spaces.semantic_vocab, "semantic", "semantic tokens")
    for field, n_codebooks in (("coarse", spaces.n_coarse), ("fine", spaces.n_fine)):
        codes_QT = getattr(voice, field)
        if codes_QT.shape[0] != n_codebooks:
            raise VoiceError(
                f"the voice's {field} has shape {codes_QT.shape}, expected [{n_codebooks}, T]: the model has "
                f"{n_codebooks} {field} codebooks"
            )
        _check_below(codes_QT, spaces.codebook_size, field, "codes")
    n_semantic, n_frames = voice.semantic.size, voice.coarse.shape[1]
    n_matching = n_semantic * spaces.frame_rate / spaces.semantic_rate
    low, high = math.floor(MIN_FRAMES_RATIO * n_matching), math.ceil(MAX_FRAMES_RATIO * n_matching)
    if not low <= n_frames <= high:
        raise VoiceError(
            f"the voice has {n_frames} frames and {n_semantic} semantic tokens, which take about "
            f"{round(n_matching)} frames ({low} to {high} are accepted): the arrays are of different clips"
        )
    return voice


def _check_below(tokens: np.ndarray, limit: int, field: str, kind: str) -> None:
    if tokens.max() < limit:
        return
    if tokens.min() >= limit:
        raise VoiceError(f"the voice's {field} is all padding: no token is below {limit}, where {kind} end")
    place = np.unravel_index(np.argmax(tokens), tokens.shape)
    raise VoiceError(
        f"the voice's {field}[{', '.join(str(int(i)) for i in place)}] is {tokens[place]}, expected 0 to {limit - 1}; "
        "end and pad tokens are no part of a voice"
    )


def _as_tokens(value: Any, field: str, axes: str) -> np.ndarray:
    """A read-only int32 copy of an array of tokens."""
    if not hasattr(value, "__array__"):
        raise VoiceError(
            f"the voice's {field} is {shown(value)}, expected an array of integers {axes}; numpy.asarray makes one"
        )
    try:
        array = np.asarray(value)
    except Exception as error:  # such as a torch tensor on a GPU, which numpy cannot read
        raise VoiceError(f"the voice's {field} does not become a numpy array ({error}); move it to the CPU") from error
    if array.dtype.kind not in "iu":
        raise VoiceError(f"the voice's {field} holds {shown(str(array.dtype))}, expected integers")
    if array.ndim != axes.count(",") + 1 or array.size == 0:
        raise VoiceError(f"the voice's {field} has shape {array.shape}, expected {axes} with no axis empty")
    for value in (int(array.min()), int(array.max())):
        if not 0 <= value <= np.iinfo(np.int32).max:
            raise VoiceError(f"the voice's {field} holds {value}, which is no token; tokens start at 0")
    tokens = np.array(array, np.int32, order="C")
    tokens.setflags(write=False)
    return tokens
