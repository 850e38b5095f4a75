"""`Voice`: a saved (semantic, coarse, fine) triple that conditions the stages; suno's name is history prompt.

A voice has the tokens and codes of a few seconds of speech, which each stage reads before it generates. A stage reads
the end of it: the last n_text semantic tokens (256 in Bark), the coarse codes that go with max_semantic_history of
them, and the last n_fine_history frames (512 in Bark).
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

# Bounds on a voice's frames, as a multiple of the frames that its semantic tokens stand for: 1.503 per token in Bark.
# The 271 published voices have 1.500 to 1.503 frames per token. A voice that was cut by hand stays within the bounds;
# beyond them the arrays come from two different clips.
MIN_FRAMES_RATIO = 0.5
MAX_FRAMES_RATIO = 2.0


class OddVoiceWarning(BarkWarning):
    """The three arrays of a voice do not belong together: it is used, but may sound odd."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Voice:
    """A speaker's voice: tokens and codes of a few seconds of speech, which condition all stages.

        voice = bark.generate("Hello.", seed=3).as_voice()
        voice.save("ana.npz")
        bark.generate("Bye.", voice=bark_jax.Voice.load("ana.npz"))  # or voice="ana.npz"

    Arrays of integers, or of floats that are whole numbers, of numpy, JAX or torch become read-only int32 copies. Only
    what holds for any model is checked here; `Voice.load`, `Bark` and `BarkModel` also check a voice against the
    vocabularies of a model. Two voices are equal if their arrays are, whatever their names. A voice can also be read as
    transformers' dict: voice["semantic_prompt"], "coarse_prompt" and "fine_prompt".

    Attributes:
      semantic: semantic tokens, int32 [S].
      coarse: codes of the first codebooks, int32 [n_coarse, T]; normally the first rows of fine. Each stage reads an
        array of its own, so a difference is possible; it gives an OddVoiceWarning.
      fine: codes of all codebooks, int32 [n_fine, T], coarse codebooks first.
      name: the name in a model's list of voices, or None.

    Raises:
      VoiceError: an array has a wrong shape or dtype, is empty, or has negative or fractional numbers.
    """

    semantic: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray
    name: str | None = None

    def __post_init__(self):
        for field, axes in (("semantic", "[S]"), ("coarse", "[n_coarse, T]"), ("fine", "[n_fine, T]")):
            object.__setattr__(self, field, _as_tokens(getattr(self, field), field, axes))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], spaces: TokenSpaces | None = BARK_SPACES
    ) -> Self:
        """Reads a voice from a .npz file, or from three .npy files. Nothing is unpickled, so files may be untrusted.

        Args:
          path: suno's .npz file of semantic_prompt, coarse_prompt and fine_prompt, or a list of three .npy files in
            this order.
          spaces: the token spaces of the model that the voice is for, Bark's by default; None checks it for no model.

        Returns:
          The voice, without a name.

        Raises:
          VoiceNotFoundError: there is no such file, or it cannot be read.
          VoiceError: a file is damaged or too large, or the voice belongs to another model.
        """
        if isinstance(path, (str, os.PathLike)):
            arrays, what = read_npz(path, PROMPT_KEYS), str(path)
        elif isinstance(path, Sequence) and len(path) == 3 and all(isinstance(p, (str, os.PathLike)) for p in path):
            arrays = {key: read_npy(each, NUMBERS) for key, each in zip(PROMPT_KEYS, path, strict=True)}
            what = str(path[0])
        else:
            raise VoiceError(f"the voice's path is {quoted(path)}, expected that of a .npz file or of three .npy files")
        try:
            voice = cls.from_dict(arrays, spaces=None)
            return voice if spaces is None else check_voice(voice, spaces, f"the voice {what}")
        except VoiceError as error:
            raise VoiceError(f"{what}: {error}") from error

    @classmethod
    def from_dict(cls, arrays: Mapping[str, Any], spaces: TokenSpaces | None = BARK_SPACES) -> Self:
        """Makes a voice of transformers' dict of arrays.

        Args:
          arrays: numpy, JAX or torch arrays of integers: semantic_prompt [S], coarse_prompt [n_coarse, T] and
            fine_prompt [n_fine, T].
          spaces: the token spaces of the model that the voice is for, Bark's by default; None checks it for no model.

        Raises:
          VoiceError: arrays is no dict, an array is missing or has a wrong shape, or the voice is another model's.
        """
        if not isinstance(arrays, Mapping):
            raise VoiceError(f"the voice's arrays are {quoted(arrays)}, expected a dict of {', '.join(PROMPT_KEYS)}")
        missing = [key for key in PROMPT_KEYS if key not in arrays]
        if missing:
            raise VoiceError(
                f"the voice has no {' and no '.join(missing)}; its keys are {quoted(list(arrays))}, expected "
                + ", ".join(PROMPT_KEYS)
            )
        voice = cls(*(arrays[key] for key in PROMPT_KEYS))
        return voice if spaces is None else check_voice(voice, spaces)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Returns the arrays by suno's and transformers' names.

        Returns:
          The int32 arrays semantic_prompt [S], coarse_prompt [n_coarse, T] and fine_prompt [n_fine, T].
        """
        return dict(zip(PROMPT_KEYS, (self.semantic, self.coarse, self.fine), strict=True))

    def __getitem__(self, key: str) -> np.ndarray:
        """Returns an array by its name in PROMPT_KEYS, of the shape in `to_dict`. Raises KeyError for another name."""
        return self.to_dict()[key]

    def __contains__(self, key: object) -> bool:
        return key in PROMPT_KEYS

    def __iter__(self) -> Iterator[str]:
        return iter(PROMPT_KEYS)

    def __len__(self) -> int:
        return len(PROMPT_KEYS)

    def keys(self) -> KeysView[str]:
        """The names of the arrays: semantic_prompt, coarse_prompt and fine_prompt."""
        return self.to_dict().keys()

    def values(self) -> ValuesView[np.ndarray]:
        """The arrays in the order of `keys`, of the shapes in `to_dict`."""
        return self.to_dict().values()

    def items(self) -> ItemsView[str, np.ndarray]:
        """Pairs of name and array, of the shapes in `to_dict`."""
        return self.to_dict().items()

    def get(self, key: str, default: Any = None) -> Any:
        """Returns an array by its name, or `default` for another key."""
        return self.to_dict().get(key, default)

    def save(self, path: str | os.PathLike[str], spaces: TokenSpaces | None = BARK_SPACES) -> None:
        """Writes the voice atomically as a .npz file that suno's code and transformers read too.

        Args:
          path: the file, which must end in .npz; its folder must exist.
          spaces: the token spaces of the model that the voice is for, Bark's by default. None also writes a voice that
            suno's code would reject.

        Raises:
          VoiceError: suno's code would reject the voice.
          InputError: the path does not end in .npz, or its folder does not exist.
          OutputError: the disk is full, or the path is not writable.
        """
        path = as_path(path, "the voice's file")
        if path.suffix != ".npz":
            raise InputError(f"{quoted(str(path))} does not end in .npz, as a voice's file must")
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
        """Restores a pickled or deep-copied voice, with read-only arrays: numpy makes them writable."""
        for field, value in state.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, field, value)

    def __hash__(self) -> int:
        # Without coarse: it is nearly always the first rows of fine, and equal voices have equal hashes anyway.
        return hash((self.semantic.tobytes(), self.fine.tobytes()))

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}, "
        return f"Voice({name}{self.semantic.size} semantic tokens, {self.fine.shape[0]} x {self.fine.shape[1]} codes)"


def as_voice(value: Voice | Mapping[str, Any]) -> Voice:
    """Returns a Voice, made of transformers' dict of three arrays where needed; not checked for any model.

    Raises:
      VoiceError: it is neither, or an array is missing or has a wrong shape.
    """
    if isinstance(value, Voice):
        return value
    if isinstance(value, Mapping):
        return Voice.from_dict(value, spaces=None)
    raise VoiceError(f"the voice is {quoted(value)}, expected a Voice or a dict of {', '.join(PROMPT_KEYS)}")


def check_voice(voice: Voice, spaces: TokenSpaces, called: str | None = None) -> Voice:
    """Returns the voice if it can condition a model; gives an OddVoiceWarning if its arrays do not belong together.

    Args:
      voice: the voice.
      spaces: the model's token spaces.
      called: how the warning refers to the voice; None is by its name.

    Raises:
      VoiceError: the voice has another number of codebooks, or a token beyond the model's vocabulary.
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
    """Raises VoiceError for a number of codebooks or a token that the model does not have."""
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
    """Describes how the arrays differ from those of one clip; suno's and transformers' code accept such voices."""
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
    """Raises VoiceError if an assertion of suno's code would fail for the voice.

    Source: suno-ai/bark, bark/generation.py, `generate_text_semantic`, `generate_coarse` and `generate_fine`.
    """
    try:
        _check_tokens(voice, spaces)
    except VoiceError as error:
        raise VoiceError(f"Suno's code would reject this voice, so it is not saved: {error}") from error
    n_semantic, n_frames = voice.semantic.size, voice.coarse.shape[1]
    ratio, expected = n_frames / n_semantic, float(spaces.frame_rate / spaces.semantic_rate)
    # 750/499 frames a token round to 1.5, as do all published voices, with 1.500 to 1.503.
    if round(ratio, 1) != round(expected, 1):
        raise VoiceError(
            f"Suno's code would reject this voice, so it is not saved: it has {n_frames} frames and {n_semantic} "
            f"semantic tokens, {ratio:.2f} frames a token, expected {round(expected, 1)} when rounded. Cut the longer "
            "of the two, or save it with spaces=None for transformers and for this project"
        )


