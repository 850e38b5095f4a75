"""Refused voices: as arrays, as files, by name, and from a model folder's list."""

import json
import re
import shutil

import numpy as np
import pytest
from test_voices import BAD_ARRAYS, BAD_FILES, GOOD_DTYPES, npz_bytes, voice_members, zip_bytes
from voice_cases import BAD_ENTRIES, BAD_NAMES, make_arrays, make_folder, npy_bytes, outside

from bad_inputs.harness import by_id, refused
from bark_jax.errors import InputError, VoiceError, VoiceNotFoundError
from bark_jax.text.processor import BarkProcessor
from bark_jax.voices.voice import Voice

MORE_ARRAYS = {
    "a key that is misspelt": (lambda a: {k.replace("prompt", "promt"): v for k, v in a.items()}, "no semantic_prompt"),
    "no keys": (lambda a: {}, "no semantic_prompt and no coarse_prompt"),
    "fine of 16 rows": (lambda a: a | {"fine_prompt": np.concatenate([a["fine_prompt"]] * 2)}, "fine has shape"),
    "codes transposed": (lambda a: {k: v.T for k, v in a.items()}, r"coarse has shape \(150, 2\)"),
    "floats, one of them not whole": (lambda a: a | {"fine_prompt": a["fine_prompt"] + np.eye(8, 150) / 2}, "float64"),
    "timedelta": (lambda a: a | {"semantic_prompt": a["semantic_prompt"].astype("m8[s]")}, "timedelta64"),
    "bytes": (lambda a: a | {"semantic_prompt": b"\1\2"}, "expected an array of integers"),
    "one number": (lambda a: a | {"semantic_prompt": 5}, "semantic is 5"),
    "text": (lambda a: a | {"coarse_prompt": "codes"}, "coarse is 'codes'"),
    "negative": (lambda a: a | {"semantic_prompt": -a["semantic_prompt"] - 1}, "is no token; tokens start at 0"),
    "the end token": (lambda a: a | {"semantic_prompt": np.append(a["semantic_prompt"], 10_000)}, "is 10000, expected"),
    "the pad of the fine stage": (lambda a: a | {"fine_prompt": np.full((8, 150), 1024)}, "padding"),
}

NO_VOICES = [5, 1.5, True, b"en_speaker_0", {1, 2}, object(), [1, 2, 3], ["a.npy", "b.npy"], (None, None, None), str]


def bomb_of_many_members(canary):
    """Each of 20 arrays in 4 MiB of zeros: only what is asked for is read."""
    return zip_bytes((f"x{number}.npy", bytes(4 * 2**20)) for number in range(20))


MORE_FILES = {
    "no array asked for": (bomb_of_many_members, "no 'semantic_prompt'"),
    "npy under an npz name": (lambda canary: npy_bytes(np.arange(9)), "is no .npz archive"),
    "safetensors": (lambda canary: b"\2\0\0\0\0\0\0\0{}", "begins with"),
    "web page": (lambda canary: b"<!DOCTYPE html><html>Sign in</html>", "begins with.*fetch or save it again"),
    "archive in an archive": (
        lambda canary: zip_bytes([("voice.npz", npz_bytes(make_arrays()))]),
        "no 'semantic_prompt'",
    ),
    "a folder member": (lambda canary: zip_bytes([("semantic_prompt.npy/", b"")]), "no 'semantic_prompt'"),
    "a name cut short by NUL": (
        lambda canary: zip_bytes([("semantic_prompt_npy|x", b"")]).replace(b"_npy|x", b".npy\0x"),
        "no 'semantic_prompt'",
    ),
    "a backslash that leads out": (lambda canary: zip_bytes([*voice_members(), ("..\\x", b"")]), "leads out of"),
    "a drive": (lambda canary: zip_bytes([*voice_members(), ("C:/x", b"")]), "leads out of"),
    "format 3": (lambda canary: zip_bytes([("semantic_prompt.npy", b"\x93NUMPY\3\0" + bytes(99))]), "damaged header"),
    "format 255": (lambda canary: zip_bytes([("semantic_prompt.npy", b"\x93NUMPY\xff\0")]), "damaged header"),
    "header cut": (lambda canary: zip_bytes([("semantic_prompt.npy", b"\x93NUMPY\1\0\xff\xff{")]), "damaged header"),
    "its directory cut off": (lambda canary: npz_bytes(make_arrays())[:-30], "damaged"),
}

