"""Refused PyTorch checkpoints, through `convert`: damaged files in an otherwise complete folder.

Those have the tables whole; here are rows that a reader notices at different times: as it opens a file, in its
instructions, or when values are read. None of it needs torch.
"""

import json
import os
import shutil
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_safetensors_file import DAMAGED
from test_torch_pickle import (
    ABSURD,
    ARCHIVES,
    BARE,
    BROKEN,
    HOSTILE_CALLS,
    OTHERS,
    SYSTEM,
    call,
    mapping,
    members_of,
    name,
    number,
    program,
    storage,
    tensor,
    text,
    write_zip,
)

from bad_inputs.harness import ALL_NETWORKS_CALLS, FOLDER_CALLS, NETWORK_CALLS, by_id, refused
from bark_jax.checkpoints import convert
from bark_jax.errors import BarkError, CheckpointError, ConfigError, InputError, ModelNotFoundError


@pytest.fixture(scope="session")
def transformers_folder(bark_folder, tmp_path_factory):
    """The model as transformers has it; never written to."""
    return convert(bark_folder, tmp_path_factory.mktemp("exported") / "bark", to="transformers")


@pytest.fixture
def copy(transformers_folder, tmp_path):
    """A copy to spoil: links, so that a file has to be replaced, never written to."""
    return shutil.copytree(transformers_folder, tmp_path / "src", copy_function=os.link)


@pytest.fixture
def pickled(copy):
    """The copy with an empty place where its pytorch_model.bin will be."""
    (copy / "model.safetensors").unlink()
    return copy / "pytorch_model.bin"


def refuse_conversion(src, tmp_path, error, *patterns, calls=FOLDER_CALLS, **options):
    with refused(error, *patterns, calls=calls, folder=tmp_path):
        convert(src, tmp_path / "dst", **options)


@pytest.mark.parametrize("case", ["empty", "header that is no JSON", "arrays that overlap", "torch checkpoint"])
def test_damaged_safetensors_are_refused(copy, tmp_path, case):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").write_bytes(DAMAGED[case][0])
    refuse_conversion(copy, tmp_path, CheckpointError, r"model\.safetensors")


@pytest.mark.parametrize("case", ["eval", "in a persistent id", "new object", "state of a tensor"])
def test_a_pickle_with_a_payload_runs_nothing(pickled, tmp_path, case):
    body, _ = HOSTILE_CALLS[case]
    write_zip(pickled, members_of(body(text(f"touch {tmp_path}/canary"))))
    refuse_conversion(pickled.parent, tmp_path, CheckpointError, "Do not use this file|expected|damaged")


def test_a_bare_pickle_runs_nothing(pickled, tmp_path):
    pickled.write_bytes(BARE["payload"](call(SYSTEM, text(f"touch {tmp_path}/canary"))))
    refuse_conversion(pickled.parent, tmp_path, CheckpointError, "a bare pickle, which can run code")


@pytest.mark.parametrize("case", ["offset far outside", "storage that is not there", "list that holds itself"])
def test_absurd_pickles_are_refused(pickled, tmp_path, case):
    write_zip(pickled, members_of(mapping(w=ABSURD[case][0])))
    refuse_conversion(pickled.parent, tmp_path, CheckpointError, r"pytorch_model\.bin")


@pytest.mark.parametrize("case", ["a member that leaves the archive", "two checkpoints"])
def test_hostile_archives_are_refused(pickled, tmp_path, case):
    write_zip(pickled, ARCHIVES[case][0])
    refuse_conversion(pickled.parent, tmp_path, CheckpointError, r"pytorch_model\.bin")


@pytest.mark.parametrize("case", ["encrypted", "one byte of the pickle", "cut at half"])
def test_broken_archives_are_refused(pickled, tmp_path, case):
    write_zip(pickled, members_of(tensor()))
    pickled.write_bytes(BROKEN[case][0](pickled.read_bytes()))
    refuse_conversion(pickled.parent, tmp_path, CheckpointError, r"pytorch_model\.bin")


@pytest.mark.parametrize("case", ["empty", "web page"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "text.pt", "encodec_24khz-d7cc33bc.th"])
def test_errors_say_which_kind_of_file_it_is(tmp_path, pickled, file, case):
    data, message = OTHERS[case]
    path = pickled.with_name(file)
    path.write_bytes(data)
    src = path.parent if file == pickled.name else path
    refuse_conversion(src, tmp_path, CheckpointError, message)


# Weights of something else

NAME = "semantic.layers.0.mlp.in_proj.weight"


def edited(change):
    def edit(copy):
        arrays = load_file(copy / "model.safetensors")
        change(arrays)
        (copy / "model.safetensors").unlink()
        save_file(arrays, copy / "model.safetensors")

    return edit


def put(make, at=NAME):
    return edited(lambda arrays: arrays.update({at: np.ascontiguousarray(make(arrays[at]))}))


def spoilt(array, value):
    array.reshape(-1)[-1] = value
    return array


