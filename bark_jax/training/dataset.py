"""Prepared training data: the examples of all stages in flat, memory-mapped arrays.

N examples of T text ids and S semantic tokens each, F = spaces.n_frames(S) frames, Q = spaces.n_fine codebooks:

    dataset.json           format, voices, token spaces, codec, number of examples
    text.npy               [sum of T] tokenizer ids, examples concatenated
    text_offsets.npy       int64 [N + 1]: example i is text[offsets[i]:offsets[i + 1]]
    semantic.npy           [sum of S] semantic tokens, with semantic_offsets.npy likewise
    codes.npy              [sum of F, Q]; has no offsets, as F follows from S
    voice.npy              int32 [N], indices into the voices of dataset.json
    audio.npy              only with keep_audio: int16 [sum of F * samples_per_frame] audio samples

`Dataset.from_examples` holds the same arrays in memory.
"""

import contextlib
import dataclasses
import itertools
import json
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from bark_jax.config import read_json
from bark_jax.errors import ConfigError, InputError, ModelNotFoundError, quoted
from bark_jax.files import atomic_folder, write_atomically
from bark_jax.generation.tokens import TokenSpaces

DATASET_FILE = "dataset.json"
FORMAT = "bark_jax_dataset"
VERSION = 1

AUDIO_SCALE = 32767  # an audio sample of 1.0 as a 16-bit integer; int16 holds -32,768 but not 32,768
# Fields of TokenSpaces that decide the meaning of stored ids: models that differ in one cannot share a dataset.
MEANING = ("n_text", "semantic_vocab", "n_fine", "codebook_size", "semantic_rate", "frame_rate", "sample_rate")

_FRACTION = re.compile(r"[1-9]\d{0,8}(/[1-9]\d{0,8})?", re.ASCII)
# The format wants a multiple of 64: 10 bytes of magic number, version and length, then 118 of text and spaces.
_HEADER_BYTES = 128  # of every .npy file written here: fixed, so that the number of rows can be filled in at the end


class DatasetError(InputError):
    """A dataset that is damaged, not written by this package, or prepared for another model."""


class Example(NamedTuple):
    """An utterance as the stages read and write it: text ids, semantic tokens and codes."""

    text: np.ndarray  # int32 [T] tokenizer ids, without offset, padding and special tokens
    semantic: np.ndarray  # int32 [S] in [0, spaces.semantic_vocab)
    codes: np.ndarray  # int32 [Q, F] in [0, spaces.codebook_size); Q = spaces.n_fine, F = spaces.n_frames(S)
    voice: int  # index into the dataset's voices


