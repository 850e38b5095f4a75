"""The causal transformer of the semantic and coarse stages: a GPT-2 with learned positions and an untied head."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax._system.forks import check_process
from bark_jax.config import BarkCoarseConfig, BarkSemanticConfig, BarkSubModelConfig
from bark_jax.errors import InputError
from bark_jax.networks.attention import KVCache, resolve
from bark_jax.networks.linear import Linear
from bark_jax.networks.platform import check_sharding, resolve_platform
from bark_jax.networks.transformer import (
    Block,
    Embedding,
    as_mask,
    check_axes,
    check_size,
    choose_embeds,
    make_embedding,
    make_norm,
)


class BarkCausalModel(nnx.Module):
    """Tokens in, logits of the token that follows each of them out.

    `prefill` reads a prompt and `decode` one token more; both run the same layers as a plain call.

    Args:
      config: the network's size.
      dtype: of parameters and activations. LayerNorm statistics, softmax and logits are float32 whatever it is.
      attn_implementation: "xla", "cudnn" or "auto"; see `attention.resolve`.
      platform: "cpu", "gpu" or "tpu", whose programs the network makes wherever it is traced; the default device's if
        None.
      rngs: draws the parameters, normal with `initializer_range`; nnx.Rngs(0) if None.
    """

    config_class: type[BarkSubModelConfig] = BarkSubModelConfig

    def __init__(
        self,
        config: BarkSubModelConfig,
        *,
        dtype: jnp.dtype = jnp.float32,
        attn_implementation: str = "auto",
        platform: str | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.config = config
        self.platform = resolve_platform(platform)
        self.keeps_copy = True  # whether `layout.for_decoding` may keep one of its weights
        self.token_embedding = make_embedding(config, config.input_vocab_size, dtype, rngs)
        self.position_embedding = make_embedding(config, config.block_size, dtype, rngs)
        implementations = resolve(attn_implementation, self.platform, dtype, config.head_size)
        self.blocks = nnx.List(
            Block(
                config,
                is_causal=True,
                norm_has_bias=config.bias,
                dtype=dtype,
                platform=self.platform,
                implementations=implementations,
                rngs=rngs,
            )
            for _ in range(config.num_layers)
        )
        self.final_norm = make_norm(config, has_bias=config.bias, dtype=dtype, rngs=rngs)
        self.head = Linear(
            config.hidden_size,
            config.output_vocab_size,
            use_bias=False,
            deviation=config.initializer_range,
            dtype=dtype,
            platform=self.platform,
            rngs=rngs,
        )

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        *,
        input_embeds: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        output_hidden_states: bool = False,
    ) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
        """Logits of every position.

        Args:
          input_ids: tokens [B, T] in [0, input_vocab_size); JAX does not check the range, an id outside it gives NaN.
          input_embeds: instead of ids, their embeddings [B, T, D] without positions, as the semantic prompt needs.
          inputs_embeds: the same, under the name that transformers 5 has for it.
          attention_mask: [B, T], 0 where no position attends to; None attends to all. Positions count from 0 whatever
            it is, as in transformers. What the logits of a position are that sees none means nothing.
          output_hidden_states: also return what entered each layer, and the last after its norm: num_layers + 1
            arrays [B, T, D].

        Returns:
          logits_BTV in float32; with `output_hidden_states` a pair.
        """
        check_process()
        embeds_BTD = choose_embeds(input_embeds, inputs_embeds)
        if (input_ids is None) == (embeds_BTD is None):
            raise InputError("give either input_ids or inputs_embeds")
        check_axes(input_ids, embeds_BTD, "[B, T]")
        check_sharding(self, input_ids, embeds_BTD)
        embeds_BTD = self.embed(input_ids) if embeds_BTD is None else embeds_BTD
        hidden, _, _ = self._read(embeds_BTD, as_mask(attention_mask, embeds_BTD))
        logits_BTV = self.logits(hidden[-1])
        return (logits_BTV, hidden) if output_hidden_states else logits_BTV

    def get_input_embeddings(self) -> Embedding:
        """transformers' name of the table that `embed` reads."""
        return self.token_embedding

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        """Token embeddings [B, T, D], without positions."""
        return self.token_embedding(tokens_BT)

    def hidden(self, embeds_BTD: jax.Array) -> jax.Array:
        """Hidden states [B, T, D] of whole sequences, as `logits` takes them."""
        return self._read(embeds_BTD)[0][-1]

    def logits(self, hidden: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """float32 logits of `size` ids from `start` on (all of them by default), for hidden states [..., D]."""
        return self.head.part(hidden, start, size)

    def head_of(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """`logits` of these ids as a function of the hidden states.

        A loop takes it before it starts: XLA would cut the weights out of the head again at every step.
        """
        return self.head.features(start, size)

    def prefill(self, embeds_BTD: jax.Array, length_B: jax.Array, n_slots: int) -> KVCache:
        """Reads prompts that are left-aligned and padded to one length.

        Args:
          embeds_BTD: token embeddings of the prompts; what follows a row's prompt is not attended to.
          length_B: int32, each row's prompt length, 1 to T.
          n_slots: slots of the cache, at least T: the prompt and every token that `decode` will read.
        """
        T = embeds_BTD.shape[1]
        if n_slots < T:
            raise InputError(f"n_slots is {n_slots}, fewer than the prompt's {T} positions")
        _, keys, values = self._read(embeds_BTD)
        cached = self.blocks[0].attention.cached
        return KVCache(tuple(cached(k, n_slots) for k in keys), tuple(cached(v, n_slots) for v in values), length_B)

    def empty_cache(self, n_rows: int, n_slots: int) -> KVCache:
        """A cache of no position, with room for n_slots."""
        layers = [block.attention.empty_cache(n_rows, n_slots) for block in self.blocks]
        return KVCache(tuple(layers), tuple(layers), jnp.zeros(n_rows, jnp.int32))

    def decode(self, tokens_B: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Reads one token a row. Returns its hidden state [B, D] (see `logits`) and the cache with it.

        Args:
          tokens_B: in [0, input_vocab_size); an id outside it gives NaN.
          cache: with room for the token in every row, which nothing checks: a full row's last slot is overwritten.
        """
        B = len(tokens_B)
        x_BD = self.embed(tokens_B) + self.position_embedding(cache.length_B)
        x_RD = jnp.pad(x_BD, ((0, self._matmul_rows(B) - B), (0, 0)))
        keys, values = [], []
        for block, layer_keys, layer_values in zip(self.blocks, cache.keys, cache.values, strict=True):
            x_RD, layer_keys, layer_values = block.extend(x_RD, layer_keys, layer_values, cache.length_B)
            keys.append(layer_keys)
            values.append(layer_values)
        return self.final_norm(x_RD)[:B], KVCache(tuple(keys), tuple(values), cache.length_B + 1)

    def _read(
        self, embeds_BTD: jax.Array, is_attended_BT: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], list[jax.Array], list[jax.Array]]:
        """Runs all layers over whole sequences: the hidden states before, between and after them, keys and values."""
        check_size(embeds_BTD, self.config, "positions")
        x_BTD = embeds_BTD + self.position_embedding(jnp.arange(embeds_BTD.shape[1])[None])
        hidden, keys, values = [], [], []
        for block in self.blocks:
            hidden.append(x_BTD)
            x_BTD, k_BTNH, v_BTNH = block(x_BTD, is_attended_BT)
            keys.append(k_BTNH)
            values.append(v_BTNH)
        return (*hidden, self.final_norm(x_BTD)), keys, values

    def _matmul_rows(self, n_rows: int) -> int:
        """Rows that a decoding step carries: with fewer than 8 XLA makes slow loops of matrix products on a GPU."""
        return max(8, n_rows) if self.platform == "gpu" else n_rows


class SemanticNetwork(BarkCausalModel):
    """Text tokens, summed with a voice's semantic tokens, in; semantic tokens out."""

    config_class = BarkSemanticConfig

    def embed_prompt(self, text_BT: jax.Array, history_BT: jax.Array) -> jax.Array:
        """The prompt's embeddings [B, T, D]: text and history, padded to the same T, summed position by position.

        The network attends to the pads: they are part of the prompt.
        """
        return self.embed(text_BT) + self.embed(history_BT)


class CoarseNetwork(BarkCausalModel):
    """Semantic tokens and the coarse codes so far in; the next coarse code out."""

    config_class = BarkCoarseConfig
