"""The bidirectional transformer of the fine stage: codes of codebooks 0 to q in, logits of codebook q's codes out."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bark_jax._system.forks import check_process
from bark_jax.config import BarkFineConfig
from bark_jax.errors import InputError, quoted
from bark_jax.networks.attention import resolve
from bark_jax.networks.linear import multiply
from bark_jax.networks.platform import check_sharding, resolve_platform
from bark_jax.networks.transformer import (
    Block,
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


class FineNetwork(nnx.Module):
    """Fine network: predicts one codebook's codes of a window from those of the codebooks below it.

    It has one embedding table [V, D] a codebook, and the head of codebook q is table q itself. Suno's checkpoints hold
    heads and tables as tied parameters; here is one array, so that nothing is stored, trained or sharded twice.

    Arguments and errors are those of `BarkCausalModel`.

    Source: suno-ai/bark, bark/model_fine.py, `FineGPT`.
    """

    config_class = BarkFineConfig

    def __init__(
        self,
        config: BarkFineConfig,
        *,
        dtype: jnp.dtype = jnp.float32,
        attn_implementation: str = "auto",
        platform: str | None = None,
        rngs: nnx.Rngs | None = None,
    ):
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.config = config
        self.platform = resolve_platform(platform)
        # In Bark 8 tables [1,056, D]: 1,024 codes, the pad id 1,024, and 31 ids that never occur.
        self.token_embeddings = nnx.List(
            make_embedding(config, config.input_vocab_size, dtype, rngs) for _ in range(config.n_codes_total)
        )
        self.position_embedding = make_embedding(config, config.block_size, dtype, rngs)
        implementations = resolve(attn_implementation, self.platform, dtype, config.head_size)
        self.blocks = nnx.List(
            Block(
                config,
                is_causal=False,
                # Whatever config.bias says: Suno's FineGPT uses torch's LayerNorm, its causal networks one of their
                # own.
                norm_has_bias=True,
                dtype=dtype,
                platform=self.platform,
                implementations=implementations,
                rngs=rngs,
            )
            for _ in range(config.num_layers)
        )
        self.final_norm = make_norm(config, has_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        codebook_idx: int,
        input_ids: jax.Array | None = None,
        *,
        input_embeds: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> jax.Array | tuple[jax.Array, Layers] | tuple[jax.Array, Layers, Layers]:
        """Logits of every frame's code in one codebook.

        Args:
          codebook_idx: the codebook to predict, 1 to n_codes_total - 1; a Python int, static under `jax.jit`, as each
            compiles a program of its own. Codebook 0 has no head: it comes from the coarse stage.
          input_ids: codes [B, T, n_codes_total] in [0, input_vocab_size). Codebooks 0 to codebook_idx are read, the
            predicted one's present content included: the pad id (1,024) where nothing is known yet, codes of a voice
            or of an earlier window elsewhere. Higher codebooks are not read.
          input_embeds: instead of ids, the summed embeddings [B, T, D] of those codebooks, without positions.
          inputs_embeds: the same, under transformers 5's name.
          attention_mask: [B, T], 0 for frames that no other attends to; None attends to all. Or [B, 1, T, T] or
            [B, N, T, T], by query and key, as in `BarkCausalModel`.
          output_hidden_states: also return the hidden states: num_layers + 1 arrays [B, T, D].
          output_attentions: also return the attention probabilities: num_layers arrays [B, N, T, T], float32.

        Returns:
          logits_BTV, float32 [B, T, input_vocab_size]; with `output_hidden_states` or `output_attentions` a
          tuple, as in `BarkCausalModel`. The last ids, past codebook_size, are the pad's and mean nothing; the fine
          stage cuts them off.

        Raises:
          InputError: codebook_idx is out of range or traced; neither ids nor embeddings, or both; a wrong rank or mask;
            more frames than block_size.
          UnsupportedError: an array is sharded along an explicit mesh axis; see `platform.check_sharding`.
        """
        check_process()
        codebook_idx = _as_index(codebook_idx)
        if not 1 <= codebook_idx < self.config.n_codes_total:
            raise InputError(
                f"codebook_idx is {codebook_idx}, expected 1 to {self.config.n_codes_total - 1}; "
                "codebook 0 is predicted by the coarse model"
            )
        embeds_BTD = choose_embeds(input_embeds, inputs_embeds)
        if (input_ids is None) == (embeds_BTD is None):
            raise InputError("give either input_ids or inputs_embeds")
        check_axes(input_ids, embeds_BTD, "[B, T, n_codes_total]")
        check_sharding(self, input_ids, embeds_BTD)
        if embeds_BTD is None:
            # codebook_idx + 1 tables: the codebook to predict is summed in as well, with pads or earlier codes. Leaving
            # it out would be the obvious way, and wrong.
            embeds_BTD = sum(self.token_embeddings[q](input_ids[:, :, q]) for q in range(codebook_idx + 1))
        mask_BNTS = as_mask(attention_mask, embeds_BTD, self.config.num_heads)
        hidden = self._read(embeds_BTD, mask_BNTS)
        # torch counts heads from the first predicted codebook: this is its lm_heads[codebook_idx - 1]. A table has the
        # layout [out, in] of a head already, hence axis 1.
        table_VD = self.token_embeddings[codebook_idx].embedding[...]
        logits_BTV = multiply(hidden[-1], table_VD, 1, self.platform, jnp.float32)
        if not output_attentions:
            return (logits_BTV, hidden) if output_hidden_states else logits_BTV
        attentions = attention_weights(self.blocks, hidden, mask_BNTS)
        return (logits_BTV, hidden, attentions) if output_hidden_states else (logits_BTV, attentions)

    def get_input_embeddings(self) -> nnx.List:
        """The embedding tables, one a codebook, under transformers' name."""
        return self.token_embeddings

    def hidden(self, embeds_BTD: jax.Array, *, remat: bool = False) -> jax.Array:
        """Hidden states [B, T, D] after the final LayerNorm, of windows given as summed embeddings [B, T, D].

        remat: a backward pass recomputes each layer instead of keeping what it needs of all; see `run_recomputed`.
        """
        if remat:
            return self.final_norm(run_recomputed(self.blocks, self._with_positions(embeds_BTD)))
        return self._read(embeds_BTD)[-1]

    def _read(self, embeds_BTD: jax.Array, mask_BNTS: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """Runs all layers: num_layers + 1 hidden states [B, T, D], each layer's input and the final norm's output."""
        x_BTD = self._with_positions(embeds_BTD)
        hidden = []
        for block in self.blocks:
            hidden.append(x_BTD)
            x_BTD, _, _ = block(x_BTD, mask_BNTS)
        return (*hidden, self.final_norm(x_BTD))

    def _with_positions(self, embeds_BTD: jax.Array) -> jax.Array:
        """The first layer's input. Raises InputError for an empty batch, or more frames than block_size."""
        check_size(embeds_BTD, self.config, "frames")
        return embeds_BTD + self.position_embedding(jnp.arange(embeds_BTD.shape[1])[None])


def _as_index(codebook_idx: Any) -> int:
    """The codebook's number as a Python int. Raises InputError for a value traced by jax.jit, or no integer."""
    try:
        return operator.index(codebook_idx)
    except TypeError as error:  # JAX's error for a traced value is a TypeError too
        raise InputError(
            f"codebook_idx is {quoted(codebook_idx)}, expected a Python int: each codebook has a program of its "
            "own, so give it to jax.jit as a static argument"
        ) from error
