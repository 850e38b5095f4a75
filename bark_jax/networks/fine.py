"""The bidirectional transformer of the fine stage: the codes of the lower codebooks in, those of the next one out."""

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
    as_mask,
    check_axes,
    check_size,
    choose_embeds,
    make_embedding,
    make_norm,
)


class FineNetwork(nnx.Module):
    """One embedding table a codebook; the head of codebook q is table q itself, so there is no separate weight.

    Arguments as for `BarkCausalModel`.
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
        self.token_embeddings = nnx.List(
            make_embedding(config, config.input_vocab_size, dtype, rngs) for _ in range(config.n_codes_total)
        )
        self.position_embedding = make_embedding(config, config.block_size, dtype, rngs)
        implementations = resolve(attn_implementation, self.platform, dtype, config.head_size)
        self.blocks = nnx.List(
            Block(
                config,
                is_causal=False,
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
    ) -> jax.Array | tuple[jax.Array, tuple[jax.Array, ...]]:
        """Logits of every frame's code in one codebook.

        Args:
          codebook_idx: the codebook to predict, 1 to n_codes_total - 1; a Python int, as each has a program of its own.
            Codebook 0 has no head: it comes from the coarse stage.
          input_ids: codes [B, T, n_codes_total]. Codebooks 0 to codebook_idx are read: the predicted one's own
            present content as well, which is the pad id where nothing is known yet. Higher ones are not looked at.
          input_embeds: instead of ids, the sum of the embeddings that are read [B, T, D], without positions.
          inputs_embeds: the same, under the name that transformers 5 has for it.
          attention_mask: [B, T], 0 where no frame attends to; None attends to all.
          output_hidden_states: also return what entered each layer, and the last after its norm.

        Returns:
          logits_BTV in float32; with `output_hidden_states` a pair.
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
            embeds_BTD = sum(self.token_embeddings[q](input_ids[:, :, q]) for q in range(codebook_idx + 1))
        hidden = self._read(embeds_BTD, as_mask(attention_mask, embeds_BTD))
        table_VD = self.token_embeddings[codebook_idx].embedding[...]
        logits_BTV = multiply(hidden[-1], table_VD, 1, self.platform, jnp.float32)
        return (logits_BTV, hidden) if output_hidden_states else logits_BTV

    def get_input_embeddings(self) -> nnx.List:
        """transformers' name of the tables, one a codebook."""
        return self.token_embeddings

    def hidden(self, embeds_BTD: jax.Array) -> jax.Array:
        """Hidden states [B, T, D] of whole windows, from the summed embeddings of the codebooks that are read."""
        return self._read(embeds_BTD)[-1]

    def _read(self, embeds_BTD: jax.Array, is_attended_BT: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """Runs all layers: the hidden states before, between and after them."""
        check_size(embeds_BTD, self.config, "frames")
        x_BTD = embeds_BTD + self.position_embedding(jnp.arange(embeds_BTD.shape[1])[None])
        hidden = []
        for block in self.blocks:
            hidden.append(x_BTD)
            x_BTD, _, _ = block(x_BTD, is_attended_BT)
        return (*hidden, self.final_norm(x_BTD))


def _as_index(codebook_idx: Any) -> int:
    """A codebook's number as Python has it. Raises InputError for one that jax.jit traces, or what is no integer."""
    try:
        return operator.index(codebook_idx)
    except TypeError as error:  # which JAX's error for what is traced is too
        raise InputError(
            f"codebook_idx is {quoted(codebook_idx)}, expected a Python int: each codebook has a program of its "
            "own, so give it to jax.jit as a static argument"
        ) from error
