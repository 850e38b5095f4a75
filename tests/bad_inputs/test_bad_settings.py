"""Refused settings and other arguments of `generate`, `generate_long` and `stream`."""

import re

import jax
import numpy as np
import pytest

from bad_inputs.harness import (
    ARGUMENT_CALLS,
    FOLDER_CALLS,
    MISSPELT_CALLS,
    NETWORK_CALLS,
    refused,
)
from bark_jax.errors import BarkError, InputError, UnsupportedError, quoted

SETTINGS = [
    ({"temperature": 0}, "temperature is 0, expected 0.001 to 1000; for the most likely token use do_sample=False"),
    ({"temperature": -1}, "temperature is -1"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"temperature": float("inf")}, "temperature is inf"),
    ({"temperature": 1e-30}, "temperature is 1e-30"),
    ({"temperature": "0.7"}, "temperature is '0.7'"),
    ({"temperature": True}, "temperature is True"),
    ({"fine_temperature": 0}, "fine_temperature is 0"),
    ({"fine_temperature": float("nan")}, "fine_temperature is nan"),
    ({"top_k": 0}, "top_k is 0"),
    ({"top_k": -1}, "top_k is -1"),
    ({"top_k": 3.5}, "top_k is 3.5"),
    ({"top_k": 2**40}, "top_k is 1099511627776"),
    ({"top_p": 0}, "top_p is 0"),
    ({"top_p": 1.5}, "top_p is 1.5"),
    ({"top_p": float("nan")}, "top_p is nan"),
    ({"min_eos_p": 0}, "min_eos_p is 0"),
    ({"min_eos_p": 2.0}, "min_eos_p is 2.0"),
    ({"min_eos_p": float("nan")}, "min_eos_p is nan"),
    ({"semantic_max_new_tokens": -1}, "max_new_tokens is -1, expected 1 to 768"),
    ({"semantic_max_new_tokens": 0}, "max_new_tokens is 0"),
    ({"semantic_max_new_tokens": 2000}, "max_new_tokens is 2000"),
    ({"semantic_max_new_tokens": 10.5}, "max_new_tokens is 10.5"),
    ({"max_new_tokens": 5, "max_seconds": 1}, "not both"),
    ({"max_seconds": 0}, "max_seconds is 0"),
    ({"max_seconds": float("inf")}, "max_seconds is inf"),
    ({"do_sample": 1}, "do_sample is 1, expected True or False"),
    ({"allow_early_stop": "no"}, "allow_early_stop is 'no'"),
    ({"temprature": 0.7}, "no setting 'temprature'; did you mean temperature"),
    ({"semantic_temprature": 0.7}, "did you mean semantic_temperature"),
    ({"fine_temprature": 0.7}, "did you mean fine_temperature"),
    ({"fine_top_k": 5}, "no setting 'fine_top_k'"),
    ({"num_beams": 2}, "beam search is not part of Bark"),
    ({"coarse_max_new_tokens": 10}, "length follows from the semantic tokens"),
    ({"repetition_penalty": 1.2}, "penalises a placeholder"),
    ({"temperature": [0.5, 0.6]}, "temperature has 2 values for 1 rows"),
    ({"max_coarse_history": 631}, "max_coarse_history is 631, expected 2 to 630"),
    ({"max_coarse_history": 0}, "max_coarse_history is 0"),
    ({"max_coarse_history": 60.0}, "max_coarse_history is 60.0"),
    ({"sliding_window_len": 0}, "sliding_window_len is 0"),
    ({"sliding_window_len": 61}, "sliding_window_len is 61, expected a multiple of 2 up to 60"),
    ({"sliding_window_len": 62}, "share 690 positions"),
    ({"max_seconds": -1}, "max_seconds is -1, expected a positive number"),
    ({"max_seconds": float("nan")}, "max_seconds is nan"),
    ({"max_seconds": "5 s"}, "max_seconds is '5 s'"),
    ({"temperature": 1e4}, "temperature is 10000.0, expected 0.001 to 1000"),
    ({"temperature": 10**400}, "temperature is 1000"),
    ({"temperature": 10**5000}, "temperature is a number too long to show"),
    ({"temperature": 1 + 0j}, "temperature is (1+0j)"),
    ({"temperature": b"0.7"}, "temperature is b'0.7'"),
    ({"temperature": "7" * 10**7}, "temperature is '777"),
    ({"temperature": {"semantic": 0.7}}, "temperature is {'semantic': 0.7}"),
    ({"temperature": []}, "temperature has 0 values for 1 rows"),
    ({"temperature": [None, 0.7]}, "temperature has 2 values"),
    ({"temperature": [[0.7]]}, "temperature is [0.7]"),
    ({"temperature": np.array([0.7, 0.8])}, "temperature has 2 values"),
    ({"temperature": np.array(0.7)}, "temperature is array(0.7)"),
    ({"temperature": jax.numpy.ones(2)}, "temperature is Array"),
    ({"coarse_temperature": -0.0}, "coarse_temperature is -0.0"),
    ({"semantic_temperature": float("-inf")}, "semantic_temperature is -inf"),
    ({"fine_temperature": 1e-30}, "fine_temperature is 1e-30"),
    ({"fine_temperature": "hot"}, "fine_temperature is 'hot'"),
    ({"fine_temperature": jax.numpy.ones(2)}, "fine_temperature is Array"),
    ({"top_k": True}, "top_k is True"),
    ({"top_k": "50"}, "top_k is '50'"),
    ({"top_k": float("nan")}, "top_k is nan"),
    ({"coarse_top_k": -5}, "coarse_top_k is -5, expected a count of tokens from 1 up, or None for all"),
    ({"top_p": -0.1}, "top_p is -0.1, expected a probability above 0 and up to 1, or None"),
    ({"top_p": "0.9"}, "top_p is '0.9'"),
    ({"top_p": True}, "top_p is True"),
    ({"semantic_top_p": float("inf")}, "semantic_top_p is inf"),
    ({"min_eos_p": -0.5}, "min_eos_p is -0.5"),
    ({"min_eos_p": "often"}, "min_eos_p is 'often'"),
    ({"max_new_tokens": 769}, "max_new_tokens is 769, expected 1 to 768 (15.4 s of audio"),
    ({"max_new_tokens": "10"}, "max_new_tokens is '10'"),
    ({"max_new_tokens": True}, "max_new_tokens is True"),
    ({"max_new_tokens": 10**5000}, "max_new_tokens is a number too long"),
    ({"do_sample": "yes"}, "do_sample is 'yes', expected True or False"),
    ({"do_sample": None}, "do_sample is None"),
    ({"fine_do_sample": 0}, "fine_do_sample is 0"),
    ({"allow_early_stop": None}, "allow_early_stop is None"),
    ({"max_coarse_history": "all"}, "max_coarse_history is 'all'"),
    ({"max_coarse_history": -2}, "max_coarse_history is -2"),
    ({"sliding_window_len": 2.0}, "sliding_window_len is 2.0"),
    ({"sliding_window_len": None}, "sliding_window_len is None"),
    ({"coarse_min_eos_p": 0.1}, "no setting 'coarse_min_eos_p'"),
    ({"fine_max_new_tokens": 5}, "no setting 'fine_max_new_tokens'"),
    ({"length_penalty": 1.0}, "no setting 'length_penalty'; "),
    ({"pad_token_id": 0}, "no setting 'pad_token_id'"),
    ({"streamer": None}, "no setting 'streamer'"),
    ({"num_beams": 0}, "beam search is not part of Bark"),
    ({"use_cache": False}, "the cache is always on"),
    ({"max_length": 20}, "use max_new_tokens or max_seconds"),
    ({"cache_implementation": "offloaded"}, "the cache is always static"),
    ({"x" * 10_000: 1}, "no setting 'xxx"),
    ({"": 1}, "no setting ''"),
]

