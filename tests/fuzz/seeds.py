"""Small valid files: seeds of the mutator. `targets` reads each once before it counts cases."""

import io
import json
import struct
import zipfile

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bark_jax.checkpoints._arrays import TORCH_STREAM
from bark_jax.checkpoints.lora import FORMAT, VERSION
from bark_jax.config import BarkConfig, BarkGenerationConfig, EncodecConfig
from bark_jax.voices.voice import PROMPT_KEYS

VALUES = np.arange(16, dtype=np.float32)


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return stream.getvalue()


def checkpoint_of(pickled: bytes) -> bytes:
    """torch.save's archive around a pickle, with one storage."""
    return zip_of({"a/data.pkl": pickled, "a/byteorder": b"little", "a/data/0": VALUES.tobytes()})


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


STORAGE = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K\x10tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0(K\4K\4t(K\4K\1t\x89ccollections\nOrderedDict\n(tRtR"
SCALAR = (
    b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(" + _text("f4") + b"\x89\x88tR(K\3" + _text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tbc_codecs\nencode\n(" + _text("abcd") + _text("latin1") + b"tRtR"
)  # fmt: skip
PICKLES = [
    b"\x80\x02}(" + _text("w") + TENSOR + _text("n") + SCALAR + b"u.",
    b"\x80\x02}(" + _text("model") + b"}(" + _text("w") + TENSOR + b"u" + _text("model_args") + b"}("
    + _text("n_layer") + b"K\1" + _text("bias") + b"\x89" + _text("best") + b"G?\xf4\0\0\0\0\0\0uu.",
    b"\x80\x04\x95\x20\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\1K\2\x8a\x03\0\0\1e\x8c\x01b\x94C\2hi)\x85\x86\x87u.",
    b"\x80\x02ctorch\nSize\n((K\2K\3ttR.",
]  # fmt: skip


def old_checkpoints() -> list[bytes]:
    """Checkpoints in the format of torch before 1.6; without torch, only the beginning of one."""
    try:
        import torch
    except ImportError:
        return [TORCH_STREAM]
    stream = io.BytesIO()
    content = {"w": torch.arange(16.0), "b": torch.ones(3, dtype=torch.bfloat16), "n": 3, "t": [1, "a", (2.5, None)]}
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return [stream.getvalue()]


def safetensors_of(header: bytes, data: bytes = VALUES.tobytes()) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


LORA = {
    "__metadata__": {"format": FORMAT, "version": str(VERSION), "networks": '{"semantic": {"rank": 2, "alpha": 4.0}}'},
    "semantic.blocks.0.mlp.up.kernel.a": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]},
    "semantic.blocks.0.mlp.up.kernel.b": {"dtype": "F32", "shape": [2, 4], "data_offsets": [32, 64]},
}
HEADERS = [
    json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode(),
    json.dumps(LORA).encode(),
]
CONFIGS = [
    b'{"model_type": "bark", "semantic_config": {"num_layers": 2, "hidden_size": 16, "num_heads": 2}}',
    json.dumps(BarkConfig.small().to_dict()).encode(),
    json.dumps(BarkGenerationConfig.suno().to_dict()).encode(),
    json.dumps(EncodecConfig().to_dict()).encode(),
]  # fmt: skip
MANIFESTS = [
    json.dumps({
        "format": "bark_jax", "version": 1, "source": "suno/bark", "dtype": "float32",
        "files": {"semantic.safetensors": {"sha256": "0" * 64, "bytes": 9, "arrays": 1}},
    }).encode()
]  # fmt: skip
INDICES = [json.dumps({"metadata": {"total_size": 64}, "weight_map": {"w": "shard.safetensors"}}).encode()]
VOICE_LISTS = [
    json.dumps(
        {"repo_or_path": "suno/bark", "en_speaker_0": {key: f"voices/{key}.npy" for key in PROMPT_KEYS}}
    ).encode()
]


def npy_of(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version, allow_pickle=False)
    return stream.getvalue()


def voice_arrays(n_semantic: int = 20, n_frames: int = 30) -> dict[str, np.ndarray]:
    fine = np.random.default_rng(0).integers(0, 1024, (8, n_frames)).astype(np.uint16)
    return dict(zip(PROMPT_KEYS, (np.arange(n_semantic), fine[:2], fine), strict=True))


ARRAYS = [
    npy_of(voice_arrays()["fine_prompt"]),
    npy_of(np.arange(20)),
    npy_of(np.ones((2, 30), ">i2"), (2, 0)),
    npy_of(np.asfortranarray(np.ones((8, 3), np.uint16))),
]
VOICES = [
    zip_of({f"{key}.npy": npy_of(array) for key, array in voice_arrays().items()}, compression)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
]


def _word_pieces() -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"helo", *("##" + each for each in "helo")]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(pieces[:5])
    return tokenizer


def _words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("a", "b")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()])
    return tokenizer


TOKENIZERS = [_word_pieces().to_str().encode(), _words().to_str().encode()]
VOCABULARIES = ["[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n##lo\nä\n".encode()]
ROWS = {
    "jsonl": [
        b'{"text": "Hello.", "id": "a", "voice": "v2/en_speaker_6", "seed": 3, "temperature": 0.7}\n"x"\n{"text": 5}\n'
    ],
    "csv": [b'id,text,seed,temperature\na,"Hello, you.",3,0.7\nb,Hi,,\n'],
    "lines": ["Hello.\n\nGrüß Gott.\n".encode()],
}
BATCH_MANIFESTS = [b'{"id": "a", "file": "a.wav", "text_digest": "00", "seed": 3, "status": "done"}\n{"id": "b"}\n']
RUNS = [b'{"version": 1, "model": "suno/bark", "settings": {"temperature": 0.7}, "rows": {"n": 2}}']
TRAINING_MANIFESTS = [b'{"audio": "a.wav", "text": "hello", "semantic": [1, 2, 3], "voice": "x", "id": "a"}\n']
