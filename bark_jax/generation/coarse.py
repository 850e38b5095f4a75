"""The coarse stage: semantic tokens to the codes of the first codebooks.

The codes of all coarse codebooks form one stream, frame by frame. It is generated in windows of coarse_window (60)
tokens. Each window has a prompt: the semantic tokens around the present, the infer token, and the stream so far.

    semantic   h h h s s s s s s s s s s . .   n_coarse_semantic (256) tokens, from max_semantic_history (209) before
                         ^ present             the present on, padded with coarse_pad
    stream     h h h h h h c c c c c c         the last n_coarse_history (630) tokens of the voice's stream and of the
                                      ^ next   codes generated so far

A prompt has at most 256 + 1 + 630 = 887 tokens, and the window adds 60, of which the last is not read: 946 of the
network's 1,024 positions.

While nothing has left the prompt at its front, a window's prompt is the previous one's plus the tokens generated since,
and its KV cache continues: in Bark without a voice up to the eleventh window, 4.4 s. After that, and mostly with a
voice, every token moves to another position. Keys and values depend on positions, which are learned embeddings, so the
window reads its entire prompt again (`windows.extends_previous`).

Source: suno-ai/bark, bark/generation.py, `generate_coarse`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.generation.placement import ON_ITS_PLATFORM, Placement
from bark_jax.generation.sampling import COARSE_STAGE, Sampling, choose, draw_logits, fold, log_probability
from bark_jax.generation.slots import prompts_at_once, put_rows, take_rows
from bark_jax.generation.tokens import TokenSpaces, interleave
from bark_jax.generation.windows import (
    CoarseWindow,
    coarse_window,
    count_coarse_windows,
    extends_previous,
    frames_per_coarse_window,
    n_prompt_slots,
)
from bark_jax.networks.attention import KVCache
from bark_jax.networks.causal import CoarseNetwork
from bark_jax.networks.decoder import KernelDecoder, make_decoder


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CoarsePrompt:
    """Input of a batch. `make_prompt` makes numpy arrays: each jnp operation on the host would compile a program."""

    semantic_BT: jax.Array  # int32, a voice's semantic history, then the row's tokens; coarse_pad past both
    n_history_B: jax.Array  # int32, tokens of semantic_BT that are history
    stream_BT: jax.Array  # int32 [B, n_coarse_history], a voice's stream, right-aligned, coarse_pad before it
    n_stream_B: jax.Array  # int32, length of the voice's stream
    n_frames_B: jax.Array  # int32, frames to generate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CoarseCodes:
    """Output of the stage, on the host unless it is traced.

    Codes at and past length_B are garbage: the rest of the row's last window.
    """

    codes_BQT: np.ndarray | jax.Array  # int32 [B, n_coarse, T] in [0, codebook_size)
    length_B: np.ndarray | jax.Array  # int32, frames
    logprob_BQT: np.ndarray | jax.Array  # float32, log-probability of each code within its codebook at temperature 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WindowsDone:
    """Everything that changes from window to window."""

    window_B: jax.Array  # int32, windows generated so far
    stream_BT: jax.Array  # int32, history, right-aligned to n_coarse_history, then the tokens generated so far
    logprob_BT: jax.Array  # float32, of the generated tokens; index 0 is index n_coarse_history of stream_BT
    cache: KVCache  # the previous window's prompt and tokens, without the last token, which has not been read


def trim_history(semantic_T: np.ndarray, coarse_QT: np.ndarray, spaces: TokenSpaces) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a voice to the part that conditions the coarse stage.

    The stream loses its last n_coarse tokens, which suno found to sound better, and may start in the middle of a frame.
    A voice too short for one semantic token gives two empty arrays; suno's code, by way of [-0:], takes all of it.

    In Bark a voice of 400 semantic tokens and 601 frames, 1,202 tokens of stream, gives n_semantic = min(209, 400, 399)
    = 209, round(209 * 1500 / 499) = 628 tokens of stream, of which the first 626 are kept.

    Returns:
      The last semantic tokens [n_semantic], and the stream [n_stream] that goes with them.
    """
    stream_T = interleave(coarse_QT, spaces)
    n_semantic = min(
        spaces.max_semantic_history,
        len(semantic_T) - len(semantic_T) % 2,
        int(len(stream_T) / spaces.stream_per_semantic),
    )
    if n_semantic == 0:
        return semantic_T[:0], stream_T[:0]
    # n_stream can be odd: of Suno's 271 voices 264 give (209, 628) and three an odd number. The history then starts on
    # codebook 1. So the codebook of the next token follows from the tokens generated, never from a position.
    n_stream = spaces.n_stream_history(n_semantic)
    return semantic_T[-n_semantic:], stream_T[-n_stream:][: -spaces.n_coarse]


