"""Refused texts."""

import numpy as np
import pytest

from bad_inputs.harness import ARGUMENT_CALLS, by_id, refused
from bark_jax.errors import InputError

BAD = {
    "T01": ("", "text is '': there is nothing to speak"),
    "T02": ("  \n\t ", "nothing to speak"),
    "T03": ("a" * 10_000_000, "10,000,000 characters"),
    "T05": ("\0", r"control character '\\x00' at position 0"),
    "T06": ("hello\0world", "at position 5"),
    "T09": ("\x07\x1b[31mhello", r"control character '\\x07'"),
    "T10": ("\ud800hello", r"lone surrogate '\\ud800' at position 0"),
    "T11": (None, "text is None, expected a string"),
    "T13": (b"hello", "decode the bytes"),
    "T14": (["hello", ""], r"text\[1\] is ''"),
    "T15": ([], "empty list"),
    "T17": ([["hello", "world"], ["a", "b"]], r"text\[0\] is \['hello', 'world'\], expected a string"),
    "T18": ("word " * 300, r"text has \d+ tokens, at most 256 are read.*generate_long"),
    "T19": (["hello", "word " * 300], r"text\[1\] has \d+ tokens"),
    "T21": ("hello [PAD] [MASK] [CLS]", r"tokenizer's control token \["),
    "T22": ("h" + "\u0301" * 10_000, "10,000 combining marks"),
    "T23": ("\u200b\u200c\u200d\ufeff\u2060", "nothing to speak"),
    "T27": ({"text": "hello"}, "expected a string or a list of strings"),
    "number": (5, "text is 5"),
    "array": (np.array(["hello"]), "tolist"),
    "None inside": (["hello", None], r"text\[1\] is None"),
    "set": ({"hello"}, "a list of strings"),
    "generator": ((text for text in ["hello"]), "a list of strings"),
    "[UNK]": ("[UNK]", r"\[UNK\]"),
    "[SEP]": (["x", "a[SEP]b"], r"text\[1\] names"),
    "C1": ("hello\x85world", r"\\x85"),
    "delete": ("\x7f", r"\\x7f"),
    "fillers": ("\u3164\u2800\ufe0f\u00ad", "nothing to speak"),
    "replacement": ("\ufffd\ufffd", "nothing to speak"),
    "private": ("\ue000", "nothing to speak"),
    "marks only": ("\u0301\u0301", "nothing to speak"),
    "little zalgo": ("h" + "\u0301\u0316" * 8 + "ello", "16 combining marks"),
    "long word": ("hello " + "a" * 101, "a word of 101 characters, 'aaa"),
    "long spaces": (" " * 99_999 + "\u2028", "nothing to speak"),
    "long marks": ("e\u0301" * 40_000 + "\u0301" * 20, "21 combining marks"),
    "bytearray": (bytearray(b"hello"), "decode the bytes"),
    "tuple": ((), "expected one string or more"),
    "float": (float("nan"), "text is nan"),
    "class": (str, "text is <class 'str'>"),
    "a number among texts": (["hello", 5], r"text\[1\] is 5"),
    "bytes among texts": ([b"hello"], r"text\[0\] is b'hello'.*decode the bytes"),
    "10,000 empty texts": ([""] * 10_000, r"text\[0\] is ''"),
    "list in itself": ([[[[]]]], r"text\[0\] is \[\[\[\]\]\]"),
    "escape codes": ("\x1b]0;title\x07hello", r"control character '\\x1b' at position 0; remove it"),
    "backspace": ("pass\x08\x08word", r"'\\x08' at position 4"),
    "vertical tab": ("a\x0bb", r"'\\x0b'"),
    "pair of surrogates": ("\ud83d\ude00", r"lone surrogate '\\ud83d'.*decode the text again"),
    "surrogate at the end": ("hello\udfff", "at position 5"),
    "right-to-left marks only": ("\u202e\u202c\u200f", "nothing to speak"),
    "line separators": ("\u2028\u2029\x85", "control character|nothing to speak"),
    "unassigned": ("\U000e0001\u0378", "nothing to speak"),
    "tags": ("\U000e0041\U000e0042", "nothing to speak"),
    "[CLS] without spaces": ("a[CLS]b", r"names the tokenizer's control token \[CLS\]; rephrase or remove it"),
    "[MASK] in a row": (["x", "y", "[MASK]"], r"text\[2\] names"),
    "an address": ("https://example.com/" + "a" * 200, "a word of 200 characters.*at most 100"),
    "base64": ("QUJD" * 200, "a word of 800 characters"),
    "257 tokens": ("a " * 257, "257 tokens, at most 256 are read.*generate_long"),
    "100,001 characters": ("a " * 50_000 + "b", "100,001 characters, expected at most 100,000"),
}

