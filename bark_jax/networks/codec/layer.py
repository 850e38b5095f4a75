"""What every layer of EnCodec's encoder and decoder offers, whichever weights it has."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Layer(nnx.Module):
    """Maps x_BTC to y_BTC: all of it at once by a call, or piece by piece by `step`.

    upsampling: positions out for one position in, where the layer makes more of them.
    min_start: positions that the first piece needs, because the layer's padding mirrors them.
    is_causal: no output depends on a later input, so `step` works.
    """

    upsampling: int = 1
    min_start: int = 1
    is_causal: bool = True

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        """The whole of a signal. lengths_B: how many positions of each row count, the rest is padding; None for all."""
        raise NotImplementedError

    def init_state(self, batch: int) -> Any:
        """What `step` remembers before the first piece."""
        return ()

    def step(self, x_BTC: jax.Array, state: Any, started: bool) -> tuple[jax.Array, Any]:
        """The next piece of a signal, if is_causal: (y_BTC, state). `started` is False for the first piece."""
        return self(x_BTC), state


class Elu(Layer):
    """ELU, which holds no weights. It has a place among the layers so that they count as in the checkpoints."""

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        return jax.nn.elu(x_BTC)


def step_through(
    layers: Sequence[Layer], x_BTC: jax.Array, states: Sequence[Any], started: bool
) -> tuple[jax.Array, tuple[Any, ...]]:
    """Takes the next piece of a signal through `layers`, one state each."""
    new_states = []
    for layer, state in zip(layers, states, strict=True):
        x_BTC, state = layer.step(x_BTC, state, started)
        new_states.append(state)
    return x_BTC, tuple(new_states)


def zero_beyond(x_BTC: jax.Array, lengths_B: jax.Array | None) -> jax.Array:
    """x_BTC with zeros from position lengths_B of each row on; unchanged where lengths_B is None."""
    if lengths_B is None:
        return x_BTC
    is_inside_BT = jnp.arange(x_BTC.shape[1])[None] < lengths_B[:, None]
    return jnp.where(is_inside_BT[..., None], x_BTC, 0)