WEIGHTS = {
    "transposed": (put(lambda array: array.T), r"is \(16, 64\), expected \(64, 16\)"),
    "flat": (put(lambda array: array.reshape(-1)), r"is \(1024,\), expected \(64, 16\)"),
    "one row": (put(lambda array: array[:1]), r"is \(1, 16\), expected"),
    "empty": (put(lambda array: array[:0]), r"is \(0, 16\), expected"),
    "an axis more": (put(lambda array: array[None]), r"is \(1, 64, 16\), expected"),
    "integers": (put(lambda array: array.astype(np.int64)), "is int64, expected float32"),
    "unsigned": (put(lambda array: array.astype(np.uint8)), "is uint8"),
    "bools": (put(lambda array: array > 0), "is bool"),
    "minus infinity": (put(lambda array: spoilt(array, -np.inf)), "has -inf among its values"),
    "nan in float64": (put(lambda array: spoilt(array.astype(np.float64), np.nan)), "has nan among its values"),
    "too large for float32": (put(lambda array: spoilt(array.astype(np.float64), 1e300)), "has inf.*as float32"),
    "nan in a norm": (put(lambda array: spoilt(array, np.nan), "fine_acoustics.layernorm_final.weight"), "has nan"),
    "nan in a codebook": (put(lambda array: spoilt(array, np.nan), "codec_model.quantizer.layers.0.codebook.embed"),
                          "has nan among"),
    "gone": (edited(lambda arrays: arrays.pop(NAME)), f"missing: {NAME}"),
    "one more": (edited(lambda arrays: arrays.update({"semantic.extra": np.ones(3)})), r"unexpected: semantic\.extra"),
    "of no network": (edited(lambda arrays: arrays.update(vocoder=np.ones(3))), "arrays of no network: vocoder"),
    "another layer": (edited(lambda arrays: arrays.update({"semantic.layers.7.mlp.in_proj.weight": np.ones(3)})),
                      r"unexpected: semantic\.layers\.7"),
    "a name of 10,000 letters": (edited(lambda arrays: arrays.update({"semantic." + "x" * 10_000: np.ones(3)})),
                                 "unexpected: 'semantic.xxx"),
    "a name of escape codes": (edited(lambda arrays: arrays.update({"semantic.\x1b[31m": np.ones(3)})), "unexpected"),
    "all zero": (edited(lambda arrays: arrays.update({k: v if v.dtype == bool else np.zeros_like(v) for k, v in
                                                      arrays.items()})), "every weight of the semantic network is"),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_of_something_else_are_refused(copy, tmp_path, case):
    spoil, message = WEIGHTS[case]
    spoil(copy)
    calls = ALL_NETWORKS_CALLS if case == "nan in a codebook" else NETWORK_CALLS  # the codec is converted last
    refuse_conversion(copy, tmp_path, CheckpointError, message, calls=calls)


# Folders

INDEX = "model.safetensors.index.json"


def index(weight_map):
    return lambda copy: ((copy / "model.safetensors").unlink(), (copy / INDEX).write_text(json.dumps(weight_map)))


def only(*names):
    return lambda copy: [path.unlink() for path in copy.iterdir() if path.is_file() and path.name not in names]


def config(change):
    def edit(copy):
        values = json.loads((copy / "config.json").read_text())
        change(values)
        (copy / "config.json").unlink()
        (copy / "config.json").write_text(json.dumps(values))

    return edit


FOLDERS = {
    "empty": (only(), ModelNotFoundError, "holds no model that is known here"),
    "weights alone": (only("model.safetensors"), ModelNotFoundError, "no model that is known"),
    "configs alone": (only("config.json", "generation_config.json"), ModelNotFoundError, "no weights; expected one of"),
    "C15": (only("config.json", "model.safetensors"), ConfigError, r"no generation_config\.json.*Copy that of suno"),
    "C10": (config(lambda values: values.update(model_type="gpt2")), ConfigError, "'gpt2', expected 'bark'"),
    "C23": (config(lambda values: values["semantic_config"].update(num_layers=10**7)), ConfigError, "is 10000000"),
    "C25": (config(lambda values: values.update(auto_map={"": "x"})), ConfigError, "code of its own"),
    "200 layers": (config(lambda values: values["semantic_config"].update(num_layers=200)), CheckpointError, "too few"),
    "an index of nothing": (index({"weight_map": {}}), CheckpointError, "has no weight_map"),
    "an index of a list": (index([]), CheckpointError, "expected an object"),
    "S21": (index({"weight_map": {NAME: "/etc/passwd"}}), CheckpointError, "names the shard '/etc/passwd'"),
    "S21 relative": (index({"weight_map": {NAME: "../../secret"}}), CheckpointError, "names the shard"),
    "S22": (index({"weight_map": {NAME: "model-1.safetensors"}}), ModelNotFoundError, "does not exist"),
    "a shard that is the index": (index({"weight_map": {NAME: INDEX}}), CheckpointError, "JSON|no safetensors"),
}


@pytest.mark.parametrize(("spoil", "error", "message"), **by_id(FOLDERS))
def test_a_folder_that_is_no_checkpoint_is_refused(copy, tmp_path, spoil, error, message):
    spoil(copy)
    refuse_conversion(copy, tmp_path, error, message)


OPTIONS = {
    "to": (dict(to="onnx"), "to is 'onnx', expected bark_jax or transformers"),
    "to as a number": (dict(to=5), "to is 5"),
    "dtype": (dict(dtype="int8"), "dtype is 'int8', expected one of"),
    "dtype as a number": (dict(dtype=5), "dtype is 5"),
    "dtype of objects": (dict(dtype=object), "dtype is 'object'"),
    "size": (dict(size="medium"), "'medium', expected small or large"),
    "size of what has one": (dict(size="small"), "the only ones that need size or codec"),
    "codec of what has one": (dict(codec="x"), "the only ones that need size or codec"),
    "revision of a folder": (dict(revision="main"), "revision"),
}


@pytest.mark.parametrize(("options", "message"), **by_id(OPTIONS))
def test_an_option_that_makes_no_sense_is_refused(copy, tmp_path, options, message):
    refuse_conversion(copy, tmp_path, InputError, message, **options)


SOURCES = {
    "NUL": ("a\0b", "does not exist|no model"),
    "surrogate": ("\ud800", "does not exist|no model"),
    "10 MB": ("x" * 10**7, "does not exist|no model"),
    "too long": ("x" * 5000, "does not exist|no model"),
    "empty": ("", "does not exist|holds no model"),
    "nothing": (None, "not by None"),
    "a number": (5, "not by 5"),
    "bytes": (b"src", "not by b'src'"),
    "an address": ("https://huggingface.co/suno/bark", "does not exist"),
    "a device": ("/dev/zero", "is of no known kind by its name|device"),
}


@pytest.mark.parametrize(("src", "message"), **by_id(SOURCES))
def test_a_source_that_is_none_is_refused(tmp_path, src, message):
    refuse_conversion(src, tmp_path, BarkError, message)


# Suno's files, put together by hand


SIZES = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, input_vocab_size=9, output_vocab_size=9)


