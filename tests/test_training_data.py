"""Dataset preparation: refused manifests, prepared arrays, and which folders open."""

import dataclasses
import functools
import io
import json
import shutil
import sys
import types
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx

from bark_jax.errors import ConfigError, InputError
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel
from bark_jax.text.processor import BarkProcessor
from bark_jax.training import prepare as preparing
from bark_jax.training.dataset import (
    AUDIO_SCALE,
    Dataset,
    DatasetError,
    Example,
    open_writer,
    samples_per_frame,
    write_dataset,
)
from bark_jax.training.manifest import (
    MAX_LINE_BYTES,
    MAX_LISTED_FAULTS,
    Fault,
    ManifestError,
    check_manifest,
    longest_s,
    read_entries,
    read_mono,
)
from bark_jax.training.prepare import codec_fingerprint, encode_audio, fit_samples, prepare_dataset, recode
from bark_jax.training.semantic_tokens import MAX_DIFFERENCE_S, load_tokenizer, make_semantic

BARK = TokenSpaces()
# Small token spaces, with lengths that are no multiples of each other.
SPACES = TokenSpaces(
    text_offset=100,
    text_pad=140,
    n_text=12,
    semantic_vocab=50,
    max_semantic=40,
    n_fine=3,
    codebook_size=16,
    semantic_rate=Fraction("49.9"),
    sample_rate=600,
)


@pytest.fixture(scope="module")
def bark():
    return BarkModel.from_pretrained("tiny")


@pytest.fixture(scope="module")
def processor():
    return BarkProcessor.from_pretrained("tiny")


@pytest.fixture
def spaces(bark):
    return bark.spaces


def n_tokens(seconds, spaces):
    return round(seconds * spaces.semantic_rate)


def make_wav(path, seconds=1.0, rate=24_000, channels=1, loudness=0.3, subtype="FLOAT", seed=0):
    shape = (int(seconds * rate), channels) if channels > 1 else int(seconds * rate)
    samples = (loudness * np.random.default_rng(seed).uniform(-1, 1, shape)).astype(np.float32)
    soundfile.write(path, samples, rate, subtype=subtype)
    return samples


def write_lines(path, lines):
    """Writes a manifest. Lines are JSON objects, or raw bytes."""
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def make_examples(spaces, n=9, n_voices=2, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        n_semantic = int(rng.integers(1, spaces.max_semantic + 1))
        yield Example(
            rng.integers(0, spaces.text_pad - spaces.text_offset, int(rng.integers(1, spaces.n_text + 1))),
            rng.integers(0, spaces.semantic_vocab, n_semantic),
            rng.integers(0, spaces.codebook_size, (spaces.n_fine, spaces.n_frames(n_semantic))),
            i % n_voices,
        )


def make_audio(examples, spaces):
    rng = np.random.default_rng(5)
    return [rng.uniform(-1, 1, e.codes.shape[1] * samples_per_frame(spaces)).astype(np.float32) for e in examples]


def assert_same(found, expected):
    for field in ("text", "semantic", "codes"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
        assert getattr(found, field).dtype == np.int32
    assert found.voice == expected.voice


# --- manifests -------------------------------------------------------------------------------------------------------


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def corpus(tmp_path, spaces):
    """A folder with good and bad files; good lines refer to a.wav, of one second."""
    a = make_wav(tmp_path / "a.wav")
    (tmp_path / "link.wav").symlink_to("a.wav")
    for name, change in {"nan": np.nan, "inf": -np.inf}.items():
        soundfile.write(tmp_path / f"{name}.wav", np.where(np.arange(len(a)) == 77, change, a), 24_000, "FLOAT")
    make_wav(tmp_path / "long.wav", seconds=40, rate=8_000)
    make_wav(tmp_path / "empty.wav", seconds=0)
    make_wav(tmp_path / "short.wav", seconds=0.05)
    make_wav(tmp_path / "slow.wav", rate=4_000)
    make_wav(tmp_path / "fast.wav", rate=400_000)
    make_wav(tmp_path / "silent.wav", loudness=1e-5)
    soundfile.write(tmp_path / "opposite.wav", np.stack([a, -a], axis=1), 24_000)
    soundfile.write(tmp_path / "loud.wav", a * 32768, 24_000, "FLOAT")
    make_wav(tmp_path / "whole.flac", subtype="PCM_16")
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:20_000])
    make_wav(tmp_path / "ten.wav", seconds=10)
    (tmp_path / "cut.wav").write_bytes(
        (tmp_path / "ten.wav").read_bytes()[: (tmp_path / "ten.wav").stat().st_size // 10]
    )
    (tmp_path / "text.wav").write_text("not audio at all")
    (tmp_path / "nothing.wav").write_bytes(b"")
    (tmp_path / "x.raw").write_bytes(bytes(100))
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "s.npy").write_bytes(npy(np.arange(n_tokens(1, spaces)) % spaces.semantic_vocab))
    (tmp_path / "floats.npy").write_bytes(npy(np.zeros(n_tokens(1, spaces))))
    (tmp_path / "pickle.npy").write_bytes(b"\x80\x04N.")
    return tmp_path


