"""Weights that give NaN or infinity: an error that names the stage, never silence or noise as speech."""

import jax
import numpy as np
import pytest
from flax import nnx

from bark_jax import Bark
from bark_jax.errors import BarkError

FIELDS = {
    "semantic": "semantic",
    "coarse": "coarse_acoustics",
    "fine": "fine_acoustics",
    "codec": "codec_model",
}
STAGES = ["semantic", "coarse", "fine", "codec"]
GENTLE = dict(seed=0, max_new_tokens=8, allow_early_stop=False)


def spoilt(bark, stage, value, only=""):
    """The model with one value of every array of a network, whose name has `only` in it, replaced."""
    graphdef, state = nnx.split(getattr(bark.model, FIELDS[stage]))
    changed = []
    for path, variable in nnx.to_flat_state(state):
        if only in ".".join(map(str, path)):
            array = np.array(variable.get_value())
            array.reshape(-1)[-1] = value
            variable = variable.replace(jax.device_put(array))
        changed.append((path, variable))
    network = nnx.merge(graphdef, nnx.from_flat_state(changed))
    return Bark(bark.model.replace(**{FIELDS[stage]: network}), bark.processor)


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_network_that_is_not_finite_raises_with_its_stage(bark, stage, value):
    with pytest.raises(BarkError, match=f"the {stage} stage computed values that are not finite.*try dtype"):
        spoilt(bark, stage, value).generate("hello", **GENTLE)


@pytest.mark.parametrize("stage", STAGES)
def test_so_does_a_stream(bark, stage):
    with pytest.raises(BarkError, match=f"the {stage} stage"):
        list(spoilt(bark, stage, np.nan).stream("hello", **GENTLE))


@pytest.mark.parametrize("stage", STAGES)
def test_so_does_a_greedy_call(bark, stage):
    with pytest.raises(BarkError, match=f"the {stage} stage"):
        spoilt(bark, stage, np.nan).generate("hello", do_sample=False, **GENTLE)


def test_an_end_token_that_is_not_finite_is_no_end(bark):
    graphdef, state = nnx.split(bark.model.semantic)
    flat = dict(nnx.to_flat_state(state))
    for path, variable in flat.items():
        if path[0] == "head":
            kernel_DV = np.array(variable.get_value())
            kernel_DV[:, 10_000] = np.nan
            flat[path] = variable.replace(jax.device_put(kernel_DV))
    model = bark.model.replace(semantic=nnx.merge(graphdef, nnx.from_flat_state(list(flat.items()))))
    with pytest.raises(BarkError, match="the semantic stage"):
        Bark(model, bark.processor).generate("hello", seed=0, max_new_tokens=8)