class Dataset:
    """Immutable sequence of examples. `split` and `subset` return views of the same arrays, without copying."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        spaces: TokenSpaces,
        voices: Sequence[str],
        *,
        codec: str | None = None,
        where: str = "the dataset",
    ):
        """Checks arrays of the layout above; normally called by `open` and `from_examples`.

        Raises:
          DatasetError: offsets and lengths of the arrays do not agree.
        """
        self.spaces = spaces
        self.voices = tuple(voices)
        self.codec = codec  # `prepare.codec_fingerprint` of the codec that made the codes; None if unknown
        self._arrays = dict(arrays)
        self._where = where
        self._frame_offsets = _check_arrays(self._arrays, spaces, len(self.voices), where)
        self._rows = np.arange(len(self._arrays["voice"]))

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, spaces: TokenSpaces | None = None) -> Self:
        """Opens a folder that `write_dataset` or `prepare_dataset` wrote, and memory-maps its arrays.

        Args:
          spaces: token spaces of the model to train; data prepared for another model are refused.

        Raises:
          DatasetError: the folder does not exist, is no dataset, is damaged, or is for other token spaces.
        """
        folder = Path(folder)
        info = _read_info(folder)
        found = _parse_spaces(info["spaces"], folder / DATASET_FILE)
        if spaces is not None:
            check_same_meaning(found, spaces, str(folder))
        columns = _columns(found, with_audio=info["has_audio"])
        arrays = {name: _map_array(folder / f"{name}.npy", *column) for name, column in columns.items()}
        if len(arrays["voice"]) != info["n_examples"]:
            raise DatasetError(
                f"{folder} has {len(arrays['voice']):,} examples, {DATASET_FILE} says {info['n_examples']:,}; "
                "prepare it again"
            )
        return cls(arrays, found, info["voices"], codec=info["codec"], where=str(folder))

    @classmethod
    def from_examples(
        cls,
        examples: Iterable[Example],
        spaces: TokenSpaces,
        voices: Sequence[str] = ("default",),
        *,
        audio: Iterable[np.ndarray] | None = None,
        codec: str | None = None,
    ) -> Self:
        """Makes a dataset in memory. Arguments, shapes and errors: see `write_dataset`."""
        columns = _columns(spaces, with_audio=audio is not None)
        sinks = {name: _List(*column) for name, column in columns.items()}
        packer = _Packer(sinks, spaces, voices)
        packer.add_all(examples, audio)
        return cls({name: sink.joined() for name, sink in sinks.items()}, spaces, voices, codec=codec)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        """The example at an index, in arrays of its own.

        Raises:
          IndexError: the index is past the end.
          DatasetError: a token is out of range, because a file was damaged after it was written.
        """
        row, start, stop = self._find(index)
        example = Example(
            self._part("text", row).astype(np.int32),
            self._part("semantic", row).astype(np.int32),
            # Frames are rows in the file, so an example's codes are contiguous there; the stages want a row a codebook.
            np.ascontiguousarray(self._arrays["codes"][start:stop].T, np.int32),
            int(self._arrays["voice"][row]),
        )
        check_tokens(example, self.spaces, f"{self._where}, example {row}")
        return example

    def audio(self, index: int) -> np.ndarray:
        """The audio of an example, float32 [A] in -1..1 at spaces.sample_rate, A = F * samples_per_frame.

        Raises:
          InputError: the dataset was prepared without audio.
        """
        if not self.has_audio:
            raise InputError(f"{self._where} holds no audio; prepare it again with keep_audio=True (--keep-audio)")
        _, start, stop = self._find(index)
        per_frame = samples_per_frame(self.spaces)
        return self._arrays["audio"][start * per_frame : stop * per_frame].astype(np.float32) / AUDIO_SCALE

    @property
    def has_audio(self) -> bool:
        """Whether the dataset was prepared with its audio (keep_audio)."""
        return "audio" in self._arrays

    @property
    def text_lengths(self) -> np.ndarray:
        """Number of text tokens of each example, int64 [N]."""
        return np.diff(self._arrays["text_offsets"])[self._rows]

    @property
    def semantic_lengths(self) -> np.ndarray:
        """Number of semantic tokens of each example, int64 [N]."""
        return np.diff(self._arrays["semantic_offsets"])[self._rows]

    @property
    def frame_lengths(self) -> np.ndarray:
        """Number of frames of each example, int64 [N]."""
        return np.diff(self._frame_offsets)[self._rows]

    @property
    def voice_indices(self) -> np.ndarray:
        """Voice of each example, int32 [N]: indices into `voices`."""
        return np.asarray(self._arrays["voice"])[self._rows]

    @property
    def seconds(self) -> float:
        """Total length in seconds, computed from the number of frames."""
        return float(int(self.frame_lengths.sum()) / self.spaces.frame_rate)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Dataset":
        """A view of the examples at `indices`, in that order."""
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._rows = self._rows[np.asarray(indices, np.int64)]
        return view

    def split(
        self, eval_share: float | None = None, *, n_eval: int | None = None, seed: int = 0
    ) -> tuple["Dataset", "Dataset"]:
        """Splits at random into (training examples, held-out examples), each in the order of this dataset.

        Args:
          eval_share: share of the examples to hold out, in [0, 1); a share above 0 holds out at least one.
          n_eval: number of examples to hold out, instead of a share.
          seed: seeds the draw.

        Raises:
          InputError: both or neither of eval_share and n_eval are given, or no example is left to train on.
        """
        if (eval_share is None) == (n_eval is None):
            raise InputError("give either eval_share or n_eval")
        if n_eval is None:
            if not 0 <= eval_share < 1:
                raise InputError(f"eval_share is {quoted(eval_share)}, expected a share from 0 to below 1")
            n_eval = max(round(eval_share * len(self)), int(eval_share > 0))
        if not 0 <= n_eval < len(self):
            raise InputError(
                f"{n_eval} examples for evaluation of {len(self)} in all; expected 0 to {len(self) - 1}, so that "
                "something is left to train on"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        # Sorted, so that the examples of both parts are in the order of the files.
        return self.subset(np.sort(order[n_eval:])), self.subset(np.sort(order[:n_eval]))

    def permutation(self, epoch: int, seed: int) -> np.ndarray:
        """Random order of an epoch's examples, int64 [N]; depends on epoch, seed and N alone."""
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def _find(self, index: int) -> tuple[int, int, int]:
        """(row of an example in the arrays, its first frame, the frame past its last)."""
        row = int(self._rows[operator.index(index)])  # IndexError past the end, which also ends a `for`
        return row, int(self._frame_offsets[row]), int(self._frame_offsets[row + 1])

    def _part(self, name: str, row: int) -> np.ndarray:
        start, stop = self._arrays[f"{name}_offsets"][row : row + 2]
        return self._arrays[name][start:stop]


