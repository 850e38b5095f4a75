"""Recordings of a published model: its inputs, logits, greedy tokens and codes, in a folder of .npz files.

    semantic_logits.npz   ids [N, 2 * n_text + 1], is_summed [N], logits [N, V]
    semantic_greedy.npz   ids [N, 2 * n_text + 1], tokens_0 [S], tokens_1 [S] ...
    coarse_greedy.npz     semantic_0 [S], coarse_0 [n_coarse, T], semantic_1 ...
    fine_greedy.npz       coarse_0 [n_coarse, T], fine_0 [n_fine, T], coarse_1 ...

A row of `ids` is the semantic prompt: n_text (256) text tokens, as many history tokens, and the infer token.
`docs/verify.md` describes the files. They may be untrusted: nothing is unpickled, no array has more than 4 MiB, and all
are checked against the model's token spaces before a network reads them.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bark_jax.config import BarkConfig
from bark_jax.errors import InputError, VoiceError
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.voices.files import ANY_NUMBERS, read_npz

SEMANTIC_LOGITS, SEMANTIC_GREEDY = "semantic_logits.npz", "semantic_greedy.npz"
COARSE_GREEDY, FINE_GREEDY = "coarse_greedy.npz", "fine_greedy.npz"
FILES = (SEMANTIC_LOGITS, SEMANTIC_GREEDY, COARSE_GREEDY, FINE_GREEDY)

Arrays = dict[str, np.ndarray]


class LogitsRecording(NamedTuple):
    """Logits of the token after one semantic prompt."""

    ids_T: np.ndarray  # int32 [2 * n_text + 1]
    is_summed: bool  # whether text and history are added to n_text positions, as in Bark, or read one after the other
    logits_V: np.ndarray  # float32, of the first V ids


class SemanticRecording(NamedTuple):
    """Greedy semantic tokens of one prompt."""

    ids_T: np.ndarray  # int32 [2 * n_text + 1]
    tokens_T: np.ndarray  # int32 [S], without the end token


class CoarseRecording(NamedTuple):
    """Greedy coarse codes of semantic tokens, without a voice."""

    semantic_T: np.ndarray  # int32 [S]
    codes_QT: np.ndarray  # int32 [n_coarse, T]


class FineRecording(NamedTuple):
    """Greedy fine codes of coarse codes, without a voice."""

    coarse_QT: np.ndarray  # int32 [n_coarse, T]
    codes_QT: np.ndarray  # int32 [n_fine, T]; its first n_coarse rows are coarse_QT


def find_recordings(folder: Path) -> list[str]:
    """Returns those of FILES that a folder has. Raises InputError if it is no folder or has none of them."""
    if not folder.is_dir():
        raise InputError(f"the recordings' folder {str(folder)!r} is no folder; docs/verify.md says where to get them")
    found = [name for name in FILES if (folder / name).is_file()]
    if not found:
        raise InputError(f"the recordings' folder {str(folder)!r} has none of {', '.join(FILES)}; see docs/verify.md")
    return found


def read_logits(folder: Path, config: BarkConfig, spaces: TokenSpaces) -> list[LogitsRecording]:
    """Reads SEMANTIC_LOGITS. Raises InputError if it is damaged, or of another model's vocabulary."""
    path = folder / SEMANTIC_LOGITS
    arrays = _read(path, ("ids", "is_summed", "logits"))
    ids_NT = _prompts(path, arrays["ids"], config, spaces)
    n_rows, n_vocabulary = len(ids_NT), config.semantic_config.output_vocab_size
    _require_shape(path, "is_summed", arrays["is_summed"], (n_rows,))
    logits_NV = arrays["logits"]
    if logits_NV.ndim != 2 or len(logits_NV) != n_rows or not 1 <= logits_NV.shape[1] <= n_vocabulary:
        raise InputError(f"{path}: logits has shape {logits_NV.shape}, expected ({n_rows}, 1 to {n_vocabulary})")
    if logits_NV.dtype.kind != "f" or not np.isfinite(logits_NV).all():
        raise InputError(f"{path}: logits are {logits_NV.dtype} with or without NaN, expected finite floats")
    n_positions = config.semantic_config.block_size
    if not arrays["is_summed"].all() and ids_NT.shape[1] > n_positions:
        raise InputError(f"{path}: prompts of {ids_NT.shape[1]} positions, but the semantic network has {n_positions}")
    columns = zip(ids_NT, arrays["is_summed"].astype(bool).tolist(), logits_NV.astype(np.float32), strict=True)
    return [LogitsRecording(*row) for row in columns]


def read_semantic(folder: Path, config: BarkConfig, spaces: TokenSpaces) -> list[SemanticRecording]:
    """Reads SEMANTIC_GREEDY. Raises InputError if it is damaged, or of another model's vocabulary or with a voice."""
    path = folder / SEMANTIC_GREEDY
    arrays = _read(path, ("ids",), ("tokens",))
    ids_NT = _prompts(path, arrays["ids"], config, spaces)
    if (ids_NT[:, spaces.n_text : 2 * spaces.n_text] != spaces.semantic_end).any():
        raise InputError(f"{path}: ids hold a voice's history, expected {spaces.semantic_end} throughout")
    if f"tokens_{len(ids_NT) - 1}" not in arrays or f"tokens_{len(ids_NT)}" in arrays:
        raise InputError(f"{path}: ids has {len(ids_NT)} rows, expected as many arrays tokens_0, tokens_1 ...")
    return [
        SemanticRecording(ids_T, _semantic_tokens(path, arrays, f"tokens_{n}", spaces))
        for n, ids_T in enumerate(ids_NT)
    ]


