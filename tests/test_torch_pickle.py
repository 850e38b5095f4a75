"""Reading torch.save checkpoints without torch: valid files are read, hostile and damaged ones refused."""

import contextlib
import io
import os
import pickle
import random
import re
import struct
import sys
import tracemalloc
import warnings
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest
from bad_inputs.harness import FILE_BYTES, FILE_CALLS, refused

from bark_jax.checkpoints._arrays import TORCH_STREAM, StoredArray
from bark_jax.checkpoints.pickle import read_torch
from bark_jax.errors import BarkError, CheckpointError, ModelNotFoundError

VALUES = np.arange(16, dtype=np.float32)
ONE_STORAGE = (("0", VALUES.tobytes()),)


# Building blocks of handwritten pickles: each is a few opcodes that leave one value on the stack.
def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def sequence(*items):
    return b"(" + b"".join(items) + b"t"


def mapping(**items):
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def name(full_name):
    module, _, attribute = full_name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def stack_name(module, attribute):
    return text(module) + text(attribute) + b"\x93"


def call(function, *arguments):
    return function + sequence(*arguments) + b"R"


def storage(kind="torch.FloatStorage", key="0", numel=16):
    return sequence(text("storage"), name(kind), text(key), text("cpu"), number(numel)) + b"Q"


def tensor(size=(16,), stride=(1,), offset=0, source=None, more=()):
    sizes, strides = (sequence(*map(number, values)) for values in (size, stride))
    hooks = call(name("collections.OrderedDict"))
    view = [source or storage(), number(offset), sizes, strides, b"\x89", hooks, *more]
    return call(name("torch._utils._rebuild_tensor_v2"), *view)


def numpy_scalar(module, value=b"\0\0\xc0\x3f", code="f4"):
    dtype = call(name("numpy.dtype"), text(code), b"\x89", b"\x88")
    dtype += sequence(number(3), text("<"), b"NNN", number(-1), number(-1), number(0)) + b"b"
    data = call(name("_codecs.encode"), text(value.decode("latin1")), text("latin1"))
    return call(name(f"{module}.multiarray.scalar"), dtype, data)


def program(body, protocol=2):
    return b"\x80" + bytes([protocol]) + body + b"."


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names, which are made on purpose
        with zipfile.ZipFile(path, "w", compression) as archive:
            for member, data in members:
                archive.writestr(member, data)
    return path


