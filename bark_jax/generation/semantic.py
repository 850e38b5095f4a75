"""The semantic stage: text tokens to semantic tokens, by autoregressive decoding with a KV cache.

    positions   0 .. 255                         256     257 ..
    read        text + history, summed (prompt)  infer   the tokens chosen so far
    predicts                                     the first token, the second ..., the end token

`start` prefills the 256 prompt positions, `run_steps` decodes. The cache has 256 + 768 = 1,024 slots in Bark, all
allocated at once: shapes are static, so a row that ends early pays for memory and, with XLA's attention, for slots that
it does not use.

Source: suno-ai/bark, bark/generation.py, `generate_text_semantic`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.generation.placement import ON_ITS_PLATFORM, Placement
from bark_jax.generation.sampling import SEMANTIC_STAGE, Sampling, choose, draw_logits, fold, log_probability
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.networks.attention import KVCache
from bark_jax.networks.causal import SemanticNetwork
from bark_jax.networks.decoder import make_decoder

# Steps between two polls of whether all rows have ended. On a GPU the condition of a while_loop is read by the host, so
# each poll stalls the device; on the other hand up to 7 steps run after the last row has ended.
STEPS_PER_POLL = 8
# Steps of a part of `generate_in_parts`, between two reports of progress: 32 tokens, 0.64 s of Bark's audio.
PART_STEPS = 4 * STEPS_PER_POLL


@dataclasses.dataclass(frozen=True)
class SemanticRow:
    """Input of one row."""

    text: np.ndarray  # [T] text tokens in the network's vocabulary, T <= n_text
    history: np.ndarray  # [S] a voice's semantic tokens, of which the last n_text are read; empty for no voice
    max_tokens: int
    min_end_probability: float = 2.0  # see `SemanticPrompt`; above 1 for never
    may_end: bool = True  # False makes the end token illegal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SemanticPrompt:
    """Input of a batch. `make_prompt` makes numpy arrays: each jnp operation on the host would compile a program."""

    text_BT: jax.Array  # text tokens in the network's vocabulary, padded with text_pad to n_text
    history_BT: jax.Array  # a voice's last semantic tokens, padded with semantic_end to n_text
    max_tokens_B: jax.Array  # int32, 0 to max_semantic; 0 for a row that is only there to fill the batch
    min_end_probability_B: jax.Array  # float32; the row ends once the end token is this likely; above 1 for never
    may_end_B: jax.Array  # bool; where False the end token is not legal, and the row ends at max_tokens_B


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SemanticTokens:
    """Output of the stage."""

    tokens_BT: jax.Array  # int32 [B, max_semantic], semantic_end past each row's length
    length_B: jax.Array  # int32, tokens before the end
    # float32, log-probability of each token among the legal ones at temperature 1. 0 past the length; NaN or infinite
    # at index length_B where the row ended because its logits were not finite, which `runner.require_finite` finds.
    logprob_BT: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """Everything that changes while semantic tokens are generated."""

    output: SemanticTokens  # tokens chosen so far; a row's next draw is number length_B
    last_B: jax.Array  # int32, the token that the network reads next: the infer token, then the last one chosen
    cache: KVCache  # holds the prompt and every token before last_B
    done_B: jax.Array  # bool, the row has ended; it is decoded on with the others, and its results are dropped


def make_prompt(rows: Sequence[SemanticRow], spaces: TokenSpaces) -> SemanticPrompt:
    """Lays rows out as one batch."""
    text_BT, history_BT = pad_prompt([row.text for row in rows], [row.history for row in rows], spaces)
    return SemanticPrompt(
        text_BT=text_BT,
        history_BT=history_BT,
        max_tokens_B=np.array([row.max_tokens for row in rows], np.int32),
        min_end_probability_B=np.array([row.min_end_probability for row in rows], np.float32),
        may_end_B=np.array([row.may_end for row in rows], bool),
    )


def pad_prompt(
    texts: Sequence[np.ndarray], histories: Sequence[np.ndarray], spaces: TokenSpaces
) -> tuple[np.ndarray, np.ndarray]:
    """Pads the two halves of the prompt, int32 [B, n_text] each: text tokens, and a voice's last semantic tokens."""
    # 129,595 and not BERT's [PAD], and 10,000 for the history, also where there is no voice at all: the network attends
    # to them, so their ids matter.
    text_BT = np.full((len(texts), spaces.n_text), spaces.text_pad, np.int32)
    history_BT = np.full((len(texts), spaces.n_text), spaces.semantic_end, np.int32)
    for b, (text, history) in enumerate(zip(texts, histories, strict=True)):
        history = history[-spaces.n_text :]
        text_BT[b, : len(text)] = text
        history_BT[b, : len(history)] = history
    return text_BT, history_BT


