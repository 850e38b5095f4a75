"""Fuzzing targets: for each kind of file its seeds, how a case is written to disk, and the reader."""

import dataclasses
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bark_jax.batch import manifest as batch_manifest
from bark_jax.batch.rows import read_rows
from bark_jax.batch.run_folder import RUN_FILE, read_run
from bark_jax.checkpoints.lora import load_lora
from bark_jax.checkpoints.model_folder import read_manifest
from bark_jax.checkpoints.pickle import read_torch
from bark_jax.checkpoints.safetensors_file import read_safetensors, read_sharded
from bark_jax.config import BarkConfig, BarkGenerationConfig, EncodecConfig, parse_config, read_json
from bark_jax.generation.tokens import TokenSpaces, check_fit
from bark_jax.hub.source import Source
from bark_jax.text.processor import BarkProcessor
from bark_jax.training import manifest as training_manifest
from bark_jax.voices.files import read_npy
from bark_jax.voices.library import VoiceLibrary
from bark_jax.voices.voice import Voice
from tests.fuzz import seeds

MAX_READ_BYTES = 2**20


def _same(data: bytes) -> bytes:
    return data


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of file to fuzz.

    file: the name under which a case is written, into a folder of its own.
    read: reads it from that folder.
    wrap: wraps mutated bytes into a file with correct checksums and lengths, so that the reader gets past those checks.
    beside: other files in the folder.
    by_library: another library reads the file, and may import parts of itself.
    """

    seeds: list[bytes]
    file: str
    read: Callable[[Path], Any]
    words: tuple[bytes, ...] = ()
    wrap: Callable[[bytes], bytes] = _same
    beside: dict[str, bytes] = dataclasses.field(default_factory=dict)
    by_library: bool = False


def _read_arrays(content: Any) -> None:
    """Reads all small arrays of a checkpoint, wherever in it they are."""
    waiting = [content]
    for value in itertools.islice(_popped(waiting), 10_000):
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
        elif hasattr(value, "read") and value.nbytes <= MAX_READ_BYTES:
            assert value.read().shape == tuple(value.shape)


def _popped(waiting: list) -> Any:
    while waiting:
        yield waiting.pop()


def _read_new(path: Path) -> None:
    """Reads a checkpoint of torch 1.6 or later; older ones are torch's own to read, which would import it."""
    hidden = sys.modules.get("torch")
    sys.modules["torch"] = None
    try:
        _read_arrays(read_torch(path))
    finally:
        sys.modules.pop("torch")
        if hidden is not None:
            sys.modules["torch"] = hidden


def _read_config(path: Path) -> None:
    values = read_json(path)
    for config_class in (BarkConfig, BarkGenerationConfig, EncodecConfig):
        if isinstance(values, dict) and config_class is EncodecConfig and values.get("model_type") != "encodec":
            continue
        config = _parsed(path, config_class, values)
        if isinstance(config, EncodecConfig):
            _ = config.num_quantizers, config.chunk_length, config.chunk_stride, config.frame_rate
        elif isinstance(config, BarkConfig):
            check_fit(config, BarkGenerationConfig.suno())
        else:
            TokenSpaces.from_config(config)
            check_fit(BarkConfig.small(), config)


def _parsed(path: Path, config_class: type, values: Any) -> Any:
    return parse_config(path, config_class, values)


def _read_tokenizer(path: Path) -> None:
    processor = BarkProcessor(path)
    ids = processor("hello, world", truncation=True)["input_ids"]
    assert ids.shape == (1, 256) and ids.dtype == np.int32


def _read_voices(path: Path) -> None:
    library = VoiceLibrary.open(Source(str(path.parent)), path.name)
    for name in library.names()[:3]:
        library.load(name)


def _drain(values: Any) -> None:
    for _ in itertools.islice(values, 10_000):
        pass


def _wrap_member(data: bytes) -> bytes:
    members = {f"{key}.npy": seeds.npy_of(array) for key, array in seeds.voice_arrays().items()}
    return seeds.zip_of(members | {"fine_prompt.npy": data})