def members_of(body, storages=ONE_STORAGE, root="archive"):
    records = [("data.pkl", program(body)), ("byteorder", b"little")]
    records += [(f"data/{key}", data) for key, data in storages]
    return [(f"{root}/{record}", data) for record, data in [*records, ("version", b"3\n")]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "text.pt"


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def read(path, body, storages=ONE_STORAGE):
    """Reads a checkpoint of this pickle and these storages by `read_torch`."""
    return read_torch(write_zip(path, members_of(body, storages)))


def refusal(path, calls=FILE_CALLS):
    memory = FILE_BYTES + 4 * path.stat().st_size if calls == FILE_CALLS else None  # of many calls it takes minutes
    located = f"^{re.escape(str(path))}"
    with refused(CheckpointError, located, calls=calls, memory=memory, folder=path.parent) as caught:
        read_torch(path)
    return str(caught.value)


# What is read


def test_suno_checkpoint_with_a_numpy_scalar_is_read(path):
    body = mapping(
        model=mapping(**{"_orig_mod.transformer.wte.weight": tensor((4, 4), (4, 1))}),
        model_args=mapping(n_layer=number(12), bias=b"\x89", dropout=b"G" + struct.pack(">d", 0.5), name=text("ß")),
        best_val_loss=numpy_scalar("numpy.core"),
    )
    checkpoint = read(path, body)
    assert checkpoint["model_args"] == {"n_layer": 12, "bias": False, "dropout": 0.5, "name": "ß"}
    assert checkpoint["best_val_loss"] == 1.5
    array = checkpoint["model"]["_orig_mod.transformer.wte.weight"]
    np.testing.assert_array_equal(array.read(), VALUES.reshape(4, 4))


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("value", [np.float64(1.5), np.float16(2), np.int64(-3), np.uint8(7), np.bool_(True)])
def test_numpy_scalars_become_numbers(path, module, value):
    result = read(path, numpy_scalar(module, value.tobytes(), value.dtype.str[1:]))
    assert result == value
    assert type(result) is type(value.item())


STORAGES = {
    "torch.FloatStorage": np.float32,
    "torch.DoubleStorage": np.float64,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}


@pytest.mark.parametrize(("kind", "dtype"), STORAGES.items())
def test_every_storage_type_is_read(path, kind, dtype):
    values = np.array([0, 1, 1, 0, 1, 0], dtype)
    array = read(path, tensor((2, 3), (3, 1), source=storage(kind, numel=6)), [("0", values.tobytes())])
    assert (array.shape, array.dtype, array.nbytes) == ((2, 3), dtype, values.nbytes)
    np.testing.assert_array_equal(array.read(), values.reshape(2, 3), strict=True)


# As torch calls them.
DTYPES = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool"


@pytest.mark.parametrize("dtype", DTYPES.split())
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_of_torch_save_is_read(path, torch, dtype, protocol):
    torch.save({"w": torch.tensor([[0, 1], [1, 2]]).to(getattr(torch, dtype))}, path, pickle_protocol=protocol)
    expected = np.array([[0, 1], [1, 2]]).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    np.testing.assert_array_equal(read_torch(path)["w"].read(), expected, strict=True)


VIEWS = {
    "transposed": ((4, 4), (1, 4), 0, VALUES.reshape(4, 4).T),
    "a column": ((4,), (4,), 1, VALUES.reshape(4, 4)[:, 1]),
    "permuted": ((2, 4, 2), (2, 4, 1), 0, VALUES.reshape(4, 2, 2).transpose(1, 0, 2)),
    "0-d": ((), (), 3, VALUES[3]),
    "one axis of size 1, any stride": ((1, 16), (0, 1), 0, VALUES.reshape(1, 16)),
    "no elements": ((0, 3), (3, 1), 0, np.zeros((0, 3), np.float32)),
    "the end": ((4,), (1,), 12, VALUES[12:]),
}


@pytest.mark.parametrize(("size", "stride", "offset", "expected"), VIEWS.values(), ids=VIEWS)
def test_a_view_of_a_storage_is_read(path, size, stride, offset, expected):
    array = read(path, tensor(size, stride, offset))
    np.testing.assert_array_equal(array.read(), expected)
    assert array.shape == expected.shape


def test_what_read_gives_is_contiguous_and_its_own(path):
    array = read(path, tensor((4, 4), (1, 4))).read()
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.owndata


def test_tensors_that_share_a_storage_are_both_read(path):
    pair = read(path, sequence(tensor((8,)), tensor((8,), offset=8)))
    np.testing.assert_array_equal(np.concatenate([array.read() for array in pair]), VALUES)


def test_an_empty_storage_is_read(path):
    array = read(path, tensor((0, 5), (5, 1), source=storage(numel=0)), [("0", b"")])
    assert array.read().shape == (0, 5)


def test_odd_bytes_in_a_bool_storage_are_true(path):
    array = read(path, tensor((3,), source=storage("torch.BoolStorage", numel=3)), [("0", b"\0\2\xff")])
    np.testing.assert_array_equal(array.read().view(np.uint8), [0, 1, 1])


def test_state_dicts_parameters_sizes_and_dtypes_are_read(path, torch):
    network = torch.nn.Linear(2, 3)
    torch.save([network.state_dict(), network.weight, torch.Size([1, 2]), torch.float16, (None, b"ab", 2**70)], path)
    state, weight, *others = read_torch(path)
    assert type(state) is dict
    np.testing.assert_array_equal(state["bias"].read(), network.bias.detach().numpy())
    np.testing.assert_array_equal(weight.read(), network.weight.detach().numpy())
    assert others == [(1, 2), np.dtype(np.float16), (None, b"ab", 2**70)]


def test_numbers_are_keys_as_in_an_optimizers_state(path):
    assert read(path, b"}" + number(1000) + b"Ns" + number(2**60) + b"Ns", ()) == {1000: None, 2**60: None}


def test_containers_may_lie_in_each_other_to_a_depth_of_64(path):
    value = read(path, b")" + b"\x85" * 64, ())
    for _ in range(64):
        (value,) = value
    assert value == ()
    assert "nests its containers" in refusal(write_zip(path, members_of(b")" + b"\x85" * 65)))


def test_a_list_is_given_as_one_for_the_caller_to_refuse(path):
    (array,) = read(path, b"](" + tensor() + b"e")
    assert isinstance(array, StoredArray)


def test_storages_nobody_reads_are_never_touched(path):
    body = mapping(model=tensor(source=storage(key="0")), optimizer=tensor(source=storage(key="1")))
    checkpoint = read(path, body, [("0", VALUES.tobytes()), ("1", b"\xee" * 64)])
    data = bytearray(path.read_bytes())
    start = data.index(b"\xee" * 64)
    data[start : start + 64] = bytes(64)
    path.write_bytes(data)
    checkpoint = read_torch(path)
    np.testing.assert_array_equal(checkpoint["model"].read(), VALUES)
    with pytest.raises(CheckpointError, match="record data/1 has CRC-32"):
        checkpoint["optimizer"].read()


def test_a_storage_is_checked_once(path, monkeypatch):
    pair = read(path, sequence(tensor((8,)), tensor((8,), offset=8)))
    pair[0].read()
    monkeypatch.setattr(zlib, "crc32", None)
    pair[1].read()


def test_reading_one_array_of_a_large_file_takes_its_memory_alone(path):
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members_of(
            sequence(tensor(), tensor((50 * 2**20,), source=storage(key="1", numel=50 << 20)))
        ):
            archive.writestr(member, data)
        with archive.open("archive/data/1", "w") as record:
            for _ in range(200):
                record.write(bytes(2**20))
    tracemalloc.start()
    small, _ = read_torch(path)
    small.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_a_large_array_is_in_memory_once(path):
    array = read(path, tensor((2**22,), source=storage(numel=2**22)), [("0", bytes(2**24))])
    tracemalloc.start()
    array.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24 + 2**22


def test_members_beside_the_known_ones_are_tolerated(path):
    extra = [
        ("archive/.data/serialization_id", b"1"),
        ("archive/.format_version", b"1"),
        ("archive/quantizer.info", b"{}"),
    ]
    np.testing.assert_array_equal(read_torch(write_zip(path, members_of(tensor()) + extra)).read(), VALUES)


def test_a_symbolic_link_to_the_file_is_followed(path, tmp_path):
    write_zip(tmp_path / "blob", members_of(tensor()))
    path.symlink_to(tmp_path / "blob")
    np.testing.assert_array_equal(read_torch(path).read(), VALUES)


def with_zip64_end(data, directory_bytes=None):
    """The archive with the end records that one of more than 4 GiB has."""
    *counts, nbytes, start, _ = struct.unpack("<4s4H2LH", data[-22:])
    end = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, counts[3], counts[3], directory_bytes or nbytes, start
    ) + struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
    return data[:-22] + end + struct.pack("<4s4H2LH", *counts, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def test_zip64_archives_are_read(path):
    path.write_bytes(with_zip64_end(write_zip(path, members_of(tensor())).read_bytes()))
    np.testing.assert_array_equal(read_torch(path).read(), VALUES)


def without_crc(data, member=None, *, own=True):
    """The archive with 0 for the CRC-32 of a member, or of all: in the directory, and beside the bytes if `own`."""
    data = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        infos = [info for info in archive.infolist() if member in (None, info.filename)]
    for info in infos:
        entry = data.rindex(info.filename.encode()) - 46
        data[entry + 16 : entry + 20] = bytes(4)
        if own and info.flag_bits & 8:
            end = data.index(b"PK\7\x08", info.header_offset)
            data[end + 4 : end + 8] = bytes(4)
        elif own:
            data[info.header_offset + 14 : info.header_offset + 18] = bytes(4)
    return bytes(data)


def with_flipped_bit(data):
    start = data.index(VALUES.tobytes()) + 20
    return data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :]


