"""The fine stage: the codes of the first codebooks to the codes of all.

The network reads fine_window (1,024) frames at once and fills codebooks 2 to 7 in turn, one pass each: in Bark 6
passes a window. More frames take several windows, which advance by n_fine_history (512) frames and overwrite what
overlaps.

    1,154 frames, no voice    window 0 reads 0 .. 1,023 and fills all of them
                              window 1 reads 130 .. 1,153 and fills 512 .. 1,153

Attention is bidirectional and unmasked, so a row's length and the padding of its last window influence its codes: every
row gets the windows that it would have alone. Rows of one window are not read again while others have their second.

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
    """Input of a batch. `make_prompt` makes numpy arrays: each jnp operation on the host would compile a program."""

    codes_BTQ: jax.Array  # int32, a voice's history, then the coarse codes; codebook_size where a code is not known
    n_history_B: jax.Array  # int32, frames of history
    n_frames_B: jax.Array  # int32, frames to fill


def make_prompt(coarse: list[np.ndarray], histories: list[np.ndarray | None], spaces: TokenSpaces) -> FinePrompt:
    """Lays rows out for the stage.

    Args:
      coarse: each row's coarse codes [n_coarse, T].
      histories: codes [n_fine, T] of each row's voice, of which the last n_fine_history frames are read, or None.
    """
    # Padded to a number of full windows, so that all lengths up to one window run one program.
    n_frames = max(codes_QT.shape[1] for codes_QT in coarse)
    # Room for a full history even without a voice, so that rows with and without share a program: 1,536 columns in Bark
    # up to 1,024 frames, 2,560 up to its longest clip of 1,154.
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
    """Fills all codebooks of all rows.

    Of `sampling` temperature and key are used; neither suno's nor transformers' fine stage has top-k or top-p.

    Returns:
      codes_BQT, int32 [B, n_fine, T] without the history; T is the prompt's width less n_fine_history. Codes past a
      row's frames are garbage. Where the network's logits are not finite the code is -1, as codes, unlike
      log-probabilities, have no NaN.
    """
    B = prompt.n_frames_B.shape[0]
    sampling = dataclasses.replace(sampling, key_B=fold(sampling.key_B, FINE_STAGE))
    n_windows_B = count_fine_windows(prompt.n_frames_B, prompt.n_history_B, spaces)

    def body(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Fills the next window of the first rows that need one; the others wait for a later iteration."""
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
    # The start, n_history_B, is at most n_fine_history, so this slice always fits and is never moved.
    n_frames = codes_BTQ.shape[1] - spaces.n_fine_history
    return _slice_rows(codes_BTQ, prompt.n_history_B, n_frames).transpose(0, 2, 1)


def _fill_window(
    model: FineNetwork, prompt: FinePrompt, sampling: Sampling, window_B: jax.Array, spaces: TokenSpaces
) -> jax.Array:
    """Fills one window of each row and returns all of its codes, int32 [B, T, Q].

    Codes before `fill` are context and keep their values. The keys of draws derive from row, window and codebook.
    """
    start_B, fill_B = fine_window(window_B, prompt.n_frames_B, prompt.n_history_B, spaces)
    # To the end of the window, past the row's frames too: pads get codes, which the next codebooks' passes attend to.
    # In Suno's code they do; keeping the pads would change the codes that count.
    is_filled_BT = jnp.arange(spaces.fine_window)[None] >= (fill_B - start_B)[:, None]
    window_BTQ = _slice_rows(prompt.codes_BTQ, start_B, spaces.fine_window)
    key_B = fold(sampling.key_B, window_B)
    # Unrolled: which tables are summed and which is the head must be static. The program holds the network once a
    # codebook, 6 times in Bark.
    for codebook in range(spaces.n_coarse, spaces.n_fine):
        # The network's ids past codebook_size are the pad and padding of the vocabulary: never a code.
        logits_BTV = model(codebook, window_BTQ)[:, :, : spaces.codebook_size]
        code_BT = _choose_codes(logits_BTV, sampling.temperature_B, fold(key_B, codebook))
        window_BTQ = window_BTQ.at[:, :, codebook].set(jnp.where(is_filled_BT, code_BT, window_BTQ[:, :, codebook]))
    return jax.vmap(lambda codes_TQ, window_TQ, start: jax.lax.dynamic_update_slice(codes_TQ, window_TQ, (start, 0)))(
        prompt.codes_BTQ, window_BTQ, start_B
    )


def _choose_codes(logits_BTV: jax.Array, temperature_B: jax.Array, key_B: jax.Array) -> jax.Array:
    """Chooses each frame's code, int32 [B, T]: the most likely at temperature 0, else a draw; -1 for NaN logits."""
    # Greedy and drawn codes are both computed, as temperatures are traced: one program serves all rows.
    scaled_BTV = logits_BTV / jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None, None]
    # A key a row draws noise [T, V] for that row alone; one key for [B, T, V] would make draws depend on B.
    drawn_BT = jax.vmap(jax.random.categorical)(key_B, scaled_BTV)
    likeliest_BT = jnp.argmax(logits_BTV, axis=-1)
    code_BT = jnp.where(temperature_B[:, None] > 0, drawn_BT, likeliest_BT)
    return jnp.where(jnp.isfinite(logits_BTV).all(axis=-1), code_BT, -1).astype(jnp.int32)


def _slice_rows(x_BTQ: jax.Array, start_B: jax.Array, size: int) -> jax.Array:
    """Slices `size` frames of each row of x [B, T, Q] from its own start: [B, size, Q]."""
    return jax.vmap(lambda x_TQ, start: jax.lax.dynamic_slice(x_TQ, (start, 0), (size, x_TQ.shape[1])))(x_BTQ, start_B)