PICKLE_WORDS = (
    b"cposix\nsystem\n", b"cbuiltins\neval\n",
    b"c__builtin__\ngetattr\n", b"ctorch\nload\n", b"cos\nsystem\n(X\2\0\0\0idtR",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"ctorch\nbfloat16\n",
    b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8d" + b"\xff" * 8, b"(", b"t",
    b"R", b"Q", b"b", b"}", b"]", b"u", b"e", b"\x81", b"\x93", b"\x94", b"h\0", b"q\0", b"\x85", b"0", b"N", b".",
)  # fmt: skip
JSON_WORDS = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999",
    b"[" * 2000, b'{"a":' * 500,
    b"9" * 5000, b'"\\ud800"', b"\\u0000", b"\xef\xbb\xbf", b"\xff", b"0.1", b"-1", b'"auto_map": {}', b'"../../x"',
    b'"/etc/passwd"', b'"\x00"',
)  # fmt: skip
NPY_WORDS = (
    b"'descr': '|O'", b"'<i8'", b"'<f4'", b"'|S9'", b"'M8[s]'", b"(9999999999,)", b"(-1,)", b"__import__('os')", b"()",
    b"[('a', '<i8')]", b"True", b"((((", b"2**60", b"\x93NUMPY\3\0", b"'shape': (0, 9),",
)  # fmt: skip
ZIP_WORDS = (
    b"PK\3\4",
    b"PK\1\2",
    b"PK\5\6",
    b"PK\6\6",
    b"PK\6\7",
    b"../../x",
    b"/etc/passwd",
    b"a/data/0",
    b"data.pkl",
)
TEXT_WORDS = (b"\0", b"\r", b'"', b",", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\n" * 9, b"[MASK]", b"x" * 4000)

TARGETS: dict[str, Target] = {
    "pickle": Target(
        seeds.PICKLES, "a.pt", _read_new, PICKLE_WORDS, seeds.checkpoint_of
    ),
    "zip": Target(
        [seeds.checkpoint_of(each) for each in seeds.PICKLES], "a.pt", _read_new, ZIP_WORDS
    ),
    "old": Target(
        seeds.old_checkpoints(), "a.pt", lambda path: _read_arrays(read_torch(path)), PICKLE_WORDS,
        by_library=True,
    ),
    "safetensors": Target(
        [seeds.safetensors_of(each) for each in seeds.HEADERS], "a.safetensors",
        lambda path: _read_arrays(read_safetensors(path)), JSON_WORDS,
    ),
    "header": Target(
        seeds.HEADERS, "a.safetensors", lambda path: _read_arrays(read_safetensors(path)), JSON_WORDS,
        seeds.safetensors_of,
    ),
    "lora": Target(seeds.HEADERS, "a.safetensors", load_lora, JSON_WORDS, seeds.safetensors_of),
    "index": Target(
        seeds.INDICES, "model.safetensors.index.json", lambda path: _read_arrays(read_sharded(path, read_safetensors)),
        (*JSON_WORDS, b"shard.safetensors"), beside={"shard.safetensors": seeds.safetensors_of(seeds.HEADERS[0])},
    ),
    "config": Target(seeds.CONFIGS, "config.json", _read_config, JSON_WORDS),
    "manifest": Target(seeds.MANIFESTS, "bark_jax.json", lambda path: read_manifest(path.parent), JSON_WORDS),
    "voice": Target(seeds.VOICES, "a.npz", Voice.load, ZIP_WORDS),
    "member": Target(seeds.ARRAYS, "a.npz", Voice.load, NPY_WORDS, _wrap_member),
    "array": Target(seeds.ARRAYS, "a.npy", read_npy, NPY_WORDS),
    "voices": Target(
        seeds.VOICE_LISTS, "speaker_embeddings_path.json", _read_voices, JSON_WORDS,
        beside={f"voices/{key}.npy": seeds.npy_of(array) for key, array in seeds.voice_arrays().items()},
    ),
    "tokenizer": Target(seeds.TOKENIZERS, "tokenizer.json", _read_tokenizer, JSON_WORDS),
    "vocabulary": Target(seeds.VOCABULARIES, "vocab.txt", _read_tokenizer, TEXT_WORDS),
    **{
        f"rows {form}": Target(
            examples, f"rows.{form}", lambda path, form=form: _drain(read_rows(path, form)), (*JSON_WORDS, *TEXT_WORDS)
        )
        for form, examples in seeds.ROWS.items()
    },
    "batch manifest": Target(
        seeds.BATCH_MANIFESTS, "manifest.jsonl", lambda path: _drain(batch_manifest.read_entries(path)), JSON_WORDS
    ),
    "run": Target(seeds.RUNS, RUN_FILE, lambda path: read_run(path.parent), JSON_WORDS),
    "training manifest": Target(
        seeds.TRAINING_MANIFESTS, "a.jsonl", lambda path: _drain(training_manifest.read_entries(path)), JSON_WORDS
    ),
}  # fmt: skip
