"""Files that hypothesis makes up, where random bytes would not get past the first check."""

import json
import struct

from hypothesis import strategies as st

NAMES = st.text(max_size=5) | st.sampled_from(
    """model_type semantic_config coarse_acoustics_config num_layers num_hidden_layers hidden_size num_heads dropout
    target_bandwidths upsampling_ratios chunk_length_s semantic_rate_hz top_k temperature weight_map metadata format
    version files source dtype shape data_offsets __metadata__ w repo_or_path semantic_prompt text id voice seed model
    normalizer pre_tokenizer added_tokens vocab unk_token type auto_map a""".split()  # noqa: SIM905, as a list it is long
)
NUMBERS = (
    st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400])
    | st.floats()
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(["bark", "F32", "../x", "WordPiece"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


JSON_FILES = st.dictionaries(NAMES, VALUES, max_size=6).map(_dumped) | VALUES.map(_dumped)
LINES = st.lists(JSON_FILES, max_size=4).map(b"\n".join)

_STRINGS = st.sampled_from(["w", "storage", "0", "cpu", "latin1", "f4", "<", ""]).map(
    lambda text: b"X" + struct.pack("<I", len(text)) + text.encode()
)
_INTEGERS = st.integers(-(2**63), 2**63 - 1).map(lambda n: b"\x8a\x08" + struct.pack("<q", n)) | st.integers(0, 20).map(
    lambda n: b"K" + bytes([n])
)
_GLOBALS = st.sampled_from(
    """torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter torch.FloatStorage torch.storage.UntypedStorage
    torch.Size collections.OrderedDict _codecs.encode numpy.dtype numpy.core.multiarray.scalar torch.bfloat16
    os.system""".split()  # noqa: SIM905
).map(lambda name: "c{}\n{}\n".format(*name.rsplit(".", 1)).encode())
_PLAIN = st.sampled_from([bytes([code]) for code in b"(tRQb}]usea)NP0" + bytes(range(0x81, 0x95))]) | st.sampled_from(
    [b"h\0", b"h\1", b"q\0"]
)
PICKLES = st.lists(_STRINGS | _INTEGERS | _GLOBALS | _PLAIN, max_size=40).map(
    lambda parts: b"\x80\x02" + b"".join(parts) + b"."
)


def _npy(shape: object, descr: str, is_fortran: object, data: bytes) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {is_fortran}, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text) % 2**16) + text + data


ARRAYS = st.builds(
    _npy,
    st.lists(NUMBERS, max_size=4).map(tuple) | st.sampled_from(["x", "(1,) * 9", "None", "2**9"]),
    st.sampled_from(["'<i8'", "'|O'", "'<f4'", "'|V8'", "[('a', 'i8')]", "'M8'", "5", "'>u2'", "'<U4'"]),
    st.sampled_from([True, False, 1, "None", "[]"]),
    st.binary(max_size=64),
)
BYTES = st.binary(max_size=200)

BY_TARGET = {
    "pickle": PICKLES,
    "header": JSON_FILES,
    "lora": JSON_FILES,
    "index": JSON_FILES,
    "config": JSON_FILES,
    "manifest": JSON_FILES,
    "member": ARRAYS,
    "array": ARRAYS,
    "voices": JSON_FILES,
    "tokenizer": JSON_FILES,
    "rows jsonl": LINES,
    "batch manifest": LINES,
    "run": JSON_FILES,
    "training manifest": LINES,
}


def strategy_for(target: str) -> st.SearchStrategy[bytes]:
    return BY_TARGET.get(target, BYTES)
