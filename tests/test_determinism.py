"""The same call twice gives the same bits, and so does a model that is loaded and compiled anew."""

import jax
import numpy as np
import pytest

from bark_jax import Bark
from bark_jax.text.processor import BarkProcessor

TEXT = "hello there. how are you?"
SHORT = dict(max_new_tokens=40, allow_early_stop=False)

CALLS = {
    "generate": lambda bark: bark.generate(TEXT, seed=5, **SHORT),
    "several": lambda bark: bark.generate([TEXT, "a"], seed=[1, 2], **SHORT),
    "best of two": lambda bark: bark.generate(TEXT, seed=5, best_of=2, **SHORT),
    "greedy": lambda bark: bark.generate(TEXT, seed=5, do_sample=False, **SHORT),
    "long": lambda bark: bark.generate_long(TEXT, seed=5, max_tokens=20, **SHORT),
    "carried": lambda bark: bark.generate_long(TEXT, seed=5, max_tokens=20, voice_mode="carry", **SHORT),
    "stream": lambda bark: list(bark.stream(TEXT, seed=5, max_tokens=20, **SHORT)),
    "model": lambda bark: np.asarray(bark.model.generate([[5, 6, 7]], seed=5, **SHORT)),
}


@pytest.fixture(scope="module")
def bark(toy_model, toy_folder):
    return Bark(toy_model, BarkProcessor.from_pretrained(toy_folder))


def bits_of(result):
    """All arrays of a result, as bytes."""
    if isinstance(result, np.ndarray):
        return result.tobytes()
    if isinstance(result, list):
        return [bits_of(each) for each in result]
    names = ("samples", "semantic", "coarse", "fine", "semantic_logprob", "coarse_logprob")
    return [getattr(result, name).tobytes() for name in names if hasattr(result, name)]


@pytest.mark.parametrize(
    "call",
    [pytest.param(call, id=name, marks=[pytest.mark.slow] * (name == "several")) for name, call in CALLS.items()],
)
def test_the_same_call_twice_gives_the_same_bits(bark, call):
    first = bits_of(call(bark))
    assert bits_of(call(bark)) == first


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_model_loaded_and_compiled_anew_gives_the_same_bits(bark, toy_folder, call):
    first = bits_of(call(bark))
    jax.clear_caches()
    assert bits_of(call(Bark.from_pretrained(toy_folder))) == first
