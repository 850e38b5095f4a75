"""Recordings that `bark-jax verify` reads: damaged and hostile files, other models', and bark.cpp's test data."""

import io
import zipfile

import numpy as np
import pytest
from toy import CONFIG, GENERATION_CONFIG

from bark_jax.config import BarkConfig, BarkSemanticConfig
from bark_jax.errors import InputError
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.verify import recordings
from converters import recordings as converter

SPACES = TokenSpaces.from_config(GENERATION_CONFIG)
READERS = {
    "semantic_logits.npz": recordings.read_logits,
    "semantic_greedy.npz": recordings.read_semantic,
    "coarse_greedy.npz": recordings.read_coarse,
    "fine_greedy.npz": recordings.read_fine,
}
PUBLISHED = BarkConfig(semantic_config=BarkSemanticConfig(input_vocab_size=129_600, output_vocab_size=10_048))


def arrays_of(name):
    """Arrays of a file that is right, of zeros but for the pads and the infer token."""
    ids_NT = np.full((2, 2 * SPACES.n_text + 1), SPACES.semantic_end)
    ids_NT[:, : SPACES.n_text], ids_NT[:, -1] = SPACES.text_pad, SPACES.semantic_infer
    tokens_T, coarse_QT, fine_QT = np.zeros(10, int), np.zeros((2, 15), int), np.zeros((8, 15), int)
    return {
        "semantic_logits.npz": {"ids": ids_NT, "is_summed": np.array([True, False]), "logits": np.ones((2, 100))},
        "semantic_greedy.npz": {"ids": ids_NT, "tokens_0": tokens_T, "tokens_1": tokens_T},
        "coarse_greedy.npz": {"semantic_0": tokens_T, "coarse_0": coarse_QT},
        "fine_greedy.npz": {"coarse_0": coarse_QT, "fine_0": fine_QT},
    }[name]


def read(folder, name, arrays):
    np.savez(folder / name, **arrays)
    return READERS[name](folder, CONFIG, SPACES)


@pytest.mark.parametrize("name", READERS)
def test_right_files_are_read(tmp_path, name):
    found = read(tmp_path, name, arrays_of(name))
    assert len(found) == (2 if name.startswith("semantic") else 1)
    assert all(array.dtype in (np.int32, np.float32) for array in found[0] if isinstance(array, np.ndarray))


LOGITS, SEMANTIC, COARSE, FINE = READERS
WRONG = [
    (LOGITS, "logits", None, "has no 'logits'"),
    (LOGITS, "logits", np.ones((2, 129)), "expected (2, 1 to 128)"),
    (LOGITS, "logits", np.ones((3, 100)), "has shape (3, 100)"),
    (LOGITS, "logits", np.full((2, 100), np.nan), "expected finite floats"),
    (LOGITS, "logits", np.array([[{}]], object), "holds 'object', expected numbers"),
    (LOGITS, "is_summed", np.array([True]), "expected (2,)"),
    (LOGITS, "ids", np.zeros((2, 513), int), "expected (1 or more, 193)"),
    (LOGITS, "ids", np.zeros((2, 193)), "holds float64, expected integers"),
    (LOGITS, "ids", np.full((2, 193), 129_599), "the recordings are of another model"),
    (LOGITS, "ids", np.full((2, 193), -1), "the recordings are of another model"),
    (SEMANTIC, "ids", np.zeros((2, 193), int), "a voice's history"),
    (SEMANTIC, "tokens_1", None, "expected as many arrays"),
    (SEMANTIC, "tokens_2", np.zeros(3, int), "expected as many arrays"),
    (SEMANTIC, "tokens_0", np.zeros(251, int), "expected 1 to 250 tokens"),
    (SEMANTIC, "tokens_0", np.zeros((3, 3), int), "expected 1 to 250 tokens"),
    (SEMANTIC, "tokens_0", np.array([123]), "the recordings are of another model"),
    (COARSE, "coarse_0", np.zeros((2, 16), int), "expected the 15 of 10 semantic tokens"),
    (COARSE, "coarse_0", np.zeros((15, 2), int), "expected (2, frames)"),
    (COARSE, "semantic_1", np.zeros(10, int), "expected semantic_0, coarse_0"),
    (FINE, "fine_0", np.zeros((8, 14), int), "the first 2 rows of fine_0 are not coarse_0"),
    (FINE, "fine_0", np.arange(120).reshape(8, 15), "the first 2 rows of fine_0 are not coarse_0"),
    (FINE, "fine_0", np.full((8, 15), 256), "the recordings are of another model"),
]


@pytest.mark.parametrize("name, array, value, says", WRONG, ids=[f"{case[1]}: {case[3]}" for case in WRONG])
def test_files_that_do_not_fit_are_refused_in_a_sentence(tmp_path, name, array, value, says):
    arrays = arrays_of(name) | {array: value}
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, {key: each for key, each in arrays.items() if each is not None})
    assert says in str(caught.value) and name in str(caught.value)