def read_coarse(folder: Path, config: BarkConfig, spaces: TokenSpaces) -> list[CoarseRecording]:
    """Reads COARSE_GREEDY. Raises InputError if it is damaged, or of another model's vocabulary or rates."""
    path = folder / COARSE_GREEDY
    arrays = _read(path, (), ("semantic", "coarse"))

    def make(n: int) -> CoarseRecording:
        semantic_T = _semantic_tokens(path, arrays, f"semantic_{n}", spaces)
        codes_QT = _codes(path, arrays, f"coarse_{n}", spaces.n_coarse, spaces)
        n_frames = spaces.n_frames(len(semantic_T))
        if codes_QT.shape[1] != n_frames:
            raise InputError(
                f"{path}: coarse_{n} has {codes_QT.shape[1]} frames, expected the {n_frames} of "
                f"{len(semantic_T)} semantic tokens"
            )
        return CoarseRecording(semantic_T, codes_QT)

    return _numbered(path, arrays, ("semantic", "coarse"), make)


def read_fine(folder: Path, config: BarkConfig, spaces: TokenSpaces) -> list[FineRecording]:
    """Reads FINE_GREEDY. Raises InputError if it is damaged, or longer than one window of the fine stage."""
    path = folder / FINE_GREEDY
    arrays = _read(path, (), ("coarse", "fine"))

    def make(n: int) -> FineRecording:
        coarse_QT = _codes(path, arrays, f"coarse_{n}", spaces.n_coarse, spaces)
        codes_QT = _codes(path, arrays, f"fine_{n}", spaces.n_fine, spaces)
        if not np.array_equal(codes_QT[: spaces.n_coarse], coarse_QT):
            raise InputError(
                f"{path}: the first {spaces.n_coarse} rows of fine_{n} are not coarse_{n}; expected a row for each "
                "codebook, with the codes of all frames in order"
            )
        if coarse_QT.shape[1] > spaces.fine_window:
            raise InputError(
                f"{path}: coarse_{n} has {coarse_QT.shape[1]} frames, expected at most one window's "
                f"{spaces.fine_window}"
            )
        return FineRecording(coarse_QT, codes_QT)

    return _numbered(path, arrays, ("coarse", "fine"), make)


def _read(path: Path, names: Collection[str], numbered: Collection[str] = ()) -> Arrays:
    try:
        return read_npz(path, names, numbered, ANY_NUMBERS)
    except VoiceError as error:
        raise InputError(str(error)) from error


def _numbered(path: Path, arrays: Arrays, names: tuple[str, str], make: Callable[[int], Any]) -> list[Any]:
    """Returns make(n) for each number n of the arrays. Raises InputError if `names` do not have the same numbers."""
    first, second = names
    n_runs = sum(name.startswith(f"{first}_") for name in arrays)
    if n_runs == 0 or 2 * n_runs != len(arrays):
        raise InputError(
            f"{path} has {', '.join(arrays) or 'no arrays'}; expected {first}_0, {second}_0, {first}_1 ..."
        )
    return [make(n) for n in range(n_runs)]


def _prompts(path: Path, ids_NT: np.ndarray, config: BarkConfig, spaces: TokenSpaces) -> np.ndarray:
    width, n_ids = 2 * spaces.n_text + 1, config.semantic_config.input_vocab_size
    if ids_NT.ndim != 2 or len(ids_NT) == 0 or ids_NT.shape[1] != width:
        raise InputError(f"{path}: ids has shape {ids_NT.shape}, expected (1 or more, {width}) for this model")
    return _integers(path, "ids", ids_NT, n_ids)


def _semantic_tokens(path: Path, arrays: Arrays, name: str, spaces: TokenSpaces) -> np.ndarray:
    tokens_T = arrays[name]
    if tokens_T.ndim != 1 or not 1 <= len(tokens_T) <= spaces.max_semantic:
        raise InputError(f"{path}: {name} has shape {tokens_T.shape}, expected 1 to {spaces.max_semantic} tokens")
    return _integers(path, name, tokens_T, spaces.semantic_vocab)


def _codes(path: Path, arrays: Arrays, name: str, n_codebooks: int, spaces: TokenSpaces) -> np.ndarray:
    codes_QT = arrays[name]
    if codes_QT.ndim != 2 or codes_QT.shape[0] != n_codebooks or codes_QT.shape[1] == 0:
        raise InputError(f"{path}: {name} has shape {codes_QT.shape}, expected ({n_codebooks}, frames)")
    return _integers(path, name, codes_QT, spaces.codebook_size)


def _integers(path: Path, name: str, array: np.ndarray, n_ids: int) -> np.ndarray:
    """Returns the array as int32. Raises InputError if it is not of integers from 0 to n_ids - 1."""
    if array.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} holds {array.dtype}, expected integers")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_ids:
        raise InputError(
            f"{path}: {name} has ids from {low} to {high}, but this model's go from 0 to {n_ids - 1}: the recordings "
            "are of another model"
        )
    return array.astype(np.int32)


def _require_shape(path: Path, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise InputError(f"{path}: {name} has shape {array.shape}, expected {shape}")
