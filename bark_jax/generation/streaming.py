"""Streaming: the audio of one utterance in parts, while the coarse stage still generates the rest.

The semantic stage runs first, to its end; the other three run in turns, each turn over a few more coarse windows:

    semantic   ssssssssssss
    coarse                 c  cc   cccc     ....     windows of the part
    fine                    f   f      f             the part's frames, without those held back for the next
    codec                    a   a      a            the part's audio

The first audio comes after the semantic stage, first_windows coarse windows (0.4 s of Bark's audio each), one fine
window and one step of the codec. Each part has twice the windows of the one before, up to what one fine window holds:
in Bark 1, 2, 4, 8, 16, 8 for the longest utterance of 39 windows. So it takes 6 fine windows in all, where
`generate_rows` takes 2, or 3 with a voice. Playback does not run dry where the second part takes no longer than the
first lasts: 2 coarse windows and a fine one against 0.2 s of Bark's audio.

Equality with `generate_rows([row])`:

    semantic, coarse   equal bit for bit: the same compiled programs
    fine               not equal. There a window reads the frames before and after; here it reads the codes already
                       sent, as if they were a voice's, and n_held frames ahead, and each part draws from a key of its
                       own. An utterance of one part is equal
    audio              the codec's output for the codes sent, to float32 rounding
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from bark_jax._system.by_value import ByValue
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.generation import coarse
from bark_jax.generation.codec_steps import decode_next, frames_per_step
from bark_jax.generation.placement import placement_of
from bark_jax.generation.rows import Row, Utterance
from bark_jax.generation.runner import (
    Networks,
    OnStage,
    as_on_stage,
    coarse_prompt,
    coarse_result,
    coarse_spaces,
    require_finite,
    run_fine,
    run_semantic,
    sampling_of,
)
from bark_jax.generation.seeds import derive_key
from bark_jax.generation.settings import check_count
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.generation.windows import count_coarse_windows, frames_per_coarse_window, n_new_fine_frames
from bark_jax.networks.layout import for_decoding
from bark_jax.networks.platform import check_sharding, device_errors

# Frames that the fine stage reads ahead of the last frame sent: 0.2 s of Bark's audio.
N_HELD = 15

# Purpose folded into a row's key for the fine draws of later parts; large, as the stages fold 0 to 2 (see `seeds`).
_LATER_PART = 0x70617274  # "part"


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedPart(ByValue):
    """A part of an utterance: consecutive frames and their audio."""

    samples: np.ndarray  # float32 [A] audio samples, or [A, channels] of a stereo codec
    codes: np.ndarray  # int32 [n_fine, T] codes, the coarse ones first
    first_frame: int  # number of frames before the part


def stream_row(
    model: Networks, row: Row, *, first_windows: int = 1, n_held: int = N_HELD, on_stage: OnStage | None = None
) -> "RowStream":
    """Generates one utterance part by part (streaming).

    Nothing runs ahead of the caller: a part is generated when the iterator is asked for it; `close`, or dropping the
    stream, ends the work. A row whose semantic stage ends at once has no parts.

    Args:
      first_windows: coarse windows of the first part. More of them start later and give a slow machine a lead.
      n_held: frames that the fine stage reads ahead. With 0 latency is lowest, and parts end without context of what
        follows; n_fine_history or more leave a fine window room for little else.
      on_stage: called with "semantic", and then with "coarse", "fine" and "codec" as each starts on a part.

    Returns:
      An iterator of parts; its `utterance` is the complete utterance once they have run out.

    Raises:
      InputError: first_windows is no positive count, n_held no count, or on_stage no function.
      UnsupportedError: the codec looks ahead (is not causal), so it cannot stream; use `generate_rows`.
      BarkError: while iterating, a stage computed values that are not finite, or a device fails.
    """
    first_windows, n_held = check_count("first_windows", first_windows), check_count("n_held", n_held, minimum=0)
    return RowStream(model, row, first_windows, n_held, as_on_stage(on_stage))


class RowStream(Iterator[StreamedPart]):
    """The parts of one utterance; see `stream_row`."""

    utterance: Utterance | None  # the complete utterance, once the parts have run out

    @under_own_config
    def __init__(self, model: Networks, row: Row, first_windows: int, n_held: int, on_stage: OnStage):
        self.utterance = None
        self._model, self._row, self._on_stage = model, row, on_stage
        check_sharding(model.coarse_acoustics, model.codec_model)  # the other two stages check their own
        self._decoder = PartDecoder(model, row, n_held, on_stage)
        self._first_windows = first_windows
        self._parts = self._generate()

    @under_own_config
    def __next__(self) -> StreamedPart:
        return next(self._parts)

    def close(self) -> None:
        """Ends the work; no parts follow."""
        self._parts.close()

    def _generate(self) -> Iterator[StreamedPart]:
        model, spaces = self._model, self._model.spaces
        self._on_stage("semantic")
        (spoken,) = run_semantic(model.semantic, [self._row], spaces, placement_of(model, None))
        n_frames = spaces.n_frames(len(spoken[0]))
        known = np.zeros((spaces.n_coarse, 0), np.int32), np.zeros((spaces.n_coarse, 0), np.float32)
        for known in self._run_coarse(spoken[0]):
            if (part := self._decoder.decode(known[0], n_frames)) is not None:
                yield part
        self.utterance = self._decoder.utterance(spoken, known)

    def _run_coarse(self, tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields codes and log-probabilities [n_coarse, T] from the utterance's start, with more frames each time."""
        model = self._model
        spaces = coarse_spaces([self._row], model.spaces)
        prompt = coarse_prompt([self._row], [tokens], spaces)
        sampling = sampling_of([self._row], "coarse")
        with device_errors("coarse", model.coarse_acoustics, 1):
            state = coarse.start(for_decoding(model.on_accelerator(model.coarse_acoustics), 1), prompt, spaces=spaces)
        n_frames, n_done = spaces.n_frames(len(tokens)), 0
        for stop in self._decoder.stops(n_frames, self._first_windows, spaces):
            self._on_stage("coarse")
            with device_errors("coarse", model.coarse_acoustics, 1):
                network = for_decoding(model.on_accelerator(model.coarse_acoustics), 1)
                state = coarse.run_windows(network, prompt, sampling, state, stop - n_done, spaces=spaces)
                out = jax.device_get(coarse.read_codes(prompt, state, spaces=spaces))
            n_done = stop
            codes_QT, logprob_QT = coarse_result(out, 0, n_known_frames(stop, n_frames, spaces))
            require_finite(logprob_QT, "coarse")
            yield codes_QT, logprob_QT