def test_longer_codes_than_a_window_are_refused(tmp_path):
    codes = np.zeros((8, SPACES.fine_window + 1), int)
    with pytest.raises(InputError, match="expected at most one window's 256"):
        read(tmp_path, FINE, {"coarse_0": codes[:2], "fine_0": codes})


def npy(header):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


HOSTILE = {
    "nothing": b"",
    "no archive": b"\x80\x04K\x01.",
    "cut off": b"PK\x03\x04",
    "claims a terabyte": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 250000), }"),
    "a zip bomb": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (4000000,), }") + bytes(32_000_000),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(tmp_path, content):
    if content.startswith(b"\x93NUMPY"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("semantic_0.npy", content)
            archive.writestr("coarse_0.npy", content)
        content = stream.getvalue()
    (tmp_path / COARSE).write_bytes(content)
    with pytest.raises(InputError, match=COARSE):
        recordings.read_coarse(tmp_path, CONFIG, SPACES)


def test_only_some_numbered_arrays_are_read(tmp_path):
    once = arrays_of(COARSE)
    runs = {name.replace("0", str(n)): array for n in range(40) for name, array in once.items()}
    assert len(read(tmp_path, COARSE, runs)) == 32


def bin_file(*arrays):
    """A file in the form of bark.cpp's test data: the sizes of two axes are given the other way round."""
    header = [np.array([array.ndim, *array.shape[::-1]], "<i4").tobytes() for array in arrays]
    return b"".join(part for pair in zip(header, (array.tobytes() for array in arrays), strict=True) for part in pair)


@pytest.fixture
def test_data(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    codes = rng.integers(0, 256, (8, 15), np.int32)
    ids = np.zeros(193, np.int32)
    files = {
        "gpt_eval/test_gpt_eval_1_merge": (ids, np.full(100, 1, np.float32)),
        "gpt_eval/test_gpt_eval_1_no_merge": (ids, np.full(100, 2, np.float32)),
        "semantic/test_pass_semantic_1": (ids, np.arange(10, dtype=np.int32)),
        "coarse/test_pass_coarse_1": (np.arange(10, dtype=np.int32), codes[:2]),
        "fine/test_pass_fine_1": (codes[:2], codes),
    }
    for name, arrays in files.items():
        path = folder / f"{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bin_file(*arrays))
    return folder


def test_the_test_data_of_bark_cpp_is_converted(test_data, tmp_path):
    assert converter.main([str(test_data), str(tmp_path / "out")]) == 0
    (fine,) = recordings.read_fine(tmp_path / "out", CONFIG, SPACES)
    np.testing.assert_array_equal(fine.codes_QT, np.random.default_rng(0).integers(0, 256, (8, 15), np.int32))
    summed, in_sequence = recordings.read_logits(tmp_path / "out", CONFIG, SPACES)
    assert (summed.is_summed, summed.logits_V[0]) == (True, 1)
    assert (in_sequence.is_summed, in_sequence.logits_V[0]) == (False, 2)
    (coarse,) = recordings.read_coarse(tmp_path / "out", CONFIG, SPACES)
    np.testing.assert_array_equal(coarse.codes_QT, fine.coarse_QT)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"more", lambda data: b"\xff" * 40])
def test_damaged_test_data_is_refused(test_data, tmp_path, damage, capsys):
    path = test_data / "coarse" / "test_pass_coarse_1.bin"
    path.write_bytes(damage(path.read_bytes()))
    assert converter.main([str(test_data), str(tmp_path / "out")]) == 1
    assert path.name in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_converter_refuses_wrong_usage(tmp_path, capsys):
    assert converter.main([]) == 2
    assert converter.main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "has none of gpt_eval/" in capsys.readouterr().err


def test_the_published_recordings_are_read(real_data):
    folder, spaces = real_data / "recorded", TokenSpaces()
    logits = recordings.read_logits(folder, PUBLISHED, spaces)
    assert sorted(each.is_summed for each in logits) == [False] * 3 + [True] * 3
    assert all(len(each.logits_V) == 10_048 for each in logits)
    assert len(recordings.read_semantic(folder, PUBLISHED, spaces)) == 3
    assert [each.codes_QT.shape[1] for each in recordings.read_coarse(folder, PUBLISHED, spaces)] == [392, 315, 934]


def test_codes_that_are_not_codebook_by_codebook_are_refused(real_data, tmp_path):
    """Of published codes, where coarse and fine codes tell the two layouts apart."""
    with np.load(real_data / "recorded" / FINE) as file:
        arrays = dict(file)
    if not np.array_equal(arrays["fine_0"][:2], arrays["coarse_0"]):
        arrays = {name: codes.T.reshape(codes.shape) for name, codes in arrays.items()}
    np.savez(tmp_path / FINE, **arrays)
    assert len(recordings.read_fine(tmp_path, PUBLISHED, TokenSpaces())) == 3
    np.savez(tmp_path / FINE, **{name: codes.reshape(-1, len(codes)).T for name, codes in arrays.items()})
    with pytest.raises(InputError, match="codebook"):
        recordings.read_fine(tmp_path, PUBLISHED, TokenSpaces())
