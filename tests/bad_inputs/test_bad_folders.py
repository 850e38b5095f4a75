"""Refused model folders of this project's layout: damaged configs, manifest, weights, tokenizer and word list."""

import json
import os
import re
import shutil
import struct

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from bad_inputs.conftest import GOOD
from bad_inputs.harness import ARGUMENT_CALLS, FOLDER_CALLS, NETWORK_CALLS, by_id, refused
from bark_jax import Bark
from bark_jax.audio.files import write_audio
from bark_jax.checkpoints import convert
from bark_jax.config import BarkConfig, read_config
from bark_jax.errors import BarkError, CheckpointError, ConfigError, InputError, ModelNotFoundError
from bark_jax.files import sha256_of
from bark_jax.text.processor import BarkProcessor

CONFIG, GENERATION, MANIFEST = "config.json", "generation_config.json", "bark_jax.json"


@pytest.fixture
def copy(bark_folder, tmp_path):
    """A copy to spoil: links, so that a file has to be replaced, never written to."""
    return shutil.copytree(bark_folder, tmp_path / "model", copy_function=os.link)


def put(folder, name, content):
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def edit(folder, name, change):
    values = json.loads((folder / name).read_text())
    change(values)
    put(folder, name, json.dumps(values))


def at(*path, value):
    *parents, last = path

    def change(values):
        for parent in parents:
            values = values[parent]
        values[last] = value

    return change


def spoil_weights(change):
    """Changes the bytes of a weight file and, as whoever spoils a model would, what the manifest says of it."""

    def spoil(folder):
        path = folder / "semantic.safetensors"
        put(folder, path.name, change(path.read_bytes()))
        record = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        edit(folder, MANIFEST, lambda manifest: manifest["files"][path.name].update(record))

    return spoil


def with_header(change):
    """Changes the text of a weight file's header."""

    def rewrite(data):
        size = int.from_bytes(data[:8], "little")
        header = change(data[8 : 8 + size])
        return struct.pack("<Q", len(header)) + header + data[8 + size :]

    return spoil_weights(rewrite)


CONFIGS = {
    "C01": (CONFIG, at("semantic_config", "num_heads", value=3), "num_heads is 3, expected a divisor"),
    "C02": (CONFIG, at("coarse_acoustics_config", "hidden_size", value=0), "hidden_size is 0"),
    "C03": (CONFIG, at("fine_acoustics_config", "num_layers", value=-1), "num_layers is -1"),
    "C07": (CONFIG, at("semantic_config", "block_size", value=128), "block_size is 128|wrong shape"),
    "C10": (CONFIG, at("model_type", value="gpt2"), "model_type is 'gpt2', expected 'bark'"),
    "C11": (CONFIG, at("fine_acoustics_config", "n_codes_total", value=9), "missing|n_codes_total is 9"),
    "C13": (CONFIG, at("semantic_config", "dropout", value="abc"), "dropout is 'abc', expected float"),
    "C14": (CONFIG, at("semantic_config", "num_heads", value="2"), "num_heads is '2'"),
    "C17": (GENERATION, at("coarse_acoustics_config", "sliding_window_len", value=0), "sliding_window_len is 0"),
    "C18": (GENERATION, at("semantic_config", "semantic_rate_hz", value=0), "semantic_rate_hz is 0"),
    "C19": (GENERATION, at("coarse_acoustics_config", "n_coarse_codebooks", value=3), "n_coarse_codebooks is 3"),
    "C21": (GENERATION, at("fine_acoustics_config", "max_fine_input_length", value=4096), "is 4096, expected at"),
    "C23": (CONFIG, at("semantic_config", "num_layers", value=10**7), "num_layers is 10000000"),
    "C25": (CONFIG, at("auto_map", value={"AutoModel": "evil.Model"}), "code of its own.*do not use"),
    "code in the settings": (GENERATION, at("auto_map", value={"": "evil.py"}), "code of its own"),
    "200 layers": (CONFIG, at("semantic_config", "num_layers", value=200), "10 arrays, too few for the 200 layers"),
    "a vocabulary of 4,000,000": (CONFIG, at("semantic_config", "input_vocab_size", value=4_000_000), "wrong shape"),
    "width 65,536": (CONFIG, at("coarse_acoustics_config", "hidden_size", value=65_536), "wrong shape"),
    "one frame for all": (GENERATION, at("coarse_acoustics_config", "coarse_rate_hz", value=0.001), "take 1 to"),
    "an end past the vocabulary": (GENERATION, at("semantic_config", "eos_token_id", value=20_000), "is 20000|past"),
    "text over the semantic tokens": (GENERATION, at("semantic_config", "text_encoding_offset", value=5), "is 5, ex"),
    "more codes than ids": (GENERATION, at("codebook_size", value=2048), "2048|codebooks that fit"),
    "a prompt of a million": (GENERATION, at("semantic_config", "max_input_semantic_length", value=10**6), "1000001"),
    "9 fine codebooks": (GENERATION, at("fine_acoustics_config", "n_fine_codebooks", value=9), "n_fine_codebooks is 9"),
    "no coarse config": (CONFIG, at("coarse_acoustics_config", value=[]), "expected a JSON object, got list"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), **by_id(CONFIGS))
