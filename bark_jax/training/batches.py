"""Batches for the transformers' losses (teacher forcing): the layout of generation, with true tokens for drawn ones.

A batch is a dict of numpy arrays, batch axis first, and a pure function of the step. So resuming a run needs the step
alone, no state of a data iterator. All arrays are int32 but for the masks:

    semantic    text, history [B, n_text]            the prompt's halves, as `generation.semantic` lays them out
                targets [B, T]                       semantic tokens, then the end token; at most MAX_LENGTHS lengths T
    coarse      semantic [B, n_coarse_semantic]      the prompt of one window, as `generation.coarse` lays it out
                stream [B, n_coarse_history + coarse_window]    the window's history, then its own codes
    fine        codes [B, fine_window, n_fine]       one window, as `generation.fine` has it before a prediction
                codebook [B]                         index of the predicted codebook
                targets [B, fine_window]             true codes of that codebook

is_target is a bool mask of the shape of the targets (coarse: of the stream): true where a token counts in the loss,
false in padding. Coarse batches also have is_new, true only for codes of the window itself, not of its history.

An epoch is a permutation of the examples, cut into batches; a remainder smaller than a batch is dropped, another one
each epoch. With probability `history_share` a row has a voice prompt: another utterance of the same speaker.
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

# Semantic batches are padded to at most MAX_LENGTHS different lengths, each a multiple of LENGTH_MULTIPLE or
# max_semantic: XLA compiles one program a length, and a length for every batch would compile hundreds.
MAX_LENGTHS = 4
LENGTH_MULTIPLE = 32

# The last number of a generator's seed sequence: keeps the draws of a row and of an epoch's order independent.
_OF_A_ROW, _OF_AN_EPOCH = 1, 2


def semantic_batches(
    dataset: Dataset, spaces: TokenSpaces, *, batch_size: int, seed: int, history_share: HistoryShare = 0.5
) -> MakeBatch:
    """Batches for `losses.semantic_loss`. Examples of similar length share a batch, so that little of it is padding.

    An example of max_semantic tokens has no end token: generation stops there by count.

    Args:
      batch_size: rows of a batch, at most the number of examples.
      seed: seeds the order of every epoch and every draw.
      history_share: probability that a row has a voice prompt, one for all voices or one by voice name. A voice with
        share 1.0 is never trained without its prompt, so it does not influence texts spoken without a voice.

    Raises:
      InputError: batch_size, seed or history_share is out of range, or history_share does not name every voice.
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
    """Batches for `losses.coarse_loss`: one window of each example, drawn at random at every step.

    Arguments and errors are those of `semantic_batches`.
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
    """Batches for `losses.fine_loss`: one window of each example, drawn at random at every step.

    The predicted codebook cycles over rows and steps, so that all are trained equally often: with 6 predicted codebooks
    (2..7) and 4 rows, step 0 trains 2 3 4 5 and step 1 trains 6 7 2 3. Arguments and errors are those of
    `semantic_batches`.
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
    """(semantic tokens [S], stream [T], length of the history at the stream's start) of one window, unpadded."""
    semantic_T, stream_T = np.zeros(0, np.int32), np.zeros(0, np.int32)
    if history is not None:
        semantic_T, stream_T = trim_history(history.semantic, history.codes[: spaces.n_coarse], spaces)
    n_windows = count_coarse_windows(example.codes.shape[1], spaces)
    n_done, first_semantic, n_recent = coarse_window(window, len(semantic_T), len(stream_T), n_windows, spaces)
    semantic_T = np.concatenate([semantic_T, example.semantic])[first_semantic:][: spaces.n_coarse_semantic]
    now = len(stream_T) + n_done
    stream_T = np.concatenate([stream_T, interleave(example.codes[: spaces.n_coarse], spaces)])
    # The last window of an utterance is cut by the end of the stream; the padding that follows is masked.
    return semantic_T, stream_T[now - n_recent : now + spaces.coarse_window], n_recent


