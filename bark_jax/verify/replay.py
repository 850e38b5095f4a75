"""Replays recordings of a published model with the model at hand, in float32 with matmul precision "highest".

Every stage that chooses tokens is compared twice:

    read along   The network reads the recorded tokens, and each of its choices is compared with the recorded one. A
                 different choice is excused where this model's logits of the two are as close as the rounding of
                 float16 can explain.
    generated    The stage generates by itself, and its tokens are compared up to the first that differs. That one is
                 judged as in reading along, as all tokens before it are equal.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.errors import InputError
from bark_jax.generation.rows import Row as GenerationRow
from bark_jax.generation.runner import run_coarse, run_fine, run_semantic
from bark_jax.generation.sampling import key_data
from bark_jax.generation.settings import resolve_settings
from bark_jax.generation.tokens import TokenSpaces, interleave
from bark_jax.generation.windows import coarse_window, count_coarse_windows
from bark_jax.model import BarkModel
from bark_jax.networks.causal import CoarseNetwork, SemanticNetwork
from bark_jax.networks.fine import FineNetwork
from bark_jax.parity.rows import LOGIT_BOUND, Row
from bark_jax.verify import recordings

# Largest differences of logits that float16 and bfloat16 explain, as shares of their standard deviation. A random
# network of the small size differs by 0.006 of it in float16, and by 0.05 in bfloat16 (benchmarks/RESULTS.md). Another
# network differs by more than all of it.
FLOAT16_BOUND, BFLOAT16_BOUND = 0.03, 0.3


class _Choices(NamedTuple):
    """Choices of the network at T recorded tokens."""

    token_T: np.ndarray  # the most likely token
    deficit_T: np.ndarray  # its logit less that of the recorded token; 0 where they are the same
    margin_T: np.ndarray  # its logit less that of the runner-up
    near_tie_T: np.ndarray  # a deficit up to this is rounding: twice FLOAT16_BOUND, as both logits are off


def replay(model: BarkModel, folder: Path, names: list[str], *, is_quick: bool = False) -> Iterator[Row]:
    """Compares a model with recordings, and yields one row for each check.

    A file that cannot be replayed gives a row that says why, and the next one follows.

    Args:
      model: in float32.
      folder: the recordings.
      names: files of `recordings.FILES` that the folder has.
      is_quick: replay one run a stage, and all logits.
    """
    replays: dict[str, tuple[str, Callable[[BarkModel, Path, bool], Iterator[Row]]]] = {
        recordings.SEMANTIC_LOGITS: ("semantic", _replay_logits),
        recordings.SEMANTIC_GREEDY: ("semantic", _replay_semantic),
        recordings.COARSE_GREEDY: ("coarse", _replay_coarse),
        recordings.FINE_GREEDY: ("fine", _replay_fine),
    }
    for name in names:
        stage, run = replays[name]
        try:
            yield from run(model, folder, is_quick)
        except InputError as error:
            yield Row(stage, name, False, note=f"not replayed: {error}")


def _replay_logits(model: BarkModel, folder: Path, is_quick: bool) -> Iterator[Row]:
    spaces = model.spaces
    for n, recording in enumerate(recordings.read_logits(folder, model.config, spaces)):
        if recording.is_summed:
            ours_V = _semantic_logits(model.semantic, recording.ids_T, recording.ids_T[-1:], spaces)[0]
        else:
            ours_V = np.asarray(_logits(model.semantic, recording.ids_T[None]))[0, -1]
        how = "text and history summed" if recording.is_summed else "text and history in sequence"
        yield compare_with_float16(f"logits, prompt {n}, {how}", ours_V[: len(recording.logits_V)], recording.logits_V)


def compare_with_float16(check: str, ours_V: np.ndarray, recorded_V: np.ndarray) -> Row:
    """Compares logits [V] within what float16 explains; the note says which precision explains the difference."""
    spread = float(recorded_V.std())
    difference_V = np.abs(ours_V - recorded_V)
    difference, at = float(difference_V.max()), int(difference_V.argmax())
    bounds = {"float32": LOGIT_BOUND, "float16": FLOAT16_BOUND, "bfloat16": BFLOAT16_BOUND}
    precision = next((name for name, bound in bounds.items() if difference <= bound * spread), "no precision")
    note = f"largest at id {at}; {precision} explains it"
    if (best := int(ours_V.argmax())) != (recorded := int(recorded_V.argmax())):
        note += f"; the most likely id is {best}, recorded {recorded}"
    return Row("semantic", check, precision in ("float32", "float16"), difference, FLOAT16_BOUND * spread, note=note)


def _replay_semantic(model: BarkModel, folder: Path, is_quick: bool) -> Iterator[Row]:
    spaces = model.spaces
    for n, recording in enumerate(recordings.read_semantic(folder, model.config, spaces)[: 1 if is_quick else None]):
        tokens_T = recording.tokens_T
        read_T = np.concatenate([recording.ids_T[-1:], tokens_T[:-1]])
        logits_TV = _semantic_logits(model.semantic, recording.ids_T, read_T, spaces)
        # The end is left out: the recordings do not say whether they end by the end token or by a limit.
        choices = _choices(logits_TV[:, : spaces.semantic_vocab], tokens_T)
        yield compare_read_along("semantic", f"run {n}, read along", tokens_T, choices)
        row = _greedy_row(model, recording.ids_T[: spaces.n_text], len(tokens_T))
        ((ours_T, _),) = run_semantic(model.semantic, [row], spaces)
        yield compare_generated("semantic", f"run {n}, generated", ours_T, tokens_T, choices)


def _replay_coarse(model: BarkModel, folder: Path, is_quick: bool) -> Iterator[Row]:
    spaces = model.spaces
    for n, recording in enumerate(recordings.read_coarse(folder, model.config, spaces)[: 1 if is_quick else None]):
        stream_T = interleave(recording.codes_QT, spaces)
        choices = _coarse_choices(model.coarse_acoustics, recording.semantic_T, stream_T, spaces)
        yield compare_read_along("coarse", f"run {n}, read along", stream_T, choices)
        row = _greedy_row(model, np.zeros(0, np.int32), len(recording.semantic_T))
        ((ours_QT, _),) = run_coarse(model.coarse_acoustics, [row], [recording.semantic_T], spaces)
        yield compare_generated("coarse", f"run {n}, generated", interleave(ours_QT, spaces), stream_T, choices)


def _replay_fine(model: BarkModel, folder: Path, is_quick: bool) -> Iterator[Row]:
    spaces = model.spaces
    for n, recording in enumerate(recordings.read_fine(folder, model.config, spaces)[: 1 if is_quick else None]):
        choices = _fine_choices(model.fine_acoustics, recording.codes_QT, spaces)
        filled_T = recording.codes_QT[spaces.n_coarse :].reshape(-1)
        yield compare_read_along("fine", f"run {n}, read along", filled_T, choices)
        row = _greedy_row(model, np.zeros(0, np.int32), 1)
        (ours_QT,) = run_fine(model.fine_acoustics, [row], [recording.coarse_QT], spaces)
        ours_T = ours_QT[spaces.n_coarse :].reshape(-1)
        yield compare_generated("fine", f"run {n}, generated", ours_T, filled_T, choices, recording.codes_QT.shape[1])


def _greedy_row(model: BarkModel, text_T: np.ndarray, n_tokens: int) -> GenerationRow:
    """A row without a voice that takes the most likely token in every stage, n_tokens semantic ones."""
    asked = {"do_sample": False, "max_new_tokens": n_tokens, "min_eos_p": None, "allow_early_stop": False}
    (settings,) = resolve_settings(asked, 1, model.generation_config, model.spaces)
    return GenerationRow(text_T, None, key_data(0), settings)


# Results are sliced by numpy: on the device each slice would be a program of its own.
@jax.jit
def _logits(network: CoarseNetwork, tokens_BT: jax.Array) -> jax.Array:
    """Logits [B, T, V] of a causal network."""
    return network(tokens_BT)


@jax.jit
def _logits_of_prompt(network: SemanticNetwork, text_BT: jax.Array, history_BT: jax.Array, read_BT: jax.Array) -> Any:
    """Logits [B, T, V] after each token of read_BT, which follow the sum of text and history."""
    embeds_BTD = jnp.concatenate([network.embed_prompt(text_BT, history_BT), network.embed(read_BT)], axis=1)
    return network(inputs_embeds=embeds_BTD)[:, text_BT.shape[1] :]


def _semantic_logits(
    network: SemanticNetwork, ids_T: np.ndarray, read_T: np.ndarray, spaces: TokenSpaces
) -> np.ndarray:
    """Logits [T, V] after each token of read_T [T]; padded to max_semantic, so that all lengths run one program."""
    padded_T = np.zeros(spaces.max_semantic, np.int32)
    padded_T[: len(read_T)] = read_T
    text_T, history_T = ids_T[: spaces.n_text], ids_T[spaces.n_text : 2 * spaces.n_text]
    return np.asarray(_logits_of_prompt(network, text_T[None], history_T[None], padded_T[None]))[0, : len(read_T)]


def _coarse_choices(
    network: CoarseNetwork, semantic_T: np.ndarray, stream_T: np.ndarray, spaces: TokenSpaces
) -> _Choices:
    """The coarse network's choices at each token of a recorded stream [T], window by window."""
    n_windows = count_coarse_windows(len(stream_T) // spaces.n_coarse, spaces)
    parts = []
    for number in range(n_windows):
        window = coarse_window(number, 0, 0, n_windows, spaces)
        start, n_recent = int(window.n_done), int(window.n_recent)
        new_T = stream_T[start : start + spaces.coarse_window]
        around_T = np.full(spaces.n_coarse_semantic, spaces.coarse_pad)
        near_T = semantic_T[int(window.first_semantic) :][: spaces.n_coarse_semantic]
        around_T[: len(near_T)] = near_T
        prompt_T = np.concatenate([around_T, [spaces.coarse_infer], stream_T[start - n_recent : start]])
        tokens_T = np.zeros(spaces.n_coarse_semantic + 1 + spaces.n_coarse_history + spaces.coarse_window, np.int32)
        tokens_T[: len(prompt_T) + len(new_T)] = np.concatenate([prompt_T, new_T])
        first = len(prompt_T) - 1
        logits_TV = np.asarray(_logits(network, tokens_T[None]))[0, first : first + len(new_T)]
        parts.append(_coarse_codes(logits_TV, new_T, spaces))
    return _joined(parts)


def _coarse_codes(logits_TV: np.ndarray, tokens_T: np.ndarray, spaces: TokenSpaces) -> _Choices:
    """Choices among the codes of each token's codebook. A window starts on codebook 0."""
    logits_TV = logits_TV[:, spaces.semantic_vocab :][:, : spaces.n_coarse * spaces.codebook_size]
    T = len(tokens_T)
    codebook_T = np.arange(T) % spaces.n_coarse
    legal_TC = logits_TV.reshape(T, spaces.n_coarse, spaces.codebook_size)[np.arange(T), codebook_T]
    first_T = spaces.semantic_vocab + codebook_T * spaces.codebook_size
    chosen = _choices(legal_TC, tokens_T - first_T)
    return chosen._replace(token_T=chosen.token_T + first_T)


@functools.partial(jax.jit, static_argnums=(1, 3))
def _fine_logits(network: FineNetwork, codebook: int, codes_BTQ: jax.Array, n_codes: int) -> jax.Array:
    """Logits [B, T, n_codes] of one codebook."""
    return network(codebook, codes_BTQ)[:, :, :n_codes]


def _fine_choices(network: FineNetwork, codes_QT: np.ndarray, spaces: TokenSpaces) -> _Choices:
    """The fine network's choices [codebooks filled * T], codebook by codebook, reading recorded codes [n_fine, T].

    Frames past the recording pad the window. The network fills them too and attends to them, and they are not recorded:
    there it reads its own choices.
    """
    T = codes_QT.shape[1]
    window_TQ = np.full((spaces.fine_window, spaces.n_fine), spaces.codebook_size, np.int32)
    window_TQ[:T, : spaces.n_coarse] = codes_QT[: spaces.n_coarse].T
    parts = []
    for codebook in range(spaces.n_coarse, spaces.n_fine):
        logits_TV = np.asarray(_fine_logits(network, codebook, window_TQ[None], spaces.codebook_size))[0]
        window_TQ[:, codebook] = logits_TV.argmax(axis=1)
        window_TQ[:T, codebook] = codes_QT[codebook]
        parts.append(_choices(logits_TV[:T], codes_QT[codebook]))
    return _joined(parts)


def _choices(logits_TV: np.ndarray, recorded_T: np.ndarray) -> _Choices:
    second_T, best_T = np.partition(logits_TV, -2, axis=1)[:, -2:].T
    return _Choices(
        token_T=logits_TV.argmax(axis=1),
        deficit_T=best_T - logits_TV[np.arange(len(recorded_T)), recorded_T],
        margin_T=best_T - second_T,
        near_tie_T=2 * FLOAT16_BOUND * logits_TV.std(axis=1),
    )


def _joined(parts: list[_Choices]) -> _Choices:
    return _Choices(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def compare_read_along(stage: str, check: str, recorded_T: np.ndarray, choices: _Choices) -> Row:
    """Compares choices at recorded tokens [T]; within if every different one is a near tie."""
    differs = np.flatnonzero(choices.token_T != recorded_T)
    wrong = differs[~(choices.deficit_T[differs] <= choices.near_tie_T[differs])]  # NaN is wrong
    note = ""
    if differs.size:
        at = wrong[0] if wrong.size else differs[0]
        what = f"{wrong.size} differ by more than a near tie" if wrong.size else f"{differs.size} differ, at near ties"
        note = f"{what}; the first: {_difference(at, choices.token_T, recorded_T, choices.deficit_T, choices)}"
    return Row(stage, check, not wrong.size, n_equal=len(recorded_T) - differs.size, n_total=len(recorded_T), note=note)


def compare_generated(
    stage: str, check: str, ours_T: np.ndarray, recorded_T: np.ndarray, choices: _Choices, at_once: int = 1
) -> Row:
    """Compares generated tokens [T] up to the first that differs, or to the first group of `at_once` that has one.

    The fine stage chooses all frames of a codebook at once, so all differences of the first codebook with one are
    judged, and the group counts with its equal codes.
    """
    differs = np.flatnonzero(ours_T != recorded_T)
    if not differs.size:
        return Row(stage, check, True, n_equal=len(recorded_T), n_total=len(recorded_T))
    group_end = (differs[0] // at_once + 1) * at_once
    group = differs[differs < group_end]
    # Where the stage did not choose what reading along chose, the two best logits have to be as close as well.
    gap_T = np.where(choices.token_T == ours_T, choices.deficit_T, np.maximum(choices.deficit_T, choices.margin_T))
    wrong = group[~(gap_T[group] <= choices.near_tie_T[group])]
    n_equal = int(differs[0]) if at_once == 1 else int(group_end - group.size)
    at = wrong[0] if wrong.size else group[0]
    note = f"{_difference(at, ours_T, recorded_T, gap_T, choices)}; compared up to there"
    return Row(stage, check, not wrong.size, n_equal=n_equal, n_total=len(recorded_T), note=note)


def _difference(at: int, ours_T: np.ndarray, recorded_T: np.ndarray, gap_T: np.ndarray, choices: _Choices) -> str:
    return (
        f"token {at} is {ours_T[at]}, recorded {recorded_T[at]}; logits differ by {gap_T[at]:.1e}, "
        f"float16 explains {choices.near_tie_T[at]:.1e}"
    )