def test_a_config_that_cannot_work_is_refused(copy, tmp_path, name, change, message):
    edit(copy, name, change)
    # Configs that do not fit the weights are found when the weights are read, network by network.
    calls = NETWORK_CALLS if "wrong shape" in message or "missing" in message else FOLDER_CALLS
    with refused((ConfigError, CheckpointError), message, folder=tmp_path, calls=calls):
        Bark.from_pretrained(copy)


BROKEN_JSON = {
    "empty": (b"", "is not JSON"),
    "cut": (b'{"model_type": "bark", ', "is not JSON"),
    "list": (b"[]", "expected a JSON object, got list"),
    "number": (b"5", "expected a JSON object, got int"),
    "null": (b"null", "expected a JSON object, got NoneType"),
    "no UTF-8": (b'{"a": "\xff"}', "is not JSON"),
    "UTF-16": ('{"model_type": "bark"}'.encode("utf-16"), "is not JSON"),
    "100,000 brackets": (b"[" * 100_000, "is not JSON"),
    "5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
    "a key twice": (b'{"model_type": "bark", "model_type": "bark"}', "'model_type' is there twice"),
    "pickle": (b"\x80\x02cposix\nsystem\n", "is not JSON"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is not JSON"),
    "web page": (b"<!DOCTYPE html>", "is not JSON"),
    "17 MiB": (b" " * 17 * 2**20, "bytes, more than the"),
}


@pytest.mark.parametrize(("content", "message"), **by_id(BROKEN_JSON))
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content, message):
    (tmp_path / CONFIG).write_bytes(content)
    with refused(ConfigError, message, CONFIG, folder=tmp_path):
        read_config(tmp_path / CONFIG, BarkConfig)


# All of them by the same reader; here that each file goes there.
@pytest.mark.parametrize("case", ["cut", "list", "17 MiB"])
@pytest.mark.parametrize("name", [CONFIG, GENERATION])
def test_a_config_that_is_none_is_refused(copy, tmp_path, name, case):
    content, message = BROKEN_JSON[case]
    put(copy, name, content)
    with refused(ConfigError, message, name, folder=tmp_path, calls=FOLDER_CALLS):
        Bark.from_pretrained(copy)


@pytest.mark.parametrize("case", ["cut", "list", "number", "null", "17 MiB"])
def test_a_manifest_that_is_none_is_refused(copy, tmp_path, case):
    put(copy, MANIFEST, BROKEN_JSON[case][0])
    with refused(CheckpointError, "is not a manifest of this project", MANIFEST, folder=tmp_path, calls=FOLDER_CALLS):
        Bark.from_pretrained(copy)


MANIFESTS = {
    "another format": (at("format", value="other"), "format 'other' version 1, expected bark_jax 1"),
    "a newer version": (at("version", value=2), "version 2"),
    "no files": (at("files", value={}), r"has no semantic\.safetensors"),
    "files as a list": (at("files", value=["semantic.safetensors"]), "not a manifest"),
    "a file as a string": (at("files", "semantic.safetensors", value="x"), "not a manifest"),
    "another checksum": (at("files", "semantic.safetensors", "sha256", value="0" * 64), "is damaged: its SHA-256"),
    "another size": (at("files", "semantic.safetensors", "bytes", value=5), "bytes, expected 5; convert"),
    "a size that is text": (at("files", "semantic.safetensors", "bytes", value="5"), "the entry of"),
    "a field too many": (at("files", "semantic.safetensors", "code", value="os"), "not a manifest"),
    "dtype as a number": (at("dtype", value=5), "dtype is 5"),
    "dtype of none": (at("dtype", value="float13"), "dtype is 'float13'"),
}


