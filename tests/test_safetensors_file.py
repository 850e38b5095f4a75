"""Safetensors files and shards: valid files are read, damaged and hostile ones refused."""

import json
import random
import re
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from bad_inputs.harness import FILE_BYTES, FILE_CALLS, refused
from safetensors.numpy import save_file

from bark_jax.checkpoints._arrays import StoredArray
from bark_jax.checkpoints.safetensors_file import DTYPES, read_safetensors, read_sharded
from bark_jax.errors import BarkError, CheckpointError, ModelNotFoundError

VALUES = np.arange(4, dtype=np.float32)
DATA = VALUES.tobytes()


def entry(dtype="F32", shape=(4,), offsets=(0, 16), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)} | more


def file_of(header, data=DATA):
    """The bytes of a safetensors file; header as JSON text or as what the text should say."""
    if not isinstance(header, bytes):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def refusal(path, read=read_safetensors, memory=None):
    memory = FILE_BYTES + 4 * path.stat().st_size if memory is None else memory
    located = f"^{re.escape(str(path))}"
    with refused(CheckpointError, located, calls=FILE_CALLS, memory=memory, folder=path.parent) as caught:
        read(path)
    return str(caught.value)


# What is read


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3), (6,)])
def test_every_dtype_is_read(path, dtype, shape):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    save_file({"before": np.ones(3, np.uint8), "w": values}, path)
    array = read_safetensors(path)["w"]
    assert (array.shape, array.dtype, array.nbytes) == (shape, dtype, values.nbytes)
    np.testing.assert_array_equal(array.read(), values, strict=True)