def bad_lines(spaces):
    """Faulty lines of a manifest: {fault: (the line, a piece of the message)}."""
    good = {"audio": "a.wav", "text": "hello", "semantic": "s.npy"}
    tokens = [1] * n_tokens(1, spaces)
    shifted = round(0.25 * spaces.semantic_rate)
    audio = {
        "none.wav": "does not exist",
        "folder.wav": "is no file",
        "text.wav": "cannot be read",
        "nothing.wav": "cannot be read",
        "x.raw": "cannot be read",
        "cut.flac": "cannot be read",
        "cut.wav": "claims 10.00 s and holds 1.00 s: the file was cut",
        "empty.wav": "has 0.00 s",
        "short.wav": "has 0.05 s",
        "long.wav": "has 40.00 s, at most",
        "slow.wav": "sample rate of 4000 Hz",
        "fast.wav": "sample rate of 400000 Hz",
        "nan.wav": "NaN or infinity, first at audio sample 77",
        "inf.wav": "NaN or infinity, first at audio sample 77",
        "silent.wav": "is silent",
        "opposite.wav": "is silent",
        "loud.wav": "whole numbers written as floats",
    }
    return {f"audio {name}": (good | {"audio": name}, piece) for name, piece in audio.items()} | {
        "not JSON": (b'{"audio": "a.wav", ', "is not JSON"),
        "deep JSON": (b"[" * 100_000, "is nested too deeply"),
        "long number": (b'{"id": ' + b"1" * 5000 + b"}", "is not JSON"),
        "not an object": (b"[1, 2]", "expected a JSON object"),
        "not UTF-8": (b'{"audio": "\xff"}', "is not UTF-8"),
        "endless": (b"x" * (MAX_LINE_BYTES * 2 + 5), "is longer than"),
        "key twice": (b'{"audio": "a.wav", "audio": "a.wav", "text": "a"}', "a key comes twice"),
        "typo": (good | {"speaker": "anna"}, "it has 'speaker', expected only audio, text, voice, semantic, id"),
        "no audio": ({"text": "hello"}, "audio is missing"),
        "no text": ({"audio": "a.wav"}, "text is missing"),
        "audio of a wrong type": (good | {"audio": 3}, "audio is 3"),
        "NUL in a path": (good | {"audio": "a\0"}, "expected a path"),
        "surrogate in a path": (b'{"audio": "\\ud800", "text": "a"}', "expected a path"),
        "endless path": (good | {"audio": "a" * 5000}, "does not exist"),
        "endless path of an npy": (good | {"semantic": "a" * 5000}, "cannot be read"),
        "surrogate in a path of an npy": (
            b'{"audio":"a.wav","text":"a","semantic":"\\ud800"}',
            "ud800' does not exist",
        ),
        "NUL in a path of an npy": (good | {"semantic": "a\0"}, "a\\x00"),
        "surrogate in a voice": (b'{"audio": "a.wav", "text": "a", "voice": "\\ud800"}', "expected a name"),
        "empty voice": (good | {"voice": " "}, "voice is ' '"),
        "id of a wrong type": (good | {"id": 1.5}, "id is 1.5"),
        "empty text": (good | {"text": " "}, "nothing to speak"),
        "long text": (good | {"text": "a" * 90 + " " + "b" * spaces.n_text}, "would be lost"),
        "control token": (good | {"text": "[UNK]"}, "[UNK]"),
        "tokens missing": ({"audio": "a.wav", "text": "hello"}, "no semantic tokens, and no semantic tokenizer"),
        "token too high": (good | {"semantic": [*tokens[1:], spaces.semantic_vocab]}, f"{spaces.semantic_vocab}"),
        "token negative": (good | {"semantic": [*tokens[1:], -1]}, "hold -1"),
        "token huge": (good | {"semantic": [2**70]}, "semantic is"),
        "token true": (good | {"semantic": [True]}, "semantic is"),
        "no tokens": (good | {"semantic": []}, "one or more"),
        "tokens too few": (good | {"semantic": tokens[shifted:]}, "expected a difference of at most"),
        "tokens too many": (good | {"semantic": tokens + tokens[:shifted]}, "expected a difference of at most"),
        "tokens beyond the model": (good | {"semantic": [1] * (spaces.max_semantic + 1)}, "at most"),
        "npy missing": (good | {"semantic": "none.npy"}, "does not exist"),
        "npy of floats": (good | {"semantic": "floats.npy"}, "expected integers"),
        "npy that is a pickle": (good | {"semantic": "pickle.npy"}, "never opened"),
        "id again": (good | {"id": "first"}, "is that of line 1"),
    }