def make_prompt(
    semantic: list[np.ndarray], voices: list[tuple[np.ndarray, np.ndarray] | None], spaces: TokenSpaces
) -> CoarsePrompt:
    """Lays rows out for the stage.

    Args:
      semantic: each row's semantic tokens [S]; empty for an idle row.
      voices: each row's voice as (semantic_T, coarse_QT), or None.
    """
    B = len(semantic)
    nothing = (np.zeros(0, np.int32), np.zeros(0, np.int32))
    histories = [nothing if voice is None else trim_history(*voice, spaces) for voice in voices]
    # Padded to a multiple of max_semantic, so that texts of all lengths run one program.
    n_tokens = spaces.max_semantic * max(1, max(-(-len(tokens) // spaces.max_semantic) for tokens in semantic))
    # The last n_coarse_semantic columns only pad: the last windows read past the row's tokens, and dynamic_slice would
    # silently move a slice that does not fit. In Bark 209 + 768 + 256 = 1,233 columns.
    width = spaces.max_semantic_history + n_tokens + spaces.n_coarse_semantic
    semantic_BT = np.full((B, width), spaces.coarse_pad, np.int32)
    # Right-aligned, so that in every row the first generated token follows at column n_coarse_history.
    stream_BT = np.full((B, spaces.n_coarse_history), spaces.coarse_pad, np.int32)
    for row, (tokens, (history, stream)) in enumerate(zip(semantic, histories, strict=True)):
        semantic_BT[row, : len(history) + len(tokens)] = np.concatenate([history, tokens])
        stream_BT[row, spaces.n_coarse_history - len(stream) :] = stream
    return CoarsePrompt(
        semantic_BT,
        np.array([len(history) for history, _ in histories], np.int32),
        stream_BT,
        np.array([len(stream) for _, stream in histories], np.int32),
        np.array([spaces.n_frames(len(tokens)) for tokens in semantic], np.int32),
    )


def generate_coarse(
    model: CoarseNetwork,
    prompt: CoarsePrompt,
    sampling: Sampling,
    *,
    spaces: TokenSpaces,
    placement: Placement = ON_ITS_PLATFORM,
) -> CoarseCodes:
    """Generates all windows of all rows, in one program besides `start`, on the placement's devices."""
    state = placement.compiled(start)(model, prompt, spaces=spaces)
    state = placement.compiled(_run_all, donate=(3,))(model, prompt, sampling, state, spaces=spaces)
    return read_codes(prompt, state, spaces=spaces)


def run_all_windows(
    model: CoarseNetwork, prompt: CoarsePrompt, sampling: Sampling, *, spaces: TokenSpaces
) -> WindowsDone:
    """The state after all windows of all rows, on the device; it may be traced. `arrange_codes` reads it."""
    return _run_all(model, prompt, sampling, start(model, prompt, spaces=spaces), spaces=spaces)


def generate_in_parts(
    model: CoarseNetwork,
    prompt: CoarsePrompt,
    sampling: Sampling,
    on_part: Callable[[int], None],
    *,
    spaces: TokenSpaces,
    placement: Placement = ON_ITS_PLATFORM,
) -> CoarseCodes:
    """`generate_coarse`, bit for bit, window by window; `on_part` is called after each with the number done.

    The rows are on the placement's devices.
    """
    state = placement.compiled(start)(model, prompt, spaces=spaces)
    run = placement.compiled(_run_window, donate=(3,))
    for n_done in range(1, int(np.max(count_coarse_windows(prompt.n_frames_B, spaces))) + 1):
        state = run(model, prompt, sampling, state, spaces=spaces)
        jax.block_until_ready(state.window_B)
        on_part(n_done)
    return read_codes(prompt, state, spaces=spaces)


@functools.partial(jax.jit, static_argnames="spaces")
def start(model: CoarseNetwork, prompt: CoarsePrompt, *, spaces: TokenSpaces) -> WindowsDone:
    """The state before the first window."""
    B, n_tokens = prompt.stream_BT.shape[0], _room(prompt, spaces) * spaces.coarse_window
    # n_coarse_history columns more than tokens: dynamic_slice clamps a start so that the slice fits, which would shift
    # the last windows' prompts without an error.
    n_room = n_tokens + spaces.n_coarse_history
    # In Bark 39 windows fit, so the stream has 630 + 2,340 + 630 columns and the cache 887 + 60 = 947 slots: 70 MB a
    # row of the small network in float32.
    return WindowsDone(
        jnp.zeros(B, jnp.int32),
        jnp.pad(prompt.stream_BT, ((0, 0), (0, n_room)), constant_values=spaces.coarse_pad),
        jnp.zeros((B, n_tokens)),
        model.empty_cache(B, n_prompt_slots(spaces) + spaces.coarse_window),
    )


@functools.partial(jax.jit, static_argnames="spaces", donate_argnames="state")
def run_windows(
    model: CoarseNetwork,
    prompt: CoarsePrompt,
    sampling: Sampling,
    state: WindowsDone,
    n_windows: int | jax.Array,
    *,
    spaces: TokenSpaces,
) -> WindowsDone:
    """Generates n_windows more windows of each row, or as many as the row needs.

    n_windows is traced, so one program serves every number: several calls give, bit for bit, what one call gives. The
    rows need not have started together (continuous batching). `state` is donated: the KV cache is updated in place.
    """
    sampling = dataclasses.replace(sampling, key_B=fold(sampling.key_B, COARSE_STAGE))
    needed_B = count_coarse_windows(prompt.n_frames_B, spaces)
    decoder = make_decoder(model)

    def body(carry: tuple[jax.Array, WindowsDone]) -> tuple[jax.Array, WindowsDone]:
        n_done, state = carry
        is_active_B = state.window_B < needed_B
        return n_done + 1, _generate_window(model, decoder, prompt, sampling, state, is_active_B, spaces)

    _, state = jax.lax.while_loop(
        lambda carry: (carry[0] < n_windows) & jnp.any(carry[1].window_B < needed_B), body, (jnp.int32(0), state)
    )
    return state


def _run_all(
    model: CoarseNetwork, prompt: CoarsePrompt, sampling: Sampling, state: WindowsDone, *, spaces: TokenSpaces
) -> WindowsDone:
    return run_windows(model, prompt, sampling, state, _room(prompt, spaces), spaces=spaces)


def _run_window(
    model: CoarseNetwork, prompt: CoarsePrompt, sampling: Sampling, state: WindowsDone, *, spaces: TokenSpaces
) -> WindowsDone:
    return run_windows(model, prompt, sampling, state, 1, spaces=spaces)


def read_codes(prompt: CoarsePrompt, state: WindowsDone, *, spaces: TokenSpaces) -> CoarseCodes:
    """Fetches the codes of the windows done to the host. Codes past those windows are garbage."""
    return arrange_codes(*jax.device_get((state.stream_BT, state.logprob_BT, prompt.n_frames_B)), spaces)


def arrange_codes(
    stream_BT: jax.Array | np.ndarray,
    logprob_BT: jax.Array | np.ndarray,
    n_frames_B: jax.Array | np.ndarray,
    spaces: TokenSpaces,
) -> CoarseCodes:
    """Arranges a stream [B, T] and its log-probabilities [B, T], of `WindowsDone`, by codebook; traced if they are."""
    stream_BT = stream_BT[:, spaces.n_coarse_history :][:, : logprob_BT.shape[1]]
    # Offsets go by column, which is right whatever token a voice's stream starts on: the generated part starts on
    # codebook 0.
    offset_1Q1 = (
        spaces.semantic_vocab + spaces.codebook_size * np.arange(spaces.n_coarse, dtype=np.int32)[None, :, None]
    )
    return CoarseCodes(_by_codebook(stream_BT, spaces) - offset_1Q1, n_frames_B, _by_codebook(logprob_BT, spaces))


def _room(prompt: CoarsePrompt, spaces: TokenSpaces) -> int:
    """Windows of the longest row that a prompt of this width holds; static, so it fixes the state's shapes."""
    n_tokens = prompt.semantic_BT.shape[1] - spaces.max_semantic_history - spaces.n_coarse_semantic
    return count_coarse_windows(spaces.n_frames(n_tokens), spaces)


def _by_codebook(stream_BT: jax.Array | np.ndarray, spaces: TokenSpaces) -> jax.Array | np.ndarray:
    """Rearranges a stream [B, T * Q], frame by frame, to [B, Q, T]."""
    return stream_BT.reshape(stream_BT.shape[0], -1, spaces.n_coarse).transpose(0, 2, 1)


def _generate_window(
    model: CoarseNetwork,
    decoder: CoarseNetwork | KernelDecoder,
    prompt: CoarsePrompt,
    sampling: Sampling,
    state: WindowsDone,
    is_active_B: jax.Array,
    spaces: TokenSpaces,
) -> WindowsDone:
    """Reads each active row's prompt and appends coarse_window tokens to its stream; other rows keep their stream."""
    done_B = _windows(prompt, state, spaces).n_done
    tokens_BT, length_B = _window_prompt(prompt, state, spaces)
    # The prompt's last token is left to the loop below, so that every step decodes a token and then chooses one. A row
    # whose cache continues reads the previous window's last token there.
    is_new_B = is_active_B & ~_extends_previous(prompt, state, spaces)
    cache = _read_prompts(model, state.cache, tokens_BT, length_B - 1, is_new_B, spaces)
    # A row that has ended decodes from slot 0 in each window, so that it never leaves the cache.
    # For a row that continues this is the length that its cache has: after a prompt of P tokens the last window read P
    # + 59, one less than the P + 60 of this prompt.
    cache = dataclasses.replace(cache, length_B=jnp.where(is_active_B, length_B - 1, 0))
    last_B = jnp.take_along_axis(tokens_BT, (length_B - 1)[:, None], axis=1)[:, 0]
    starts = [spaces.semantic_vocab + codebook * spaces.codebook_size for codebook in range(spaces.n_coarse)]
    # 1,024 of 12,096 ids each: of the small model's head in float32 a step reads 3.1 MB instead of 37. It also keeps
    # ids 12,048 to 12,095 from being drawn, which transformers leaves legal in codebook 1.
    heads = [decoder.head_of(start, spaces.codebook_size) for start in starts]

    def body(frame: jax.Array, carry: tuple) -> tuple:
        """Generates a frame. Codebooks are unrolled in Python: each multiplies only its own 1,024 ids of the head."""
        last_B, cache, tokens_BT, logprob_BT = carry
        for codebook, (start, head) in enumerate(zip(starts, heads, strict=True)):
            index = frame * spaces.n_coarse + codebook
            hidden_BD, cache = decoder.decode(last_B, cache)
            logits_BV = head(hidden_BD)
            # The draw's number counts the row's own tokens, so neither windows nor other rows change its key.
            code_B = choose(draw_logits(logits_BV, sampling), sampling, done_B + index)
            last_B = start + code_B
            tokens_BT = tokens_BT.at[:, index].set(last_B)
            logprob_BT = logprob_BT.at[:, index].set(log_probability(logits_BV, code_B))
        return last_B, cache, tokens_BT, logprob_BT

    B = last_B.shape[0]
    empty = (jnp.zeros((B, spaces.coarse_window), jnp.int32), jnp.zeros((B, spaces.coarse_window)))
    n_frames = frames_per_coarse_window(spaces)
    _, cache, tokens_BT, logprob_BT = jax.lax.fori_loop(0, n_frames, body, (last_B, cache, *empty))
    return WindowsDone(
        state.window_B + is_active_B,
        _write_rows(state.stream_BT, tokens_BT, spaces.n_coarse_history + done_B, is_active_B),
        _write_rows(state.logprob_BT, logprob_BT, done_B, is_active_B),
        cache,
    )


def _window_prompt(prompt: CoarsePrompt, state: WindowsDone, spaces: TokenSpaces) -> tuple[jax.Array, jax.Array]:
    """The windows' prompts, left-aligned, int32 [B, 887] in Bark, and their lengths, int32 [B]."""
    B, windows = state.window_B.shape[0], _windows(prompt, state, spaces)
    semantic_BT = _slice_rows(prompt.semantic_BT, windows.first_semantic, spaces.n_coarse_semantic)
    infer_B1 = jnp.full((B, 1), spaces.coarse_infer, jnp.int32)
    recent_B = spaces.n_coarse_history + windows.n_done - windows.n_recent  # a voice's stream is right-aligned
    # Always 630 columns in Bark. Those past n_recent hold pads, at and past length_B: causal attention keeps them out
    # of the prompt, and decoding overwrites their slots.
    recent_BT = _slice_rows(state.stream_BT, recent_B, spaces.n_coarse_history)
    length_B = spaces.n_coarse_semantic + 1 + windows.n_recent
    return jnp.concatenate([semantic_BT, infer_B1, recent_BT], axis=1), length_B


def _windows(prompt: CoarsePrompt, state: WindowsDone, spaces: TokenSpaces) -> CoarseWindow:
    """The next window of each row, int32 [B] each field."""
    return coarse_window(state.window_B, prompt.n_history_B, prompt.n_stream_B, _room(prompt, spaces), spaces)


def _extends_previous(prompt: CoarsePrompt, state: WindowsDone, spaces: TokenSpaces) -> jax.Array:
    """Whether each row's KV cache continues from the previous window, bool [B]; see `windows.extends_previous`."""
    return extends_previous(state.window_B, prompt.n_history_B, prompt.n_stream_B, _room(prompt, spaces), spaces)


def _read_prompts(
    model: CoarseNetwork,
    cache: KVCache,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    is_new_B: jax.Array,
    spaces: TokenSpaces,
) -> KVCache:
    """Returns the cache with the prompts of rows where is_new_B holds; other rows are unchanged.

    Args:
      tokens_BT: prompts, left-aligned.
      length_B: tokens to read of each: the prompt without its last token.

    A prompt without a stream, the first window's without a voice, is read in a pass of its own: 256 positions instead
    of 886 in Bark. The pass depends on the row's own prompt, never on other rows, so the batch leaves its bits alone.
    """
    n_short = spaces.n_coarse_semantic
    is_short_B = length_B <= n_short
    cache = _read_rows(model, cache, tokens_BT[:, :n_short], length_B, is_new_B & is_short_B)
    return _read_rows(model, cache, tokens_BT[:, :-1], length_B, is_new_B & ~is_short_B)


def _read_rows(
    model: CoarseNetwork, cache: KVCache, tokens_BT: jax.Array, length_B: jax.Array, is_read_B: jax.Array
) -> KVCache:
    """Returns the cache with the prompts of rows where is_read_B holds, read `prompts_at_once` until done."""
    B = length_B.shape[0]
    n_at_once = prompts_at_once(B, model.platform)
    if n_at_once == B:
        # A cond, not the loop below: with a single row the loop's body does not depend on its carry, so XLA hoists it
        # and reads the prompt even where no row needs it.

        def read(cache: KVCache) -> KVCache:
            return cache.replaced(is_read_B, model.prefill(model.embed(tokens_BT), length_B, cache.n_slots))

        return jax.lax.cond(jnp.any(is_read_B), read, lambda cache: cache, cache)

    def read_some(carry: tuple[KVCache, jax.Array]) -> tuple[KVCache, jax.Array]:
        cache, is_left_B = carry
        (tokens_RT, length_R), row_R = take_rows((tokens_BT, length_B), is_left_B, n_at_once)
        some = model.prefill(model.embed(tokens_RT), length_R, cache.n_slots)
        return put_rows(cache, some, row_R, B), is_left_B.at[row_R].set(False, mode="drop")

    cache, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), read_some, (cache, is_read_B))
    return cache


def _slice_rows(x_BT: jax.Array, start_B: jax.Array, size: int) -> jax.Array:
    """Slices `size` columns of each row of x [B, T] from its own start: [B, size]."""
    return jax.vmap(lambda x_T, start: jax.lax.dynamic_slice(x_T, (start,), (size,)))(x_BT, start_B)


def _write_rows(x_BT: jax.Array, new_BT: jax.Array, start_B: jax.Array, is_written_B: jax.Array) -> jax.Array:
    """Writes new_BT into each row of x [B, T] from its own start, where is_written_B holds."""
    # The select below is needed: a row that has filled its array starts at the end of it, where dynamic_update_slice
    # clamps the start and would overwrite the row's last window.
    written_BT = jax.vmap(lambda x_T, new_T, start: jax.lax.dynamic_update_slice(x_T, new_T, (start,)))(
        x_BT, new_BT, start_B
    )
    return jnp.where(is_written_B[:, None], written_BT, x_BT)