def test_a_file_that_torch_wrote_without_checksums_is_read(path, torch):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.arange(16.0), "none": torch.ones(0)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert {info.CRC for info in archive.infolist()} == {0}
    checkpoint = read_torch(path)
    np.testing.assert_array_equal(checkpoint["w"].read(), VALUES)
    assert checkpoint["none"].read().shape == (0,)


def test_a_file_whose_values_torch_left_to_be_filled_in_is_read(path, torch):
    """All records but those of the values have a checksum."""
    with torch.serialization.skip_data():
        torch.save({"w": torch.arange(16.0)}, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo(f"{path.stem}/data/0").header_offset
    name_bytes, extra_bytes = struct.unpack("<2H", data[offset + 26 : offset + 30])
    offset += 30 + name_bytes + extra_bytes
    data[offset : offset + 64] = VALUES.tobytes()
    path.write_bytes(data)
    np.testing.assert_array_equal(read_torch(path)["w"].read(), VALUES)
    path.write_bytes(data.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"))
    assert "record data.pkl has CRC-32" in refusal(path)


@pytest.mark.parametrize("without", [None, "archive/data/0"])
def test_a_record_without_a_checksum_is_read_as_it_is(path, without):
    data = without_crc(write_zip(path, members_of(tensor())).read_bytes(), without)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_torch(path).read(), VALUES)
    path.write_bytes(with_flipped_bit(data))
    assert (read_torch(path).read() != VALUES).sum() == 1


@pytest.mark.parametrize(
    ("root", "written", "name"),
    [
        ("m\N{LATIN SMALL LETTER U WITH DIAERESIS}n", None, None),  # in UTF-8, and flagged so
        ("mxn", b"mxn/", b"m\x81n/"),  # the same name in code page 437, as a zip without the flag has it
    ],
)
def test_records_are_named_in_utf_8_or_code_page_437(path, root, written, name):
    data = write_zip(path, members_of(tensor(), root=root)).read_bytes()
    if written is not None:
        path.write_bytes(data.replace(written, name))
    np.testing.assert_array_equal(read_torch(path).read(), VALUES)


def test_a_checksum_that_is_missing_in_the_directory_alone_is_taken_from_beside_the_bytes(path):
    data = without_crc(write_zip(path, members_of(tensor())).read_bytes(), own=False)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_torch(path).read(), VALUES)
    path.write_bytes(with_flipped_bit(data))
    with pytest.raises(CheckpointError, match="record data/0 has CRC-32"):
        read_torch(path).read()


@pytest.mark.parametrize("has_signature", [True, False])
def test_a_checksum_after_the_bytes_is_found(path, torch, has_signature):
    torch.save(torch.arange(16.0), path)
    data = without_crc(path.read_bytes(), f"{path.stem}/data/0", own=False)
    if not has_signature:
        crc = struct.pack("<L", zlib.crc32(VALUES.tobytes()))
        data = data.replace(b"PK\7\x08" + crc, crc + bytes(4))
    path.write_bytes(data)
    np.testing.assert_array_equal(read_torch(path).read(), VALUES)
    path.write_bytes(with_flipped_bit(data))
    with pytest.raises(CheckpointError, match="record data/0 has CRC-32"):
        read_torch(path).read()


# Files from before torch 1.6


def storage_list(keys):
    return b"](" + b"".join(map(text, keys)) + b"e"