GOOD = {
    "T07": "שָׁלוֹם \u200fمرحبا\u200e",
    "T25": "♪ hello ♪ ... —",
    "T26": ["hello", "world"],
    "cues": "Well [laughs] [clears throat] ... MAN: hello — [music]",
    "white space": "hello\tmy\r\ndog\u00a0",
    "emoji": "👩‍👩‍👧",
    "digits": "5",
    "Hebrew with points and accents": "בְּרֵאשִׁ֖ית בָּרָ֣א",
    "Devanagari": "क्षत्रिय विद्यार्थी",
    "100 letters": "a" * 100,
    "100 words of Han": "中" * 200,
    "brackets": "[pad] [PAD [Mask] PAD]",
    "tuple": ("hello", "world"),
    "subclass": np.str_("hello"),
}
# What one prompt cannot hold a long text can, and lists mean dialogues there. A single text is looked at by the same
# function: one row for each way through it.
LONG = {name: BAD[name] for name in ("T01", "T05", "T10", "T21", "T22", "long spaces", "long marks", "private")}
LONG |= {
    "1,000,001 characters": ("a " * 500_000 + "b", "1,000,001 characters, expected at most 1,000,000"),
    "line without a voice": (["hello"], r"text\[0\] is 'hello', expected a pair"),
    "line of three": ([(None, "hello", 1)], r"text\[0\] is .*expected a pair"),
    "empty line": ([(None, "hello"), (None, "")], r"text\[1\]\[1\] is ''"),
    "line of bytes": ([(None, b"hello")], r"text\[0\]\[1\] is b'hello'"),
    "no lines": ([], "expected a string or a list"),
    "nothing": (None, "text is None"),
    "a dict": ({None: "hello"}, "expected a string or a list of"),
}
# `stream` reads its text as `generate_long` does.
STREAMED = {name: LONG[name] for name in ("T01", "1,000,001 characters", "line of three", "nothing")}


def calls_for(text):
    """Three calls were counted for each character of a text that is looked at by the character."""
    return ARGUMENT_CALLS + 5 * (len(text) if isinstance(text, str) else 0)


@pytest.mark.parametrize(("text", "message"), **by_id(BAD))
def test_generate_refuses_a_text_that_cannot_be_spoken(bark, text, message):
    with refused(InputError, message, calls=calls_for(text)):
        bark.generate(text, seed=0)


@pytest.mark.parametrize(("text", "message"), **by_id(LONG))
def test_generate_long_refuses_a_text_that_cannot_be_spoken(bark, text, message):
    with refused(InputError, message, calls=calls_for(text)):
        bark.generate_long(text, seed=0)


@pytest.mark.parametrize(("text", "message"), **by_id(STREAMED))
def test_stream_refuses_it_before_it_is_asked_for_a_part(bark, text, message):
    with refused(InputError, message, calls=calls_for(text)):
        bark.stream(text, seed=0)


@pytest.mark.parametrize("text", **by_id(GOOD))
def test_good_texts_are_taken(bark, text):
    assert bark.processor(text)["attention_mask"].any(1).all()
