"""The LSTM between EnCodec's convolutions. Its width is that of its input, 512 in the 24 kHz codec.

It is the one part of the codec that is sequential in time: `lax.scan` over T frames, with the state in float32.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bark_jax.config import EncodecConfig
from bark_jax.networks.codec.layer import Layer

LstmState = tuple[jax.Array, jax.Array]  # hidden and cell state, float32 [B, C] each


def lstm(
    x_BTC: jax.Array, input_kernel: jax.Array, hidden_kernel: jax.Array, bias: jax.Array, state: LstmState
) -> tuple[jax.Array, LstmState]:
    """Runs one LSTM layer over time.

    Args:
      x_BTC: the input.
      input_kernel, hidden_kernel: [C, 4C], the four gates contiguous: input, forget, cell, output (torch's i, f, g, o).
      bias: [4C], the sum of torch's two, bias_ih + bias_hh.
      state: hidden and cell state before the first position.

    Returns:
      y_BTC in x_BTC's dtype, and the state after the last position.
    """
    # The input's share of the gates needs no earlier position: one large product for all T, outside the scan.
    gates_BTC = jnp.matmul(x_BTC, input_kernel, preferred_element_type=jnp.float32) + bias[None, None]

    def advance(state: LstmState, gates_BC: jax.Array) -> tuple[LstmState, jax.Array]:
        hidden_BC, cell_BC = state
        recurrent_BC = jnp.matmul(
            hidden_BC.astype(hidden_kernel.dtype), hidden_kernel, preferred_element_type=jnp.float32
        )
        input_BC, forget_BC, new_BC, output_BC = jnp.split(gates_BC + recurrent_BC, 4, axis=-1)
        cell_BC = jax.nn.sigmoid(forget_BC) * cell_BC + jax.nn.sigmoid(input_BC) * jnp.tanh(new_BC)
        hidden_BC = jax.nn.sigmoid(output_BC) * jnp.tanh(cell_BC)
        return (hidden_BC, cell_BC), hidden_BC

    state, y_TBC = lax.scan(advance, state, gates_BTC.swapaxes(0, 1))
    return y_TBC.swapaxes(0, 1).astype(x_BTC.dtype), state


def zero_state(batch: int, channels: int) -> LstmState:
    """The state before a signal: hidden and cell of zeros, float32 [batch, channels]."""
    return jnp.zeros((batch, channels), jnp.float32), jnp.zeros((batch, channels), jnp.float32)


class LstmWeights(nnx.Module):
    """The weights of one layer, shaped as `lstm` takes them."""

    def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.input_kernel = nnx.Param(init(rngs.params(), (channels, 4 * channels), dtype))
        self.hidden_kernel = nnx.Param(init(rngs.params(), (channels, 4 * channels), dtype))
        self.bias = nnx.Param(jnp.zeros(4 * channels, dtype))


class SkipLstm(Layer):
    """A stack of num_lstm_layers LSTMs with one skip connection around all of them."""

    def __init__(self, config: EncodecConfig, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.channels = channels
        self.lstm = nnx.List([LstmWeights(channels, dtype=dtype, rngs=rngs) for _ in range(config.num_lstm_layers)])

    def __call__(self, x_BTC: jax.Array, lengths_B: jax.Array | None = None) -> jax.Array:
        """x [B, T, C] to the same shape."""
        # Right padding needs no zeroing: no position reads a later one.
        return self.step(x_BTC, self.init_state(x_BTC.shape[0]), started=False)[0]

    def init_state(self, batch: int) -> tuple[LstmState, ...]:
        """Zero states, one (hidden, cell) a layer, float32 [B, C] each."""
        return tuple(zero_state(batch, self.channels) for _ in self.lstm)

    def step(
        self, x_BTC: jax.Array, state: tuple[LstmState, ...], started: bool
    ) -> tuple[jax.Array, tuple[LstmState, ...]]:
        """The next piece of a signal: x [B, T, C] to (y [B, T, C], states). First and later pieces are alike."""
        y_BTC, new_states = x_BTC, []
        for weights, layer_state in zip(self.lstm, state, strict=True):
            y_BTC, layer_state = lstm(
                y_BTC, weights.input_kernel[...], weights.hidden_kernel[...], weights.bias[...], layer_state
            )
            new_states.append(layer_state)
        return x_BTC + y_BTC, tuple(new_states)
