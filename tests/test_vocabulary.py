"""Models with a word list warn of words outside of it."""

import shutil
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from bark_jax.cli import main
from bark_jax.errors import ConfigError
from bark_jax.hub.source import Source
from bark_jax.text.processor import BarkProcessor
from bark_jax.text.vocabulary import WORDS_FILE, UnknownWordsWarning, read_words, unknown_words

KNOWN = frozenset({"hello", "don't", "seven", "grüße"})


@pytest.fixture
def folder(toy_folder, tmp_path):
    """The toy model's folder with a word list."""
    shutil.copytree(toy_folder, tmp_path / "model")
    (tmp_path / "model" / WORDS_FILE).write_text("hello\nworld\n", encoding="utf-8")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("Hello, HELLO! don't", ()),
        ("hello Bob and bob, and Ann", ("bob", "and", "ann")),
        ("seven 7 hello-there", ("7", "there")),
        ("Grüße, 世界 hello_x", ("世界", "x")),
        ("... [] '' \N{EM DASH}", ()),
    ],
)
def test_unknown_words_are_named_once_in_their_order(text, unknown):
    assert unknown_words([text], KNOWN) == unknown


def test_a_processor_warns_of_words_that_are_not_in_its_list(folder, tmp_path):
    processor = BarkProcessor.from_pretrained(folder)
    with pytest.warns(UnknownWordsWarning, match="knows 2 words, and not 'mars', 'moon'") as caught:
        processor(["Hello mars", "world, moon"])
    assert caught[0].message.words == ("mars", "moon")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor("Hello, World!")
    processor.save_pretrained(tmp_path / "again")
    assert BarkProcessor.from_pretrained(tmp_path / "again", spaces=processor.spaces).words == {"hello", "world"}


def test_a_long_list_of_unknown_words_is_cut_in_the_message_alone():
    warning = UnknownWordsWarning(tuple(f"w{n}" for n in range(30)), 5)
    assert "'w9' and 20 more" in str(warning) and len(warning.words) == 30


def test_models_without_a_list_know_all_words(toy_folder):
    assert read_words(Source(toy_folder)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BarkProcessor.from_pretrained(toy_folder)("xyzzy")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\n \n", "is empty"), (b"\xff\xfe", "not UTF-8")]
)
def test_a_list_that_is_no_list_is_refused(content, message, folder):
    (folder / WORDS_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"words\.txt.*{message}"):
        BarkProcessor.from_pretrained(folder)


@pytest.mark.filterwarnings("default")
def test_the_command_line_tells_it_once(folder, tmp_path):
    paths = ["-m", str(folder), "-o", str(tmp_path / "mars.wav")]
    result = CliRunner().invoke(main, ["say", "hello mars", "--max-seconds", "0.1", "--seed", "1", *paths])
    assert result.exit_code == 0, result.output
    assert result.stderr.count("warning:") == result.stderr.count("not 'mars'") == 1


def test_the_built_in_voice_reads_figures_as_words(built_in):
    processor = BarkProcessor.from_pretrained(built_in)
    assert 100 < len(processor.words) < 1000 and "seven" in processor.words
    with pytest.warns(UnknownWordsWarning, match="not 'ünïcode', '世界'"):
        processor("hello Ünïcode 世界")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures, words = processor(["SEVEN, 42!", "seven, four two !"])["input_ids"]
    assert np.count_nonzero(figures) > 10
    np.testing.assert_array_equal(figures, words)
    # Digits stand alone and inside words; numerals other than 0 to 9 are reported.
    with pytest.warns(UnknownWordsWarning, match="not 'cats', '٣', '½', '3rd', 'rd':"):
        figures, words = processor(["12 cats, cat7 ٣ ½ 3rd", "one two cats, cat seven three rd"])["input_ids"]
    np.testing.assert_array_equal(figures, words)