@functools.partial(jax.jit, static_argnames="spaces")
def generate_semantic(
    model: SemanticNetwork, prompt: SemanticPrompt, sampling: Sampling, *, spaces: TokenSpaces
) -> SemanticTokens:
    """Generates until every row has ended, in one program.

    A row ends when it chooses the end token, when the end token's probability in the distribution that it draws from
    reaches min_end_probability, or at max_tokens. That probability is taken after temperature and cuts, as in suno's
    code; transformers takes it before the temperature.
    """
    state = start(model, prompt, spaces=spaces)
    return run_steps(model, prompt, sampling, state, spaces.max_semantic, spaces=spaces).output


def generate_in_parts(
    model: SemanticNetwork,
    prompt: SemanticPrompt,
    sampling: Sampling,
    on_part: Callable[[int], None],
    *,
    spaces: TokenSpaces,
    placement: Placement = ON_ITS_PLATFORM,
) -> SemanticTokens:
    """`generate_semantic`, bit for bit, as several calls of PART_STEPS tokens, with a report after each.

    Args:
      on_part: called after each part with the number of tokens of the longest row.
      placement: the devices that the rows are on.
    """
    state = placement.compiled(start)(model, prompt, spaces=spaces)
    run = placement.compiled(_run_part, donate=(3,))
    while not jax.device_get(state.done_B).all():
        state = run(model, prompt, sampling, state, spaces=spaces)
        on_part(int(jax.device_get(state.output.length_B).max()))
    return state.output


@functools.partial(jax.jit, static_argnames="spaces")
def start(model: SemanticNetwork, prompt: SemanticPrompt, *, spaces: TokenSpaces) -> Decoding:
    """Prefills the prompts: the state before the first token. Rows with max_tokens 0 (idle) are done from the start."""
    B, n_prompt = prompt.text_BT.shape
    embeds_BTD = model.embed_prompt(prompt.text_BT, prompt.history_BT)
    return Decoding(
        output=_no_tokens(B, spaces),
        last_B=jnp.full(B, spaces.semantic_infer, jnp.int32),
        # 256 + 768 slots, all of the network's positions: the infer token and 767 tokens are read after the prompt, and
        # the last token never. 75 MB a row of the small network in float32, 101 MB of the large one in bfloat16.
        cache=model.prefill(embeds_BTD, jnp.full(B, n_prompt, jnp.int32), n_prompt + spaces.max_semantic),
        done_B=prompt.max_tokens_B == 0,
    )


@functools.partial(jax.jit, static_argnames="spaces", donate_argnames="state")
def run_steps(
    model: SemanticNetwork,
    prompt: SemanticPrompt,
    sampling: Sampling,
    state: Decoding,
    n_steps: int | jax.Array,
    *,
    spaces: TokenSpaces,
) -> Decoding:
    """Decodes n_steps tokens of each row, rounded up to STEPS_PER_POLL, or until every row has ended.

    n_steps is traced, so one program serves every number: several calls give, bit for bit, what one call gives. The
    rows need not have started together (continuous batching): a row's step is its own length. `state` is donated, so
    the KV cache is updated in place across calls; the caller's reference to it is dead afterwards.
    """
    sampling = dataclasses.replace(sampling, key_B=fold(sampling.key_B, SEMANTIC_STAGE))
    decoder = make_decoder(model)
    # 10,001 of the head's 10,048 outputs: the rest are padding of the vocabulary.
    head = decoder.head_of(0, spaces.semantic_end + 1)

    def step(_: jax.Array, state: Decoding) -> Decoding:
        hidden_BD, cache = decoder.decode(state.last_B, state.cache)
        return _choose_token(state, cache, _mask(head(hidden_BD), prompt, spaces), prompt, sampling, spaces)

    def steps(carry: tuple[jax.Array, Decoding]) -> tuple[jax.Array, Decoding]:
        n_done, state = carry
        return n_done + STEPS_PER_POLL, jax.lax.fori_loop(0, STEPS_PER_POLL, step, state)

    _, state = jax.lax.while_loop(
        lambda carry: (carry[0] < n_steps) & ~jnp.all(carry[1].done_B), steps, (jnp.int32(0), state)
    )
    return state