def _check_below(tokens: np.ndarray, limit: int, field: str, kind: str) -> None:
    """Raises VoiceError for a token that is not below `limit`, with the likely cause.

    Several different such tokens come from another model's vocabulary; a single one is that of the end or of padding.
    """
    if tokens.max() < limit:
        return
    index = np.unravel_index(np.argmax(tokens), tokens.shape)
    first = (
        f"the voice's {field}[{', '.join(str(int(i)) for i in index)}] is {tokens[index]}, expected 0 to {limit - 1}"
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
    """Returns a read-only int32 copy of an array of tokens. Raises VoiceError for anything else.

    Args:
      value: an array of numpy, JAX or torch.
      field: its name, for messages.
      axes: its expected shape, such as "[n_coarse, T]", for messages and for the number of axes.
    """
    if not hasattr(value, "__array__"):
        raise VoiceError(
            f"the voice's {field} is {quoted(value)}, expected an array of integers {axes}; numpy.asarray makes one"
        )
    try:
        array = np.asarray(value)
    except Exception as error:  # such as a torch tensor on a GPU, which numpy cannot read
        raise VoiceError(f"the voice's {field} does not become a numpy array ({error}); move it to the CPU") from error
    # Unsigned integers too: one published voice, announcer, is uint16, the others int32 and int64.
    if array.dtype.kind not in NUMBERS:
        raise VoiceError(f"the voice's {field} holds {quoted(str(array.dtype))}, expected integers")
    if array.dtype.kind == "f" and not (array == np.rint(array)).all():
        wrong = array[array != np.rint(array)][0]
        raise VoiceError(f"the voice's {field} holds {wrong} in {array.dtype}, expected whole numbers")
    if array.ndim != axes.count(",") + 1 or array.size == 0:
        raise VoiceError(f"the voice's {field} has shape {array.shape}, expected {axes} with no axis empty")
    # Before the cast, which wraps: 2**32 + 5 would become the valid token 5.
    for value in (array.min().item(), array.max().item()):
        if not 0 <= value <= np.iinfo(np.int32).max:
            raise VoiceError(f"the voice's {field} holds {value}, which is no token; tokens start at 0")
    tokens = np.array(array, np.int32, order="C")
    tokens.setflags(write=False)
    return tokens