ARGUMENTS = [
    ({"seed": "abc"}, "seed is 'abc', expected an integer"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**64}, "seed is 18446744073709551616"),
    ({"seed": 1.0}, "seed is 1.0"),
    ({"seed": True}, "seed is True"),
    ({"seed": [1, 2]}, "seed has 2 values for 1 rows"),
    ({"seed": []}, "seed has 0 values"),
    ({"seed": [None]}, "seed is None"),
    ({"seed": np.array([0.5])}, "seed is "),
    ({"seed": 0, "key": jax.random.key(0)}, "give seed or key, not both"),
    ({"best_of": 0}, "best_of is 0"),
    ({"best_of": 10**9}, "best_of is 1000000000, expected an integer from 1 up to 1000000"),
    ({"num_return_sequences": 10**30}, "num_return_sequences is 1000"),
    ({"max_rows": 10**5000}, "max_rows is a number too long to show"),
    ({"best_of": 2.5}, "best_of is 2.5, expected an integer from 1 up"),
    ({"best_of": "many"}, "best_of is 'many'"),
    ({"best_of": 1, "num_return_sequences": 2}, "best_of (1) must be at least num_return_sequences (2)"),
    ({"num_return_sequences": -1}, "num_return_sequences is -1"),
    ({"num_return_sequences": True}, "num_return_sequences is True"),
    ({"max_rows": 0}, "max_rows is 0"),
    ({"max_rows": "all"}, "max_rows is 'all'"),
    ({"seed": "7" * 10**7}, "seed is '777"),
    ({"seed": 10**5000}, "seed is a number too long to show"),
    ({"on_stage": 5}, "on_stage is 5, expected a function"),
    ({"on_stage": "semantic"}, "on_stage is 'semantic'"),
    ({"key": "abc"}, "key is 'abc', expected a key of JAX"),
    ({"key": 5}, "key is 5, expected a key of JAX, jax.random.key(0); an integer goes into seed"),
    ({"key": [1, 2]}, "key is [1, 2]"),
    ({"seed": np.array(5)}, "seed is array(5), expected an integer"),
]

