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
    Layers,
    as_mask,
    attention_weights,
    check_axes,
    check_size,
    choose_embeds,
    make_embedding,
    make_norm,
    run_recomputed,
)


class BarkCausalModel(nnx.Module):
    """A causal language model: tokens [B, T] to logits [B, T, V] of the token that follows each.

    `prefill` reads a prompt into a KV cache and `decode` reads one token more; both run the same layers as a plain
    call. Input and output vocabularies differ: the semantic network reads 129,600 ids and predicts 10,048.

    Args:
      config: the network's size.
      dtype: dtype of parameters and activations. LayerNorm statistics, softmax, GELU and logits are always float32.
      attn_implementation: "xla", "cudnn" or "auto"; see `attention.resolve`.
      platform: "cpu", "gpu" or "tpu", for which the network is traced; None takes the default device's. It is fixed at
        construction, since under `jax.jit` a network cannot see where its program will run.
      rngs: draws the parameters, normal with `initializer_range`; nnx.Rngs(0) if None.

    Raises:
      InputError, UnsupportedError: attn_implementation or platform, as `attention.resolve` and `resolve_platform` do.
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
        self.keeps_copy = True  # whether `layout.for_decoding` may keep a transposed copy of its weights
        self.token_embedding = make_embedding(config, config.input_vocab_size, dtype, rngs)
        # Learned absolute positions: keys and values of a token hold for one position only. A prompt that loses tokens
        # at its front has to be read again (`generation.coarse`).
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
        # Without a bias even where config.bias is true, as in torch, and not tied: the vocabularies differ.
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
        output_attentions: bool = False,
    ) -> jax.Array | tuple[jax.Array, Layers] | tuple[jax.Array, Layers, Layers]:
        """Logits of every position, without a KV cache.

        Args:
          input_ids: tokens [B, T] in [0, input_vocab_size). The range is not checked, as values are traced under
            `jax.jit`; an id outside it gives NaN.
          input_embeds: instead of ids, their embeddings [B, T, D] without positions, as the semantic prompt needs.
          inputs_embeds: the same, under transformers 5's name.
          attention_mask: [B, T], 0 for positions that no other attends to; None attends to all. Or [B, 1, T, T], or
            [B, N, T, T] for each head, by query and key: bool, True where attended to, or floats, which are added to
            the attention's logits. Later positions stay masked. Position embeddings count from 0 whatever the mask, as
            in transformers, so left padding shifts them. Logits of a position that attends to none are meaningless.
          output_hidden_states: also return the hidden states: num_layers + 1 arrays [B, T, D], the input of each layer
            and the output of the final LayerNorm.
          output_attentions: also return the attention probabilities: num_layers arrays [B, N, T, T], float32, by query
            and key. Logits and hidden states are those of a call without them.

        Returns:
          logits_BTV, float32 [B, T, output_vocab_size]; with `output_hidden_states` (logits, hidden states), with
          `output_attentions` (logits, attentions), with both (logits, hidden states, attentions).

        Raises:
          InputError: neither ids nor embeddings, or both; a wrong rank or mask; more positions than block_size.
          UnsupportedError: an array is sharded along an explicit mesh axis; see `platform.check_sharding`.
        """
        check_process()
        embeds_BTD = choose_embeds(input_embeds, inputs_embeds)
        if (input_ids is None) == (embeds_BTD is None):
            raise InputError("give either input_ids or inputs_embeds")
        check_axes(input_ids, embeds_BTD, "[B, T]")
        check_sharding(self, input_ids, embeds_BTD)
        embeds_BTD = self.embed(input_ids) if embeds_BTD is None else embeds_BTD
        mask_BNTS = as_mask(attention_mask, embeds_BTD, self.config.num_heads)
        hidden, _, _ = self._read(embeds_BTD, mask_BNTS)
        logits_BTV = self.logits(hidden[-1])
        if not output_attentions:
            return (logits_BTV, hidden) if output_hidden_states else logits_BTV
        attentions = attention_weights(self.blocks, hidden, mask_BNTS)
        return (logits_BTV, hidden, attentions) if output_hidden_states else (logits_BTV, attentions)

    def get_input_embeddings(self) -> Embedding:
        """The token embedding table, under transformers' name."""
        return self.token_embedding

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        """Token embeddings [B, T, D], without positions."""
        return self.token_embedding(tokens_BT)

    def hidden(self, embeds_BTD: jax.Array, *, remat: bool = False) -> jax.Array:
        """Hidden states [B, T, D] after the final LayerNorm, as `logits` takes them, of whole sequences.

        remat: a backward pass recomputes each layer instead of keeping what it needs of all; see `run_recomputed`.
        """
        if remat:
            return self.final_norm(run_recomputed(self.blocks, self._with_positions(embeds_BTD)))
        return self._read(embeds_BTD)[0][-1]

    def logits(self, hidden: jax.Array, start: int = 0, size: int | None = None) -> jax.Array:
        """Logits, float32 [..., size], of ids `start` to `start + size` (default all), for hidden states [..., D]."""
        return self.head.part(hidden, start, size)

    def head_of(self, start: int = 0, size: int | None = None) -> Callable[[jax.Array], jax.Array]:
        """Returns a function from hidden states [..., D] to float32 logits [..., size] of ids from `start` on.

        Call it before a loop and the result within: cutting the weights [D, size] out of the head inside the body
        makes XLA repeat the slice, a copy, at every step.
        """
        return self.head.features(start, size)

    def prefill(self, embeds_BTD: jax.Array, length_B: jax.Array, n_slots: int) -> KVCache:
        """Reads left-aligned prompts, right-padded to one length T, into a new KV cache.

        No mask is needed: causal attention keeps the padding out of the prompt's keys and values, and the padding's own
        lie at and past length_B, where `decode` overwrites them one by one.

        Args:
          embeds_BTD: token embeddings of the prompts, without positions.
          length_B: int32, each row's prompt length, 1 to T.
          n_slots: slots S of the cache, at least T: the prompt and every token that `decode` will read.

        Raises:
          InputError: n_slots is below T, or T above block_size.
        """
        T = embeds_BTD.shape[1]
        if n_slots < T:
            raise InputError(f"n_slots is {n_slots}, fewer than the prompt's {T} positions")
        _, keys, values = self._read(embeds_BTD)
        # Any layer's would do: all have one platform and one choice of implementations.
        cached = self.blocks[0].attention.cached
        return KVCache(tuple(cached(k, n_slots) for k in keys), tuple(cached(v, n_slots) for v in values), length_B)

    def empty_cache(self, n_rows: int, n_slots: int) -> KVCache:
        """A KV cache of n_rows rows and n_slots slots with nothing in it: length 0 everywhere."""
        # One array stands for keys and values. Traced under jit, as the stages do, it becomes two buffers to donate.
        layers = [block.attention.empty_cache(n_rows, n_slots) for block in self.blocks]
        return KVCache(tuple(layers), tuple(layers), jnp.zeros(n_rows, jnp.int32))

    def decode(self, tokens_B: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Runs a decoding step: reads one token a row, at position `cache.length_B` of each.

        Args:
          tokens_B: integers in [0, input_vocab_size); an id outside it gives NaN.
          cache: KV cache with a free slot in every row. Nothing checks that: a full row would overwrite its last slot
            or, in the scatter form, is undefined.

        Returns:
          The hidden state [B, D] after the final LayerNorm (for `logits`), and the cache, one position longer.
        """
        B = tokens_B.shape[0]
        # A length of block_size or more looks up NaN, not the last position (see `Embedding`): an overrun shows in the
        # logits instead of passing unnoticed.
        x_BD = self.embed(tokens_B) + self.position_embedding(cache.length_B)
        # Padded here, before the first layer; attention alone works on B rows, and pads its result again.
        x_RD = jnp.pad(x_BD, ((0, self._matmul_rows(B) - B), (0, 0)))
        keys, values = [], []
        for block, layer_keys, layer_values in zip(self.blocks, cache.keys, cache.values, strict=True):
            x_RD, layer_keys, layer_values = block.extend(x_RD, layer_keys, layer_values, cache.length_B)
            keys.append(layer_keys)
            values.append(layer_values)
        return self.final_norm(x_RD)[:B], KVCache(tuple(keys), tuple(values), cache.length_B + 1)

    def _read(
        self, embeds_BTD: jax.Array, mask_BNTS: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, ...], list[jax.Array], list[jax.Array]]:
        """Runs all layers over whole sequences.

        Returns:
          Hidden states, num_layers + 1 arrays [B, T, D]: the input of each layer, then the final LayerNorm's output;
          keys and values, one [B, T, N, H] a layer.
        """
        x_BTD = self._with_positions(embeds_BTD)
        hidden, keys, values = [], [], []
        for block in self.blocks:
            hidden.append(x_BTD)
            x_BTD, k_BTNH, v_BTNH = block(x_BTD, mask_BNTS)
            keys.append(k_BTNH)
            values.append(v_BTNH)
        return (*hidden, self.final_norm(x_BTD)), keys, values

    def _with_positions(self, embeds_BTD: jax.Array) -> jax.Array:
        """The first layer's input. Raises InputError for an empty batch, or more positions than block_size."""
        check_size(embeds_BTD, self.config, "positions")
        return embeds_BTD + self.position_embedding(jnp.arange(embeds_BTD.shape[1])[None])

    def _matmul_rows(self, n_rows: int) -> int:
        """Rows R of a decoding step's matrix products.

        At least 8 on a GPU, where XLA lowers fewer to slow loops, and on a TPU, where it multiplies a single row
        without the matrix unit: by its own estimate a step of bark-small then takes three times as long.
        """
        # max_dim, as the number of rows may be symbolic (`jax.export`); of integers it is `max`.
        return jax.core.max_dim(n_rows, 8) if self.platform in ("gpu", "tpu") else n_rows


class SemanticNetwork(BarkCausalModel):
    """Semantic network: reads text tokens summed with a voice's semantic tokens, predicts semantic tokens.

    Suno's checkpoints call it `text`.
    """

    config_class = BarkSemanticConfig

    def embed_prompt(self, text_BT: jax.Array, history_BT: jax.Array) -> jax.Array:
        """The prompt's embeddings [B, T, D]: text and history tokens [B, T], summed position by position.

        T is 256 in Bark, padded with text_pad and semantic_end. The network was trained to attend to the pads, so they
        are part of the prompt and are not masked.
        """
        # One table serves both: history ids go up to semantic_end, 10,000, and text ids start at text_offset, 10,048.
        # Without a voice every position still adds the vector of id 10,000; leaving it out would give other tokens.
        return self.embed(text_BT) + self.embed(history_BT)


class CoarseNetwork(BarkCausalModel):
    """Coarse network: reads semantic tokens and the coarse codes so far, predicts the next coarse code."""

    config_class = BarkCoarseConfig
