"""`python -m converters.recordings SRC DST`: bark.cpp's test data to the recordings that `bark-jax verify` reads.

SRC is the folder `tests/data` of github.com/PABannier/bark.cpp, at a commit that still has it (docs/verify.md). Each of
its .bin files has two arrays, an input and the published model's output. An array is the number of its axes and their
sizes as int32, then int32 or float32 data. The sizes of codes are given as (frames, codebooks), and the data is
codebook by codebook.

Source: PABannier/bark.cpp, tests/common.cpp, `load_test_data`; the files of `tests/test-*.cpp`.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bark_jax.errors import BarkError, InputError
from bark_jax.files import atomic_folder
from bark_jax.verify.recordings import COARSE_GREEDY, FINE_GREEDY, SEMANTIC_GREEDY, SEMANTIC_LOGITS
from bark_jax.voices.files import write_npz

MAX_BYTES = 2**20  # of a file; the largest has 42,260


def read_bin(path: Path, output_dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Reads the two arrays of a file: the input, int32, and the output; [T], or [Q, T] for codes.

    Raises:
      InputError: the file is not of this form.
    """
    data = path.read_bytes() if path.stat().st_size <= MAX_BYTES else b""
    given, rest = _take(data, np.int32, path)
    output, rest = _take(rest, output_dtype, path)
    if rest:
        raise InputError(f"{path} has {len(rest)} bytes after its second array, expected none")
    return given, output


def _take(data: bytes, dtype: type, path: Path) -> tuple[np.ndarray, bytes]:
    """Returns the array at the start of the data, and the bytes after it."""
    n_axes = int.from_bytes(data[:4], "little")
    start = 4 * (1 + n_axes)
    if n_axes not in (1, 2) or len(data) < start:
        raise InputError(f"{path} has an array of {n_axes} axes, expected 1 or 2; it is no test data of bark.cpp")
    shape = tuple(np.frombuffer(data[4:start], "<i4").tolist())[::-1]
    end = start + 4 * math.prod(shape)
    if min(shape) < 1 or len(data) < end:
        raise InputError(f"{path} has an array of shape {shape} and {len(data) - start} bytes; it is cut off")
    return np.frombuffer(data[start:end], np.dtype(dtype).newbyteorder("<")).reshape(shape), data[end:]


def convert(src: Path, dst: Path) -> list[str]:
    """Writes the recordings that `src` has into the new folder `dst`. Returns the names of the files.

    Raises:
      InputError: a file is not of this form, there is none, or `dst` exists.
      OutputError: `dst` cannot be written.
    """
    makers: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
        SEMANTIC_LOGITS: _logits,
        SEMANTIC_GREEDY: _semantic,
        COARSE_GREEDY: lambda folder: _runs(folder / "coarse", "semantic", "coarse"),
        FINE_GREEDY: lambda folder: _runs(folder / "fine", "coarse", "fine"),
    }
    found = {name: arrays for name, make in makers.items() if (arrays := make(src))}
    if not found:
        raise InputError(f"{src} has none of gpt_eval/, semantic/, coarse/ and fine/ with .bin files")
    with atomic_folder(dst) as folder:
        for name, arrays in found.items():
            write_npz(folder / name, arrays)
    return list(found)


def _logits(src: Path) -> dict[str, np.ndarray]:
    paths = sorted((src / "gpt_eval").glob("*.bin"))
    if not paths:
        return {}
    ids, logits = zip(*(read_bin(path, np.float32) for path in paths), strict=True)
    # In "no_merge" files text and history are read one after the other.
    is_summed = ["no_merge" not in path.name for path in paths]
    return {"ids": np.stack(ids), "is_summed": np.array(is_summed), "logits": np.stack(logits)}


def _semantic(src: Path) -> dict[str, np.ndarray]:
    runs = [read_bin(path, np.int32) for path in sorted((src / "semantic").glob("*.bin"))]
    if not runs:
        return {}
    return {"ids": np.stack([ids for ids, _ in runs]), **{f"tokens_{n}": tokens for n, (_, tokens) in enumerate(runs)}}


def _runs(folder: Path, given_name: str, output_name: str) -> dict[str, np.ndarray]:
    arrays = {}
    for n, path in enumerate(sorted(folder.glob("*.bin"))):
        arrays[f"{given_name}_{n}"], arrays[f"{output_name}_{n}"] = read_bin(path, np.int32)
    return arrays


def main(arguments: list[str]) -> int:
    """Runs the command. Returns its exit status: 0, 1 for an error, 2 for wrong usage."""
    if len(arguments) != 2:
        print("usage: python -m converters.recordings SRC DST", file=sys.stderr)
        return 2
    try:
        print(", ".join(convert(*map(Path, arguments))))
    except (BarkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
