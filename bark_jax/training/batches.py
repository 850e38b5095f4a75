"""Batches for the losses: what generation feeds the networks, with the true tokens where it would have drawn some.

A batch is a dict of numpy arrays with the rows first, and a pure function of the step: training goes on where it was
stopped by asking for the next step, and nothing else has to be kept. B rows of

    semantic    text, history [B, n_text]            the prompt's halves, as `generation.semantic` lays them out
                targets [B, T]                       the semantic tokens and the end token; T is one of a few lengths
    coarse      semantic [B, n_coarse_semantic]      the prompt of one window, as `generation.coarse` lays it out
                stream [B, n_coarse_history + coarse_window]    its history and its own codes
    fine        codes [B, fine_window, n_fine]       one window, as `generation.fine` has it before a prediction
                codebook [B], targets [B, fine_window]          that codebook, and its true codes

and is_target, bool and of the shape of what is predicted: true where a token counts. (is_new of the coarse batches:
where it is of the window itself and not of its history.)

Every epoch has each example once, in an order of its own, but for the few that fill no whole batch. With probability
`history_share` a row has a voice: another utterance of the same speaker.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bark_jax.errors import InputError
from bark_jax.generation.coarse import trim_history
from bark_jax.generation.semantic import pad_prompt
from bark_jax.generation.tokens import TokenSpaces, interleave, text_tokens
from bark_jax.generation.windows import coarse_window, count_coarse_windows, count_fine_windows, fine_window
from bark_jax.training.dataset import Dataset, Example

Batch = dict[str, np.ndarray]
MakeBatch = Callable[[int], Batch]
HistoryShare = float | Mapping[str, float]

# Semantic batches come in so many lengths, each a multiple of so many targets: one program a length.
MAX_LENGTHS = 4
LENGTH_MULTIPLE = 32

# The last number of a generator's key, so that no two draws are of one generator.
_OF_A_ROW, _OF_AN_EPOCH = 1, 2


def semantic_batches(
    dataset: Dataset, spaces: TokenSpaces, *, batch_size: int, seed: int, history_share: HistoryShare = 0.5
) -> MakeBatch:
    """Batches for `losses.semantic_loss`, each of one length. Tokens past max_semantic are cut, and the end with them.

    Args:
      batch_size: rows of a batch, at most the number of examples.
      seed: of every order and draw.
      history_share: probability that a row has a voice; or one by the name of each voice. What is never heard without
        its voice is not what a text without one sounds like.

    Raises:
      InputError: a batch size or share that cannot be.
    """
    n_targets_N = np.minimum(dataset.semantic_lengths + 1, spaces.max_semantic)
    lengths_N = _round_lengths(n_targets_N, spaces.max_semantic)
    rows = _Rows(dataset, lengths_N, batch_size, seed, history_share)

    def make(step: int) -> Batch:
        drawn = rows.draw(step)
        length = max(lengths_N[index] for index, _ in drawn)
        examples = [dataset[index] for index, _ in drawn]
        histories = [rows.draw_history(index, rng) for index, rng in drawn]
        text_BT, history_BT = pad_prompt(
            [text_tokens(each.text, np.ones(len(each.text)), spaces) for each in examples],
            [np.zeros(0, np.int32) if other is None else other.semantic for other in histories],
            spaces,
        )
        ended = [np.append(each.semantic, spaces.semantic_end)[: spaces.max_semantic] for each in examples]
        targets_BT, is_target_BT = _pad(ended, length, spaces.semantic_end)
        return {"text": text_BT, "history": history_BT, "targets": targets_BT, "is_target": is_target_BT}

    return make


def coarse_batches(
    dataset: Dataset, spaces: TokenSpaces, *, batch_size: int, seed: int, history_share: HistoryShare = 0.5
) -> MakeBatch:
    """Batches for `losses.coarse_loss`: of each example one of its windows, drawn anew every time.

    Arguments and errors as for `semantic_batches`.
    """
    rows = _Rows(dataset, np.zeros(len(dataset)), batch_size, seed, history_share)

    def make(step: int) -> Batch:
        windows = []
        for index, rng in rows.draw(step):
            example = dataset[index]
            window = int(rng.integers(count_coarse_windows(example.codes.shape[1], spaces)))
            windows.append(_coarse_window(example, rows.draw_history(index, rng), window, spaces))
        semantic, streams, n_history = zip(*windows, strict=True)
        semantic_BT, _ = _pad(semantic, spaces.n_coarse_semantic, spaces.coarse_pad)
        stream_BT, is_target_BT = _pad(streams, spaces.n_coarse_history + spaces.coarse_window, spaces.coarse_pad)
        is_new_BT = is_target_BT & (np.arange(stream_BT.shape[1])[None] >= np.array(n_history)[:, None])
        return {"semantic": semantic_BT, "stream": stream_BT, "is_target": is_target_BT, "is_new": is_new_BT}

    return make


def fine_batches(
    dataset: Dataset, spaces: TokenSpaces, *, batch_size: int, seed: int, history_share: HistoryShare = 0.5
) -> MakeBatch:
    """Batches for `losses.fine_loss`: of each example one of its windows, drawn anew every time.

    The predicted codebook goes round from row to row, so that all of them are trained equally; a batch of any size
    runs the same program. Arguments and errors as for `semantic_batches`.
    """
    rows = _Rows(dataset, np.zeros(len(dataset)), batch_size, seed, history_share)
    n_predicted = spaces.n_fine - spaces.n_coarse

    def make(step: int) -> Batch:
        windows = []
        for row, (index, rng) in enumerate(rows.draw(step)):
            codebook = spaces.n_coarse + (step * batch_size + row) % n_predicted
            windows.append(_fine_window(dataset[index], rows.draw_history(index, rng), codebook, rng, spaces))
        return {name: np.stack([window[name] for window in windows]) for name in windows[0]}

    return make


def _coarse_window(
    example: Example, history: Example | None, window: int, spaces: TokenSpaces
) -> tuple[np.ndarray, np.ndarray, int]:
    """Semantic tokens and stream of a window, unpadded, and how much of the stream was there before it."""
    semantic_T, stream_T = np.zeros(0, np.int32), np.zeros(0, np.int32)
    if history is not None:
        semantic_T, stream_T = trim_history(history.semantic, history.codes[: spaces.n_coarse], spaces)
    n_windows = count_coarse_windows(example.codes.shape[1], spaces)
    n_done, first_semantic, n_recent = coarse_window(window, len(semantic_T), len(stream_T), n_windows, spaces)
    semantic_T = np.concatenate([semantic_T, example.semantic])[first_semantic:][: spaces.n_coarse_semantic]
    now = len(stream_T) + n_done
    stream_T = np.concatenate([stream_T, interleave(example.codes[: spaces.n_coarse], spaces)])
    return semantic_T, stream_T[now - n_recent : now + spaces.coarse_window], n_recent


def _fine_window(
    example: Example, history: Example | None, codebook: int, rng: np.random.Generator, spaces: TokenSpaces
) -> Batch:
    """One row of a fine batch.

    Of the predicted codebook and those above it, the window holds the history and what earlier windows filled. The
    codebooks below are filled to the window's end: with true codes, and in the padding with random ones, where
    generation has whatever the network happens to predict there.
    """
    n_history, known_TQ = 0, example.codes.T
    if history is not None:
        recent_TQ = history.codes.T[-spaces.n_fine_history :]
        n_history, known_TQ = len(recent_TQ), np.concatenate([recent_TQ, known_TQ])
    n_frames = example.codes.shape[1]
    window = int(rng.integers(count_fine_windows(n_frames, n_history, spaces)))
    start, fill = fine_window(window, n_frames, n_history, spaces)
    n_filled = 0  # by the windows before
    if window:
        n_filled = fine_window(window - 1, n_frames, n_history, spaces).start + spaces.fine_window

    true_TQ = np.full((spaces.fine_window, spaces.n_fine), spaces.codebook_size, np.int32)
    part_TQ = known_TQ[start : start + spaces.fine_window]
    true_TQ[: len(part_TQ)] = part_TQ
    codes_TQ = true_TQ.copy()
    codes_TQ[max(n_history, n_filled) - start :, codebook:] = spaces.codebook_size
    drawn_TQ = codes_TQ[len(part_TQ) :, spaces.n_coarse : codebook]
    drawn_TQ[:] = rng.integers(spaces.codebook_size, size=drawn_TQ.shape)
    frame_T = np.arange(spaces.fine_window)
    is_target_T = (frame_T >= max(fill, n_history) - start) & (frame_T < len(part_TQ))
    return {
        "codes": codes_TQ,
        "targets": true_TQ[:, codebook],
        "is_target": is_target_T,
        "codebook": np.int32(codebook),
    }


class _Rows:
    """Which examples a step has, with which voices. Nothing in it changes."""

    def __init__(self, dataset: Dataset, length_N: np.ndarray, batch_size: int, seed: int, history_share: HistoryShare):
        if not 1 <= batch_size <= len(dataset):
            raise InputError(f"the batch size is {batch_size}, expected 1 to the {len(dataset)} examples there are")
        if seed < 0:
            raise InputError(f"the seed is {seed}, expected 0 or more")
        self._dataset, self._length_N = dataset, length_N
        self._batch_size, self._seed = batch_size, seed
        self._history_share_by_voice = _shares(history_share, dataset.voices)
        voice_N = dataset.voice_indices
        self._voice_N, self._by_voice = voice_N, {voice: np.flatnonzero(voice_N == voice) for voice in set(voice_N)}
        self._epoch = functools.lru_cache(maxsize=2)(self._order_epoch)

    def draw(self, step: int) -> list[tuple[int, np.random.Generator]]:
        """The step's examples, and of each a generator for what else is drawn for it."""
        epoch, batch = divmod(step, len(self._dataset) // self._batch_size)
        return [
            (int(index), np.random.default_rng((self._seed, step, row, _OF_A_ROW)))
            for row, index in enumerate(self._epoch(epoch)[batch])
        ]

    def draw_history(self, index: int, rng: np.random.Generator) -> Example | None:
        """Another utterance of the same speaker, or None: for no voice, or where there is no other."""
        voice = self._voice_N[index]
        same = self._by_voice[voice]
        if rng.random() >= self._history_share_by_voice[voice] or len(same) == 1:
            return None
        other = int(rng.integers(len(same) - 1))
        return self._dataset[int(same[other + (same[other] >= index)])]

    def _order_epoch(self, epoch: int) -> np.ndarray:
        """The epoch's examples [batches, batch_size], in batches of like length.

        A batch that one length does not fill takes the next longer ones, so that none is left over.
        """
        order = self._dataset.permutation(epoch, self._seed)
        order = order[: len(order) - len(order) % self._batch_size]
        batches = order[np.argsort(self._length_N[order], kind="stable")].reshape(-1, self._batch_size)
        return np.random.default_rng((self._seed, epoch, 0, _OF_AN_EPOCH)).permutation(batches)


def _shares(history_share: HistoryShare, voices: Sequence[str]) -> list[float]:
    """The probability of each voice."""
    by_name = history_share if isinstance(history_share, Mapping) else dict.fromkeys(voices, history_share)
    if by_name.keys() != set(voices):
        raise InputError(f"history_share is of {', '.join(by_name)}, expected all voices: {', '.join(voices)}")
    for share in by_name.values():
        if not 0 <= share <= 1:
            raise InputError(f"history_share is {share}, expected a probability from 0 to 1")
    return [by_name[name] for name in voices]


def _round_lengths(n_targets_N: np.ndarray, max_length: int) -> np.ndarray:
    """Each count rounded up to one of MAX_LENGTHS lengths, which have about as many examples each."""
    quantiles = np.quantile(n_targets_N, np.linspace(0, 1, MAX_LENGTHS + 1)[1:], method="higher")
    lengths = np.unique(np.minimum(-(-quantiles // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max_length).astype(int))
    return lengths[np.searchsorted(lengths, n_targets_N)]


def _pad(rows: Sequence[np.ndarray], length: int, value: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows as one int32 array [B, length], padded on the right, and where they are."""
    padded_BT = np.full((len(rows), length), value, np.int32)
    for b, row in enumerate(rows):
        padded_BT[b, : len(row)] = row
    return padded_BT, np.arange(length)[None] < np.array([len(row) for row in rows])[:, None]