LONG_ARGUMENTS = [
    ({"silence_s": -1}, "silence_s is -1"),
    ({"silence_s": float("nan")}, "silence_s is nan"),
    ({"silence_s": 1e9}, "silence_s is 1000000000.0"),
    ({"silence_s": "short"}, "silence_s is 'short'"),
    ({"silence_s": None}, "silence_s is None"),
    ({"silence_s": "x" * 10**7}, "silence_s is 'xxx"),
    ({"silence_s": 10**5000}, "silence_s is a number too long to show"),
    ({"max_tokens": 0}, "max_tokens is 0"),
    ({"max_tokens": 257}, "max_tokens is 257, expected at most 256"),
    ({"max_tokens": "40"}, "max_tokens is '40'"),
    ({"language": 5}, "language is 5"),
    ({"language": "English"}, "language is 'English', expected a code such as 'en' or 'de'"),
    ({"language": "e" * 10_000_000}, "language is 'eee"),
    ({"language": "\ud800"}, "language is '"),
    ({"language": ["en"]}, "language is ['en']"),
    ({"seed": "abc"}, "seed is 'abc'"),
    ({"temprature": 0.7}, "did you mean temperature"),
    ({"top_p": 2}, "top_p is 2"),
    ({"on_stage": 5}, "on_stage is 5"),
]


VOICE_NAME_CALLS = 40_000


def calls_for(message):
    """To find the name that was meant all names are compared with it; a voice's name is looked up in the cache."""
    if "no voice is called" in message:  # 32,000 for the nearest of Suno's 261
        return VOICE_NAME_CALLS
    names = ("no setting", "did you mean", "not on this machine")
    return MISSPELT_CALLS if any(name in message for name in names) else ARGUMENT_CALLS


def ids(cases):
    return [quoted(given)[:50] for given, _ in cases]


@pytest.mark.parametrize(("given", "message"), SETTINGS, ids=ids(SETTINGS))
def test_a_setting_that_makes_no_sense_is_refused(bark, given, message):
    with refused(InputError, re.escape(message), calls=calls_for(message)):
        bark.generate("hello", seed=0, **given)


@pytest.mark.parametrize(("given", "message"), ARGUMENTS, ids=ids(ARGUMENTS))
def test_an_argument_that_makes_no_sense_is_refused(bark, given, message):
    with refused(InputError, re.escape(message)):
        bark.generate("hello", **given)


@pytest.mark.parametrize(("given", "message"), LONG_ARGUMENTS, ids=ids(LONG_ARGUMENTS))
def test_an_argument_of_long_text_that_makes_no_sense_is_refused(bark, given, message):
    with refused(InputError, re.escape(message), calls=calls_for(message)):
        bark.generate_long("hello. hello.", **given)


# `stream` looks at its arguments as `generate_long` does: one of each function that does so.
STREAMED = [next(case for case in LONG_ARGUMENTS if name in case[0]) for name in (
    "silence_s", "max_tokens", "language", "seed", "temprature", "on_stage")]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), STREAMED, ids=ids(STREAMED))