def _run_part(
    model: SemanticNetwork, prompt: SemanticPrompt, sampling: Sampling, state: Decoding, *, spaces: TokenSpaces
) -> Decoding:
    return run_steps(model, prompt, sampling, state, PART_STEPS, spaces=spaces)


def _no_tokens(B: int, spaces: TokenSpaces) -> SemanticTokens:
    return SemanticTokens(
        jnp.full((B, spaces.max_semantic), spaces.semantic_end, jnp.int32),
        jnp.zeros(B, jnp.int32),
        jnp.zeros((B, spaces.max_semantic)),
    )


def _mask(logits_BV: jax.Array, prompt: SemanticPrompt, spaces: TokenSpaces) -> jax.Array:
    """Masks logits [B, V] to semantic tokens and, where may_end holds, the end token; ids between them are illegal."""
    id_1V = jnp.arange(logits_BV.shape[1])[None]
    is_legal_BV = (id_1V < spaces.semantic_vocab) | ((id_1V == spaces.semantic_end) & prompt.may_end_B[:, None])
    return jnp.where(is_legal_BV, logits_BV, -jnp.inf)


def _choose_token(
    state: Decoding,
    cache: KVCache,
    logits_BV: jax.Array,
    prompt: SemanticPrompt,
    sampling: Sampling,
    spaces: TokenSpaces,
) -> Decoding:
    """Chooses a token for each row and ends rows. `cache` holds last_B, which `state.cache` does not yet."""
    output, done_B = state.output, state.done_B
    drawn_from_BV = draw_logits(logits_BV, sampling)
    # The row's own length numbers the draw: a row that entered its slot later draws what it draws alone.
    token_B = choose(drawn_from_BV, sampling, output.length_B)
    # After temperature and cuts; 0 where the end token was cut or is illegal. At temperature 0 that of the logits.
    end_probability_B = jnp.exp(log_probability(drawn_from_BV, jnp.full_like(token_B, spaces.semantic_end)))
    ends_B = (token_B == spaces.semantic_end) | (end_probability_B >= prompt.min_end_probability_B)
    # A row that min_end_probability ends drops the token drawn at that step, as Suno's code does.
    keeps_B = ~(done_B | ends_B)
    # A row that has ended writes past the end of the array, which mode="drop" ignores.
    slots = jnp.arange(done_B.shape[0]), jnp.where(done_B, output.tokens_BT.shape[1], output.length_B)
    logprob_B = log_probability(logits_BV, token_B)
    # NaN logits choose some id, possibly the end token. The log-probability then stays in the output, past the row's
    # length, as the one trace of it; see SemanticTokens.
    is_reported_B = keeps_B | (~done_B & ~jnp.isfinite(logprob_B))
    logprob_B = jnp.where(is_reported_B, logprob_B, 0.0)
    output = SemanticTokens(
        output.tokens_BT.at[slots].set(jnp.where(keeps_B, token_B, spaces.semantic_end), mode="drop"),
        output.length_B + keeps_B,
        output.logprob_BT.at[slots].set(logprob_B, mode="drop"),
    )
    done_B = ~keeps_B | (output.length_B >= prompt.max_tokens_B)
    # An ended row keeps its cache length and overwrites one slot again and again, so that it never leaves the cache.
    length_B = jnp.where(done_B, state.cache.length_B, cache.length_B)
    return Decoding(output, token_B, dataclasses.replace(cache, length_B=length_B), done_B)