def _fine_window(
    example: Example, history: Example | None, codebook: int, rng: np.random.Generator, spaces: TokenSpaces
) -> Batch:
    """Builds one row of a fine batch: codes [T, Q], targets [T], is_target [T] and codebook [], T = fine_window.

    The predicted codebook and those above it hold codes of the history and of earlier windows only; the rest of them is
    codebook_size, the pad. The codebooks below are full: true codes, and random codes in the padding past the last
    frame, where generation has whatever the network predicted there.
    """
    n_history, known_TQ = 0, example.codes.T
    if history is not None:
        recent_TQ = history.codes.T[-spaces.n_fine_history :]
        n_history, known_TQ = len(recent_TQ), np.concatenate([recent_TQ, known_TQ])
    n_frames = example.codes.shape[1]
    window = int(rng.integers(count_fine_windows(n_frames, n_history, spaces)))
    start, fill = fine_window(window, n_frames, n_history, spaces)
    n_filled = 0  # frames that earlier windows filled, history included
    if window:
        n_filled = fine_window(window - 1, n_frames, n_history, spaces).start + spaces.fine_window

    true_TQ = np.full((spaces.fine_window, spaces.n_fine), spaces.codebook_size, np.int32)
    part_TQ = known_TQ[start : start + spaces.fine_window]
    true_TQ[: len(part_TQ)] = part_TQ
    codes_TQ = true_TQ.copy()
    codes_TQ[max(n_history, n_filled) - start :, codebook:] = spaces.codebook_size
    drawn_TQ = codes_TQ[len(part_TQ) :, spaces.n_coarse : codebook]
    # A view: this writes into codes_TQ.
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
    """Draws the examples of a step and their voice prompts: a function of seed, step and row alone."""

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
        """(index of an example, its random generator) for each row of a step."""
        epoch, batch = divmod(step, len(self._dataset) // self._batch_size)
        return [
            # numpy hashes the numbers of a seed: neighbouring steps and rows have unrelated draws.
            (int(index), np.random.default_rng((self._seed, step, row, _OF_A_ROW)))
            for row, index in enumerate(self._epoch(epoch)[batch])
        ]

    def draw_history(self, index: int, rng: np.random.Generator) -> Example | None:
        """Another utterance of the same speaker; None where the row gets no voice or the speaker has no other."""
        voice = self._voice_N[index]
        same = self._by_voice[voice]
        if rng.random() >= self._history_share_by_voice[voice] or len(same) == 1:
            return None
        other = int(rng.integers(len(same) - 1))
        # `same` is sorted, so skipping one position from `index` on draws evenly from all others.
        return self._dataset[int(same[other + (same[other] >= index)])]

    def _order_epoch(self, epoch: int) -> np.ndarray:
        """Indices of the epoch's examples, int [batches, batch_size], sorted into batches of similar length.

        A batch that examples of one length do not fill takes the next longer ones. The order of the batches is random.
        """
        order = self._dataset.permutation(epoch, self._seed)
        order = order[: len(order) - len(order) % self._batch_size]
        # Stable, so that examples of one length keep the epoch's random order.
        batches = order[np.argsort(self._length_N[order], kind="stable")].reshape(-1, self._batch_size)
        return np.random.default_rng((self._seed, epoch, 0, _OF_AN_EPOCH)).permutation(batches)


def _shares(history_share: HistoryShare, voices: Sequence[str]) -> list[float]:
    """The probability of a voice prompt for each voice, in the order of `voices`."""
    by_name = history_share if isinstance(history_share, Mapping) else dict.fromkeys(voices, history_share)
    if by_name.keys() != set(voices):
        raise InputError(f"history_share is of {', '.join(by_name)}, expected all voices: {', '.join(voices)}")
    for share in by_name.values():
        if not 0 <= share <= 1:
            raise InputError(f"history_share is {share}, expected a probability from 0 to 1")
    return [by_name[name] for name in voices]


def _round_lengths(n_targets_N: np.ndarray, max_length: int) -> np.ndarray:
    """Rounds each count [N] up to one of at most MAX_LENGTHS lengths, quantiles of the counts: int [N]."""
    # "higher" takes counts that occur. The last quantile is the largest count, so no example is cut.
    quantiles = np.quantile(n_targets_N, np.linspace(0, 1, MAX_LENGTHS + 1)[1:], method="higher")
    lengths = np.unique(np.minimum(-(-quantiles // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, max_length).astype(int))
    return lengths[np.searchsorted(lengths, n_targets_N)]


def _pad(rows: Sequence[np.ndarray], length: int, value: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads rows on the right: int32 [B, length], and the bool mask [B, length] of what is not padding."""
    padded_BT = np.full((len(rows), length), value, np.int32)
    for b, row in enumerate(rows):
        padded_BT[b, : len(row)] = row
    return padded_BT, np.arange(length)[None] < np.array([len(row) for row in rows])[:, None]
