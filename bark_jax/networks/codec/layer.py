"""The interface of EnCodec's layers: a whole signal by a call, or piece by piece by `step` with a state."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Layer(nnx.Module):
    """Maps x_BTC to y_BTC: all of it at once by a call, or piece by piece by `step`.

    upsampling: output positions for one input position; 1, or the stride of a transposed convolution.
    min_start: positions that the first piece needs, as the layer's padding mirrors them; 1 with constant padding.
    is_causal: whether no output depends on a later input, so that `step` equals the call.
    """

    upsampling: int = 1
    min_start: int = 1
    is_causal: bool = True

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        """Maps whole signals x [B, T, C] to y [B, T', C'].

        Args:
          x_BTC: signals, right-padded to one length.
          lengths_B: integers, true positions of each row. What lies past them is zeroed before a convolution reads it,
            so that a padded row gives what it gives alone. None: no row is padded.
        """
        raise NotImplementedError

    def init_state(self, batch: int) -> Any:
        """The state of `step` before the first piece: a pytree of arrays [B, ...], empty for layers without memory."""
        return ()

    def step(self, x_BTC: jax.Array, state: Any, started: bool) -> tuple[jax.Array, Any]:
        """Maps the next piece x [B, T, C] of a signal to (y [B, T', C'], state), for layers that are causal.

        Args:
          state: from `init_state` or the previous piece.
          started: False for a signal's first piece, which alone is padded; static under `jax.jit`.
        """
        return self(x_BTC), state


class Elu(Layer):
    """ELU, which holds no weights. It is a layer so that indices into `layers` equal those of the checkpoints."""

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        return jax.nn.elu(x_BTC)


def step_through(
    layers: Sequence[Layer], x_BTC: jax.Array, states: Sequence[Any], started: bool
) -> tuple[jax.Array, tuple[Any, ...]]:
    """Runs `step` of each layer in turn on the next piece x [B, T, C]: the last layer's output and all new states."""
    new_states = []
    for layer, state in zip(layers, states, strict=True):
        x_BTC, state = layer.step(x_BTC, state, started)
        new_states.append(state)
    return x_BTC, tuple(new_states)


def zero_beyond(x_BTC: jax.Array, lengths_B: jax.Array | None) -> jax.Array:
    """Sets x_BTC to zero at and past position lengths_B of each row; unchanged where lengths_B is None."""
    if lengths_B is None:
        return x_BTC
    is_inside_BT = jnp.arange(x_BTC.shape[1])[None] < lengths_B[:, None]
    return jnp.where(is_inside_BT[..., None], x_BTC, 0)