PATHS = {
    "missing": ("missing.npz", "does not exist"),
    "NUL": ("a\0b.npz", "cannot be read|does not exist"),
    "surrogate": ("\ud800.npz", "cannot be read|does not exist"),
    "too long": ("x" * 5000 + ".npz", "cannot be read|does not exist"),
    "an address": ("https://example.com/voice.npz", "is a URL; download the file"),
    "a share": ("file:///tmp/voice.npz", "is a URL"),
    "a device": (["/dev/zero"], "is no voice"),
}


@pytest.mark.parametrize(("change", "message"), **by_id(BAD_ARRAYS | MORE_ARRAYS))
def test_arrays_that_are_no_voice_are_refused(change, message):
    arrays = change(make_arrays())
    with refused(VoiceError, message):
        Voice.from_dict(arrays)


# No dict of arrays, no integers, lengths that do not fit, and tokens outside of the vocabulary.
FRONT_DOOR = ["no keys", "V49", "V23", "V27"]


@pytest.mark.parametrize("case", FRONT_DOOR)
def test_generate_refuses_arrays_that_are_no_voice(bark, case):
    change, message = (BAD_ARRAYS | MORE_ARRAYS)[case]
    with refused(VoiceError, message):
        bark.generate("hello", voice=change(make_arrays()), seed=0)


@pytest.mark.parametrize("case", FRONT_DOOR)
def test_the_model_refuses_them_too_as_the_second_of_two(bark, case):
    change, _ = (BAD_ARRAYS | MORE_ARRAYS)[case]
    good = Voice.from_dict(make_arrays())
    with refused(VoiceError, "voice"):
        bark.model.generate([[5, 6], [7, 8]], history_prompt=[good, change(make_arrays())])


@pytest.mark.parametrize("voice", NO_VOICES, ids=lambda voice: type(voice).__name__)
def test_what_is_no_voice_is_refused_with_what_is(bark, voice):
    with refused((VoiceError, InputError), "is no voice; give a name|voices for"):
        bark.generate("hello", voice=voice, seed=0)


@pytest.mark.parametrize("voice", [5, [1, 2, 3]], ids=repr)
@pytest.mark.parametrize("verb", ["generate_long", "stream"])
def test_so_do_the_verbs_for_long_text(bark, verb, voice):
    with refused((VoiceError, InputError), "is no voice; give a name|voices for"):
        getattr(bark, verb)("hello", voice=voice, seed=0)


# Memory bound of a reader: the maximum size of a voice file, 4 MiB. The bombs unpack to 64 MiB, or claim 2 GiB.
LOAD_BYTES = 2**23


@pytest.mark.parametrize(("make", "message"), **by_id(BAD_FILES | MORE_FILES))
def test_a_file_that_is_no_voice_is_refused_with_its_path(tmp_path, make, message):
    path = tmp_path / "bad.npz"
    path.write_bytes(make(tmp_path / "canary"))
    with refused(VoiceError, message, re.escape(str(path)), folder=tmp_path, memory=LOAD_BYTES):
        Voice.load(path)


# A pickle, an empty file, a damaged archive, a member that is no array, and tokens outside of the vocabulary.
@pytest.mark.parametrize("case", ["V01", "V02", "V09", "flipped", "V10", "V27"])
def test_generate_refuses_a_file_that_is_no_voice(bark, tmp_path, case):
    make, message = BAD_FILES[case]
    path = tmp_path / "bad.npz"
    path.write_bytes(make(tmp_path / "canary"))
    with refused(VoiceError, message, re.escape(str(path)), folder=tmp_path):
        bark.generate("hello", voice=path, seed=0)