def good_lines(spaces):
    return [
        {"audio": "a.wav", "text": "hello", "semantic": "s.npy", "id": "first"},
        {"audio": "link.wav", "text": "hello", "semantic": [1] * n_tokens(1.05, spaces), "voice": "anna"},
        {"audio": "whole.flac", "text": "Hello!", "semantic": [0] * n_tokens(0.95, spaces), "id": 7},
    ]


def test_every_fault_is_found_on_its_line_and_no_good_line_is_blamed(corpus, spaces, processor):
    good, bad = good_lines(spaces), bad_lines(spaces)
    lines, pieces = [good[0]], {}
    for number, (line, piece) in enumerate(bad.values()):
        lines.append(line)
        pieces[len(lines)] = piece
        lines += [b"", good[1 + number % 2] | {"id": number}]
    path = write_lines(corpus / "m.jsonl", lines)
    with pytest.raises(ManifestError) as caught:
        check_manifest(path, spaces=spaces, processor=processor)
    faults = caught.value.faults
    assert [fault.line for fault in faults] == list(pieces)
    assert [fault for fault in faults if pieces[fault.line] not in fault.what] == []
    message = str(caught.value)
    assert f"has {len(pieces)} faults" in message and f"and {len(pieces) - MAX_LISTED_FAULTS} more" in message
    assert message.count("\n  line ") == MAX_LISTED_FAULTS and "Suno never released" in message


def test_all_faults_of_one_line_are_found(corpus, spaces, processor):
    path = write_lines(corpus / "m.jsonl", [{"audio": "nan.wav", "text": "", "semantic": [-1]}])
    with pytest.raises(ManifestError) as caught:
        check_manifest(path, spaces=spaces, processor=processor)
    assert [fault.line for fault in caught.value.faults] == [1, 1, 1]
    assert "Suno" not in str(caught.value)


def test_a_good_manifest_passes(corpus, spaces, processor):
    path = write_lines(corpus / "m.jsonl", [*good_lines(spaces), b"", b"  "])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = check_manifest(path, spaces=spaces, processor=processor)
    assert found.n_entries == 3 and found.voices == ("default", "anna") and found.seconds == pytest.approx(3.0)


def test_the_bounds_of_a_clip_can_be_given(corpus, spaces, processor):
    path = write_lines(corpus / "m.jsonl", good_lines(spaces)[:1])
    for bounds, piece in (({"min_s": 1.5}, "expected 1.5 s at least"), ({"max_s": 0.5}, "at most 0.50 s")):
        with pytest.raises(ManifestError, match=piece):
            check_manifest(path, spaces=spaces, processor=processor, **bounds)
    assert longest_s(BARK) == pytest.approx(15.39, abs=0.01)


def test_a_manifest_with_nothing_in_it_and_one_that_is_not_there_are_refused(tmp_path, spaces, processor):
    for path, piece in ((write_lines(tmp_path / "m.jsonl", [b""]), "is empty"), (tmp_path, "is no file")):
        with pytest.raises(InputError, match=piece):
            check_manifest(path, spaces=spaces, processor=processor)
    with pytest.raises(InputError, match="does not exist"):
        list(read_entries(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "AIFF", "W64", "RF64", "AU", "MP3"])
def test_a_file_that_is_shorter_than_its_header_says_is_refused(tmp_path, form):
    samples = make_wav(tmp_path / "whole.wav", seconds=10)
    path = tmp_path / f"cut.{form.lower()}"
    soundfile.write(path, samples, 24_000, format=form)
    assert len(read_mono(path, min_s=0.1, max_s=15)[0]) == pytest.approx(240_000, abs=2000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 10])
    with pytest.raises(InputError, match=r"claims (10.0|9.9)\d s and holds (1.0|0.8)\d s: the file was cut"):
        read_mono(path, min_s=0.1, max_s=15)


@pytest.mark.parametrize("claim", [0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x7FFFF000, 95_000])
def test_a_size_that_was_not_known_or_is_too_small_is_no_cut(tmp_path, claim):
    """As of programs that write into a pipe."""
    path = tmp_path / "a.wav"
    make_wav(path)
    data = bytearray(path.read_bytes())
    offset = data.index(b"data") + 4
    data[offset : offset + 4] = claim.to_bytes(4, "little")
    path.write_bytes(data)
    assert len(read_mono(path, min_s=0.1, max_s=15)[0]) >= 23_700