class PartDecoder:
    """The fine stage and the codec of one utterance that is streamed: coarse codes to parts.

    Args:
      model: its fine network and its codec run.
      n_held: as for `stream_row`.
      on_stage: called with "fine" and "codec" as each starts on a part.

    Raises:
      UnsupportedError: the codec looks ahead, so it cannot stream.
    """

    def __init__(self, model: Networks, row: Row, n_held: int = N_HELD, on_stage: OnStage | None = None):
        self._model, self._row, self._n_held, self._on_stage = model, row, n_held, as_on_stage(on_stage)
        self._sent = np.zeros((model.spaces.n_fine, 0), np.int32)  # codes [n_fine, T] of the parts so far
        self._codec_state = model.codec_model.init_decode_state(1)
        empty, _ = decode_next(model.codec_model, self._sent, self._codec_state)  # no samples: [0] or [0, channels]
        self._audio = [empty]

    @property
    def has_sent(self) -> bool:
        """Whether there was a part."""
        return self._sent.shape[1] > 0

    def stops(self, n_frames: int, first_windows: int, spaces: TokenSpaces) -> list[int]:
        """Numbers of coarse windows after which a part is due; see `part_stops`.

        Args:
          spaces: with the row's coarse windows (`runner.coarse_spaces`).
        """
        # In Bark (512 - 15) // 30 = 16 windows: their frames and those held back fit one fine window behind a full
        # history.
        max_windows = (n_new_fine_frames(spaces) - self._n_held) // frames_per_coarse_window(spaces)
        return part_stops(count_coarse_windows(n_frames, spaces), first_windows, max_windows)

    def decode(self, coarse_QT: np.ndarray, n_frames: int) -> StreamedPart | None:
        """Decodes the next part; None where too few frames are known for one.

        Args:
          coarse_QT: coarse codes known so far, from the utterance's start.
          n_frames: frames of the utterance.

        Raises:
          BarkError: a value is not finite, or a device fails.
        """
        first_frame = self._sent.shape[1]
        codes_QT = self._run_fine(coarse_QT[:, first_frame:], n_frames - first_frame)
        if not codes_QT.shape[1]:
            return None
        samples = self._run_codec(codes_QT)
        self._audio.append(samples)
        return StreamedPart(samples, codes_QT, first_frame)

    def utterance(self, spoken: tuple[np.ndarray, np.ndarray], known: tuple[np.ndarray, np.ndarray]) -> Utterance:
        """Returns the complete utterance, after its last part.

        Args:
          spoken: semantic tokens and their log-probabilities.
          known: coarse codes and their log-probabilities.
        """
        (tokens, semantic_logprob), (coarse_QT, coarse_logprob) = spoken, known
        audio = np.concatenate(self._audio)
        return Utterance(tokens, coarse_QT, self._sent, audio, semantic_logprob, coarse_logprob)

    def _run_fine(self, coarse_QT: np.ndarray, n_left: int) -> np.ndarray:
        """Fills the codes of the next frames to send, int32 [n_fine, T]; T is 0 where too few are known.

        Args:
          coarse_QT: coarse codes known of the frames that have not been sent.
          n_left: frames of the utterance that have not been sent. Where all of them are known, all are sent; else
            n_held are held back, and the rest is rounded down to whole steps of the codec: of 30 known 15 are sent.
        """
        n_known = coarse_QT.shape[1]
        step = frames_per_step(self._model.codec_model)
        # Whole steps of the codec, as only a clip's last call may end within one (`codec_steps.decode_next`).
        n_ready = n_left if n_known == n_left else max(0, n_known - self._n_held) // step * step
        if n_ready == 0:
            return self._sent[:, :0]
        self._on_stage("fine")
        model, row = self._model, dataclasses.replace(self._row, key=self._fine_key())
        (known_QT,) = run_fine(
            model.fine_acoustics, [row], [coarse_QT], model.spaces, placement_of(model, None), [self._fine_history()]
        )
        codes_QT = known_QT[:, :n_ready]
        self._sent = np.concatenate([self._sent, codes_QT], axis=1)
        return codes_QT

    def _fine_history(self) -> np.ndarray:
        """The codes [n_fine, T] that the fine stage reads as history: the voice's, then those sent."""
        voice = self._row.voice
        return self._sent if voice is None else np.concatenate([voice.fine, self._sent], axis=1)

    def _fine_key(self) -> np.ndarray:
        """The row's key for the first part; for others one derived by first frame, so that no draws repeat."""
        # 0 for the first part, and number 0 of a purpose is the key itself: an utterance of one part equals that of
        # `generate`.
        first_frame = self._sent.shape[1]
        return derive_key(self._row.key, _LATER_PART, first_frame)

    def _run_codec(self, codes_QT: np.ndarray) -> np.ndarray:
        """Decodes the next frames: float32 [A], or [A, channels] of a stereo codec."""
        self._on_stage("codec")
        codec = self._model.codec_model
        with device_errors("codec", codec, 1):
            samples, self._codec_state = decode_next(self._model.on_accelerator(codec), codes_QT, self._codec_state)
        require_finite(samples, "codec")
        return samples


def n_known_frames(n_windows: int, n_frames: int, spaces: TokenSpaces) -> int:
    """Frames of an utterance of n_frames whose coarse codes are known after n_windows windows."""
    return min(n_windows * frames_per_coarse_window(spaces), n_frames)


def part_stops(n_windows: int, first: int, max_windows: int) -> list[int]:
    """Windows done after each part: sizes double from `first` up to `max_windows`; the last part takes the remainder.

    39 windows, first 1, at most 16 -> [1, 3, 7, 15, 31, 39]
    """
    done, size, found = 0, first, []
    while done < n_windows:
        done = min(done + size, n_windows)
        size = max(size, min(2 * size, max_windows))
        found.append(done)
    return found