def test_so_does_stream_before_it_is_asked_for_a_part(bark, given, message):
    with refused(InputError, re.escape(message), calls=calls_for(message)):
        bark.stream("hello. hello.", **given)


def test_arguments_of_one_verb_alone(bark):
    with refused(InputError, "voice_mode is 'copy', expected 'fixed' or 'carry'"):
        bark.generate_long("hello", voice_mode="copy")
    with refused(InputError, "voice_mode is 'xxx"):
        bark.generate_long("hello", voice_mode="x" * 10**7)
    with refused(InputError, "voice_mode is array"):
        bark.generate_long("hello", voice_mode=np.array(["fixed", "carry"]))
    with refused(InputError, "first_windows is 0"):
        bark.stream("hello", first_windows=0)


def deleted_key():
    key = jax.random.key(0)
    key.delete()
    return key


KEYS = [
    (np.zeros(3), "key has shape"),
    (np.zeros((2, 2), np.uint32), "key has shape"),
    (jax.random.key(0, impl="rbg"), "key is of generator .*expected threefry2x32"),
    (deleted_key(), "key is no array: .*deleted"),
]


@pytest.mark.parametrize(("key", "message"), KEYS, ids=["floats", "two keys", "another generator", "deleted"])
def test_a_key_of_another_kind_is_refused(bark, key, message):
    with refused(InputError, message):
        bark.generate("hello", key=key)


def test_a_key_that_jit_traces_is_refused(bark):
    def call(key):
        with refused(InputError, "key is no array: .*traced"):
            bark.generate("hello", key=key)

    jax.eval_shape(call, jax.random.key(0))


# Arguments of BarkModel.generate: tokens where text would be

TOKENS = [
    ({"input_ids": None}, "input_ids is None, expected integers"),
    ({"input_ids": "hello"}, "input_ids has dtype <U5"),
    ({"input_ids": 5}, r"input_ids has shape \(\)"),
    ({"input_ids": [1, 2]}, r"input_ids has shape \(2,\), expected \[rows, tokens\]"),
    ({"input_ids": [[[1]]]}, r"input_ids has shape \(1, 1, 1\)"),
    ({"input_ids": np.zeros((0, 5), int)}, r"shape \(0, 5\)"),
    ({"input_ids": np.zeros((5, 0), int)}, r"shape \(5, 0\)"),
    ({"input_ids": [[1.5]]}, "input_ids has dtype float64"),
    ({"input_ids": [[float("nan")]]}, "dtype float64"),
    ({"input_ids": [[1, -5]]}, "input_ids holds -5, expected tokenizer ids from 0 to 119551"),
    ({"input_ids": [[-20_000]]}, "holds -20000"),
    ({"input_ids": [[119_552]]}, "holds 119552"),
    ({"input_ids": [[2**40]]}, "holds 1099511627776"),
    ({"input_ids": np.array([[2**63 + 5]], np.uint64)}, "input_ids holds"),
    ({"input_ids": np.ones((1, 257), int)}, "257 tokens a row, and the prompt has room for 256"),
    ({"input_ids": [[5, 0, 0]]}, "there is no attention_mask.*pass the mask"),
    ({"input_ids": [[5, 6]], "attention_mask": [[1]]}, "attention_mask has shape"),
    ({"input_ids": [[5, 6]], "attention_mask": [[1, 2]]}, "values .*expected 0 and 1"),
    ({"input_ids": [[5, 6]], "attention_mask": [[1, -1]]}, "expected 0 and 1"),
    ({"input_ids": [[5, 6]], "attention_mask": [[1, 0.5]]}, "attention_mask has dtype float64"),
    ({"input_ids": [[5, 6]], "attention_mask": "11"}, "attention_mask has dtype"),
    ({"input_ids": [[5, 6]], "history_prompt": [None, None]}, "history_prompt has 2 voices for 1 rows"),
    ({"input_ids": [[5, 6]], "history_prompt": "en_speaker_0"}, "'en_speaker_0' .*not on this machine"),
    ({"input_ids": [[5, 6]], "history_prompt": "en_speaker_99"}, "no voice is called 'en_speaker_99'; the nearest of"),
    ({"input_ids": [[5, 6]], "history_prompt": [5]}, "expected a Voice or a dict"),
    ({"input_ids": [[5, 6]], "history_prompt": {}}, "no semantic_prompt"),
    ({"input_ids": [[5, 6]], "num_return_sequences": 0}, "num_return_sequences is 0"),
    ({"input_ids": [[5, 6]], "num_return_sequences": "2"}, "num_return_sequences is '2'"),
    ({"input_ids": [[5, 6]], "num_return_sequences": 1025}, "1,025 rows at once, and a call takes 1,024"),
    ({"input_ids": [[5, 6]], "num_return_sequences": 10**6}, "1,000,000 rows at once.*bark_jax.batch"),
    ({"input_ids": np.full((2000, 2), 5)}, "2,000 rows at once"),
    ({"input_ids": [[5, 6], [7]]}, "input_ids is no array of integers .*all rows of one length"),
    ({"input_ids": [[5, 6]], "attention_mask": [[1, 1], [1]]}, "attention_mask is no array"),
    ({"input_ids": np.full((3_000_000, 2), 5)}, "3,000,000 rows at once"),
    ({"input_ids": [[5, 6]], "attention_mask": [[0, 0]]}, "attention_mask is all 0 in row 0: .*nothing to speak"),
    ({"input_ids": [[5, 6]] * 2, "attention_mask": [[1, 1], [0, 0]]}, "all 0 in row 1"),
    ({"input_ids": [[5, 6]], "return_output_lengths": "no"}, "return_output_lengths is 'no', expected True or False"),
    ({"input_ids": [[5, 6]], "key": 5}, "key is 5"),
    ({"input_ids": [[5, 6]], "seed": [1, 2]}, "seed has 2 values for 1 rows"),
    ({"input_ids": [[5, 6]], "fine_temprature": 0.7}, "did you mean fine_temperature"),
    ({"input_ids": [[5, 6]], "coarse_max_new_tokens": 10}, "length follows from the semantic tokens"),
]


