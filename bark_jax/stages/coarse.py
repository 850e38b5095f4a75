"""The coarse stage: semantic tokens to the codes of the first codebooks.

The codes of all coarse codebooks form one stream, frame by frame. It is generated in windows of coarse_window tokens.
Each window reads a prompt afresh: the semantic tokens around the present, the infer token, and the stream so far.

    semantic   h h h s s s s s s s s s s . .   n_coarse_semantic tokens, from max_semantic_history before the present
                         ^ present             on, padded with coarse_pad
    stream     h h h h h h c c c c c c         the last n_coarse_history tokens of the voice's stream and what has been
                                      ^        generated so far

Source: suno-ai/bark, bark/generation.py, `generate_coarse`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.models.gpt import BarkCoarseModel
from bark_jax.stages.sampling import COARSE_STAGE, Sampling, choose, draw_logits, fold, log_probability
from bark_jax.tokens import TokenSpaces, interleave


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CoarsePrompt:
    """What the rows of a batch ask for."""

    semantic_BT: jax.Array  # a voice's semantic history, then the row's tokens; coarse_pad past both
    n_history_B: jax.Array  # int32, how many of them are history
    stream_BT: jax.Array  # [B, n_coarse_history] a voice's stream, right-aligned
    n_stream_B: jax.Array  # int32, its length
    n_frames_B: jax.Array  # int32, frames to generate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CoarseCodes:
    """What the stage gives back. Past a row's frames its codes are those of a continuation nobody asked for."""

    codes_BQT: jax.Array  # int32 [B, n_coarse, T] in [0, codebook_size)
    length_B: jax.Array  # int32, frames
    logprob_BQT: jax.Array  # float32, of each code within its codebook at temperature 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WindowsDone:
    """Everything that changes from window to window."""

    window: jax.Array  # int32, windows generated so far
    stream_BT: jax.Array  # history, right-aligned to n_coarse_history, then the tokens generated so far
    logprob_BT: jax.Array  # of the generated tokens


def trim_history(semantic_T: np.ndarray, coarse_QT: np.ndarray, spaces: TokenSpaces) -> tuple[np.ndarray, np.ndarray]:
    """The part of a voice that conditions the coarse stage: its last semantic tokens, the stream that goes with them.

    The stream loses its last n_coarse tokens, which suno found to sound better, and may start in the middle of a frame.
    A voice too short for one semantic token gives two empty arrays; suno's code would take all of it instead.
    """
    stream_T = interleave(coarse_QT, spaces)
    n_semantic = min(
        spaces.max_semantic_history,
        len(semantic_T) - len(semantic_T) % 2,
        int(len(stream_T) / spaces.stream_per_semantic),
    )
    if n_semantic == 0:
        return semantic_T[:0], stream_T[:0]
    n_stream = spaces.n_stream_history(n_semantic)
    return semantic_T[-n_semantic:], stream_T[-n_stream:][: -spaces.n_coarse]