def test_bfloat16_of_torch_is_read(path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    save_torch({"w": torch.tensor([1.5, -2], dtype=torch.bfloat16)}, path, metadata={"format": "pt"})
    np.testing.assert_array_equal(
        read_safetensors(path)["w"].read(), np.array([1.5, -2], ml_dtypes.bfloat16), strict=True
    )


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_metadata_is_no_array(path, metadata):
    path.write_bytes(file_of({"w": entry(), "__metadata__": metadata}))
    assert list(read_safetensors(path)) == ["w"]


def test_a_file_without_arrays_is_read(path):
    path.write_bytes(file_of({}, b""))
    assert read_safetensors(path) == {}


def test_what_read_gives_is_contiguous_and_its_own(path):
    path.write_bytes(file_of({"w": entry()}))
    array = read_safetensors(path)["w"].read()
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.owndata


def test_values_that_are_not_aligned_are_read(path):
    path.write_bytes(file_of({"a": entry("U8", (1,), (0, 1)), "w": entry(offsets=(1, 17))}, b"\1" + VALUES.tobytes()))
    np.testing.assert_array_equal(read_safetensors(path)["w"].read(), VALUES)


def test_reading_one_array_of_a_large_file_takes_its_memory_alone(path):
    header = {"small": entry(), "large": entry(shape=(50 * 2**20,), offsets=(16, 16 + 200 * 2**20))}
    path.write_bytes(file_of(header))
    with open(path, "ab") as file:
        file.truncate(file.tell() + 200 * 2**20)
    tracemalloc.start()
    np.testing.assert_array_equal(read_safetensors(path)["small"].read(), VALUES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


# Damaged and hostile files

GOOD = file_of({"w": entry()})
TEXT = json.dumps(entry())
DAMAGED = {
    "cut inside the header": (GOOD[:30], "is cut short: its header"),
    "cut inside the header's length": (GOOD[:5], "no safetensors file"),
    "cut inside the values": (GOOD[:-8], "is cut short: its arrays take 16 bytes, it has 8"),
    "less its last byte": (GOOD[:-1], "is cut short"),
    "empty": (b"", "is empty. Download or make it again."),
    "header of length 0": (struct.pack("<Q", 0) + bytes(16), "no safetensors file"),
    "header of length 2**64 - 1": (struct.pack("<Q", 2**64 - 1) + b"{}", "claims a header of 18446744073709551615"),
    "header that is no JSON": (file_of(b'{"w": oops}'), "header is not JSON"),
    "header that is no UTF-8": (file_of(b'{"\xff": 1}'), "header is not JSON"),
    "header that is a list": (file_of(b"[1]"), "no safetensors file"),
    "header of spaces": (file_of(b" " * 1000), "no safetensors file"),
    "header nested 100,000 deep": (file_of(b'{"w":' + b"[" * 100_000), "header is not JSON"),
    "number of a million digits": (file_of(b'{"w":' + b"9" * 10**6 + b"}"), "header is not JSON"),
    "bytes after the values": (GOOD + b"garbage", "has 7 bytes behind its last array"),
    "offset beyond the file": (file_of({"w": entry(offsets=(2**40, 2**40 + 16))}), "is cut short"),
    "gap before the first array": (file_of({"w": entry(offsets=(4, 20))}, bytes(20)), "no sound safetensors file"),
    "arrays that overlap": (file_of({"a": entry(), "b": entry()}), "no sound safetensors file"),
    "F64 declared for F32 bytes": (file_of({"w": entry("F64")}), "'w' in 16 bytes, which shape [4] of float64"),
    "shape too small for its bytes": (file_of({"w": entry(shape=(3,))}), "'w' in 16 bytes"),
    "shape whose product overflows": (file_of({"w": entry(shape=(2**40, 2**40))}), "'w' in shape"),
    "shape whose product wraps around to fit": (file_of({"w": entry(shape=(2**62, 4, 4))}, b""), "'w' in shape"),
    "empty, other sizes absurd": (file_of({"w": entry(shape=(0, 2**62), offsets=(0, 0))}, b""), "'w' in shape"),
    "negative shape": (file_of({"w": entry(shape=(-4,))}), "'w' in shape [-4]"),
    "a product too large": (
        file_of({"w": entry(shape=(2**40, 2**40))}),
        "776], which has more than 1,099,511,627",
    ),
    "99 sizes": (file_of({"w": entry(shape=(1,) * 99)}), "which has 99 sizes, more than 32"),
    "two negative sizes": (file_of({"w": entry(shape=(-2, -2))}), "'w' in shape [-2, -2]"),
    "shape of a float": (file_of({"w": entry(shape=(4.0,))}), "'w' in shape [4.0]"),
    "shape of a bool": (file_of({"w": entry(shape=(True, 4))}), "'w' in shape [True, 4]"),
    "shape that is a number": (file_of({"w": entry() | {"shape": 4}}), "'w' in shape 4"),
    "more dimensions than numpy has": (file_of({"w": entry(shape=(1,) * 99 + (4,))}), "'w' in shape"),
    "offsets that run backwards": (file_of({"w": entry(offsets=(16, 0))}), "'w' at offsets [16, 0]"),
    "offsets negative": (file_of({"w": entry(offsets=(-16, 0))}), "'w' at offsets [-16, 0]"),
    "offsets of three": (file_of({"w": entry(offsets=(0, 16, 16))}), "'w' at offsets [0, 16, 16]"),
    "unknown dtype": (file_of({"w": entry("F33")}), "'w' in dtype 'F33'"),
    "complex dtype": (file_of({"w": entry("C64", (2,))}), "'w' in dtype 'C64'"),
    "8-bit floats": (file_of({"w": entry("F8_E4M3", (16,))}), "'w' in dtype 'F8_E4M3'"),
    "dtype that is a list": (file_of({"w": entry(["F32"])}), "'w' in dtype ['F32']"),
    "array described by a string": (file_of({"w": "F32"}), "describes 'w' as 'F32'"),
    "array without a dtype": (file_of({"w": {"shape": [4], "data_offsets": [0, 16]}}), "describes 'w' as"),
    "a key twice": (file_of(f'{{"w": {TEXT}, "w": {TEXT}}}'.encode()), "the key 'w' is there twice"),
    "a field twice": (file_of(f'{{"w": {TEXT[:-1]}, "shape": [2]}}}}'.encode()), "the key 'shape' is there twice"),
    "metadata of a number": (file_of({"w": entry(), "__metadata__": {"epoch": 3}}), "__metadata__"),
    "metadata that is a list": (file_of({"w": entry(), "__metadata__": ["pt"]}), "__metadata__"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "run `git lfs pull`"),
    "web page": (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "torch checkpoint": (b"PK\3\4" + bytes(99), "a zip archive, as torch.save writes"),
    "bare pickle": (b"\x80\x02}q\0." + bytes(99), "a bare pickle"),
    "random bytes": (random.Random(0).randbytes(9999), "a file of unknown kind"),
}


@pytest.mark.parametrize(("data", "offence"), DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_makes_no_sense_is_refused(path, data, offence):
    path.write_bytes(data)
    assert offence in refusal(path)


@pytest.mark.parametrize(
    ("first", "offence"), [(b"{", "claims a header of 101000000 bytes"), (b" ", "no header begins")]
)
def test_a_header_of_101_mb_is_refused_unread(path, first, offence):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 101_000_000) + first)
        file.truncate(8 + 101_000_000)
    assert offence in refusal(path, memory=FILE_BYTES)


def test_a_file_that_is_not_there_is_not_found(path):
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        read_safetensors(path)


def test_a_file_changed_between_opening_and_reading_is_refused(path):
    path.write_bytes(GOOD)
    array = read_safetensors(path)["w"]
    path.write_bytes(GOOD[:-8])
    with pytest.raises(CheckpointError, match="was changed"):
        array.read()


def test_damage_anywhere_gives_an_error_or_arrays_that_fit_the_file(path):
    """No more can be had: the format has no checksum."""
    save_file({"w": VALUES.reshape(2, 2), "b": np.ones(8, ml_dtypes.bfloat16)}, path, metadata={"format": "pt"})
    data = path.read_bytes()
    dice = random.Random(0)
    num_refused = 0
    for turn in range(600):
        broken = bytearray(data)
        if turn % 6 == 0:
            broken = broken[: dice.randrange(len(data))]
        for _ in range(dice.choice([1, 1, 2, 4]) if turn % 6 else 0):
            broken[dice.randrange(len(data))] ^= dice.randrange(1, 256)
        path.write_bytes(broken)
        try:
            arrays = read_safetensors(path)
            assert all(array.read().nbytes == array.nbytes for array in arrays.values())
            assert sum(array.nbytes for array in arrays.values()) == 32
        except BarkError:
            num_refused += 1
    assert 300 < num_refused < 600


# Shards


@pytest.fixture
def index(tmp_path):
    """Path of an index, to be written; beside it are two shards with one array each."""
    for shard, name in (("a", "wte"), ("b", "wpe")):
        save_file({name: VALUES}, tmp_path / f"{shard}.safetensors")
    return tmp_path / "model.safetensors.index.json"


def write_index(path, **shards):
    path.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": shards}))
    return path


def read(index):
    return read_sharded(index, read_safetensors)


def test_all_shards_are_read(index):
    arrays = read(write_index(index, wte="a.safetensors", wpe="b.safetensors"))
    assert sorted(arrays) == ["wpe", "wte"]
    np.testing.assert_array_equal(arrays["wpe"].read(), VALUES)


def test_shards_of_another_kind_are_read_by_their_reader(index):
    arrays = read_sharded(write_index(index, w="pytorch_model-1.bin"), lambda path: {"w": StoredArray.of(VALUES)})
    np.testing.assert_array_equal(arrays["w"].read(), VALUES)


def test_shards_that_are_links_into_a_cache_are_read(index, tmp_path):
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "model-1.safetensors").symlink_to("../../a.safetensors")
    arrays = read(write_index(snapshot / index.name, wte="model-1.safetensors"))
    np.testing.assert_array_equal(arrays["wte"].read(), VALUES)


@pytest.mark.parametrize(
    "shard",
    ["/etc/passwd", "../a.safetensors", "sub/a.safetensors", "..", ".", "", "C:a", "sub\\a", "a\0b", 3, None, ["a"]],
)
def test_a_shard_that_is_no_file_beside_the_index_is_refused(index, shard):
    assert f"names the shard {shard!r}" in refusal(write_index(index, wte=shard), read)


def test_a_shard_that_is_not_there_is_not_found(index):
    with pytest.raises(ModelNotFoundError, match=r"c\.safetensors does not exist"):
        read(write_index(index, wte="a.safetensors", wpe="c.safetensors"))


def test_an_array_listed_in_the_wrong_shard_is_refused(index):
    write_index(index, wte="b.safetensors", wpe="b.safetensors")
    assert "lists 'wte' in b.safetensors, which does not hold it" in refusal(index, read)


def test_an_array_that_is_not_listed_is_refused(index, tmp_path):
    save_file({"wte": VALUES, "more": VALUES}, tmp_path / "a.safetensors")
    assert "does not list 'more', which a.safetensors holds" in refusal(write_index(index, wte="a.safetensors"), read)


@pytest.mark.parametrize("held", [[StoredArray.of(VALUES)], {"w": 3}, {"w": {"x": StoredArray.of(VALUES)}}])
def test_a_shard_that_is_no_flat_dict_is_refused(index, tmp_path, held):
    write_index(index, w="a.bin")
    with pytest.raises(CheckpointError, match=r"a\.bin holds something else than arrays by name"):
        read_sharded(index, lambda path: held)


INDEXES = {
    "no JSON": (b"{oops", "is not JSON"),
    "no object": (b"[]", "expected an object"),
    "no weight_map": (b"{}", "has no weight_map"),
    "a weight_map that is a list": (b'{"weight_map": ["a"]}', "has no weight_map"),
    "an empty weight_map": (b'{"weight_map": {}}', "has no weight_map"),
    "a key twice": (b'{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', "the key 'w' is there twice"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "run `git lfs pull`"),
    "empty": (b"", "is empty"),
    "5 MiB": (b" " * 5 * 2**20, "has 5242880 bytes"),
}


@pytest.mark.parametrize(("data", "offence"), INDEXES.values(), ids=INDEXES)
def test_an_index_that_makes_no_sense_is_refused(index, data, offence):
    index.write_bytes(data)
    assert offence in refusal(index, read)


def test_an_index_that_is_not_there_is_not_found(index):
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        read(index)