def test_of_a_file_that_is_too_long_only_the_header_is_read(tmp_path, monkeypatch):
    make_wav(tmp_path / "long.wav", seconds=40, rate=8_000)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_: pytest.fail("audio was read"))
    with pytest.raises(InputError, match=r"has 40\.00 s"):
        read_mono(tmp_path / "long.wav", min_s=0.1, max_s=15)


def test_a_fault_names_its_line():
    assert str(Fault(3, "it is not JSON")) == "line 3: it is not JSON"


# --- semantic tokens -------------------------------------------------------------------------------------------------


def test_a_tokenizer_is_found_by_name(monkeypatch):
    class Made:
        def __call__(self, samples, sample_rate, text):
            return np.zeros(3, int)

    module = types.ModuleType("my_tokenizers")
    module.function, module.Made, module.number, module.Broken = len, Made, 3, int.from_bytes
    module.Needs = type("Needs", (), {"__init__": lambda self, argument: None})
    monkeypatch.setitem(sys.modules, "my_tokenizers", module)
    assert load_tokenizer("my_tokenizers:function") is len
    assert isinstance(load_tokenizer("my_tokenizers:Made"), Made)
    cases = {
        "my_tokenizers": "expected package.module:name",
        "my_tokenizers:": "expected package.module:name",
        ":function": "expected package.module:name",
        "../x:y": "expected package.module:name",
        "my_tokenizers:none": "AttributeError",
        "no_such_package:make": "ModuleNotFoundError.*PYTHONPATH",
        "my_tokenizers:Needs": "TypeError",
        "my_tokenizers:number": "expected a callable",
    }
    for spec, piece in cases.items():
        with pytest.raises(InputError, match=piece):
            load_tokenizer(spec)


@pytest.mark.parametrize(
    ("made", "piece"),
    [
        (np.zeros(50), "expected integers"),
        (np.zeros((1, 50), int), "on one axis"),
        (np.full(50, 50), "hold 50, expected 0 to 49"),
        (np.zeros(45 - 6, int), "expected a difference"),
        (np.zeros(45 + 6, int), "at most 40"),
        (None, "expected integers"),
        (ZeroDivisionError("oh"), "tokenizer failed .ZeroDivisionError: 'oh'"),
    ],
)
def test_what_a_tokenizer_makes_is_checked(made, piece):
    def tokenize(samples, sample_rate, text):
        if isinstance(made, Exception):
            raise made
        return made

    spaces = dataclasses.replace(SPACES, max_semantic=40 if piece == "at most 40" else 100)
    with pytest.raises(InputError, match=f"line 1: .*{piece}"):
        make_semantic(tokenize, np.zeros(int(0.9 * spaces.sample_rate), np.float32), "a", spaces, "line 1")


def test_lengths_may_differ_as_tokenizers_round():
    seconds = 0.5
    max_tokens = int((seconds + MAX_DIFFERENCE_S) * SPACES.semantic_rate)
    samples = np.zeros(int(seconds * SPACES.sample_rate), np.float32)
    made = make_semantic(lambda *_: np.zeros(max_tokens, np.uint16), samples, "a", SPACES, "it")
    assert made.dtype == np.int32 and made.shape == (max_tokens,)
    with pytest.raises(InputError, match="difference"):
        make_semantic(lambda *_: np.zeros(max_tokens + 1, np.uint16), samples, "a", SPACES, "it")


# --- preparation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_stereo_at_other_rates_becomes_mono_at_the_models(tmp_path, rate):
    def tone(n, at, hertz):
        return 0.4 * np.sin(2 * np.pi * hertz * np.arange(n) / at).astype(np.float32)

    soundfile.write(tmp_path / "a.wav", np.stack([tone(rate, rate, 440), tone(rate, rate, 1000)], 1), rate, "FLOAT")
    samples, found_rate = read_mono(tmp_path / "a.wav", min_s=0.1, max_s=10)
    assert found_rate == rate
    fitted = fit_samples(samples, rate, BARK)
    assert fitted.dtype == np.float32 and fitted.shape == (24_000,)
    expected = (tone(24_000, 24_000, 440) + tone(24_000, 24_000, 1000)) / 2
    np.testing.assert_allclose(fitted[500:-500], expected[500:-500], atol=2e-4)


def test_padded_codes_are_those_of_each_clip_alone(bark, monkeypatch):
    monkeypatch.setattr(preparing, "FRAMES_STEP", 32)
    codec, n_codebooks = bark.codec_model, bark.spaces.n_fine
    rng = np.random.default_rng(0)
    lengths = [33, 3, 32, 32]  # just past a width; shorter than what is mirrored at its start; exactly a width
    audio = [(0.2 * rng.standard_normal(n * codec.config.hop_length)).astype(np.float32) for n in lengths]
    for samples, codes_QT in zip(audio, encode_audio(codec, audio, n_codebooks), strict=True):
        np.testing.assert_array_equal(codes_QT, encode_alone(codec, samples, n_codebooks=n_codebooks))