@pytest.mark.parametrize(("change", "message"), **by_id(MANIFESTS))
def test_a_manifest_that_says_something_else_is_refused(copy, tmp_path, change, message):
    edit(copy, MANIFEST, change)
    with refused(BarkError, message, folder=tmp_path, calls=FOLDER_CALLS):
        Bark.from_pretrained(copy)


WEIGHTS = {
    "empty": (spoil_weights(lambda data: b""), "is empty"),
    "cut at half": (spoil_weights(lambda data: data[: len(data) // 2]), "is cut short"),
    "less its last byte": (spoil_weights(lambda data: data[:-1]), "is cut short"),
    "garbage behind": (spoil_weights(lambda data: data + b"x"), "has 1 bytes behind its last array"),
    "pickle": (spoil_weights(lambda data: b"\x80\x02cposix\nsystem\n" + bytes(99)), "a bare pickle"),
    "zip": (spoil_weights(lambda data: b"PK\3\4" + bytes(99)), "a zip archive"),
    "no header": (spoil_weights(lambda data: bytes(8) + data), "no safetensors file"),
    "a header of 2**64 bytes": (spoil_weights(lambda data: b"\xff" * 8 + data), "no safetensors file"),
    "another name": (with_header(lambda text: text.replace(b"blocks.0.", b"blocks.1.")), r"missing: blocks\.0\."),
    "another dtype": (with_header(lambda text: text.replace(b"F32", b"I32")), "holds arrays of I32, expected floats"),
    "an unknown dtype": (with_header(lambda text: text.replace(b"F32", b"F33")), "in dtype 'F33', expected"),
    "another shape": (with_header(lambda text: text.replace(b"[16,48]", b"[48,16]")), "wrong shape: .*expected"),
    "a shape too large": (with_header(lambda text: text.replace(b"[16,48]", b"[999,48]")), "does not fit"),
    "a header of 5 MiB": (with_header(lambda text: text + b" " * 5 * 2**20), "a header of .* bytes, more than"),
    "one bit": (lambda folder: put(folder, "coarse_acoustics.safetensors",
        (folder / "coarse_acoustics.safetensors").read_bytes()[:-1] + b"\x7f"), "is damaged: its SHA-256"),
    "a network missing": (lambda folder: (folder / "codec_model.safetensors").unlink(), r"has no codec_model\.safeten"),
    "a network of another kind": (lambda folder: put(folder, "semantic.safetensors",
        (folder / "fine_acoustics.safetensors").read_bytes()), "bytes, expected|SHA-256"),
    "a folder in its place": (lambda folder: ((folder / "semantic.safetensors").unlink(),
        (folder / "semantic.safetensors").mkdir()), r"has no semantic\.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), **by_id(WEIGHTS))
def test_weights_that_are_damaged_are_refused(copy, tmp_path, spoil, message):
    spoil(copy)
    # A missing file is found before any file is read.
    calls = FOLDER_CALLS if "has no" in message else NETWORK_CALLS
    with refused((CheckpointError, ModelNotFoundError), message, folder=tmp_path, calls=calls):
        Bark.from_pretrained(copy)


def large_tokenizer():
    return Tokenizer(models.WordLevel({f"w{n}": n for n in range(130_000)} | {"[UNK]": 130_000}, "[UNK]")).to_str()


PARTS = {
    "tokenizer empty": ("tokenizer.json", lambda: "", "tokenizer.json is not JSON"),
    "tokenizer cut": ("tokenizer.json", lambda: '{"version": "1.0", ', "is not JSON"),
    "tokenizer of nothing": ("tokenizer.json", lambda: "{}", "has the model None, expected an object"),
    "tokenizer as a list": ("tokenizer.json", lambda: "[]", "expected a JSON object"),
    "tokenizer of no kind": ("tokenizer.json", lambda: '{"model": {"type": "Magic"}}', "is damaged or of a newer"),
    "tokenizer as a pickle": ("tokenizer.json", lambda: b"\x80\x02cposix\nsystem\n", "is not JSON"),
    "tokenizer as a git-lfs pointer": ("tokenizer.json", lambda: "version https://git-lfs", "is not JSON"),
    "tokenizer nested deep": ("tokenizer.json", lambda: '{"model":' + "[" * 100_000, "is not JSON"),
    "tokenizer of another model": ("tokenizer.json", large_tokenizer, "130,001 tokens, the model's vocabulary 119,547"),
    "tokenizer with options of a list": ("tokenizer_config.json", lambda: "[]", "expected a JSON object"),
    "tokenizer with an option of text": ("tokenizer_config.json", lambda: '{"do_lower_case": "no"}', "is 'no'"),
    "words that are no UTF-8": ("words.txt", lambda: b"\xff\xfe", "words.txt is not UTF-8"),
    "no words": ("words.txt", lambda: "  \n", "words.txt is empty, expected one word a line"),
    "voices of a list": ("speaker_embeddings_path.json", lambda: "[]", "expected an object"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), **by_id(PARTS))
def test_another_part_that_is_damaged_is_refused(copy, tmp_path, name, content, message):
    put(copy, name, content())
    with refused(BarkError, message, folder=tmp_path, calls=FOLDER_CALLS):
        Bark.from_pretrained(copy)


def tokenizer(**parts):
    return json.dumps(json.loads(Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, "[UNK]")).to_str()) | parts)


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(*normalizers):
    return {"type": "Sequence", "normalizers": list(normalizers)}


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


WORD_PIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "vocab": {"[UNK]": 0, "a": 1},
}


def unigram(lengths):
    """A Unigram of pieces of these numbers of equal letters."""
    return {"type": "Unigram", "unk_id": 0, "vocab": [["[UNK]", 0.0], *(["a" * n, -float(n)] for n in lengths)]}


HOSTILE_TOKENIZERS = {
    "a letter to 1,000": (dict(normalizer=replace("a", "a" * 1000)), "1,000 times as long, expected at most 64 times"),
    "10 to the power of 9": (dict(normalizer=sequence(*[replace("a", "a" * 1000)] * 3)), "expected at most 64 times"),
    "the same in capitals": (dict(normalizer=sequence(replace("a", "B" * 60), {"type": "Lowercase"},
                                                      replace("b", "a" * 60))), "expected at most 64 times"),
    "the same in accents": (dict(normalizer=sequence(replace("a", "\u00e9" * 60), {"type": "NFD"},
                                                     replace("e", "a" * 60))), "expected at most 64 times"),
    "between all letters": (dict(normalizer=replace("", "x" * 100)), "expected at most 64 times"),
    "a pattern of much": (dict(normalizer=replace(".", "x" * 100, "Regex")), "expected at most 64 times"),
    "nested repetition": (dict(normalizer=replace("(a+)+$", "b", "Regex")), "which could take"),
    "nested repetition in a split": (dict(pre_tokenizer=split("(a|aa)+$")), "could take very long"),
    "three repetitions": (dict(pre_tokenizer=split("a*a*a*b")), "could take very long"),
    "a back reference": (dict(pre_tokenizer=split(r"(a)\\1")), "could take very long"),
    "a look ahead": (dict(pre_tokenizer=split("a(?=b)")), "could take very long"),
    "a pattern that is a number": (dict(pre_tokenizer=split(5)), "pattern 5, which"),
    "an unknown part": (dict(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "Precompiled"),
    "a part that is a number": (dict(normalizer=5), "has the part 5, expected"),
    "1,000 parts": (dict(normalizer=sequence(*[{"type": "Lowercase"}] * 1000)), "at most 256 of"),
    "a sequence of none": (dict(normalizer={"type": "Sequence", "normalizers": 5}), "a Sequence of 5, expected a list"),
    "words of any length": (dict(model=WORD_PIECE | {"max_input_chars_per_word": 10**9}), "is 1000000000"),
    "words of 1,000 letters": (dict(model=WORD_PIECE | {"max_input_chars_per_word": 1000}), "is 1000, expected at"),
    "pieces of hundreds of equal letters": (dict(model=unigram(range(1, 500))),
                                            "has 'aaa.* of 65 characters, expected at most 64"),
    "a prefix of 10,000 letters": (dict(model=WORD_PIECE | {"max_input_chars_per_word": 9,
                                        "continuing_subword_prefix": "#" * 10_000}), "expected at most 16 characters"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "message"), **by_id(HOSTILE_TOKENIZERS))
def test_a_tokenizer_that_asks_for_too_much_is_refused(copy, tmp_path, parts, message):
    put(copy, "tokenizer.json", tokenizer(**parts))
    with refused(ConfigError, message, r"tokenizer\.json", folder=tmp_path, calls=FOLDER_CALLS):
        Bark.from_pretrained(copy)


def test_a_unigram_of_usual_pieces_is_taken(tmp_path):
    put(tmp_path, "tokenizer.json", tokenizer(model=unigram(range(1, 65))))
    assert BarkProcessor(tmp_path / "tokenizer.json")("a" * 64).input_ids[0, 0] == 64


def test_a_tokenizer_with_ids_past_the_models_is_refused_when_it_gives_one(tmp_path):
    vocabulary = {"[UNK]": 0, "other": 7, "hello": 4_000_000_000}
    model = {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocabulary}
    put(tmp_path, "tokenizer.json", tokenizer(model=model))
    processor = BarkProcessor(tmp_path / "tokenizer.json")
    assert processor("other").input_ids[0, 0] == 7
    with refused(ConfigError, "gives text the id 4000000000, expected ids below 119,547"):
        processor("hello")


def test_a_panic_of_the_tokenizers_library_becomes_an_error():
    from bark_jax.text.tokenizer import config_errors

    class PanicException(BaseException):
        pass

    with (
        refused(ConfigError, "the tokenizer cannot read it: 'retry limit'"),
        config_errors("the tokenizer cannot read it"),
    ):
        raise PanicException("retry limit")
    with pytest.raises(KeyboardInterrupt), config_errors("not this one"):
        raise KeyboardInterrupt


MISSING = {
    "C15": (GENERATION, "generation_config.json does not exist; a model folder holds"),
    "config": (CONFIG, "config.json does not exist"),
    "tokenizer": ("tokenizer.json", "neither tokenizer.json nor vocab.txt.*pass tokenizer="),
}


@pytest.mark.parametrize(("name", "message"), **by_id(MISSING))
def test_a_folder_that_lacks_a_part_says_how_to_get_it(copy, tmp_path, name, message):
    (copy / name).unlink()
    with refused(ModelNotFoundError, message, folder=tmp_path, calls=FOLDER_CALLS):
        Bark.from_pretrained(copy)


NAMES = {
    "C27": ("./nowhere", "there is no model './nowhere'.*suno/bark-small"),
    "absolute": ("/nowhere/at/all", "no such folder"),
    "empty": ("", "there is no model ''"),
    "NUL": ("a\0b", "there is no model"),
    "surrogate": ("\ud800", "there is no model"),
    "an address": ("https://huggingface.co/suno/bark", "there is no model 'https:"),
    "three parts": ("a/b/c", "there is no model 'a/b/c'"),
    "dots": ("../../nowhere", "there is no model"),
    "escape codes": ("\x1b[31m", r"there is no model '\\x1b"),
    "10 MB": ("x" * 10**7, "there is no model 'xxx"),
    "a file": (__file__, "there is no model"),
    "nothing": (None, "a model is named by a folder or a Hub id, not by None"),
    "a number": (5, "not by 5"),
    "bytes": (b"suno/bark", "not by b'suno/bark'"),
    "a list": (["suno/bark"], r"not by \['suno/bark'\]"),
}


@pytest.mark.parametrize(("name", "message"), **by_id(NAMES))
def test_a_name_that_is_no_model_is_refused(name, message):
    with refused((ModelNotFoundError, InputError), message):
        Bark.from_pretrained(name)


LORAS = {
    "empty": (b"", "is empty"),
    "pickle": (b"\x80\x02cposix\nsystem\n", "no safetensors file"),
    "no metadata": (b"\2\0\0\0\0\0\0\0{}", "has format None version None, expected"),
    "cut": (b"\xff\0\0\0\0\0\0\0{", "is cut short: its header"),
}


@pytest.mark.parametrize(("content", "message"), **by_id(LORAS))
def test_a_lora_that_is_none_is_refused(bark_folder, tmp_path, content, message):
    (tmp_path / "lora.safetensors").write_bytes(content)
    with refused(CheckpointError, message, folder=tmp_path, calls=FOLDER_CALLS):
        Bark.from_pretrained(bark_folder, lora=tmp_path / "lora.safetensors")


@pytest.mark.parametrize("lora", ["x" * 5000, "a\0b", 5, ""], ids=["too long", "NUL", "number", "empty"])
def test_a_lora_that_is_no_file_is_refused(bark_folder, lora):
    with refused((ModelNotFoundError, InputError), "LoRA", calls=FOLDER_CALLS):
        Bark.from_pretrained(bark_folder, lora=lora)


DESTINATIONS = {
    "a file": (lambda home: home.joinpath("dst").write_text("mine"), "is a file; give the name of a folder"),
    "something else": (lambda home: put_in(home, "notes.txt"), "exists and is not empty; give another name"),
    "another model": (lambda home: put_in(home, "config.json"), r"or overwrite \(--overwrite\)"),
}


def put_in(home, name):
    (home / "dst").mkdir()
    (home / "dst" / name).write_text("mine")


@pytest.mark.parametrize(("prepare", "message"), **by_id(DESTINATIONS))
def test_nothing_is_written_over_what_is_there(loaded, tmp_path, prepare, message):
    prepare(tmp_path)
    with refused(InputError, message, re.escape(str(tmp_path / "dst")), folder=tmp_path, calls=FOLDER_CALLS):
        loaded[0].save_pretrained(tmp_path / "dst")


NO_PATHS = {
    "nothing": (None, "None, expected a path"),
    "a number": (5, "5, expected a path"),
    "bytes": (b"dst", "b'dst', expected a path"),
    "NUL": ("a\0b", "which no path can be"),
    "half a character": ("\ud800", "which no path can be"),
    "too long a name": ("x" * 300, r"is too long: 30\d characters, its longest name 30\d bytes"),
    "too long": ("x/" * 3000, "is too long: 6,000 characters"),
}


@pytest.mark.parametrize(("path", "message"), **by_id(NO_PATHS))
def test_what_is_no_path_is_not_written_to(loaded, bark_folder, voice, path, message):
    bark, _ = loaded
    ending = (lambda kind: path + kind) if isinstance(path, str) and "/" not in path else (lambda kind: path)
    # Three a character were counted, as every other one ends a folder's name.
    calls = ARGUMENT_CALLS + 8 * (len(path) if isinstance(path, str) else 0)
    with refused(InputError, "the folder to make is ", message, calls=calls):
        bark.save_pretrained(path)
    with refused(InputError, "the folder to make is ", message, calls=calls):
        bark.processor.save_pretrained(path)
    with refused(InputError, "the folder to make is ", message, calls=calls):
        convert(bark_folder, path)
    with refused(InputError, "the voice's file is ", message, calls=calls):
        voice.save(ending(".npz"))
    with refused(InputError, "the audio file is ", message, calls=calls):
        write_audio(ending(".wav"), np.zeros(9, np.float32), 24_000)


def test_a_file_in_no_folder_is_not_written(voice):
    with refused(InputError, "the folder /nowhere/at/all of a.npz does not exist; make it first"):
        voice.save("/nowhere/at/all/a.npz")


@pytest.mark.parametrize("tokenizer", ["x" * 5000, "a\0b", "nowhere", ""])
def test_a_tokenizer_that_is_no_file_is_not_found(bark_folder, tokenizer):
    with refused((ModelNotFoundError, InputError), "does not exist|has neither", calls=FOLDER_CALLS):
        Bark.from_pretrained(bark_folder, tokenizer=tokenizer)


def test_a_good_folder_is_taken_after_all_that(loaded, copy):
    assert Bark.from_pretrained(copy).generate(**GOOD).fine.tobytes() == loaded[1]