@pytest.mark.parametrize(("arguments", "message"), TOKENS, ids=ids(TOKENS))
def test_tokens_that_make_no_sense_are_refused(bark, arguments, message):
    with refused(BarkError, message, calls=calls_for(message)):
        bark.model.generate(**arguments)


@pytest.mark.parametrize("rows", [[], (), None, 5, "row"], ids=repr)
def test_what_is_no_list_of_rows_is_refused(bark, rows):
    with refused(InputError, "rows is .*expected a list of one Row or more"):
        bark.model.generate_rows(rows)


@pytest.mark.parametrize("accelerator", ["gpu", 0, jax.devices()], ids=["name", "number", "list"])
def test_what_is_no_device_is_refused_and_nothing_is_offloaded(bark, accelerator):
    with refused(InputError, "accelerator is .*expected a device"):
        bark.model.enable_cpu_offload(accelerator)
    assert not bark.model.is_offloaded


DEVICES = [
    (dict(attn_implementation="flash"), InputError, "attn_implementation is 'flash', expected one of auto"),
    (dict(attn_implementation=None), InputError, "attn_implementation is None"),
    (dict(attn_implementation="cudnn"), UnsupportedError, "cannot work here.*Use 'auto' or 'xla'"),
    (dict(attn_implementation="cudnn", dtype="bfloat16"), UnsupportedError, "needs an NVIDIA GPU"),
    (dict(dtype="float13"), InputError, "dtype is 'float13', expected one of float32"),
    (dict(dtype="float64"), InputError, "dtype is 'float64'"),
    (dict(dtype="int4"), InputError, "dtype is 'int4', expected one of .*int8"),
    (dict(attn_implementation="x" * 10**7), InputError, "attn_implementation is 'xxx"),
    (dict(dtype=5), InputError, "dtype is 5"),
    (dict(dtype="x" * 10**6), InputError, "dtype is 'xxx"),
    (dict(dtype=[("a", "f4")]), InputError, "dtype is"),
    (dict(revision="main"), InputError, "is a folder on this machine; a revision is for Hub ids"),
    (dict(lora="absent.safetensors"), FileNotFoundError, "absent.safetensors"),
]


@pytest.mark.parametrize(("options", "error", "message"), DEVICES, ids=[str(case[0])[:50] for case in DEVICES])
def test_what_this_machine_or_model_has_not_is_refused(bark_folder, options, error, message):
    from bark_jax import Bark

    # It is a network that knows its attention: the first is described, which takes 40,000 calls, and none is read.
    calls = NETWORK_CALLS if "attn_implementation" in options else FOLDER_CALLS
    with refused(error, message, folder=bark_folder, calls=calls):
        Bark.from_pretrained(bark_folder, **options)