@functools.partial(jax.jit, static_argnames="n_codebooks")
def encode_alone(codec, samples, n_codebooks):
    return codec.encode(samples[None], n_codebooks=n_codebooks)[0]


def test_a_dataset_is_prepared_from_a_manifest(tmp_path, bark, processor, spaces):
    """Text, tokens, codes, voices and audio of each line, whether tokens are given or made; few clips held at once."""
    calls, done = [], []

    def tokenize(samples, sample_rate, text):
        calls.append((len(samples), samples.dtype, sample_rate, text))
        return np.full(n_tokens(len(samples) / sample_rate, spaces), 9)

    seconds = [0.4, 1.0, 0.4]
    audio = [make_wav(tmp_path / f"{i}.wav", each, channels=1 + i % 2, seed=i) for i, each in enumerate(seconds)]
    given = (np.arange(n_tokens(seconds[0], spaces) + 2) % spaces.semantic_vocab).tolist()
    path = write_lines(
        tmp_path / "m.jsonl",
        [
            {"audio": "0.wav", "text": "one", "voice": "b", "semantic": given},
            {"audio": "1.wav", "text": "Two.", "voice": "a"},
            {"audio": "2.wav", "text": "three", "voice": "b"},
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "HELD_CLIPS", 2)
        data = prepare_dataset(
            path, tmp_path / "data", bark=bark, processor=processor, semantic_tokenizer=tokenize, keep_audio=True,
            progress=lambda *each: done.append(each),
        )  # fmt: skip
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert calls == [
        (round(s * 24_000), np.float32, 24_000, t) for s, t in zip(seconds[1:], ["Two.", "three"], strict=True)
    ]
    assert data.voices == ("b", "a") and [data[i].voice for i in range(3)] == [0, 1, 0]
    assert data.codec == codec_fingerprint(bark.codec_model)
    for i, (text, samples) in enumerate(zip(["one", "Two.", "three"], audio, strict=True)):
        example = data[i]
        np.testing.assert_array_equal(example.text, processor(text, padding="longest")["input_ids"][0])
        expected = given if i == 0 else [9] * n_tokens(seconds[i], spaces)
        np.testing.assert_array_equal(example.semantic, expected)
        mono = samples if samples.ndim == 1 else samples.mean(axis=1)
        n_samples = spaces.n_frames(len(expected)) * samples_per_frame(spaces)
        padded = np.pad(mono, (0, n_samples))[:n_samples]
        np.testing.assert_array_equal(example.codes, encode_alone(bark.codec_model, padded, n_codebooks=spaces.n_fine))
        np.testing.assert_allclose(data.audio(i), padded, atol=0.6 / AUDIO_SCALE)


def test_a_dataset_has_the_codes_of_another_codec(tmp_path, bark, spaces):
    """Here of one with its first two codebooks in the other order, so that their codes are those of the residual."""
    examples = list(make_examples(spaces, n=3))
    audio = make_audio(examples, spaces)
    data = Dataset.open(write_dataset(tmp_path / "data", examples, spaces, ("a", "b"), audio=audio), spaces=spaces)
    codec, done = nnx.clone(bark.codec_model), []
    first, second = codec.quantizer.codebooks[:2]
    first.embedding[...], second.embedding[...] = second.embedding[...], first.embedding[...]
    again = recode(data, tmp_path / "again", codec, progress=lambda *each: done.append(each), rows_at_once=2)
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert again.codec == codec_fingerprint(codec) != codec_fingerprint(bark.codec_model)
    assert again.voices == data.voices and not again.has_audio
    for i, example in enumerate(examples):
        expected = encode_alone(codec, data.audio(i), n_codebooks=spaces.n_fine)
        assert_same(again[i], again[i]._replace(text=example.text, semantic=example.semantic, codes=expected))
    with pytest.raises(InputError, match="holds no audio"):
        recode(again, tmp_path / "third", codec)
    assert not (tmp_path / "third").exists()


def quick_corpus(tmp_path, spaces, n=3):
    for i in range(n):
        make_wav(tmp_path / f"{i}.wav", 0.3, seed=i)
    semantic = [1] * n_tokens(0.3, spaces)
    return write_lines(
        tmp_path / "m.jsonl", [{"audio": f"{i}.wav", "text": "a", "semantic": semantic} for i in range(n)]
    )


def test_a_half_written_dataset_is_never_seen(tmp_path, bark, processor, spaces, monkeypatch):
    path = quick_corpus(tmp_path, spaces)
    monkeypatch.setattr(preparing, "encode_audio", fake_codes)
    before = sorted(tmp_path.iterdir())

    def stop(done, total):
        assert len(list(tmp_path.iterdir())) == len(before) + 1  # the folder, by another name
        assert not (tmp_path / "data").exists()
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(path, tmp_path / "data", bark=bark, processor=processor, progress=stop)
    assert sorted(tmp_path.iterdir()) == before

    prepare_dataset(path, tmp_path / "data", bark=bark, processor=processor)
    with pytest.raises(InputError, match="overwrite"):
        prepare_dataset(path, tmp_path / "data", bark=bark, processor=processor)
    write_lines(path, path.read_bytes().splitlines()[:1])
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(path, tmp_path / "data", bark=bark, processor=processor, overwrite=True, progress=interrupt)
    assert len(Dataset.open(tmp_path / "data")) == 3
    prepare_dataset(path, tmp_path / "data", bark=bark, processor=processor, overwrite=True)
    assert len(Dataset.open(tmp_path / "data")) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(InputError, match="is not a dataset folder"):
        prepare_dataset(path, tmp_path / "other", bark=bark, processor=processor, overwrite=True)


def fake_codes(codec, audio, n_codebooks, rows_at_once):
    return [np.zeros((n_codebooks, len(samples) // codec.config.hop_length), np.int32) for samples in audio]


def interrupt(*_):
    raise KeyboardInterrupt


def test_what_changes_or_fails_after_the_check_names_its_line(tmp_path, bark, processor, spaces, monkeypatch):
    path = quick_corpus(tmp_path, spaces)
    cases = {
        "tokenizer": (lambda: write_lines(path, [{"audio": "0.wav", "text": "a"}] * 2), "line 1: .* tokenizer failed"),
        "audio": (lambda: (tmp_path / "1.wav").unlink(), "line 2: the audio .* does not exist"),
        "manifest": (lambda: write_lines(path, [b"{}"]), "line 1: the manifest has changed"),
    }
    for change, piece in cases.values():
        quick_corpus(tmp_path, spaces)

        def check_then_change(*args, change=change, **options):
            found = check_manifest(*args, **options)
            change()
            return found

        monkeypatch.setattr(preparing, "check_manifest", check_then_change)
        with pytest.raises(ManifestError, match=piece):
            prepare_dataset(path, tmp_path / "data", bark=bark, processor=processor, semantic_tokenizer=lambda: None)
        assert not (tmp_path / "data").exists()


def test_parts_that_do_not_go_together_are_refused(tmp_path, bark, processor):
    def with_codec(**attributes):
        codec = nnx.clone(bark.codec_model)
        for name, value in attributes.items():
            setattr(codec, name, value)
        return bark.replace(codec_model=codec)

    half = with_codec(dtype=jnp.dtype(jnp.bfloat16))
    loud = with_codec(config=dataclasses.replace(bark.codec_model.config, normalize=True))
    other = types.SimpleNamespace(spaces=BARK)
    for model, texts, error, piece in (
        (half, processor, InputError, "in bfloat16, expected float32"),
        (loud, processor, ConfigError, "normalisation"),
        (bark, other, DatasetError, "the processor was prepared for a model with n_text"),
    ):
        with pytest.raises(error, match=piece):
            prepare_dataset(tmp_path / "m.jsonl", tmp_path / "data", bark=model, processor=texts)


# --- datasets --------------------------------------------------------------------------------------------------------


def test_a_dataset_is_the_same_in_memory_and_mapped_from_its_folder(tmp_path):
    examples = list(make_examples(SPACES))
    audio = make_audio(examples, SPACES)
    held = Dataset.from_examples(iter(examples), SPACES, ["anna", "böb"], audio=iter(audio), codec="c")
    write_dataset(tmp_path / "data", iter(examples), SPACES, ("anna", "böb"), audio=iter(audio), codec="c")
    mapped = Dataset.open(tmp_path / "data", spaces=SPACES)
    for data in (held, mapped):
        assert len(data) == len(examples) and data.spaces == SPACES and data.codec == "c"
        assert data.voices == ("anna", "böb")
        for index, (found, expected) in enumerate(zip(data, examples, strict=True)):
            assert_same(found, expected)
            np.testing.assert_allclose(data.audio(index), audio[index], atol=0.51 / AUDIO_SCALE)
        assert_same(data[-1], examples[-1])
        assert data.semantic_lengths.tolist() == [len(e.semantic) for e in examples]
        assert data.text_lengths.tolist() == [len(e.text) for e in examples]
        assert data.frame_lengths.tolist() == [e.codes.shape[1] for e in examples]
        assert data.voice_indices.tolist() == [e.voice for e in examples]
        assert data.seconds == pytest.approx(sum(e.codes.shape[1] for e in examples) / 75)
    assert isinstance(mapped._arrays["codes"].base, np.memmap) and not mapped._arrays["codes"].flags.writeable


def test_ids_that_do_not_fit_16_bits_are_kept():
    example = Example(np.array([119_546]), np.full(3, 9_999), np.full((8, 4), 1023), 0)
    assert_same(Dataset.from_examples([example], BARK)[0], example)


def test_splits_and_orders_depend_on_the_seed_alone(tmp_path):
    write_dataset(tmp_path / "data", make_examples(SPACES, n=50), SPACES, ["a", "b"])
    data, again = Dataset.open(tmp_path / "data"), Dataset.open(tmp_path / "data")
    train, evaluation = data.split(0.1, seed=3)
    assert (len(train), len(evaluation)) == (45, 5)
    both = np.concatenate([train.semantic_lengths, evaluation.semantic_lengths])
    assert sorted(both) == sorted(data.semantic_lengths)
    same = again.split(n_eval=5, seed=3)[1]
    for found, expected in zip(same, evaluation, strict=True):
        assert_same(found, expected)
    assert data.split(0.1, seed=4)[1].semantic_lengths.tolist() != evaluation.semantic_lengths.tolist()
    assert [len(part) for part in data.split(0.001)] == [49, 1] and len(data.split(0.0)[1]) == 0
    orders = [data.permutation(epoch, seed).tolist() for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    assert sorted(orders[0]) == list(range(50)) and orders[0] not in orders[1:]
    assert orders[0] == again.permutation(0, 0).tolist()
    assert_same(data.subset([7, 2]).subset([1])[0], data[2])
    for wrong in ({}, {"eval_share": 0.1, "n_eval": 3}, {"eval_share": 1.0}, {"n_eval": 50}, {"n_eval": -1}):
        with pytest.raises(InputError, match="eval"):
            data.split(**wrong)


def test_examples_that_the_token_spaces_do_not_allow_are_refused(tmp_path):
    good = next(make_examples(SPACES))
    cases = {
        "text has 13 ids, at most 12": good._replace(text=np.zeros(13, int)),
        "text holds 40, expected 0 to 39": good._replace(text=np.array([40])),
        "semantic holds -1": good._replace(semantic=np.full_like(good.semantic, -1)),
        "semantic has 41 tokens, at most 40": good._replace(semantic=np.zeros(41, int)),
        "frames go with": good._replace(codes=good.codes[:, 1:]),
        "codes have shape": good._replace(codes=good.codes[:2]),
        "codes holds 16": good._replace(codes=np.full_like(good.codes, 16)),
        "semantic has shape .0,.": good._replace(semantic=np.zeros(0, int)),
        "text has .* float64": good._replace(text=np.zeros(3)),
        "voice is 1": good._replace(voice=1),
    }
    for piece, example in cases.items():
        with pytest.raises(InputError, match=f"example 1: .*{piece}"):
            write_dataset(tmp_path / "data", [good, example], SPACES)
    audio = make_audio([good], SPACES)[0]
    for samples in (audio[1:], np.full_like(audio, np.nan), audio.astype(int)):
        with pytest.raises(InputError, match="audio has shape"):
            write_dataset(tmp_path / "data", [good], SPACES, audio=[samples])
    for options, piece in (
        ({"examples": []}, "no examples"),
        ({"audio": [audio, audio]}, "differ in number"),
        ({"audio": []}, "differ in number"),
        ({"voices": ["a", "a"]}, "different printable names"),
        ({"voices": []}, "different printable names"),
    ):
        with pytest.raises(InputError, match=piece):
            write_dataset(tmp_path / "data", **{"examples": [good], "spaces": SPACES, **options})
    with (
        pytest.raises(InputError, match="without audio"),
        open_writer(tmp_path / "data", SPACES, ["a"], with_audio=True) as writer,
    ):
        writer.add(good)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="keep_audio"):
        Dataset.from_examples([good], SPACES).audio(0)
    with pytest.raises(ConfigError, match="no multiple"):
        Dataset.from_examples([good], dataclasses.replace(SPACES, sample_rate=601), audio=[audio])


def edit_info(folder, **fields):
    info = json.loads((folder / "dataset.json").read_text())
    info["spaces"].update(fields.pop("spaces", {}))
    (folder / "dataset.json").write_text(json.dumps(info | fields))


def edit_array(name, change):
    def edit(folder):
        array = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", change(array))

    return edit


def set_item(index, value):
    def change(array):
        array[index] = value
        return array

    return change


def edit_bytes(name, change):
    def edit(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return edit


def zipped(_):
    stream = io.BytesIO()
    np.savez(stream, a=np.arange(3))
    return stream.getvalue()


DAMAGE = {
    "no dataset.json": (lambda d: (d / "dataset.json").unlink(), "has no dataset.json"),
    "not JSON": (lambda d: (d / "dataset.json").write_text("{"), "not JSON"),
    "another format": (lambda d: edit_info(d, format="x"), "is not this project's"),
    "an array": (lambda d: (d / "dataset.json").write_text("[]"), "is not this project's"),
    "a newer version": (lambda d: edit_info(d, version=2), "has version 2"),
    "voices of a wrong type": (lambda d: edit_info(d, voices="ab"), "expected a list of different printable names"),
    "too few voices": (lambda d: edit_info(d, voices=["a"]), "outside of the 1 voices"),
    "another number of examples": (lambda d: edit_info(d, n_examples=10**12), "says 1,000,000,000,000"),
    "no codec": (lambda d: edit_info(d, codec=3), "codec is 3"),
    "audio that is not there": (lambda d: edit_info(d, has_audio=True), "audio.npy is missing"),
    "a rate that is no fraction": (lambda d: edit_info(d, spaces={"frame_rate": "1e999999999"}), "spaces.frame_rate"),
    "division by zero": (lambda d: edit_info(d, spaces={"semantic_rate": "1/0"}), "spaces.semantic_rate"),
    "a negative size": (lambda d: edit_info(d, spaces={"n_fine": -3}), "spaces.n_fine is -3"),
    "a field more": (lambda d: edit_info(d, spaces={"more": 1}), "fields of spaces"),
    "other codebooks": (lambda d: edit_info(d, spaces={"n_fine": 4}), "holds int16 of shape"),
    "other frames": (lambda d: edit_info(d, spaces={"frame_rate": "74"}), "codes has .* rows, expected"),
    "array missing": (lambda d: (d / "text.npy").unlink(), "text.npy is missing"),
    "array empty": (edit_bytes("text.npy", lambda _: b""), "is damaged"),
    "array cut": (edit_bytes("codes.npy", lambda b: b[:-2]), "is damaged"),
    "array with more behind it": (edit_bytes("text.npy", lambda b: b + b"xx"), "to its end"),
    "array that is a pickle": (lambda d: np.save(d / "text.npy", np.array([{}])), "is damaged"),
    "archive": (edit_bytes("text.npy", zipped), "is damaged"),
    "array of another type": (edit_array("text", lambda a: a.astype(np.float32)), "holds float32"),
    "array of no axes": (edit_array("text", lambda a: a[0]), "of shape ()"),
    "frames missing": (edit_array("codes", lambda a: a[1:]), "codes has .* rows"),
    "offsets that go back": (edit_array("text_offsets", set_item(1, 10**9)), "do not cut"),
    "offsets that start late": (edit_array("semantic_offsets", set_item(0, 1)), "do not cut"),
    "offsets past the end": (edit_array("semantic_offsets", set_item(-1, 10**6)), "do not cut"),
    "a negative voice": (edit_array("voice", set_item(0, -1)), "outside of the 2 voices"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_and_foreign_folders_are_refused(tmp_path, case):
    damage, piece = DAMAGE[case]
    write_dataset(tmp_path / "data", make_examples(SPACES, n=3), SPACES, ["a", "b"])
    assert len(Dataset.open(tmp_path / "data")) == 3
    damage(tmp_path / "data")
    with pytest.raises(DatasetError, match=piece):
        Dataset.open(tmp_path / "data")


def test_a_token_that_was_damaged_is_refused_when_it_is_read(tmp_path):
    write_dataset(tmp_path / "data", make_examples(SPACES, n=3), SPACES, ["a", "b"])
    edit_array("codes", set_item((-1, 2), 999))(tmp_path / "data")
    data = Dataset.open(tmp_path / "data")
    assert data[0] is not None
    with pytest.raises(DatasetError, match="example 2: codes holds 999"):
        data[2]


def test_data_of_another_model_are_refused(tmp_path):
    write_dataset(tmp_path / "data", make_examples(SPACES, n=3), SPACES, ["a", "b"])
    with pytest.raises(DatasetError, match="prepared for a model with semantic_vocab 50, this one has 51"):
        Dataset.open(tmp_path / "data", spaces=dataclasses.replace(SPACES, semantic_vocab=51))
    Dataset.open(tmp_path / "data", spaces=dataclasses.replace(SPACES, coarse_window=30))
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DatasetError, match="is no dataset"):
        Dataset.open(tmp_path / "data")
