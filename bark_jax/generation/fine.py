"""The fine stage: the codes of the first codebooks to the codes of all.

The network reads fine_window frames at once and fills one codebook after the other. More frames take several windows,
which advance by n_fine_history frames and overwrite what overlaps. All frames of a window see each other, so the number
of frames a row has, and what pads it to a whole window, is part of its result: every row gets the windows that it would
have alone. Rows of one window are not read again while others have their second.

Source: suno-ai/bark, bark/generation.py, `generate_fine`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.generation.sampling import FINE_STAGE, Sampling, fold
from bark_jax.generation.slots import rows_at_once, take_rows
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.generation.windows import count_fine_windows, fine_window
from bark_jax.networks.fine import FineNetwork


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FinePrompt:
    """What the rows of a batch ask for; numpy arrays from the host, as making others there compiles."""

    codes_BTQ: jax.Array  # a voice's history, then the coarse codes; codebook_size where a code is not known
    n_history_B: jax.Array  # int32, frames of history
    n_frames_B: jax.Array  # int32, frames to fill


def make_prompt(coarse: list[np.ndarray], histories: list[np.ndarray | None], spaces: TokenSpaces) -> FinePrompt:
    """Lays rows out for the stage.

    Args:
      coarse: a row's coarse codes [n_coarse, T].
      histories: all codes [n_fine, T] of a row's voice, of which the last n_fine_history frames are read, or None.
    """
    # Whole windows, so that different lengths run one program.
    n_frames = max(codes_QT.shape[1] for codes_QT in coarse)
    width = spaces.n_fine_history + spaces.fine_window * max(1, -(-n_frames // spaces.fine_window))
    codes_BTQ = np.full((len(coarse), width, spaces.n_fine), spaces.codebook_size, np.int32)
    n_history = []
    for row, (codes_QT, history_QT) in enumerate(zip(coarse, histories, strict=True)):
        recent_TQ = np.zeros((0, spaces.n_fine)) if history_QT is None else history_QT.T[-spaces.n_fine_history :]
        n_history.append(len(recent_TQ))
        codes_BTQ[row, : len(recent_TQ)] = recent_TQ
        codes_BTQ[row, len(recent_TQ) : len(recent_TQ) + codes_QT.shape[1], : spaces.n_coarse] = codes_QT.T
    return FinePrompt(
        codes_BTQ,
        np.array(n_history, np.int32),
        np.array([codes_QT.shape[1] for codes_QT in coarse], np.int32),
    )


@functools.partial(jax.jit, static_argnames="spaces")
def generate_fine(model: FineNetwork, prompt: FinePrompt, sampling: Sampling, *, spaces: TokenSpaces) -> jax.Array:
    """Fills all codebooks.

    Sampling takes temperature and key; top-k and top-p are not used by this stage, in either reference.

    Returns:
      codes_BQT, int32 [B, n_fine, T] without the history; T is the prompt's width less n_fine_history. Past a row's
      frames the codes mean nothing. Where the network's logits are not finite, the code is -1.
    """
    B = len(prompt.n_frames_B)
    sampling = dataclasses.replace(sampling, key_B=fold(sampling.key_B, FINE_STAGE))
    n_windows_B = count_fine_windows(prompt.n_frames_B, prompt.n_history_B, spaces)

    def body(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """A window of the first rows that need one."""
        window_B, codes_BTQ = carry
        all_rows = dataclasses.replace(prompt, codes_BTQ=codes_BTQ), sampling, window_B
        rows, row_R = take_rows(all_rows, window_B < n_windows_B, rows_at_once(B, model.platform))
        codes_RTQ = _fill_window(model, *rows, spaces)
        return window_B.at[row_R].add(1, mode="drop"), codes_BTQ.at[row_R].set(codes_RTQ, mode="drop")

    _, codes_BTQ = jax.lax.while_loop(
        lambda carry: jnp.any(carry[0] < n_windows_B),
        body,
        (jnp.zeros(B, jnp.int32), jnp.asarray(prompt.codes_BTQ)),
    )
    n_frames = codes_BTQ.shape[1] - spaces.n_fine_history
    return _slice_rows(codes_BTQ, prompt.n_history_B, n_frames).transpose(0, 2, 1)


def _fill_window(
    model: FineNetwork, prompt: FinePrompt, sampling: Sampling, window_B: jax.Array, spaces: TokenSpaces
) -> jax.Array:
    """`codes_BTQ` with one window of each row: its codes from the first frame on that is not context."""
    start_B, fill_B = fine_window(window_B, prompt.n_frames_B, prompt.n_history_B, spaces)
    is_filled_BT = jnp.arange(spaces.fine_window)[None] >= (fill_B - start_B)[:, None]
    window_BTQ = _slice_rows(prompt.codes_BTQ, start_B, spaces.fine_window)
    key_B = fold(sampling.key_B, window_B)
    for codebook in range(spaces.n_coarse, spaces.n_fine):
        logits_BTV = model(codebook, window_BTQ)[:, :, : spaces.codebook_size]
        code_BT = _choose_codes(logits_BTV, sampling.temperature_B, fold(key_B, codebook))
        window_BTQ = window_BTQ.at[:, :, codebook].set(jnp.where(is_filled_BT, code_BT, window_BTQ[:, :, codebook]))
    return jax.vmap(lambda codes_TQ, window_TQ, start: jax.lax.dynamic_update_slice(codes_TQ, window_TQ, (start, 0)))(
        prompt.codes_BTQ, window_BTQ, start_B
    )


def _choose_codes(logits_BTV: jax.Array, temperature_B: jax.Array, key_B: jax.Array) -> jax.Array:
    """One code a frame: the most likely at temperature 0, else a draw; -1 where that means nothing."""
    scaled_BTV = logits_BTV / jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None, None]
    drawn_BT = jax.vmap(jax.random.categorical)(key_B, scaled_BTV)
    likeliest_BT = jnp.argmax(logits_BTV, axis=-1)
    code_BT = jnp.where(temperature_B[:, None] > 0, drawn_BT, likeliest_BT)
    return jnp.where(jnp.isfinite(logits_BTV).all(axis=-1), code_BT, -1).astype(jnp.int32)


def _slice_rows(x_BTQ: jax.Array, start_B: jax.Array, size: int) -> jax.Array:
    """`size` frames of each row, from its own start on."""
    return jax.vmap(lambda x_TQ, start: jax.lax.dynamic_slice(x_TQ, (start, 0), (size, x_TQ.shape[1])))(x_BTQ, start_B)