def make_prompt(
    semantic: list[np.ndarray], voices: list[tuple[np.ndarray, np.ndarray] | None], spaces: TokenSpaces
) -> CoarsePrompt:
    """Lays rows out for the stage.

    Args:
      semantic: a row's semantic tokens.
      voices: a row's voice as (semantic_T, coarse_QT), or None.
    """
    B = len(semantic)
    nothing = (np.zeros(0, np.int32), np.zeros(0, np.int32))
    histories = [nothing if voice is None else trim_history(*voice, spaces) for voice in voices]
    # Whole multiples of max_semantic, so that different texts run one program.
    n_tokens = spaces.max_semantic * max(1, max(-(-len(tokens) // spaces.max_semantic) for tokens in semantic))
    width = spaces.max_semantic_history + n_tokens + spaces.n_coarse_semantic
    semantic_BT = np.full((B, width), spaces.coarse_pad, np.int32)
    stream_BT = np.full((B, spaces.n_coarse_history), spaces.coarse_pad, np.int32)
    for row, (tokens, (history, stream)) in enumerate(zip(semantic, histories, strict=True)):
        semantic_BT[row, : len(history) + len(tokens)] = np.concatenate([history, tokens])
        stream_BT[row, spaces.n_coarse_history - len(stream) :] = stream
    return CoarsePrompt(
        jnp.asarray(semantic_BT),
        jnp.asarray([len(history) for history, _ in histories], jnp.int32),
        jnp.asarray(stream_BT),
        jnp.asarray([len(stream) for _, stream in histories], jnp.int32),
        jnp.asarray([spaces.n_frames(len(tokens)) for tokens in semantic], jnp.int32),
    )


def generate_coarse(
    model: BarkCoarseModel, prompt: CoarsePrompt, sampling: Sampling, *, spaces: TokenSpaces
) -> CoarseCodes:
    """Generates the windows that the longest row needs."""
    state = start(prompt, spaces=spaces)
    state = run_windows(model, prompt, sampling, state, _room(prompt, spaces), spaces=spaces)
    return read_codes(prompt, state, spaces=spaces)


@functools.partial(jax.jit, static_argnames="spaces")
def start(prompt: CoarsePrompt, *, spaces: TokenSpaces) -> WindowsDone:
    """The state before the first window."""
    B, n_tokens = len(prompt.stream_BT), _room(prompt, spaces) * spaces.coarse_window
    # Past the last window there is room for a whole slice, so that slicing the last tokens never clamps.
    n_room = n_tokens + spaces.n_coarse_history
    return WindowsDone(
        jnp.int32(0),
        jnp.pad(prompt.stream_BT, ((0, 0), (0, n_room)), constant_values=spaces.coarse_pad),
        jnp.zeros((B, n_tokens)),
    )


@functools.partial(jax.jit, static_argnames="spaces")
def run_windows(
    model: BarkCoarseModel,
    prompt: CoarsePrompt,
    sampling: Sampling,
    state: WindowsDone,
    stop: int | jax.Array,
    *,
    spaces: TokenSpaces,
) -> WindowsDone:
    """Generates windows until `stop` of them are done, or those that the longest row needs.

    One program for every `stop`: stopping on the way and going on gives, bit for bit, what one run gives.
    """
    sampling = dataclasses.replace(sampling, key_B=fold(sampling.key_B, COARSE_STAGE))
    n_windows = _room(prompt, spaces)
    stop = jnp.minimum(stop, jnp.max(spaces.n_windows(prompt.n_frames_B)))
    return jax.lax.while_loop(
        lambda state: state.window < stop,
        lambda state: _generate_window(model, prompt, sampling, state, spaces, n_windows),
        state,
    )


@functools.partial(jax.jit, static_argnames="spaces")
def read_codes(prompt: CoarsePrompt, state: WindowsDone, *, spaces: TokenSpaces) -> CoarseCodes:
    """The codes of the windows done. What lies beyond them means nothing."""
    first = spaces.n_coarse_history
    stream_BT = state.stream_BT[:, first : first + state.logprob_BT.shape[1]]
    offset_Q1 = (spaces.semantic_vocab + spaces.codebook_size * jnp.arange(spaces.n_coarse))[None, :, None]
    return CoarseCodes(
        _by_codebook(stream_BT, spaces) - offset_Q1, prompt.n_frames_B, _by_codebook(state.logprob_BT, spaces)
    )


def _room(prompt: CoarsePrompt, spaces: TokenSpaces) -> int:
    """Windows that the longest row a prompt of this width can hold would take."""
    n_tokens = prompt.semantic_BT.shape[1] - spaces.max_semantic_history - spaces.n_coarse_semantic
    return spaces.n_windows(spaces.n_frames(n_tokens))


def _by_codebook(stream_BT: jax.Array, spaces: TokenSpaces) -> jax.Array:
    """[B, T * Q] frame by frame -> [B, Q, T]."""
    return stream_BT.reshape(stream_BT.shape[0], -1, spaces.n_coarse).transpose(0, 2, 1)


def _generate_window(
    model: BarkCoarseModel,
    prompt: CoarsePrompt,
    sampling: Sampling,
    state: WindowsDone,
    spaces: TokenSpaces,
    n_windows: int,
) -> WindowsDone:
    """Reads the window's prompt and appends coarse_window tokens."""
    done = state.window * spaces.coarse_window
    tokens_BT, length_B = _window_prompt(prompt, state, spaces, n_windows)
    B, n_prompt = tokens_BT.shape
    # The loop reads the prompt's last token, so that all of its steps are alike.
    cache = model.prefill(model.embed(tokens_BT), length_B - 1, n_prompt + spaces.coarse_window)
    last_B = jnp.take_along_axis(tokens_BT, (length_B - 1)[:, None], axis=1)[:, 0]

    def body(frame: jax.Array, carry: tuple) -> tuple:
        """One frame. The codebooks are unrolled, so that each reads its own static slice of the head."""
        last_B, cache, tokens_BT, logprob_BT = carry
        for codebook in range(spaces.n_coarse):
            index = frame * spaces.n_coarse + codebook
            start = spaces.semantic_vocab + codebook * spaces.codebook_size
            hidden_BD, cache = model.decode(last_B, cache)
            logits_BV = model.logits(hidden_BD, start, spaces.codebook_size)
            code_B = choose(draw_logits(logits_BV, sampling), sampling, done + index)
            last_B = start + code_B
            tokens_BT = tokens_BT.at[:, index].set(last_B)
            logprob_BT = logprob_BT.at[:, index].set(log_probability(logits_BV, code_B))
        return last_B, cache, tokens_BT, logprob_BT

    empty = (jnp.zeros((B, spaces.coarse_window), jnp.int32), jnp.zeros((B, spaces.coarse_window)))
    n_frames = spaces.coarse_window // spaces.n_coarse
    _, _, tokens_BT, logprob_BT = jax.lax.fori_loop(0, n_frames, body, (last_B, cache, *empty))
    return WindowsDone(
        state.window + 1,
        jax.lax.dynamic_update_slice(state.stream_BT, tokens_BT, (0, spaces.n_coarse_history + done)),
        jax.lax.dynamic_update_slice(state.logprob_BT, logprob_BT, (0, done)),
    )


def _window_prompt(
    prompt: CoarsePrompt, state: WindowsDone, spaces: TokenSpaces, n_windows: int
) -> tuple[jax.Array, jax.Array]:
    """The window's prompts, left-aligned, and their lengths."""
    B = prompt.semantic_BT.shape[0]
    done = state.window * spaces.coarse_window
    n_semantic_done = jnp.asarray([spaces.n_semantic_done(w * spaces.coarse_window) for w in range(n_windows)])
    present_B = prompt.n_history_B + n_semantic_done[state.window]
    semantic_BT = _slice_rows(
        prompt.semantic_BT, jnp.maximum(present_B - spaces.max_semantic_history, 0), spaces.n_coarse_semantic
    )
    infer_B1 = jnp.full((B, 1), spaces.coarse_infer, jnp.int32)
    n_recent_B = jnp.minimum(prompt.n_stream_B + done, spaces.n_coarse_history)
    recent_BT = _slice_rows(state.stream_BT, spaces.n_coarse_history + done - n_recent_B, spaces.n_coarse_history)
    length_B = spaces.n_coarse_semantic + 1 + n_recent_B
    return jnp.concatenate([semantic_BT, infer_B1, recent_BT], axis=1), length_B


def _slice_rows(x_BT: jax.Array, start_B: jax.Array, size: int) -> jax.Array:
    """`size` columns of each row, from its own start on."""
    return jax.vmap(lambda x_T, start: jax.lax.dynamic_slice(x_T, (start,), (size,)))(x_BT, start_B)