def write_dataset(
    folder: str | os.PathLike[str],
    examples: Iterable[Example],
    spaces: TokenSpaces,
    voices: Sequence[str] = ("default",),
    *,
    audio: Iterable[np.ndarray] | None = None,
    codec: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes examples as a folder for `Dataset.open`, atomically. Holds one example in memory at a time.

    Args:
      examples: at least one; arrays of any integer dtype.
      voices: names of the voices; an example's `voice` is an index into them.
      audio: samples of each example, float [A] in -1..1 at spaces.sample_rate, A = F * samples_per_frame.
      codec: fingerprint of the codec that made the codes, see `prepare.codec_fingerprint`.
      overwrite: replaces an existing dataset.

    Raises:
      InputError: no examples, an example that the token spaces do not allow, or the folder exists.
    """
    with open_writer(folder, spaces, voices, with_audio=audio is not None, codec=codec, overwrite=overwrite) as packer:
        packer.add_all(examples, audio)
    return Path(folder)


@contextlib.contextmanager
def open_writer(
    folder: str | os.PathLike[str],
    spaces: TokenSpaces,
    voices: Sequence[str],
    *,
    with_audio: bool = False,
    codec: str | None = None,
    overwrite: bool = False,
) -> Iterator["_Packer"]:
    """Yields a writer whose `add(example, samples)` appends one example. Arguments and errors: see `write_dataset`."""
    columns = _columns(spaces, with_audio=with_audio)
    with atomic_folder(folder, overwrite=overwrite, kind="dataset") as partial:
        with contextlib.ExitStack() as stack:
            sinks = {
                name: stack.enter_context(_ArrayFile(partial / f"{name}.npy", *column))
                for name, column in columns.items()
            }
            packer = _Packer(sinks, spaces, voices)
            yield packer
            packer.require_examples()
        info = {
            "format": FORMAT,
            "version": VERSION,
            "n_examples": packer.n_examples,
            "seconds": round(float(packer.n_frames / spaces.frame_rate), 3),
            "has_audio": with_audio,
            "codec": codec,
            "voices": list(voices),
            "spaces": _spaces_to_json(spaces),
        }
        write_atomically(partial / DATASET_FILE, (json.dumps(info, indent=2, ensure_ascii=False) + "\n").encode())


def check_example(example: Example, spaces: TokenSpaces, n_voices: int, what: str) -> None:
    """Raises InputError, its message beginning with `what`, if shapes, dtypes or values of an example are not valid."""
    for field, n_axes in (("text", 1), ("semantic", 1), ("codes", 2)):
        array = np.asarray(getattr(example, field))
        if array.ndim != n_axes or array.dtype.kind not in "iu" or not array.size:
            raise InputError(
                f"{what}: {field} has shape {array.shape} and type {array.dtype}, expected integers on {n_axes} "
                "axes, none of them empty"
            )
    n_text, n_semantic = len(example.text), len(example.semantic)
    if n_text > spaces.n_text:
        raise InputError(f"{what}: text has {n_text} ids, at most {spaces.n_text} are read")
    if n_semantic > spaces.max_semantic:
        raise InputError(f"{what}: semantic has {n_semantic} tokens, at most {spaces.max_semantic} are generated")
    expected = (spaces.n_fine, spaces.n_frames(n_semantic))
    if example.codes.shape != expected:
        raise InputError(
            f"{what}: codes have shape {example.codes.shape}, expected {expected}: {expected[1]} frames go with "
            f"{n_semantic} semantic tokens"
        )
    if not 0 <= operator.index(example.voice) < n_voices:
        raise InputError(f"{what}: voice is {example.voice}, expected an index into the {n_voices} voices")
    check_tokens(example, spaces, what)


def check_tokens(example: Example, spaces: TokenSpaces, what: str) -> None:
    """Raises DatasetError, its message beginning with `what`, if a token is out of range."""
    for field, size in (
        ("text", _text_vocab(spaces)),
        ("semantic", spaces.semantic_vocab),
        ("codes", spaces.codebook_size),
    ):
        array = getattr(example, field)
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= size:
            raise DatasetError(f"{what}: {field} holds {low if low < 0 else high}, expected 0 to {size - 1}")


def check_same_meaning(found: TokenSpaces, expected: TokenSpaces, where: str) -> None:
    """Raises DatasetError, naming the field, if ids of `found` mean something else in `expected`; see MEANING."""
    for field in MEANING:
        if getattr(found, field) != getattr(expected, field):
            raise DatasetError(
                f"{where} was prepared for a model with {field} {getattr(found, field)}, this one has "
                f"{getattr(expected, field)}; prepare the data again, with this model"
            )


def samples_per_frame(spaces: TokenSpaces) -> int:
    """Audio samples a frame: 320 in Bark, 24,000 Hz / 75 Hz. Raises ConfigError if that is no whole number."""
    ratio = spaces.sample_rate / spaces.frame_rate
    if ratio.denominator != 1:
        raise ConfigError(
            f"sample_rate {spaces.sample_rate} is no multiple of the frame rate {spaces.frame_rate}, so audio cannot "
            "be cut into frames"
        )
    return ratio.numerator


def _text_vocab(spaces: TokenSpaces) -> int:
    return spaces.text_pad - spaces.text_offset


def _narrowest(n_values: int) -> np.dtype:
    """The narrowest dtype for ids in [0, n_values): int16 or int32, little-endian."""
    return np.dtype("<i2" if n_values <= 2**15 else "<i4")


def _columns(spaces: TokenSpaces, *, with_audio: bool) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """(dtype, shape without the first axis) of each array, by name."""
    columns = {
        "text": (_narrowest(_text_vocab(spaces)), ()),
        "text_offsets": (np.dtype("<i8"), ()),
        "semantic": (_narrowest(spaces.semantic_vocab), ()),
        "semantic_offsets": (np.dtype("<i8"), ()),
        # Bark's fit int16: 4.3 MB an hour, beside 0.4 MB of semantic tokens and 173 MB of audio.
        "codes": (_narrowest(spaces.codebook_size), (spaces.n_fine,)),
        "voice": (np.dtype("<i4"), ()),
    }
    return columns | ({"audio": (np.dtype("<i2"), ())} if with_audio else {})


class _List:
    """An array that grows in memory."""

    def __init__(self, dtype: np.dtype, row_shape: tuple[int, ...]):
        self.dtype = dtype
        self._parts = [np.zeros((0, *row_shape), dtype)]

    def append(self, array: np.ndarray) -> None:
        self._parts.append(np.asarray(array).astype(self.dtype))

    def joined(self) -> np.ndarray:
        return np.concatenate(self._parts)


class _ArrayFile:
    """An array that grows in a .npy file. `__exit__` writes the number of rows into the header, which has a fixed size.

    numpy can write a .npy file only from a finished array, and a corpus need not fit into memory.
    """

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...]):
        self.path, self.dtype, self.row_shape = path, dtype, row_shape
        self._n_rows = 0

    def __enter__(self) -> Self:
        self._file = open(self.path, "xb")
        self._file.write(self._header())
        return self

    def append(self, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array, self.dtype)
        self._n_rows += len(array)
        self._file.write(array.tobytes())

    def __exit__(self, *_: Any) -> None:
        # The length is known only now. Not synced here: `atomic_folder` syncs all files before its rename.
        with self._file:
            self._file.seek(0)
            self._file.write(self._header())

    def _header(self) -> bytes:
        shape = (self._n_rows, *self.row_shape)
        text = repr({"descr": self.dtype.str, "fortran_order": False, "shape": shape})
        start = b"\x93NUMPY\x01\x00" + (_HEADER_BYTES - 10).to_bytes(2, "little")
        return start + text.ljust(_HEADER_BYTES - 11).encode() + b"\n"


class _Packer:
    """Checks examples and appends them to the arrays of a dataset, `sinks`."""

    def __init__(self, sinks: Mapping[str, Any], spaces: TokenSpaces, voices: Sequence[str]):
        _check_voices(list(voices), "voices")
        self._sinks, self._spaces, self._n_voices = sinks, spaces, len(voices)
        self._per_frame = samples_per_frame(spaces) if "audio" in sinks else 0
        self._ends = {"text": 0, "semantic": 0}
        self.n_examples = self.n_frames = 0
        for name in self._ends:
            sinks[f"{name}_offsets"].append([0])

    def add(self, example: Example, samples: np.ndarray | None = None) -> None:
        what = f"example {self.n_examples}"
        check_example(example, self._spaces, self._n_voices, what)
        if (samples is not None) != ("audio" in self._sinks):
            raise InputError(f"{what} comes {'without' if samples is None else 'with'} audio, unlike the dataset")
        if samples is not None:
            self._sinks["audio"].append(self._as_pcm(samples, example.codes.shape[1], what))
        for name in self._ends:
            tokens = getattr(example, name)
            self._ends[name] += len(tokens)
            self._sinks[name].append(tokens)
            self._sinks[f"{name}_offsets"].append([self._ends[name]])
        self._sinks["codes"].append(example.codes.T)
        self._sinks["voice"].append([example.voice])
        self.n_examples += 1
        self.n_frames += example.codes.shape[1]

    def add_all(self, examples: Iterable[Example], audio: Iterable[np.ndarray] | None) -> None:
        pairs = itertools.zip_longest(examples, () if audio is None else audio)
        for example, samples in pairs:
            if example is None or (audio is not None and samples is None):
                raise InputError(f"examples and audio differ in number, from example {self.n_examples} on")
            self.add(example, samples)
        self.require_examples()

    def require_examples(self) -> None:
        if not self.n_examples:
            raise InputError("there are no examples, expected one or more")

    def _as_pcm(self, samples: np.ndarray, n_frames: int, what: str) -> np.ndarray:
        samples = np.asarray(samples)
        expected = (n_frames * self._per_frame,)
        if samples.shape != expected or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise InputError(
                f"{what}: audio has shape {samples.shape} and type {samples.dtype}, expected {expected} finite floats: "
                f"{self._per_frame} for each of {n_frames} frames"
            )
        return np.round(np.clip(samples, -1, 1) * AUDIO_SCALE)


def _read_info(folder: Path) -> dict[str, Any]:
    """Reads dataset.json and checks the types of its fields. Raises DatasetError."""
    path = folder / DATASET_FILE
    if not path.is_file():
        raise DatasetError(f"{folder} is no dataset: it has no {DATASET_FILE}; make one with bark-jax prepare")
    try:
        info = read_json(path)
    except (ConfigError, ModelNotFoundError) as error:
        raise DatasetError(str(error)) from error
    if not isinstance(info, dict) or info.get("format") != FORMAT or type(info.get("version")) is not int:
        raise DatasetError(f"{path} is not this project's: expected an object with format {FORMAT!r} and a version")
    if info["version"] != VERSION:
        raise DatasetError(
            f"{path} has version {quoted(info['version'])}, this package reads {VERSION}; prepare the data again"
        )
    for field, types in (("n_examples", int), ("has_audio", bool), ("codec", (str, type(None))), ("spaces", dict)):
        if not isinstance(info.get(field, ...), types):
            raise DatasetError(f"{path}: {field} is {quoted(info.get(field))}; prepare the data again")
    _check_voices(info.get("voices"), f"{path}: voices")
    return info


def _check_voices(voices: Any, what: str) -> None:
    is_list = (
        isinstance(voices, list)
        and voices
        and all(isinstance(name, str) and name.strip() and name.isprintable() for name in voices)
    )
    if not is_list or len(set(voices)) != len(voices):
        raise DatasetError(f"{what} is {quoted(voices)}, expected a list of different printable names, one or more")


def _spaces_to_json(spaces: TokenSpaces) -> dict[str, Any]:
    values = dataclasses.asdict(spaces)
    return {name: str(value) if isinstance(value, Fraction) else value for name, value in values.items()}


def _parse_spaces(values: Mapping[str, Any], path: Path) -> TokenSpaces:
    names = {field.name for field in dataclasses.fields(TokenSpaces)}
    if names != set(values):
        raise DatasetError(f"{path}: the fields of spaces are not this version's; prepare the data again")
    rates = ("semantic_rate", "frame_rate")
    for name, value in values.items():
        if name in rates:
            is_right, expected = isinstance(value, str) and _FRACTION.fullmatch(value), "a fraction such as '499/10'"
        else:
            is_right, expected = type(value) is int and 0 <= value < 2**31, "a whole number, 0 or more"
        if not is_right:
            raise DatasetError(f"{path}: spaces.{name} is {quoted(value)}, expected {expected}")
    return TokenSpaces(**{**values, **{name: Fraction(values[name]) for name in rates}})


def _map_array(path: Path, dtype: np.dtype, row_shape: tuple[int, ...]) -> np.ndarray:
    """Memory-maps a .npy file after checking dtype, shape and size against its header. Raises DatasetError."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing; the dataset was copied in part, or prepare it again")
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        n_bytes = array.offset + array.nbytes
    except Exception as error:  # numpy's header parser lets tokenizer, parser and mapping errors through
        raise DatasetError(f"{path} is damaged ({quoted(str(error), 200)}); prepare the dataset again") from error
    if array.dtype != dtype or array.shape[1:] != row_shape or array.ndim < 1 or n_bytes != path.stat().st_size:
        raise DatasetError(
            f"{path} has {path.stat().st_size:,} bytes and holds {array.dtype} of shape {array.shape}, expected "
            f"{dtype} of shape {('N', *row_shape)} to its end; prepare the dataset again"
        )
    # A plain array over the same mapping: slices of numpy.memmap are slower.
    return np.asarray(array)