def stream_of(body, storages=ONE_STORAGE, itemsize=4, keys=None):
    """A checkpoint of this pickle and these storages in the format of torch before 1.6."""
    pickles = [number(0x1950A86A20F9469CFC6C), number(1001), mapping(little_endian=b"\x88"), body]
    listed = storage_list([key for key, _ in storages] if keys is None else keys)
    values = b"".join(struct.pack("<q", len(data) // itemsize) + data for _, data in storages)
    return b"".join(map(program, [*pickles, listed])) + values


def read_stream(path, *arguments, **options):
    path.write_bytes(stream_of(*arguments, **options))
    return read_torch(path)


@pytest.mark.parametrize("dtype", DTYPES.split())
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_old_file_is_read(path, torch, dtype, protocol):
    dtype = getattr(torch, dtype)
    weights = {"w": torch.arange(6).reshape(2, 3).T.to(dtype), "b": torch.ones(2), "n": [1, (None, "x")]}
    weights["alias"] = weights["w"][1:]
    torch.save(weights, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    checkpoint = read_torch(path)
    assert checkpoint["n"] == [1, (None, "x")]
    np.testing.assert_array_equal(checkpoint["b"].read(), np.ones(2, np.float32), strict=True)
    expected = np.arange(6).reshape(2, 3).T.astype(ml_dtypes.bfloat16 if dtype == torch.bfloat16 else str(dtype)[6:])
    np.testing.assert_array_equal(checkpoint["w"].read(), expected, strict=True)
    np.testing.assert_array_equal(checkpoint["alias"].read(), expected[1:], strict=True)


def test_an_old_file_needs_no_torch(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    body = mapping(
        w=tensor((4, 4), (1, 4)), n=numpy_scalar("numpy.core"), gpu=tensor(source=storage("torch.cuda.FloatStorage"))
    )
    checkpoint = read_stream(path, body)
    np.testing.assert_array_equal(checkpoint["w"].read(), VALUES.reshape(4, 4).T)
    np.testing.assert_array_equal(checkpoint["gpu"].read(), VALUES)
    assert checkpoint["n"] == 1.5


def test_an_old_files_values_are_read_when_they_are_asked_for(path):
    path.write_bytes(
        stream_of(
            mapping(w=tensor(), large=tensor((2**24,), source=storage(key="1", numel=2**24))),
            [*ONE_STORAGE, ("1", bytes(2**26))],
        )
    )
    tracemalloc.start()
    np.testing.assert_array_equal(read_torch(path)["w"].read(), VALUES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25  # the pickles are looked for in the first 16 MiB


def part_of_a_storage(begin, numel):
    part = sequence(text("view"), number(begin), number(numel))
    parts = [text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), number(16), part]
    return sequence(*parts) + b"Q"


def test_a_part_of_a_storage_is_read_as_torch_before_0_4_wrote_it(path):
    array = read_stream(path, tensor((3,), offset=1, source=part_of_a_storage(4, 4)))
    np.testing.assert_array_equal(array.read(), VALUES[5:8])
    path.write_bytes(stream_of(tensor((4,), offset=1, source=part_of_a_storage(4, 4))))
    assert "reaches beyond it" in refusal(path)
    for begin, numel in [(13, 4), (-1, 4), (0, 2**62)]:
        path.write_bytes(stream_of(tensor((1,), source=part_of_a_storage(begin, numel))))
        assert "takes the part" in refusal(path)


BROKEN_STREAMS = {
    "a storage less": (stream_of(tensor(), ()), "lists the storages [], and its tensors need ['0']"),
    "a storage too many": (stream_of(mapping()), "lists the storages ['0'], and its tensors need []"),
    "a storage twice": (stream_of(tensor(), keys=["0", "0"]), "lists the storages"),
    "a list of numbers": (stream_of(tensor(), keys=[])[: -len(VALUES.tobytes()) - 8], "lists the storages"),
    "another length": (
        stream_of(tensor(), [("0", bytes(60) + VALUES.tobytes())]),
        "has 31 elements, its pickle claims 16",
    ),
    "values cut": (stream_of(tensor())[:-1], "is cut short: it ends inside storage '0'"),
    "a storage of 2**40 elements": (stream_of(tensor(source=storage(numel=2**40))), "is cut short"),
    "another protocol": (stream_of(tensor()).replace(number(1001), number(1000)), "is of protocol 1000, expected 1001"),
    "only the number": (TORCH_STREAM, "is damaged: its pickle claims"),
}


@pytest.mark.parametrize(("data", "offence"), BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
def test_a_damaged_old_file_is_refused(path, data, offence):
    path.write_bytes(data)
    assert offence in refusal(path)


def test_an_old_file_that_is_damaged_is_refused_wherever_it_is_cut(path):
    data = stream_of(mapping(w=tensor()))
    for end in range(len(TORCH_STREAM), len(data)):
        path.write_bytes(data[:end])
        refusal(path)


def test_damage_in_an_old_file_is_refused_or_harmless(path):
    data = stream_of(mapping(w=tensor((4, 4), (1, 4)), n=numpy_scalar("numpy.core")))
    dice = random.Random(0)
    for _ in range(600):
        broken = bytearray(data)
        for _ in range(dice.choice([1, 2, 8])):
            broken[dice.randrange(len(data))] = dice.choice([dice.randrange(256), dice.choice(data)])
        path.write_bytes(broken)
        with contextlib.suppress(BarkError):
            read_torch(path)


def test_a_tensor_of_an_old_file_that_is_larger_than_its_storage_is_refused(path, torch):
    torch.save({"w": torch.zeros(1).expand(40_000, 40_000)}, path, _use_new_zipfile_serialization=False)
    assert path.stat().st_size < 400
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "elements twice" in message and "(at 'w')" in message
    assert peak < 2**25  # the pickles are looked for in the first 16 MiB


@pytest.mark.parametrize("doublings", [28, 60])
def test_a_list_that_is_doubled_is_refused(path, torch, doublings):
    doubled = []
    for _ in range(doublings):
        doubled = [doubled, doubled]
    torch.save({"w": doubled}, path, _use_new_zipfile_serialization=False)
    assert "nests its containers" in refusal(path, 10**7)  # 3.1 million: the maximum of values read


# The same pickle in either form of file.
FORMS = {
    "zip": lambda path, body: write_zip(path, members_of(body)),
    "stream": lambda path, body: path.write_bytes(stream_of(body)),
}


# Hostile pickles. Each would create a file named canary in another reader.

SYSTEM = name("posix.system")
LOADED = "torch._utils._rebuild_tensor_v2"
HOSTILE_CALLS = {
    "nested four containers deep": (
        lambda c: mapping(w=tensor(), a=mapping(b=b"](" + sequence(call(SYSTEM, c)) + b"e")),
        "posix.system",
    ),
    "eval": (lambda c: call(name("builtins.eval"), c), "builtins.eval"),
    "python 2's eval": (lambda c: call(name("__builtin__.eval"), c), "__builtin__.eval"),
    "a dotted name through an allowed module": (
        lambda c: call(stack_name("torch.serialization", "os.system"), c),
        "torch.serialization.os.system",
    ),
    "a dotted name through an allowed function": (
        lambda c: call(stack_name(LOADED, "__globals__"), c),
        f"{LOADED}.__globals__",
    ),
    "a dotted name through an allowed dtype": (
        lambda c: call(stack_name("numpy", "dtype.__init__"), c),
        "numpy.dtype.__init__",
    ),
    "getattr of an import": (
        lambda c: call(
            call(name("builtins.getattr"), call(name("builtins.__import__"), text("os")), text("system")), c
        ),
        "builtins.getattr",
    ),
    "in model_args": (
        lambda c: mapping(model=mapping(w=tensor()), model_args=mapping(n_layer=call(SYSTEM, c))),
        "posix.system",
    ),
    "in what is popped again": (lambda c: call(SYSTEM, c) + b"0" + mapping(w=tensor()), "posix.system"),
    "in a persistent id": (lambda c: sequence(text("storage"), call(SYSTEM, c)) + b"Q", "posix.system"),
    "a persistent id as text": (lambda c: b"Pos.system\n", "PERSID"),
    "instance": (lambda c: b"(" + c + b"iposix\nsystem\n", "INST"),
    "object": (lambda c: b"(" + SYSTEM + c + b"o", "posix.system"),
    "object of an allowed name": (lambda c: b"(" + name("torch.Size") + c + b"o", "OBJ"),
    "new object": (lambda c: name("collections.OrderedDict") + sequence() + b"\x81", "NEWOBJ"),
    "new object with keywords": (lambda c: name("collections.OrderedDict") + sequence() + b"}\x92", "NEWOBJ_EX"),
    "an extension code": (lambda c: b"\x82\x01", "EXT1"),
    "an outside buffer": (lambda c: b"\x97", "NEXT_BUFFER"),
    "subprocess": (lambda c: call(name("subprocess.Popen"), c), "subprocess.Popen"),
    "torch.load": (lambda c: call(name("torch.load"), c), "torch.load"),
    "a numpy array, as it may hold objects": (
        lambda c: call(name("numpy.core.multiarray._reconstruct"), c),
        "numpy.core.multiarray._reconstruct",
    ),
    "a call of a string": (lambda c: call(text("posix.system"), c), "call a str"),
    "a call of a storage type": (lambda c: call(name("torch.FloatStorage"), c), "call a StorageType"),
    "state of a tensor": (lambda c: tensor() + mapping(load=c) + b"b", "state of a StoredArray"),
    "state of a function": (lambda c: name(LOADED) + mapping(call=c) + b"b", "state of a Function"),
    "slots of a dict": (lambda c: b"}" + sequence(b"}", mapping(get=c)) + b"b", "state of a dict"),
    "items of a tensor": (lambda c: tensor() + text("load") + c + b"s", "item of a StoredArray"),
    "appending to a tensor": (lambda c: tensor() + c + b"a", "appends to a StoredArray"),
    "a codec by name": (lambda c: call(name("_codecs.encode"), c, text("os_string")), "os_string"),
    "a function where a value should be": (lambda c: mapping(w=name(LOADED)), "holds a function"),
    "a storage where a value should be": (lambda c: mapping(w=storage()), "holds a storage"),
}


@pytest.mark.parametrize(("body", "offence"), HOSTILE_CALLS.values(), ids=HOSTILE_CALLS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_hostile_pickle_runs_nothing_and_the_error_names_its_call(path, tmp_path, body, offence, form):
    canary = tmp_path / "canary"
    form(path, body(text(f"touch {canary}")))
    assert offence in refusal(path)
    assert not canary.exists()


NAMED = {
    "a tensor among others": mapping(a=tensor(), model=mapping(x=tensor(), w=tensor(offset=1), y=tensor())),
    "the only one": b"}" + text("model") + b"}" + text("w") + tensor(offset=1) + b"ss",
    "complex numbers": mapping(
        model=mapping(x=tensor(), w=tensor(source=storage("torch.ComplexFloatStorage", numel=8)))
    ),
    "a complex dtype": mapping(model=mapping(w=call(name("torch._utils._rebuild_tensor_v3"), name("torch.complex64")))),
    "a storage in a list": mapping(n=b"N", model=mapping(w=b"](" + tensor(source=storage(numel=-1)))),
    "a payload": mapping(model=mapping(x=b"N", w=call(SYSTEM, text("x")))),
    "an instruction of no weights": mapping(model=mapping(x=b"N", w=b"\x97")),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("body", NAMED.values(), ids=NAMED)
def test_a_refusal_names_the_tensor(path, form, body):
    form(path, body)
    assert "at 'model' > 'w'" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_complex_tensor_of_torch_is_refused_by_name(path, torch, zipped):
    weights = {"model": {"x": torch.ones(2), "w": torch.ones(2, dtype=torch.complex64)}}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert "holds complex numbers ('torch.ComplexFloatStorage')" in message and "at 'model' > 'w'" in message


def test_the_payload_runs_in_a_reader_that_trusts(tmp_path):
    pickle.loads(program(call(SYSTEM, text(f"touch {tmp_path}/canary"))))
    assert (tmp_path / "canary").exists()


BARE = {
    "payload": lambda payload: program(payload),
    "payload first, stream broken after it": lambda payload: program(payload)[:-1] + b"\xff\xff",
    "of protocol 4": lambda payload: program(payload, protocol=4),
}


@pytest.mark.parametrize("data", BARE.values(), ids=BARE)
def test_a_bare_pickle_is_refused_unread(path, tmp_path, data):
    path.write_bytes(data(call(SYSTEM, text(f"touch {tmp_path}/canary"))))
    assert "a bare pickle" in refusal(path)
    assert not (tmp_path / "canary").exists()


# Hostile numbers

MANY_TENSORS = b"](" + b"".join(
    [
        name(LOADED) + b"q\0",
        sequence(storage(), number(0), sequence(number(16)), sequence(number(1)), b"\x89", b"}") + b"q\1",
        b"R" + b"h\0h\1R" * 70_000 + b"e",
    ]
)
SHARED = b"".join(b"](" + b"h\0" * 8 + b"eq\0" for _ in range(40))
ABSURD = {
    "offset far outside": (tensor(offset=2**40), "reaches beyond"),
    "offset one too far": (tensor(offset=1), "reaches beyond"),
    "stride far outside": (tensor((16,), (2**40,)), "reaches beyond"),
    "negative size": (tensor((-16,)), "expected counts"),
    "negative stride": (tensor((16,), (-1,)), "expected counts"),
    "negative offset": (tensor(offset=-1), "expected counts"),
    "size that is no number": (
        call(name(LOADED), storage(), number(0), sequence(text("16")), sequence(number(1)), b"\x89", b"}"),
        "expected counts",
    ),
    "size as a list": (call(name(LOADED), storage(), number(0), b"]", b"]", b"\x89", b"}"), "two tuples"),
    "stride 0 seen as 10**12 elements": (tensor((10**6, 10**6), (0, 0)), "elements twice"),
    "overlapping rows": (tensor((4, 4), (1, 1)), "elements twice"),
    "sizes whose product overflows": (tensor((2**40, 2**40), (1, 1)), "it has more than 1,099,511,627,776 elements"),
    "empty, other sizes absurd": (tensor((0, 2**62, 2**62), (1, 1, 1)), "expected counts"),
    "more dimensions than numpy has": (tensor((1,) * 99, (1,) * 99), "it has 99 sizes, more than 32"),
    "stride missing": (tensor((4, 4), (1,)), "equal length"),
    "a negated view": (tensor(more=[mapping(neg=b"\x88")]), "negated"),
    "a tensor of no storage": (tensor(source=text("0")), "expected a storage"),
    "an untyped storage without a dtype": (
        tensor(source=storage("torch.storage.UntypedStorage", numel=64)),
        "without a dtype",
    ),
    "storage claims more elements than its record": (tensor(source=storage(numel=17)), "claims 17 elements of 4"),
    "storage claims fewer": (tensor(source=storage(numel=15)), "claims 15 elements of 4"),
    "storage of another type": (tensor(source=storage("torch.DoubleStorage")), "claims 16 elements of 8"),
    "storage with a negative count": (tensor(source=storage(numel=-16)), "names a storage"),
    "storage that is not there": (tensor(source=storage(key="1")), "no record data/1"),
    "storage key that leaves the archive": (tensor(source=storage(key="../../secret")), "'../../secret'"),
    "storage key that is absolute": (tensor(source=storage(key="/etc/passwd")), "'/etc/passwd'"),
    "storage key that is empty": (tensor(source=storage(key="")), "''"),
    "complex storage": (tensor(source=storage("torch.ComplexFloatStorage", numel=8)), "complex numbers"),
    "complex number": (call(name("__builtin__.complex"), number(1), number(2)), "complex numbers"),
    "8-bit floats": (name("torch.float8_e4m3fn"), "torch.float8_e4m3fn"),
    "numpy scalar of objects": (numpy_scalar("numpy.core", code="O8"), "numpy dtype 'O8'"),
    "numpy scalar of too few bytes": (numpy_scalar("numpy.core", b"\0"), "numpy scalar"),
    "numpy scalar in big-endian": (
        call(name("numpy.dtype"), text("f4")) + sequence(number(3), text(">")) + b"b",
        "byte order '>'",
    ),
    "string that claims 2**62 bytes": (b"\x8d" + struct.pack("<Q", 2**62), "claims 4611686018427387904 bytes"),
    "string of 2 MiB": (text("x" * 2**21), "string of 2097152 bytes"),
    "name without an end": (b"c" + b"x" * 2**20, "asks for a name"),
    "memo place that is empty": (b"h\x07", "damaged"),
    "stack that is empty": (b"", "damaged"),
    "mark that is not there": (b"t", "damaged"),
    "key without a value": (b"}(" + text("a") + b"u", "damaged"),
    "cut in the middle": (b"X", "damaged"),
    "key that is a tuple": (b"}" + sequence() + b"Ns", "dict key of type tuple"),
    "key that collides with others": (b"}" + number(2**61 - 1) + b"Ns", "dict key of type int"),
    "list that holds itself": (b"]q\0h\0a", "nests its containers"),
    "lists of the same lists, 8**40 in all": (b"]q\0" + SHARED, "nests its containers"),
    "tuples 100,000 deep": (b")" + b"\x85" * 100_000, "nests its containers"),
    "size of tuples 100,000 deep": (call(name("torch.Size"), b")" + b"\x85" * 100_000), "torch.Size of"),
    "600,000 instructions": (b"](" + b"N" * 600_000 + b"e", "instructions"),
    "70,000 tensors": (MANY_TENSORS, "65536 tensors"),
    "a page of text repeated as bytes": (
        b"](" + text("x" * 4096) + b"q\0" + call(name("_codecs.encode"), b"h\0", text("latin1")) + b"e",
        "16 characters",
    ),
}


# Files that are refused for their size are read up to the limit and no farther. Bounds are 3 times the counted calls.
LARGE = {
    "tuples 100,000 deep": 10**6,
    "size of tuples 100,000 deep": 10**6,
    "600,000 instructions": 6 * 10**6,
    "lists of the same lists, 8**40 in all": 10**7,
    "70,000 tensors": 16 * 10**6,
}


@pytest.mark.parametrize("case", ABSURD)
def test_a_pickle_that_makes_no_sense_is_refused(path, case):
    body, offence = ABSURD[case]
    write_zip(path, members_of(body))
    assert offence in refusal(path, LARGE.get(case, FILE_CALLS))


# In a stream a storage has the size and the key that the pickle says; what it holds is compared with that at the end.
ONLY_IN_ARCHIVES = ("storage claims", "storage of another", "storage that is", "storage key", "an untyped storage")


@pytest.mark.parametrize("case", [case for case in ABSURD if not case.startswith(ONLY_IN_ARCHIVES)])
def test_the_bounds_of_an_archive_are_those_of_a_stream(path, case):
    body, offence = ABSURD[case]
    path.write_bytes(stream_of(body))
    assert offence in refusal(path, LARGE.get(case, FILE_CALLS))


@pytest.mark.parametrize("case", [case for case in ABSURD if case.startswith(ONLY_IN_ARCHIVES)])
def test_storages_of_a_stream_are_what_its_pickle_says(path, case):
    path.write_bytes(stream_of(ABSURD[case][0]))
    refusal(path)


@pytest.mark.parametrize("order", [b"big", b"middle", b""])
def test_numbers_of_another_byte_order_are_refused(path, order):
    members = [(member, order if member.endswith("byteorder") else data) for member, data in members_of(tensor())]
    assert "big-endian" in refusal(write_zip(path, members))


# Hostile archives


def member(name, **fields):
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


GOOD = members_of(tensor())
ARCHIVES = {
    "a member that leaves the archive": ([*GOOD, ("../../canary", b"")], "'../../canary'"),
    "a member that leaves it further in": ([*GOOD, ("archive/../../canary", b"")], "'archive/../../canary'"),
    "an absolute member": ([*GOOD, ("/tmp/canary", b"")], "'/tmp/canary'"),
    "a member on a drive": ([*GOOD, ("C:/canary", b"")], "'C:/canary'"),
    "a backslash": ([*GOOD, ("archive\\canary", b"")], "points out of the archive"),
    "a symbolic link": ([*GOOD, (member("archive/x", external_attr=0o120777 << 16), b"/etc")], "symbolic link"),
    "data.pkl twice": ([*GOOD, GOOD[0]], "'archive/data.pkl' twice"),
    "a storage twice": ([*GOOD, GOOD[2]], "'archive/data/0' twice"),
    "two checkpoints": ([*GOOD, *members_of(tensor(), root="other")], "more than one checkpoint"),
    "a second pickle deeper down": ([*GOOD, ("archive/x/data.pkl", b"")], "more than one checkpoint"),
    "a member beside the root": ([*GOOD, ("readme.txt", b"")], "members beside it"),
    "no pickle": (GOOD[1:], "no data.pkl"),
}


@pytest.mark.parametrize(("members", "offence"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_hostile_archive_is_refused(path, members, offence):
    assert offence in refusal(write_zip(path, members))


def test_a_compressed_storage_is_refused(path):
    write_zip(path, GOOD[:2])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", VALUES.tobytes())
    assert "compressed record data/0" in refusal(path)


def test_a_pickle_of_2_gib_of_zeros_is_refused_at_once(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
    data = path.read_bytes().replace(struct.pack("<I", 2**20), struct.pack("<I", 2**31))
    path.write_bytes(data)
    assert "compressed record data.pkl" in refusal(path)


def test_a_stored_pickle_beyond_any_size_is_refused(path):
    write_zip(path, [("archive/data.pkl", bytes(2**24 + 1))])
    assert "claims 16777217 bytes for data.pkl" in refusal(path)


def end_record(directory_bytes, directory_start):
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, directory_bytes, directory_start, 0)


def header_of(data, name):
    """Offset of a member's local header in a ZIP archive."""
    return data.index(name) - 30


def directory_field(data, name, offset, fmt, value):
    """The archive with one field of the member's directory entry replaced; `offset` counts from the entry's begin."""
    entry = data.rindex(name) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    return data[: entry + offset] + struct.pack(fmt, value) + data[entry + offset + struct.calcsize(fmt) :]


RECORD = b"archive/data/0"
BROKEN = {
    "encrypted": (lambda data: directory_field(data, RECORD, 8, "<H", 1), "encrypted"),
    "two members in one place": (lambda data: directory_field(data, RECORD, 42, "<L", 0), "overlaps the next"),
    "size beyond the next member": (lambda data: directory_field(data, RECORD, 20, "<L", 10**6), "overlaps the next"),
    "sizes that differ": (lambda data: directory_field(data, RECORD, 24, "<L", 60), "reaches beyond its place"),
    "place with no header": (
        lambda data: data[: header_of(data, RECORD)] + b"PK\3\5" + data[header_of(data, RECORD) + 4 :],
        "no record begins",
    ),
    "another name in its own header": (lambda data: data.replace(RECORD, b"archive/data/1", 1), "in its own header"),
    "extra field that moves the data": (
        lambda data: data[: header_of(data, RECORD) + 28] + b"\x28\0" + data[header_of(data, RECORD) + 30 :],
        "reaches beyond its place",
    ),
    "one byte of the pickle": (
        lambda data: data.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3", 1),
        "record data.pkl has CRC-32",
    ),
    "garbage before": (lambda data: b"PK\3\4" + b"garbage" + data, "directory is not where"),
    "garbage after": (lambda data: data + b"garbage", "was cut at"),
    "a comment": (lambda data: data[:-2] + b"\1\0x", "was cut at"),
    "cut at half": (lambda data: data[: len(data) // 2], "was cut at"),
    "less its last byte": (lambda data: data[:-1], "was cut at"),
    "its beginning alone": (lambda data: data[:5], "was cut at"),
    "a directory of 16 MiB": (
        lambda data: data[:-22] + bytes(2**24) + end_record(2**24, len(data) - 22),
        "a zip directory of 16777216 bytes",
    ),
    "a zip64 end record without its signature": (
        lambda data: with_zip64_end(data).replace(b"PK\6\6", b"PK\0\0"),
        "the end of its zip archive does not hold together",
    ),
    "a zip64 directory of 16 MiB": (lambda data: with_zip64_end(data, 2**24), "directory is not where"),
    "an empty archive": (lambda data: b"PK\3\4" + end_record(0, 4), "no data.pkl"),
}


@pytest.mark.parametrize(("breaking", "offence"), BROKEN.values(), ids=BROKEN)
def test_a_damaged_archive_is_refused(path, breaking, offence):
    path.write_bytes(breaking(write_zip(path, GOOD).read_bytes()))
    assert offence in refusal(path)


def test_a_directory_without_bound_is_never_parsed(path, monkeypatch):
    """Its size stands in the short end record; zipfile takes that where a zip64 one has no signature."""
    directory = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 16) * 10**5
    end = struct.pack("<4sQ2H2L4Q", b"PK\0\0", 44, 45, 45, 0, 0, 1, 1, 0, 4 + len(directory))
    end += struct.pack("<4sLQL", b"PK\6\7", 0, 4 + len(directory), 1)
    path.write_bytes(b"PK\3\4" + directory + end + end_record(len(directory), 4))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert "does not hold together" in refusal(path)


def test_one_bit_of_a_storage_is_noticed_when_it_is_read(path):
    data = bytearray(write_zip(path, GOOD).read_bytes())
    data[data.index(VALUES.tobytes()) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"damaged: record data/0 has CRC-32 .* Download or make it again"):
        read_torch(path).read()


def test_a_file_changed_between_opening_and_reading_is_refused(path):
    array = read(path, tensor())
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="was changed"):
        array.read()


# Files of other kinds

OTHERS = {
    "empty": (b"", "is empty. Download or make it again."),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "run `git lfs pull`"),
    "random bytes": (random.Random(0).randbytes(2**20), "a file of unknown kind"),
    "web page": (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "web page with a byte order mark": (b"\xef\xbb\xbf\n<html>", "a web page"),
    "tar archive of torch 0.1": (b"sys_info" + bytes(249) + b"ustar\x0000" + bytes(999), "a tar archive"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "gzip"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "a safetensors file"),
    "JSON": (b'{"error": "not found"}', "JSON"),
    "ggml": (b"lmgg" + bytes(99), "a ggml file"),
    "zeros": (bytes(99), "a file of unknown kind"),
    "zip without a directory": (b"PK\5\6" + bytes(18), "an empty zip archive"),
}


@pytest.mark.parametrize(("data", "offence"), OTHERS.values(), ids=OTHERS)
def test_the_error_names_the_kind_of_another_file(path, data, offence):
    path.write_bytes(data)
    assert offence in refusal(path)


def test_a_file_that_is_not_there_is_not_found(path):
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        read_torch(path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_is_refused(path, make):
    make(path)
    assert "a folder or a device" in refusal(path)


def test_a_path_with_a_nul_is_refused():
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read_torch("a\0b")


def test_a_pickle_damaged_where_no_checksum_tells_is_read_or_refused(path):
    """Instructions changed at random under a CRC-32 that fits: whatever they do, no other error comes of it."""
    body = mapping(w=tensor((4, 4), (1, 4)), n=numpy_scalar("numpy.core"), s=stack_name("torch", "float32"))
    data = program(body)
    dice = random.Random(0)
    for _ in range(600):
        broken = bytearray(data)
        for _ in range(dice.choice([1, 2, 8])):
            broken[dice.randrange(len(data))] = dice.choice([dice.randrange(256), dice.choice(data)])
        write_zip(path, [("archive/data.pkl", bytes(broken)), ("archive/data/0", VALUES.tobytes())])
        with contextlib.suppress(BarkError):
            read_torch(path)


def test_damage_anywhere_is_noticed_or_harmless(path):
    """Bytes flipped and ends cut off at random: what is read is right, or an error of this package is raised."""
    storages = [("0", VALUES.tobytes()), ("1", b"\1" * 8)]
    body = mapping(
        w=tensor((4, 4), (1, 4)),
        n=numpy_scalar("numpy.core"),
        b=tensor((8,), source=storage("torch.ByteStorage", "1", 8)),
    )
    data = write_zip(path, members_of(body, storages)).read_bytes()
    dice = random.Random(0)
    num_refused = 0
    for turn in range(600):
        broken = bytearray(data)
        if turn % 6 == 0:
            broken = broken[: dice.randrange(len(data))]
        for _ in range(dice.choice([1, 1, 1, 2, 4]) if turn % 6 else 0):
            broken[dice.randrange(len(data))] ^= dice.randrange(1, 256)
        path.write_bytes(broken)
        try:
            checkpoint = read_torch(path)
            assert checkpoint["n"] == 1.5
            np.testing.assert_array_equal(checkpoint["w"].read(), VALUES.reshape(4, 4).T)
            np.testing.assert_array_equal(checkpoint["b"].read(), np.ones(8, np.uint8))
        except BarkError:
            num_refused += 1
    assert 300 < num_refused < 600
