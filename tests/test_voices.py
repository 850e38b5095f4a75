"""Voices: valid voices, refused files, and lookup by name."""

import dataclasses
import io
import os
import pickle
import subprocess
import sys
import tracemalloc
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bad_inputs.harness import ARGUMENT_CALLS, counted, refused
from voice_cases import BAD_ENTRIES, BAD_NAMES, fill_cache, make_arrays, make_folder, npy_bytes, outside

from bark_jax.errors import BarkError, InputError, ModelNotFoundError, VoiceError, VoiceNotFoundError, quoted
from bark_jax.files import is_inner_path
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.hub.source import Source, UnreachableError
from bark_jax.voices.library import LANGUAGES, PRESET_NAMES, VoiceLibrary, fits_published, resolve_voice
from bark_jax.voices.voice import PROMPT_KEYS, OddVoiceWarning, Voice, as_voice, check_voice

ROOT = Path(__file__).parents[1]
SPACES = TokenSpaces()
NO_VOICES = VoiceLibrary({})


def changed(key, index, value):
    """Arrays with one token changed, in coarse and fine alike."""
    arrays = make_arrays()
    arrays[key][index] = value
    if key == "coarse_prompt":
        arrays["fine_prompt"][index] = value
    return arrays


def npz_bytes(arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def zip_bytes(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def voice_members():
    return [(f"{key}.npy", npy_bytes(array)) for key, array in make_arrays().items()]


def npy_with_header(header):
    text = (header + " " * (117 - len(header)) + "\n").encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64)


class RunsCode:
    """Creates a file if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# --- arrays ---------------------------------------------------------------------------------------------------------

GOOD_DTYPES = ["int16", "int32", "int64", "uint16", "uint64", ">i8", ">u2", "<i4"]

BAD_ARRAYS = {
    "V21": (lambda a: a | {"coarse_prompt": a["fine_prompt"][:3]}, "coarse has shape"),
    "V22": (lambda a: a | {"coarse_prompt": a["fine_prompt"][:1]}, "coarse has shape"),
    "V23": (lambda a: a | {"fine_prompt": a["fine_prompt"][:7]}, "fine has shape"),
    "V25": (lambda a: a | {"semantic_prompt": a["semantic_prompt"][:0]}, "no axis empty"),
    "V26": (
        lambda a: {k: v[..., : v.shape[-1] if k == "semantic_prompt" else 0] for k, v in a.items()},
        "no axis empty",
    ),
    "V27": (lambda a: changed("semantic_prompt", 3, 10_005), r"semantic\[3\] is 10005"),
    "V29": (lambda a: changed("semantic_prompt", 3, 200_000), r"semantic\[3\] is 200000"),
    "V30": (lambda a: changed("coarse_prompt", (1, 5), 1024), r"coarse\[1, 5\] is 1024"),
    "V31": (lambda a: changed("coarse_prompt", (0, 5), 5000), r"coarse\[0, 5\] is 5000"),
    "V33": (lambda a: changed("fine_prompt", (7, 5), 1030), r"fine\[7, 5\] is 1030"),
    "V34": (lambda a: changed("fine_prompt", (7, 5), 2000), r"fine\[7, 5\] is 2000"),
    "V35": (lambda a: changed("fine_prompt", (7, 5), -1), "holds -1"),
    "V37": (lambda a: a | {"semantic_prompt": a["semantic_prompt"] + 0.7}, "float64"),
    "V38": (lambda a: a | {"semantic_prompt": np.full(100, np.nan)}, "float64"),
    "V41": (lambda a: {k: v.astype(str) for k, v in a.items()}, "expected integers"),
    "V42": (lambda a: {k: v.astype(complex) for k, v in a.items()}, "complex128"),
    "V49": (lambda a: {k: v.tolist() for k, v in a.items()}, "expected an array"),
    "V50": (lambda a: a | {"semantic_prompt": None}, "semantic is None"),
    "V51": (lambda a: changed("semantic_prompt", 3, 2**32 + 5), "holds 4294967301"),
    "V53": (lambda a: a | {"semantic_prompt": a["semantic_prompt"].astype("datetime64[s]")}, "datetime64"),
    "V54": (lambda a: a | {"semantic_prompt": np.zeros(100, [("a", "<i4")])}, "expected integers"),
    "V55": (lambda a: a | {"semantic_prompt": np.full(100, 10_000)}, "all padding"),
    "missing": (lambda a: {"semantic_prompt": a["semantic_prompt"]}, "no coarse_prompt and no fine_prompt"),
    "bool": (lambda a: a | {"semantic_prompt": np.ones(100, bool)}, "bool"),
    "object": (lambda a: a | {"semantic_prompt": np.ones(100, object)}, "object"),
    "scalar": (lambda a: a | {"semantic_prompt": np.int64(5)}, r"shape \(\)"),
    "batched": (lambda a: {k: v[None] for k, v in a.items()}, r"shape \(1, 100\)"),
    "uint64": (lambda a: a | {"semantic_prompt": np.full(100, 2**64 - 1, np.uint64)}, "18446744073709551615"),
}


# Voices that suno's or transformers' code accepts, and this project with a warning.
ODD_ARRAYS = {
    "V45": (lambda a: a | {k: a[k][:, :10] for k in PROMPT_KEYS[1:]}, "10 frames and 100 semantic"),
    "V46": (lambda a: a | {"fine_prompt": a["fine_prompt"][:, :10]}, "150 frames, its fine 10"),
    "V47": (lambda a: a | {"coarse_prompt": (a["coarse_prompt"] + 1) % 1024}, "differs from the first 2 rows"),
    "too long": (lambda a: a | {"semantic_prompt": a["semantic_prompt"][:20]}, "150 frames and 20 semantic"),
    "coarse shorter": (lambda a: a | {"coarse_prompt": a["coarse_prompt"][:, 2:]}, "148 frames, its fine 150"),
    "600 and 300": (lambda a: make_arrays(600, 300), "300 frames and 600 semantic tokens, which take about 902"),
    "all odd": (lambda a: make_arrays(600, 300) | {"fine_prompt": a["fine_prompt"]}, "its fine 150; it has 300 frames"),
    "ten times as many frames": (lambda a: a | {k: np.tile(a[k], 10) for k in PROMPT_KEYS[1:]}, "1500 frames"),
}


@pytest.mark.parametrize(("make", "message"), ODD_ARRAYS.values(), ids=ODD_ARRAYS)
def test_odd_voices_are_taken_with_a_warning(make, message, tmp_path):
    arrays = make(make_arrays())
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.warns(OddVoiceWarning, match=f"^a voice may sound odd.* different clips.*{message}"):
        voice = Voice.from_dict(arrays)
    with pytest.warns(OddVoiceWarning, match=rf"^the voice .*odd\.npz may sound odd.*{message}"):
        assert Voice.load(tmp_path / "odd.npz") == voice
    with pytest.warns(OddVoiceWarning, match=r"^the voice 'anna' may"):
        VoiceLibrary.from_voices([dataclasses.replace(voice, name="anna")]).load("anna")
    for key, array in voice.to_dict().items():
        np.testing.assert_array_equal(array, arrays[key])


@pytest.mark.parametrize("make", [case[0] for case in ODD_ARRAYS.values()], ids=ODD_ARRAYS)
def test_an_odd_voice_conditions_the_coarse_stage_as_in_transformers(make):
    torch = pytest.importorskip("torch")
    from transformers.models.bark.modeling_bark import BarkCoarseModel

    from bark_jax.generation.coarse import trim_history

    arrays = make(make_arrays())
    expected = BarkCoarseModel.preprocess_histories(
        None,
        max_coarse_history=SPACES.n_coarse_history,
        semantic_to_coarse_ratio=75 / 49.9 * 2,
        batch_size=1,
        semantic_generation_config=types.SimpleNamespace(semantic_vocab_size=SPACES.semantic_vocab),
        codebook_size=SPACES.codebook_size,
        history_prompt={key: torch.from_numpy(array) for key, array in arrays.items()},
    )
    voice = Voice(*arrays.values())
    for ours, theirs in zip(trim_history(voice.semantic, voice.coarse, SPACES), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs[0].numpy())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", ">f4"])
def test_floats_that_are_integers_become_int32(dtype, tmp_path):
    arrays = make_arrays() | {"semantic_prompt": np.arange(0, 9_999, 100)}
    floats = {key: array.astype(np.float16 if key != "fine_prompt" else dtype) for key, array in arrays.items()}
    floats["semantic_prompt"] = arrays["semantic_prompt"].astype(np.float32 if dtype == "float16" else dtype)
    np.savez(tmp_path / "a.npz", **floats)
    for key, array in floats.items():
        np.save(tmp_path / f"{key}.npy", array)
    assert Voice.load(tmp_path / "a.npz") == Voice.load([tmp_path / f"{key}.npy" for key in PROMPT_KEYS])
    assert Voice.load(tmp_path / "a.npz") == Voice.from_dict(floats) == Voice.from_dict(arrays)
    assert Voice.from_dict(floats).fine.dtype == np.int32


@pytest.mark.parametrize("value", [3.7, np.nan, np.inf, -1.0, 2.0**40, -0.5, 1e300])
def test_floats_that_are_no_tokens_are_refused(value):
    with pytest.raises(VoiceError, match="the voice's semantic holds"):
        Voice.from_dict(make_arrays() | {"semantic_prompt": np.array([value, 1.0])})


@pytest.mark.parametrize("dtype", GOOD_DTYPES)
def test_any_integer_type_becomes_int32(dtype):
    voice = Voice.from_dict(make_arrays(dtype=dtype))
    assert {array.dtype for array in voice.to_dict().values()} == {np.dtype(np.int32)}
    assert voice == Voice.from_dict(make_arrays())


@pytest.mark.parametrize("n_semantic, n_frames", [(1, 1), (158, 237), (731, 1098), (730, 1097), (100, 76), (100, 300)])
def test_lengths_of_published_and_odd_voices_fit(n_semantic, n_frames):
    Voice.from_dict(make_arrays(n_semantic, n_frames))


def test_arrays_of_other_libraries_are_taken():
    import jax.numpy as jnp

    arrays = make_arrays(dtype=np.int32)
    assert Voice.from_dict({key: jnp.asarray(array) for key, array in arrays.items()}) == Voice.from_dict(arrays)


def test_torch_tensors_are_taken():
    torch = pytest.importorskip("torch")
    arrays = make_arrays()
    assert Voice.from_dict({key: torch.from_numpy(array) for key, array in arrays.items()}) == Voice.from_dict(arrays)


def test_an_array_that_cannot_be_read_is_named():
    class OnGpu:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("can't convert cuda:0 tensor")

    with pytest.raises(VoiceError, match=r"fine does not become a numpy array.*move it to the CPU"):
        Voice.from_dict(make_arrays() | {"fine_prompt": OnGpu()})


def test_a_voice_is_a_frozen_value():
    arrays = make_arrays(dtype=np.int32)
    voice = Voice.from_dict(arrays)
    arrays["semantic_prompt"][:] = 0
    assert voice.semantic.any()
    with pytest.raises(ValueError, match="read-only"):
        voice.semantic[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        voice.name = "other"
    assert voice == dataclasses.replace(voice, name="other")
    assert hash(voice) == hash(dataclasses.replace(voice, name="other"))
    assert voice != Voice.from_dict(arrays)
    assert voice != "a string"
    assert "100 semantic tokens, 8 x 150 codes" in repr(voice)
    assert pickle.loads(pickle.dumps(voice)) == voice


def test_a_voice_is_checked_against_its_model():
    voice = Voice.from_dict(make_arrays())
    max_token = f"{voice.semantic.max():,}"
    message = (
        f"expected 0 to 122: this voice has semantic tokens up to {max_token} and the model knows 123: it is another"
    )
    with pytest.raises(VoiceError, match=message):
        check_voice(voice, dataclasses.replace(SPACES, semantic_vocab=123))
    with pytest.raises(VoiceError, match=r"has codes up to 1,02\d and the model knows 256: it is another model's"):
        check_voice(voice, dataclasses.replace(SPACES, codebook_size=256))
    with pytest.raises(VoiceError, match="3 coarse codebooks, and the voice is another model's"):
        check_voice(voice, dataclasses.replace(SPACES, n_coarse=3))
    assert check_voice(voice, SPACES) is voice


def test_as_voice_takes_a_voice_or_a_dict():
    voice = Voice.from_dict(make_arrays())
    assert as_voice(voice) is voice
    assert as_voice(make_arrays()) == voice
    with pytest.raises(VoiceError, match="the voice is 'en_speaker_0', expected a Voice or a dict"):
        as_voice("en_speaker_0")


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_voice_comes_back_from_its_file(tmp_path):
    voice = Voice.from_dict(make_arrays())
    voice.save(tmp_path / "found.npz")
    assert Voice.load(tmp_path / "found.npz") == Voice.load(str(tmp_path / "found.npz")) == voice
    assert os.listdir(tmp_path) == ["found.npz"]
    with np.load(tmp_path / "found.npz") as file:
        assert set(file) == set(PROMPT_KEYS)
        assert Voice.from_dict(file) == voice


def test_compressed_and_fortran_files_are_read(tmp_path):
    arrays = {key: np.asfortranarray(array) for key, array in make_arrays().items()}
    np.savez_compressed(tmp_path / "a.npz", **arrays, other=np.arange(3))
    assert Voice.load(tmp_path / "a.npz") == Voice.from_dict(arrays)


FURTHER = {
    "a note": [("my note.npy", npy_bytes(np.array("by Anna")))],
    "of any letters": [("заметка: 5/8?.npy", b"\0"), ("note", b""), (".npy", b""), ("a..b", b""), ("x\ty", b"")],
    "a file": [("README.txt", b"hello"), ("docs/", b""), ("docs/x.npy", b"hello")],
    "names like the needed": [("semantic_prompt", b"x"), ("SEMANTIC_PROMPT.npy", b"x"), ("v/semantic_prompt.npy", b"")],
    "the same name twice": [("note.npy", b"a"), ("note.npy", b"b")],
    "objects": [("meta.npy", npy_bytes(np.array([{"a": 1}], object)))],
    "a bomb": [("note.npy", bytes(2**26))],
}


@pytest.mark.parametrize("members", FURTHER.values(), ids=FURTHER)
def test_what_else_a_file_holds_is_not_looked_at(members, tmp_path):
    (tmp_path / "a.npz").write_bytes(zip_bytes([*members, *voice_members()]))
    tracemalloc.start()
    assert Voice.load(tmp_path / "a.npz") == Voice.from_dict(make_arrays())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def test_a_further_member_that_is_damaged_or_encrypted_is_not_looked_at(tmp_path):
    note = npy_bytes(np.arange(5))
    data = bytearray(npz_bytes({"my note": np.arange(5), **make_arrays()}))
    data[data.index(note)] ^= 1
    entry = data.rindex(b"my note.npy") - 46
    data[entry + 8] |= 1  # encrypted
    (tmp_path / "a.npz").write_bytes(data)
    assert Voice.load(tmp_path / "a.npz") == Voice.from_dict(make_arrays())


def test_three_npy_files_make_a_voice(tmp_path):
    paths = [tmp_path / f"x_{key}.npy" for key in PROMPT_KEYS]
    for path, array in zip(paths, make_arrays().values(), strict=True):
        np.save(path, array)
    assert Voice.load(paths) == resolve_voice(tuple(map(str, paths)), NO_VOICES, SPACES)
    with pytest.raises(VoiceError, match="semantic has shape"):
        Voice.load(paths[::-1])
    with pytest.raises(VoiceError, match=r"three \.npy files"):
        Voice.load(paths[:2])


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    voice = Voice.from_dict(make_arrays())
    voice.save(tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()

    def fail(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        Voice.from_dict(make_arrays(50, 75)).save(tmp_path / "a.npz")
    assert os.listdir(tmp_path) == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == before


def test_a_voice_is_saved_under_its_ending(tmp_path):
    with pytest.raises(InputError, match=r"does not end in \.npz"):
        Voice.from_dict(make_arrays()).save(tmp_path / "a.wav")


SUNO_REFUSES = {
    "V45": (ODD_ARRAYS["V45"][0], "0.10 frames a token, expected 1.5"),
    "600 and 300": (ODD_ARRAYS["600 and 300"][0], "0.50 frames a token"),
    "a clip of three tokens": (lambda a: make_arrays(3, 4), "1.33 frames a token"),
    "a clip of one token": (lambda a: make_arrays(1, 1), "1.00 frames a token"),
    "three coarse codebooks": (lambda a: a | {"coarse_prompt": a["fine_prompt"][:3]}, "coarse has shape"),
    "four fine codebooks": (lambda a: a | {"fine_prompt": a["fine_prompt"][:4]}, "fine has shape"),
    "a token too high": (lambda a: changed("semantic_prompt", 3, 10_000), "is 10000, expected 0 to 9999"),
    "a code too high": (lambda a: changed("coarse_prompt", (1, 3), 1024), "is 1024, expected 0 to 1023"),
}


@pytest.mark.parametrize(("make", "message"), SUNO_REFUSES.values(), ids=SUNO_REFUSES)
def test_a_voice_that_suno_does_not_take_is_not_saved(make, message, tmp_path):
    voice = Voice(*make(make_arrays()).values())
    with pytest.raises(VoiceError, match=f"^Suno's code would reject this voice, so it is not saved: .*{message}"):
        voice.save(tmp_path / "a.npz")
    assert os.listdir(tmp_path) == []
    voice.save(tmp_path / "a.npz", spaces=None)
    assert Voice.load(tmp_path / "a.npz", spaces=None) == voice


@pytest.mark.parametrize("n_semantic", [2, 4, 11, 100, 499, 731])
def test_what_is_saved_passes_the_assertions_of_suno(n_semantic, tmp_path):
    """The assertions are those of bark/generation.py."""
    arrays = make_arrays(n_semantic, SPACES.n_frames(n_semantic))
    Voice.from_dict({key: array.astype(np.float64) for key, array in arrays.items()}).save(tmp_path / "a.npz")
    saved = np.load(tmp_path / "a.npz")
    semantic, coarse, fine = (saved[key] for key in PROMPT_KEYS)
    assert semantic.ndim == 1 and len(semantic) > 0 and semantic.min() >= 0 and semantic.max() <= 9_999
    assert coarse.ndim == 2 and coarse.shape[0] == 2 and coarse.min() >= 0 and coarse.max() <= 1023
    assert round(coarse.shape[-1] / len(semantic), 1) == round(75 / 49.9, 1)
    assert fine.ndim == 2 and fine.shape[0] == 8 and fine.shape[1] >= 0 and fine.min() >= 0 and fine.max() <= 1023
    assert {array.dtype for array in (semantic, coarse, fine)} == {np.dtype(np.int32)}


@pytest.mark.skipif("BARK_JAX_REAL_DATA" not in os.environ, reason="BARK_JAX_REAL_DATA is not set")
def test_all_published_voices_load_and_are_saved(tmp_path):
    paths = sorted(Path(os.environ["BARK_JAX_REAL_DATA"], "voices", "prompts").rglob("*.npz"))
    assert len(paths) >= 261
    for path in paths:
        voice = Voice.load(path)
        voice.save(tmp_path / "again.npz")
        assert Voice.load(tmp_path / "again.npz") == voice
        with np.load(path) as file:
            assert all(np.array_equal(file[key], array) for key, array in voice.to_dict().items())


def _object_npz(canary):
    arrays = make_arrays() | {"semantic_prompt": np.array([RunsCode(canary)], object)}
    return npz_bytes(arrays)


def _bomb(canary):
    header = npy_with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (33554432,), }")
    return zip_bytes([("semantic_prompt.npy", header[:128] + bytes(2**26)), *voice_members()[1:]])


def _small_claim(canary):
    """A header that claims 2 GiB where only 64 bytes follow."""
    header = npy_with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (268435456,), }")
    return zip_bytes([("semantic_prompt.npy", header), *voice_members()[1:]])


def _with_header(header):
    return lambda canary: zip_bytes([("semantic_prompt.npy", npy_with_header(header)), *voice_members()[1:]])


def _flipped(canary):
    data = bytearray(npz_bytes(make_arrays()))
    data[data.index(b"fine_prompt.npy") + 400] ^= 1
    return bytes(data)


def _encrypted(canary):
    data = bytearray(npz_bytes(make_arrays()))
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(start) + offset] |= 1
    return bytes(data)


BAD_FILES = {
    "V01": (_object_npz, "holds 'object'"),
    "V02": (lambda canary: pickle.dumps(RunsCode(canary)), "looks like a pickle"),
    "V03": (_bomb, "claims 67,108,992 bytes"),
    "claim": (_small_claim, "64 bytes follow"),
    "V05": (_with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (-5,), }"), "shape"),
    "nothing of 2**60": (
        _with_header("{'descr': '<i8', 'fortran_order': True, 'shape': (0, 1152921504606846976), }"),
        "shape",
    ),
    "minus": (_with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, -8), }"), "shape"),
    "V06": (
        _with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }"),
        r"damaged header, .*__import__\('os'\)\.getpid\(\).*, expected a dict of descr",
    ),
    "a bool among the sizes": (
        _with_header("{'descr': '<i8', 'fortran_order': False, 'shape': (True, 8), }"),
        r"claims shape \(True, 8\) of int64, but 64 bytes follow",
    ),
    "nested": (_with_header("(" * 100), "damaged header"),
    "dtype": (_with_header("{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (8,), }"), "expected integers"),
    "V07": (lambda canary: npz_bytes(make_arrays())[:4000], "damaged"),
    "V09": (lambda canary: b"", "is empty"),
    "V10": (lambda canary: zip_bytes([*voice_members(), ("../../canary", b"x")]), "'../../canary'"),
    "absolute": (lambda canary: zip_bytes([*voice_members(), ("/tmp/x.npy", b"x")]), "'/tmp/x.npy'"),
    "V11": (lambda canary: zip_bytes(voice_members()[:2]), "no 'fine_prompt'"),
    "twice": (lambda canary: zip_bytes([*voice_members(), voice_members()[0]]), "twice"),
    "lfs": (lambda canary: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "garbage": (lambda canary: np.random.default_rng(0).bytes(2000), "begins with"),
    "PK": (lambda canary: b"PK" + bytes(100), "damaged"),
    "flipped": (_flipped, "damaged"),
    "encrypted": (_encrypted, "damaged"),
    "text": (lambda canary: zip_bytes([("semantic_prompt.npy", b"hello"), *voice_members()[1:]]), "no .npy array"),
    "large": (lambda canary: bytes(5 * 2**20), "4,194,304 bytes"),
    "V27": (lambda canary: npz_bytes(BAD_ARRAYS["V27"][0](None)), r"semantic\[3\] is 10005"),
    "V37": (lambda canary: npz_bytes(BAD_ARRAYS["V37"][0](make_arrays())), "expected whole numbers"),
}


def test_random_damage_never_leaks_another_error(tmp_path):
    draw = np.random.default_rng(0)
    good, path = npz_bytes(make_arrays(20, 30, np.uint16)), tmp_path / "a.npz"
    for _ in range(300):
        data = bytearray(good)
        for offset in draw.integers(0, len(data), 3):
            data[offset] = draw.integers(0, 256)
        path.write_bytes(data[: len(data) if draw.random() < 0.7 else draw.integers(0, len(data))])
        try:
            Voice.load(path)
        except VoiceError as error:
            assert str(path) in str(error)


def test_many_members_take_little_memory(tmp_path):
    path = tmp_path / "many.npz"
    path.write_bytes(zip_bytes((f"a{i}", b"") for i in range(40_000)))
    tracemalloc.start()
    with pytest.raises(VoiceError, match="has no 'semantic_prompt': it holds 'a0, a1"):
        Voice.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


@pytest.mark.parametrize("path", ["missing.npz", "a\0b.npz", "\ud800.npz", "x" * 5000 + ".npz", "/dev/null", "/"])
def test_what_is_no_file_is_not_found(path):
    with pytest.raises(VoiceNotFoundError):
        Voice.load(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(VoiceNotFoundError, match="no regular file"):
        Voice.load(tmp_path / "pipe.npz")


# --- names ----------------------------------------------------------------------------------------------------------


def open_folder(folder):
    return VoiceLibrary.open(Source(str(folder)))


def test_the_registry_holds_the_published_names():
    assert len(PRESET_NAMES) == len(set(PRESET_NAMES)) == 261
    assert len(LANGUAGES) == 13
    assert {"announcer", "en_speaker_0", "v2/zh_speaker_9"} < set(PRESET_NAMES)
    library = VoiceLibrary.published()
    assert library.names() == list(PRESET_NAMES)
    assert len(library.names("de")) == len(library.names("German")) == 20
    with pytest.raises(InputError, match=r"expected one of en \(English\)"):
        library.names("klingon")


def test_a_folder_gives_its_voices(tmp_path):
    library = open_folder(make_folder(tmp_path))
    assert library.names() == ["en_speaker_0", "v2/de_speaker_3"]
    assert library.names("de") == ["v2/de_speaker_3"]
    voice = library.load("v2/de_speaker_3")
    assert voice == Voice.from_dict(make_arrays())
    assert voice.name == "v2/de_speaker_3"
    assert VoiceLibrary.open(Source(str(tmp_path))) is None


def test_a_voice_is_read_once(tmp_path):
    folder = make_folder(tmp_path)
    library = open_folder(folder)
    first = library.load("en_speaker_0")
    for path in folder.glob("speaker_embeddings/*.npy"):
        path.unlink()
    assert library.load("en_speaker_0") is first


@pytest.mark.parametrize("case", BAD_NAMES)
def test_bad_names_are_not_found(case, tmp_path):
    name, message = BAD_NAMES[case]
    outside(tmp_path)
    library = open_folder(make_folder(tmp_path))
    with refused(VoiceNotFoundError, message, folder=tmp_path) as caught:
        resolve_voice(name.format(tmp=tmp_path), library, SPACES)
    assert len(str(caught.value)) < 700


def test_an_unknown_name_brings_the_nearest():
    with pytest.raises(VoiceNotFoundError, match="v2/en_speaker_6"):
        VoiceLibrary.published().load("v2/en_speaker6")
    with pytest.raises(VoiceNotFoundError, match="no voices of its own"):
        NO_VOICES.load("en_speaker_0")


@pytest.mark.parametrize("voice", [5, ["en_speaker_0"], b"en_speaker_0", 1.5, {1, 2}, object(), True, [], [1, 2, 3]])
def test_what_is_no_voice_brings_what_is(voice):
    with pytest.raises(VoiceError, match="give a name such as 'v2/en_speaker_6'"):
        resolve_voice(voice, NO_VOICES, SPACES)


def test_every_form_of_a_voice_is_taken(tmp_path, monkeypatch):
    library = open_folder(make_folder(tmp_path))
    voice = Voice.from_dict(make_arrays())
    voice.save(tmp_path / "found.npz")
    monkeypatch.chdir(tmp_path / "model")
    forms = [voice, make_arrays(), "en_speaker_0", "../found.npz", str(tmp_path / "found.npz"), Path("../found.npz")]
    assert all(resolve_voice(form, library, SPACES) == voice for form in forms)
    assert resolve_voice(None, library, SPACES) is None


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries_are_refused(case, tmp_path):
    entry = BAD_ENTRIES[case](outside(tmp_path))
    library = open_folder(make_folder(tmp_path, bad=entry))
    assert library.load("en_speaker_0") is not None
    with pytest.raises(VoiceError, match=r"voice 'bad' of .*model: it is listed as"):
        library.load("bad")


def test_p06_a_list_without_a_home_reads_nothing(tmp_path):
    secret = outside(tmp_path)
    for entry in (secret, {key: path.removeprefix("/") for key, path in secret.items()}):
        with pytest.raises(VoiceError):
            VoiceLibrary.from_dict({"bad": entry}).load("bad")


def test_p07_a_link_out_of_the_folder_is_refused(tmp_path):
    secret = outside(tmp_path)
    folder = make_folder(tmp_path, bad={key: f"speaker_embeddings/link_{key}.npy" for key in PROMPT_KEYS})
    for key, path in secret.items():
        os.symlink(path, folder / f"speaker_embeddings/link_{key}.npy")
    with pytest.raises(VoiceError, match="outside of"):
        open_folder(folder).load("bad")


def test_a_linked_folder_out_of_the_model_is_refused(tmp_path):
    outside(tmp_path)
    folder = make_folder(tmp_path, bad={key: f"linked/secret_{key}.npy" for key in PROMPT_KEYS})
    os.symlink(tmp_path, folder / "linked")
    with pytest.raises(VoiceError, match="outside of"):
        open_folder(folder).load("bad")


def test_links_into_the_blobs_of_the_hubs_cache_are_followed(tmp_path):
    repository = tmp_path / "models--suno--bark"
    snapshot = repository / "snapshots" / "0123abc"
    (repository / "blobs").mkdir(parents=True)
    make_folder(tmp_path).rename(tmp_path / "files")
    for number, file in enumerate(sorted(path for path in (tmp_path / "files").rglob("*") if path.is_file())):
        blob, link = repository / "blobs" / str(number), snapshot / file.relative_to(tmp_path / "files")
        file.rename(blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert open_folder(snapshot).load("v2/de_speaker_3") == Voice.from_dict(make_arrays())


def test_a_linked_model_folder_is_fine(tmp_path):
    os.symlink(make_folder(tmp_path), tmp_path / "link")
    assert open_folder(tmp_path / "link").load("en_speaker_0") is not None


@pytest.mark.parametrize("text", ["{", "[]", "null", "5", '"x"', "\xff", "[" * 100_000])
def test_p09_a_broken_list_is_refused(text, tmp_path):
    (tmp_path / "speaker_embeddings_path.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(VoiceError, match=r"speaker_embeddings_path\.json"):
        open_folder(tmp_path)


def test_a_listed_file_that_is_missing_is_named(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "speaker_embeddings/en_speaker_0_fine_prompt.npy").unlink()
    with pytest.raises(VoiceNotFoundError, match=r"en_speaker_0_fine_prompt\.npy"):
        open_folder(folder).load("en_speaker_0")


def test_a_listed_file_of_a_name_that_no_system_takes_is_not_found(tmp_path):
    folder = make_folder(tmp_path, bad=dict.fromkeys(PROMPT_KEYS, "x" * 400 + ".npy"))
    with pytest.raises(VoiceNotFoundError, match="has no such file"):
        open_folder(folder).load("bad")


def test_a_damaged_preset_brings_name_and_path(tmp_path):
    folder = make_folder(tmp_path)
    (folder / "speaker_embeddings/en_speaker_0_fine_prompt.npy").write_bytes(b"")
    with pytest.raises(VoiceError, match=r"voice 'en_speaker_0' of .*en_speaker_0_fine_prompt\.npy"):
        open_folder(folder).load("en_speaker_0")


def test_only_models_with_barks_tokens_fit_the_published_voices():
    assert fits_published(dataclasses.replace(SPACES, n_text=96))
    assert not fits_published(dataclasses.replace(SPACES, codebook_size=256))


# --- the Hub --------------------------------------------------------------------------------------------------------


def test_published_voices_come_from_the_cache(tmp_path):
    name = "v2/en_speaker_6"
    files = {f"speaker_embeddings/{name}_{key}.npy": npy_bytes(array) for key, array in make_arrays().items()}
    fill_cache(tmp_path, "suno/bark", files)
    library = VoiceLibrary.published(cache_dir=tmp_path, local_files_only=True)
    assert library.load(name) == Voice.from_dict(make_arrays())


def test_a_voice_that_is_not_here_brings_repository_and_command(tmp_path):
    library = VoiceLibrary.published(cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(VoiceNotFoundError, match=r"suno/bark.*hf download suno/bark --include"):
        library.load("announcer")


def test_a_machine_without_a_network_gets_an_error_at_once(tmp_path, monkeypatch):
    import huggingface_hub

    def look_up(*arguments):
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", look_up)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    # Otherwise the Hub's client tries again and again, with pauses.
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"a pause of {seconds} s"))
    with refused(UnreachableError, r"hf download suno/bark config\.json", folder=tmp_path):
        Source("suno/bark", cache_dir=tmp_path).find("config.json")


def test_what_the_hub_does_not_have_is_remembered(tmp_path):
    fill_cache(tmp_path, "suno/bark", {})
    missing = tmp_path / "models--suno--bark" / ".no_exist" / "c0ffee" / "vocab.txt"
    missing.parent.mkdir(parents=True)
    missing.touch()
    assert Source("suno/bark", cache_dir=tmp_path).find("vocab.txt") is None


def test_the_hub_is_asked_for_the_revision(tmp_path, monkeypatch):
    import huggingface_hub

    folder, asked = make_folder(tmp_path), []

    def download(repository, path, *, revision, **options):
        asked.append((repository, path, revision))
        return str(folder / path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    library = VoiceLibrary.open(Source("me/bark", revision="v1"))
    library.load("en_speaker_0")
    assert asked[0] == ("me/bark", "speaker_embeddings_path.json", "v1")
    assert asked[3] == ("me/bark", "speaker_embeddings/en_speaker_0_fine_prompt.npy", "v1")


def test_a_model_that_the_hub_does_not_have_is_not_found(monkeypatch):
    import huggingface_hub

    def download(repository, path, **options):
        raise ValueError("404: Repository Not Found")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ModelNotFoundError, match="404: Repository Not Found"):
        Source("me/brk").find("config.json")


@pytest.mark.parametrize("name", ["./missing", "/missing", "a/b/c", "", "a\0b", "~/x", "\ud800"])
def test_what_is_neither_folder_nor_hub_id_is_not_found(name):
    with pytest.raises(ModelNotFoundError, match="no folder on this machine"):
        Source(name)


def test_a_model_is_named_by_text():
    with pytest.raises(InputError):
        Source(5)


@pytest.mark.parametrize("path", ["a.npy", "a/b.npy", "v2/x y.npy", "ä.npy", "a..b"])
def test_inner_paths(path):
    assert is_inner_path(path)


@pytest.mark.parametrize(
    "path", ["", ".", "/", "/a", "..", "../a", "a/../b", "a\\b", "c:/a", "a\nb", "x" * 600, None, 5, b"a"]
)
def test_paths_that_might_lead_elsewhere(path):
    assert not is_inner_path(path)
    with pytest.raises(InputError):
        Source("suno/bark").find(path)


@pytest.mark.parametrize(
    "value", ["x" * 10**7, list(range(10**6)), {i: "x" * 100 for i in range(1000)}, np.zeros(10**6)]
)
def test_errors_show_large_values_shortly(value):
    with counted(ARGUMENT_CALLS, traces_memory=True) as work:
        assert len(quoted(value)) <= 320
    assert work.peak_bytes < 100_000  # of the 10 MB that the value has


def test_all_errors_are_bark_errors():
    assert issubclass(VoiceError, BarkError) and issubclass(VoiceNotFoundError, FileNotFoundError)


def test_voices_and_processor_import_neither_jax_nor_torch():
    code = (
        "import sys, bark_jax.text.processor, bark_jax.voices.library; "
        "print([name for name in ('jax', 'flax', 'torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_voices_in_memory_make_a_library(voice):
    first, second = (dataclasses.replace(voice, name=name) for name in ("anna", "en_bob"))
    library = VoiceLibrary.from_voices([first, second])
    assert library.names() == ["anna", "en_bob"] and library.names("en") == ["en_bob"]
    assert library.load("anna") == voice
    for nameless in ([voice], [first, first]):
        with pytest.raises(VoiceError, match="expected a different name for each"):
            VoiceLibrary.from_voices(nameless)