def test_an_archive_of_many_members_is_refused_by_their_number(tmp_path):
    """15 calls were counted for each of the 20,000 names: they are read, and none of the members is."""
    path = tmp_path / "many.npz"
    path.write_bytes(zip_bytes((f"a{i}", b"") for i in range(20_000)))
    with refused(VoiceError, folder=tmp_path, calls=700_000):
        Voice.load(path)


@pytest.mark.parametrize("arrays", [None, 5, [1, 2], "abc"], ids=repr)
def test_what_is_no_dict_makes_no_voice(arrays):
    with refused(VoiceError, "the voice's arrays are .*, expected a dict of semantic_prompt"):
        Voice.from_dict(arrays)


@pytest.mark.parametrize(("path", "message"), **by_id(PATHS))
def test_generate_refuses_a_path_of_nothing(bark, path, message):
    with refused((VoiceError, VoiceNotFoundError), message):
        bark.generate("hello", voice=path, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that lists two voices; never written to."""
    home = tmp_path_factory.mktemp("voices")
    outside(home)
    return make_folder(home)


@pytest.fixture(scope="module")
def named(folder, bark):
    return BarkProcessor.from_pretrained(folder, tokenizer=bark.processor.tokenizer)


@pytest.mark.parametrize("case", ["P02", "P14", "P19", "close"])
def test_a_name_that_the_model_has_not_is_not_found(named, folder, case):
    name, message = BAD_NAMES[case]
    with refused(VoiceNotFoundError, message, folder=folder.parent):
        named("hello", voice_preset=name.replace("{tmp}", str(folder.parent)))


@pytest.mark.parametrize("case", ["P05", "P11", "dots"])
def test_an_entry_that_leads_elsewhere_is_refused(bark, tmp_path, case):
    folder = make_folder(tmp_path, bad=BAD_ENTRIES[case](outside(tmp_path)))
    processor = BarkProcessor.from_pretrained(folder, tokenizer=bark.processor.tokenizer)
    with refused(VoiceError, "voice 'bad' of", folder=tmp_path):
        processor("hello", voice_preset="bad")
    assert processor("hello", voice_preset="en_speaker_0")["history_prompt"].name == "en_speaker_0"


LISTS = {
    "cut": (b"{", "is not JSON"),
    "a list": (b"[]", "expected an object"),
    "null": (b"null", "expected an object"),
    "no UTF-8": (b"\xff\xfe", "is not JSON"),
    "deep": (b"[" * 100_000, "is not JSON"),
    "a name twice": (b'{"a": {}, "a": {}}', "'a' is there twice"),
    "17 MiB": (b" " * 17 * 2**20, "bytes, more than"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is not JSON"),
    "pickle": (b"\x80\x04cposix\nsystem\n(X\4\0\0\0truetR.", "is not JSON"),
}


@pytest.mark.parametrize(("content", "message"), **by_id(LISTS))
def test_a_broken_list_of_voices_is_refused(bark, tmp_path, content, message):
    (tmp_path / "speaker_embeddings_path.json").write_bytes(content)
    with refused(VoiceError, message, "speaker_embeddings_path.json", folder=tmp_path):
        BarkProcessor.from_pretrained(tmp_path, tokenizer=bark.processor.tokenizer)


@pytest.mark.parametrize("dtype", GOOD_DTYPES)
def test_good_voices_are_taken(bark, tmp_path, dtype):
    arrays = make_arrays(dtype=dtype)
    (tmp_path / "voice.npz").write_bytes(npz_bytes(arrays))
    inputs = bark.processor("hello", voice_preset=str(tmp_path / "voice.npz"))
    assert inputs["history_prompt"] == bark.processor("hello", voice_preset=arrays)["history_prompt"]


def test_a_list_that_moved_with_its_folder_is_taken(bark, folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    entries = json.loads((moved / "speaker_embeddings_path.json").read_text())
    (moved / "speaker_embeddings_path.json").write_text(json.dumps(entries | {"repo_or_path": "nobody/nothing"}))
    processor = BarkProcessor.from_pretrained(moved, tokenizer=bark.processor.tokenizer)
    assert processor("hello", voice_preset="v2/de_speaker_3")["history_prompt"].semantic.size == 100