def _check_arrays(arrays: Mapping[str, np.ndarray], spaces: TokenSpaces, n_voices: int, where: str) -> np.ndarray:
    """Checks that offsets and lengths agree; raises DatasetError. Returns the frame offsets, int64 [N + 1]."""
    n_examples = len(arrays["voice"])
    for name, max_tokens in (("text", spaces.n_text), ("semantic", spaces.max_semantic)):
        offsets = arrays[f"{name}_offsets"]
        # Offsets that go back show here too: as a negative length.
        lengths = np.diff(offsets)
        is_right = len(offsets) == n_examples + 1 >= 2 and offsets[0] == 0 and offsets[-1] == len(arrays[name])
        if not is_right or lengths.min() < 1 or lengths.max() > max_tokens:
            raise DatasetError(
                f"{where}: the {len(offsets):,} {name}_offsets do not cut {len(arrays[name]):,} tokens into "
                f"{n_examples:,} examples of 1 to {max_tokens}; prepare the data again"
            )
    n_frames = spaces.n_frames(np.diff(arrays["semantic_offsets"]))
    frame_offsets = np.concatenate([[0], np.cumsum(n_frames)])
    per_frame = {"codes": 1, **({"audio": samples_per_frame(spaces)} if "audio" in arrays else {})}
    for name, factor in per_frame.items():
        if n_frames.min() < 1 or len(arrays[name]) != frame_offsets[-1] * factor:
            raise DatasetError(
                f"{where}: {name} has {len(arrays[name]):,} rows, expected the {frame_offsets[-1] * factor:,} that go "
                "with the semantic tokens; prepare the data again"
            )
    voice = arrays["voice"]
    if voice.min() < 0 or voice.max() >= n_voices:
        raise DatasetError(f"{where}: voice holds an index outside of the {n_voices} voices; prepare the data again")
    return frame_offsets
