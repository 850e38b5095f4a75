"""The semantic stage: text tokens to semantic tokens.

Source: suno-ai/bark, bark/generation.py, `generate_text_semantic`.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.models.attention import KVCache
from bark_jax.models.gpt import BarkSemanticModel
from bark_jax.stages.sampling import SEMANTIC_STAGE, Sampling, choose, draw_logits, fold, log_probability
from bark_jax.tokens import TokenSpaces


@dataclasses.dataclass(frozen=True)
class SemanticRow:
    """What one row asks for."""

    text: np.ndarray  # text tokens in the network's vocabulary, at most n_text
    history: np.ndarray  # a voice's semantic tokens, of which the last n_text are read; empty for no voice
    max_tokens: int
    min_end_probability: float = 2.0
    may_end: bool = True


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SemanticPrompt:
    """The rows of a batch."""

    text_BT: jax.Array  # text tokens in the network's vocabulary, padded with text_pad to n_text
    history_BT: jax.Array  # a voice's last semantic tokens, padded with semantic_end to n_text
    max_tokens_B: jax.Array  # int32, 0 to max_semantic; 0 for a row that is only there to fill the batch
    min_end_probability_B: jax.Array  # float32; the row ends once the end token is this likely; above 1 for never
    may_end_B: jax.Array  # bool; where False the end token is not legal, and the row ends at max_tokens_B


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SemanticTokens:
    """What the stage gives back."""

    tokens_BT: jax.Array  # int32 [B, max_semantic], semantic_end past each row's length
    length_B: jax.Array  # int32, tokens before the end
    logprob_BT: jax.Array  # float32, of each token among the legal ones at temperature 1; 0 past the length


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """Everything that changes while semantic tokens are generated."""

    step: jax.Array  # int32, tokens chosen so far
    output: SemanticTokens
    last_B: jax.Array  # what the network reads next: the infer token, then the token chosen last
    cache: KVCache  # holds everything before last_B
    done_B: jax.Array  # the row has ended


def make_prompt(rows: Sequence[SemanticRow], spaces: TokenSpaces) -> SemanticPrompt:
    """Lays rows out as one batch."""
    text_BT, history_BT = pad_prompt([row.text for row in rows], [row.history for row in rows], spaces)
    return SemanticPrompt(
        text_BT=jnp.asarray(text_BT),
        history_BT=jnp.asarray(history_BT),
        max_tokens_B=jnp.asarray([row.max_tokens for row in rows], jnp.int32),
        min_end_probability_B=jnp.asarray([row.min_end_probability for row in rows], jnp.float32),
        may_end_B=jnp.asarray([row.may_end for row in rows], bool),
    )


def pad_prompt(
    texts: Sequence[np.ndarray], histories: Sequence[np.ndarray], spaces: TokenSpaces
) -> tuple[np.ndarray, np.ndarray]:
    """The two halves of the prompt, int32 [B, n_text] each: text tokens, and a voice's last semantic tokens."""
    text_BT = np.full((len(texts), spaces.n_text), spaces.text_pad, np.int32)
    history_BT = np.full((len(texts), spaces.n_text), spaces.semantic_end, np.int32)
    for b, (text, history) in enumerate(zip(texts, histories, strict=True)):
        history = history[-spaces.n_text :]
        text_BT[b, : len(text)] = text
        history_BT[b, : len(history)] = history
    return text_BT, history_BT


@functools.partial(jax.jit, static_argnames="spaces")
def generate_semantic(
    model: BarkSemanticModel, prompt: SemanticPrompt, sampling: Sampling, *, spaces: TokenSpaces
) -> SemanticTokens:
    """Generates until every row has ended.

    A row ends when it chooses the end token, when the end token's probability in the distribution that it draws from
    reaches min_end_probability (suno's rule; transformers looks before the temperature), or at max_tokens.
    """
    sampling = dataclasses.replace(sampling, key_B=fold(sampling.key_B, SEMANTIC_STAGE))
    B, n_prompt = prompt.text_BT.shape
    embeds_BTD = model.embed_prompt(prompt.text_BT, prompt.history_BT)
    start = Decoding(
        step=jnp.int32(0),
        output=_no_tokens(B, spaces),
        last_B=jnp.full(B, spaces.semantic_infer, jnp.int32),
        cache=model.prefill(embeds_BTD, jnp.full(B, n_prompt, jnp.int32), n_prompt + spaces.max_semantic),
        done_B=prompt.max_tokens_B == 0,
    )

    def body(state: Decoding) -> Decoding:
        hidden_BD, cache = model.decode(state.last_B, state.cache)
        state = dataclasses.replace(state, cache=cache)
        return _choose_token(state, _legal_logits(model, hidden_BD, prompt, spaces), prompt, sampling, spaces)

    state = jax.lax.while_loop(lambda state: (state.step < spaces.max_semantic) & ~jnp.all(state.done_B), body, start)
    return state.output


def _no_tokens(B: int, spaces: TokenSpaces) -> SemanticTokens:
    return SemanticTokens(
        jnp.full((B, spaces.max_semantic), spaces.semantic_end, jnp.int32),
        jnp.zeros(B, jnp.int32),
        jnp.zeros((B, spaces.max_semantic)),
    )


def _legal_logits(
    model: BarkSemanticModel, hidden_BD: jax.Array, prompt: SemanticPrompt, spaces: TokenSpaces
) -> jax.Array:
    """Logits of the semantic tokens and, where it is legal, the end token; whatever lies between them never is."""
    logits_BV = model.logits(hidden_BD, 0, spaces.semantic_end + 1)
    id_1V = jnp.arange(logits_BV.shape[1])[None]
    is_legal_BV = (id_1V < spaces.semantic_vocab) | ((id_1V == spaces.semantic_end) & prompt.may_end_B[:, None])
    return jnp.where(is_legal_BV, logits_BV, -jnp.inf)


def _choose_token(
    state: Decoding, logits_BV: jax.Array, prompt: SemanticPrompt, sampling: Sampling, spaces: TokenSpaces
) -> Decoding:
    drawn_from_BV = draw_logits(logits_BV, sampling)
    token_B = choose(drawn_from_BV, sampling, state.step)
    end_probability_B = jax.nn.softmax(drawn_from_BV, axis=-1)[:, spaces.semantic_end]
    ends_B = (token_B == spaces.semantic_end) | (end_probability_B >= prompt.min_end_probability_B)
    keeps_B = ~(state.done_B | ends_B)
    output = SemanticTokens(
        state.output.tokens_BT.at[:, state.step].set(jnp.where(keeps_B, token_B, spaces.semantic_end)),
        state.output.length_B + keeps_B,
        state.output.logprob_BT.at[:, state.step].set(jnp.where(keeps_B, log_probability(logits_BV, token_B), 0.0)),
    )
    done_B = ~keeps_B | (state.step + 1 >= prompt.max_tokens_B)
    return Decoding(state.step + 1, output, token_B, state.cache, done_B)
