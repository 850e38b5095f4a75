"""Losses of the three transformers: cross-entropy (negative log-likelihood) of the true next token, teacher-forced.

Each softmax is over the ids that generation may draw at that position, in float32 whatever the model's dtype; logits of
other ids are not computed. A loss is a (sum, count) pair, so that the losses of micro-batches or of the shards of
several devices add up to that of the batch.

`batches` makes the batches and documents their arrays. Positions where is_target is False do not affect the loss.
`remat` recomputes each layer in the backward pass; see `BarkCausalModel.hidden`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bark_jax.generation.tokens import TokenSpaces
from bark_jax.networks.causal import CoarseNetwork, SemanticNetwork
from bark_jax.networks.fine import FineNetwork

Batch = Mapping[str, jax.Array]


class Loss(NamedTuple):
    """A summed loss, float32 scalars; total / count is the mean."""

    total: jax.Array  # summed negative log-likelihood, in nats
    count: jax.Array  # number of targets


def semantic_loss(model: SemanticNetwork, batch: Batch, *, spaces: TokenSpaces, remat: bool = False) -> Loss:
    """Loss of the semantic tokens and their end token, given the text and a voice's semantic tokens."""
    targets_BT = batch["targets"]
    read_BT = _shift_in(targets_BT, spaces.semantic_infer)
    # One look-up for all ids: the gradient of each look-up is as large as the table, 400 MB in bark-small.
    embeds_BTD = model.embed(jnp.concatenate([batch["text"], batch["history"], read_BT], axis=1))
    text_BTD, history_BTD, read_BTD = jnp.split(embeds_BTD, [spaces.n_text, 2 * spaces.n_text], axis=1)
    # The prompt of `SemanticNetwork.embed_prompt`. Position n_text holds the infer token, and its output predicts the
    # first target.
    prompt_BTD = jnp.concatenate([text_BTD + history_BTD, read_BTD], axis=1)
    hidden_BTD = model.hidden(prompt_BTD, remat=remat)[:, spaces.n_text :]
    # The end token's id need not follow the semantic ids directly, so its logit is computed by itself.
    logits_BTV = model.logits(hidden_BTD, 0, spaces.semantic_vocab)
    end_BT = model.logits(hidden_BTD, spaces.semantic_end, 1)[:, :, 0]
    logit_BT = jnp.where(targets_BT == spaces.semantic_end, end_BT, _pick(logits_BTV, targets_BT))
    log_sum_BT = jnp.logaddexp(jax.nn.logsumexp(logits_BTV, axis=-1), end_BT)
    return _sum(log_sum_BT - logit_BT, batch["is_target"])


def coarse_loss(
    model: CoarseNetwork, batch: Batch, *, spaces: TokenSpaces, only_new: bool = False, remat: bool = False
) -> Loss:
    """Loss of every code of the stream, each within its own codebook, given semantic tokens and the stream before it.

    Args:
      only_new: count only the codes of the window itself, not those that generation reads as history.
    """
    stream_BT = batch["stream"]
    tokens_BT = jnp.concatenate([batch["semantic"], _shift_in(stream_BT, spaces.coarse_infer)], axis=1)
    hidden_BTD = model.hidden(model.embed(tokens_BT), remat=remat)[:, spaces.n_coarse_semantic :]
    logits_BTV = model.logits(hidden_BTD, spaces.semantic_vocab, spaces.n_coarse * spaces.codebook_size)
    codes_BT = stream_BT - spaces.semantic_vocab
    # A history can start in the middle of a frame, so the codebook follows from the code's id, not from its position.
    by_codebook = (*codes_BT.shape, spaces.n_coarse, spaces.codebook_size)
    log_sum_BTQ = jax.nn.logsumexp(logits_BTV.reshape(by_codebook), axis=-1)
    nll_BT = _pick(log_sum_BTQ, codes_BT // spaces.codebook_size) - _pick(logits_BTV, codes_BT)
    return _sum(nll_BT, batch["is_new"] if only_new else batch["is_target"])


def fine_loss(model: FineNetwork, batch: Batch, *, spaces: TokenSpaces, remat: bool = False) -> Loss:
    """Loss of the codes of one codebook a row, given the codebooks below it and its own codes outside of the targets.

    The codebook's index is data, not static, so one program trains all codebooks and rows of a batch may differ in it.
    """
    codes_BTQ, codebook_B = batch["codes"], batch["codebook"]
    read = [
        jnp.where((codebook_B >= q)[:, None, None], table(codes_BTQ[:, :, q]), 0)
        for q, table in enumerate(model.token_embeddings)
    ]
    hidden_BTD = model.hidden(sum(read), remat=remat)
    # A row's own table is gathered below, [B, V, D]: 25 MB for 8 rows of bark-small, where all logits would be 268 MB.
    tables_QVD = jnp.stack([table.embedding[: spaces.codebook_size] for table in model.token_embeddings])
    logits_BTV = jnp.einsum("BTD,BVD->BTV", hidden_BTD, tables_QVD[codebook_B], preferred_element_type=jnp.float32)
    nll_BT = jax.nn.logsumexp(logits_BTV, axis=-1) - _pick(logits_BTV, batch["targets"])
    return _sum(nll_BT, batch["is_target"])


def _shift_in(targets_BT: jax.Array, first: int) -> jax.Array:
    """Shifts targets right by one position, with `first` in front: the input that predicts each target."""
    return jnp.pad(targets_BT[:, :-1], ((0, 0), (1, 0)), constant_values=first)


def _pick(values_BTV: jax.Array, index_BT: jax.Array) -> jax.Array:
    """Takes the value at each index: [B, T]. An index out of range, such as a pad's, is clipped; its loss is masked."""
    index_BT = jnp.clip(index_BT, 0, values_BTV.shape[2] - 1)
    return jnp.take_along_axis(values_BTV, index_BT[:, :, None], axis=2)[:, :, 0]


def _sum(nll_BT: jax.Array, is_target_BT: jax.Array) -> Loss:
    # A select, not a product with the mask: 0 * NaN is NaN.
    return Loss(jnp.sum(jnp.where(is_target_BT, nll_BT, 0.0)), jnp.sum(is_target_BT, dtype=jnp.float32))