def suno(**fields):
    args = mapping(bias=b"\x89", **{field: number(value) for field, value in SIZES.items()})
    return mapping(**{"model": mapping(w=tensor()), "model_args": args} | fields)


SUNO = {
    "L31": (suno(model_args=mapping(n_layer=call(SYSTEM, text("touch canary")))), "asks for 'posix.system'"),
    "no model": (mapping(model_args=mapping()), "it has no model but model_args, expected model and model_args"),
    "no model_args": (mapping(model=mapping()), "it has no model_args but model, expected"),
    "weights alone": (mapping(w=tensor()), "it has no model and no model_args but w, expected"),
    "a list": (b"](" + tensor() + b"e", "not a checkpoint of Suno's"),
    "a tensor": (tensor(), "not a checkpoint of Suno's"),
    "a number": (number(5), "not a checkpoint of Suno's"),
    "model as a list": (suno(model=b"]"), "expected arrays by name"),
    "model of numbers": (suno(model=mapping(w=number(5))), "'w' is a int, expected an array"),
    "model_args as a list": (suno(model_args=b"]"), "model_args is a list"),
    "model_args of nothing": (suno(model_args=b"}"), "model_args lacks n_layer"),
    "model_args of tensors": (suno(model_args=mapping(n_layer=tensor())), "lacks|expected"),
    "a size as text": (suno(model_args=mapping(bias=b"\x89", **{k: text("2") for k in SIZES})), "is '2', expected int"),
    "other arrays": (suno(), r"unexpected: w; missing|missing: .*unexpected: w"),
    "a storage of another size": (suno(model=mapping(w=tensor(source=storage(numel=17)))), "claims 17 elements"),
    "code as a default": (suno(default=name("os.getcwd")), "asks for 'os.getcwd'"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), **by_id(SUNO))
def test_a_file_that_is_not_sunos_is_refused(tmp_path, body, message):
    write_zip(tmp_path / "text.pt", members_of(body))
    calls = NETWORK_CALLS if "missing" in message else FOLDER_CALLS
    refuse_conversion(tmp_path / "text.pt", tmp_path, BarkError, message, calls=calls)


def test_a_zip_bomb_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "text.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
    data = (tmp_path / "text.pt").read_bytes().replace(struct.pack("<I", 2**20), struct.pack("<I", 2**31))
    (tmp_path / "text.pt").write_bytes(data)
    refuse_conversion(tmp_path / "text.pt", tmp_path, CheckpointError, "compressed record data.pkl")


def test_a_payload_behind_good_weights_runs_nothing(tmp_path):
    body = suno() + b"0" + call(SYSTEM, text(f"touch {tmp_path}/canary"))
    write_zip(tmp_path / "text.pt", [("archive/data.pkl", program(body))])
    refuse_conversion(tmp_path / "text.pt", tmp_path, CheckpointError, "asks for 'posix.system'|no record")


def test_a_good_folder_converts_after_all_that(transformers_folder, tmp_path):
    assert (convert(transformers_folder, tmp_path / "dst") / "bark_jax.json").is_file()
