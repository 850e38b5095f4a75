"""Continuous batching for callers who come and go: requests arrive while others run, leave early, or want parts.

The slots and the programs are those of `engine`. There throughput alone counts, and a row may wait until others fill
the slots; here somebody listens:

    turns      The semantic and the coarse stage take turns, so that no row waits for a stage to run out of rows. Only
               while all coarse slots are taken the coarse stage runs alone, as another row would find no slot there.
    fine       A row passes the fine stage and the codec as soon as it has its coarse codes, without others.
    streamed   The parts of a streamed row are decoded between coarse windows, by `streaming.PartDecoder`.
    cuts       The programs allow for top-k and top-p from the start, so the first row that has either makes nobody wait
               for a compilation, and changes nobody's program.

What a row equals, whatever else runs:

    plain      the tokens of `generate_rows([row])`, as in `engine`
    streamed   semantic tokens and coarse codes as well; fine codes and audio are those of `stream_row(row)`
"""

import collections
import dataclasses
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from bark_jax._system.forks import check_process
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.errors import BarkError, DeviceError, DeviceMemoryError
from bark_jax.generation.codec import FRAMES_STEP
from bark_jax.generation.engine import N_SLOTS, Engine, Finished, Job, Programs, Run
from bark_jax.generation.rows import Row
from bark_jax.generation.runner import Networks, coarse_spaces, require_finite
from bark_jax.generation.streaming import PartDecoder, StreamedPart, n_known_frames
from bark_jax.generation.tokens import TokenSpaces

# Coarse windows of a streamed row's first part; see `streaming.stream_row`.
FIRST_WINDOWS = 1
# A step takes as long for one row as for all slots. On a CPU, whose arithmetic a few rows fill, more slots make one
# caller wait and give many nothing.
CPU_SLOTS = 4


class LiveRequest(NamedTuple):
    """A row to speak, with a tag by which the caller recognises its parts and its result."""

    tag: Any
    row: Row
    is_streamed: bool = False


class Part(NamedTuple):
    """A part of a streamed request's audio. `Finished` follows after its last one."""

    tag: Any
    part: StreamedPart


class Arrivals(Protocol):
    """Requests as they come, for the thread that runs the engine; other threads fill it."""

    def take(self) -> LiveRequest | None:
        """Returns the next request; None where none waits now."""

    def take_cancelled(self) -> Collection[Any]:
        """Returns the tags of requests to drop that were taken before; each once."""

    def wait(self) -> bool:
        """Blocks until a request waits. Returns False if none will come any more."""


@dataclasses.dataclass
class Usage:
    """Slots taken and seconds of each stage, for metrics. The engine's thread writes it, any thread reads it."""

    n_semantic: int = 0  # slots taken
    n_coarse: int = 0
    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(("semantic", "coarse", "fine", "codec"), 0.0)
    )
    _stage: str | None = None
    _since: float = 0.0

    def enter(self, stage: str | None) -> None:
        """Counts the time from now on for a stage; None while nothing runs."""
        now = time.perf_counter()
        if self._stage is not None:
            self.seconds[self._stage] += now - self._since
        self._stage, self._since = stage, now


class LiveEngine(Engine):
    """An engine for requests that arrive while others run.

    Args:
      model, devices: as for `Engine`.
      n_slots: as for `Engine`; None for its default, or CPU_SLOTS on a CPU.

    Attributes:
      usage: slots taken and seconds of each stage.

    Raises:
      InputError, UnsupportedError: as `Engine`.
    """

    def __init__(self, model: Networks, n_slots: int | None = None, devices: Sequence[jax.Device] | None = None):
        if n_slots is None:
            platform = (model.device if devices is None else devices[0]).platform
            n_slots = CPU_SLOTS if platform == "cpu" else N_SLOTS
        super().__init__(model, n_slots, devices, group_size=1, may_cut=True)
        self.usage = Usage()

    @property
    def can_stream(self) -> bool:
        """Whether requests may be streamed: not with a codec that looks ahead."""
        return self._programs.model.codec_model.decoder.is_causal

    @under_own_config
    def serve(self, arrivals: Arrivals) -> Iterator[Finished | Part]:
        """Generates rows as they arrive, until the arrivals end. Yields parts and results; a cancelled row has none.

        One thread iterates, and nothing runs while it does something else. A device's error is that of the rows which
        ran; later rows are tried again. Where a device is out of memory the number of slots is halved, and unfinished
        rows start over, except for streamed ones that have sent a part.

        Raises:
          UnsupportedError: this process was forked after JAX had run.
        """
        check_process()
        again: list[Job] = []
        while True:
            run = None
            try:
                run = _LiveRun(self._programs, self.n_slots, arrivals, again, self.usage)
                yield from run.events()
                return
            except DeviceError as error:
                failed, sent = (again, set()) if run is None else (run.unfinished, run.sent)
                if not failed:  # no memory for the slots themselves: the error of whoever asks next
                    if not arrivals.wait():
                        return
                    failed = [Job(request) for request in [arrivals.take()] if request is not None]
                can_retry = self._can_retry(error)
                again = [Job(job.request) for job in failed if can_retry and job not in sent]
                for job in failed:
                    if not can_retry or job in sent:
                        yield Finished(job.request.tag, None, error)
            finally:
                self.usage.enter(None)
                self.usage.n_semantic = self.usage.n_coarse = 0

    def _can_retry(self, error: DeviceError) -> bool:
        """Halves the slots where memory is what the device lacks. Returns whether rows may start over."""
        if not isinstance(error, DeviceMemoryError):
            return False
        try:
            self._halve(error)
        except BarkError:  # no fewer slots are possible
            return False
        return True

    @under_own_config
    def warm_up(self, row: Row) -> None:
        """Compiles all programs: runs the row plain and streamed, and the last two stages for each length of audio.

        Args:
          row: a row of two coarse windows or more, so that a stream of it has a first part and a later one.

        Raises:
          DeviceError: a device fails.
          BarkError: a stage computed values that are not finite.
        """
        requests = [LiveRequest(name, row, is_streamed) for name, is_streamed in (("plain", False), ("stream", True))]
        for event in self.serve(_Listed(requests)):
            if isinstance(event, Finished) and event.error is not None:
                raise event.error
        spaces = self._programs.model.spaces
        longest = spaces.n_frames(spaces.max_semantic)
        for n_frames in range(FRAMES_STEP, longest + FRAMES_STEP, FRAMES_STEP):
            codes_QT = np.zeros((spaces.n_coarse, min(n_frames, longest)), np.int32)
            self._programs.finish([Job(requests[0], coarse=(codes_QT, codes_QT))])


@dataclasses.dataclass(eq=False)
class _Stream:
    """A streamed row between its semantic stage and its last part."""

    decoder: PartDecoder
    stops: frozenset[int]  # coarse windows after which a part is due
    n_windows: int = 0  # coarse windows it has had


class _Listed:
    """Arrivals that are all there."""

    def __init__(self, requests: Sequence[LiveRequest]):
        self._requests = collections.deque(requests)

    def take(self) -> LiveRequest | None:
        return self._requests.popleft() if self._requests else None

    def take_cancelled(self) -> Collection[Any]:
        return ()

    def wait(self) -> bool:
        return bool(self._requests)


class _LiveRun(Run):
    """A pass over arriving requests with a fixed number of slots; a device's error ends it."""

    def __init__(self, programs: Programs, n_slots: int, arrivals: Arrivals, again: Sequence[Job], usage: Usage):
        super().__init__(programs, n_slots, iter(()), collections.deque(again))
        self._arrivals, self._usage = arrivals, usage
        self._on_stage = usage.enter
        self._streams: dict[Job, _Stream] = {}
        self._is_coarse_turn = False

    def events(self) -> Iterator[Finished | Part]:
        """Runs turns until the arrivals end; see `LiveEngine.serve`."""
        while True:
            self._drop(self._arrivals.take_cancelled())
            self._usage.enter("semantic")
            yield from self._fill()
            self._usage.n_semantic, self._usage.n_coarse = len(self._semantic.jobs), len(self._coarse.jobs)
            if self._coarse.jobs or self._semantic.jobs:
                yield from self._turn()
                continue
            self._usage.enter(None)
            if not self._arrivals.wait():
                return

    @property
    def sent(self) -> set[Job]:
        """Streamed jobs that have sent a part."""
        return {job for job, stream in self._streams.items() if stream.decoder.has_sent}

    def _take(self) -> Job | None:
        if self._again:
            return self._again.popleft()
        request = self._arrivals.take()
        return None if request is None else Job(request)

    def _drop(self, tags: Collection[Any]) -> None:
        if not tags:
            return
        self._semantic.drop(tags)
        self._coarse.drop(tags)
        self._spoken = collections.deque(job for job in self._spoken if job.request.tag not in tags)
        self._again = collections.deque(job for job in self._again if job.request.tag not in tags)
        self._streams = {job: stream for job, stream in self._streams.items() if job.request.tag not in tags}

    def _turn(self) -> Iterator[Finished | Part]:
        """Runs a chunk of the semantic stage or a window of the coarse one, and what follows from it."""
        is_coarse = self._coarse.is_full or self._is_coarse_turn or not self._semantic.jobs
        self._is_coarse_turn = not is_coarse
        if not (is_coarse and self._coarse.jobs):
            self._ended.extend(self._semantic.run())
        else:
            self._usage.enter("coarse")
            streamed = [job for job in self._coarse.jobs if job.request.is_streamed]
            self._ended.extend(self._coarse.run())
            yield from self._send_parts(streamed)
        while self._ended:
            yield from self._receive(*self._ended.popleft())

    def _receive(self, job: Job, error: BarkError | None) -> Iterator[Finished | Part]:
        """Takes a job that has left its slot to its next stage."""
        if error is not None:
            self._streams.pop(job, None)
            yield Finished(job.request.tag, None, error)
        elif job.coarse is None:
            if job.request.is_streamed:
                self._start_stream(job)
            self._spoken.append(job)
        elif job.request.is_streamed:
            self._in_group = [job]
            yield from self._end_stream(job)
            self._in_group = []
        else:
            yield from self._finish([job])

    def _start_stream(self, job: Job) -> None:
        spaces = coarse_spaces([job.row], self._programs.model.spaces)
        decoder = PartDecoder(self._programs.model, job.row, on_stage=self._usage.enter)
        self._streams[job] = _Stream(decoder, frozenset(decoder.stops(_n_frames(job, spaces), FIRST_WINDOWS, spaces)))

    def _send_parts(self, streamed: Sequence[Job]) -> Iterator[Finished | Part]:
        """Decodes the parts that are due of jobs in coarse slots, after a window of each."""
        spaces, in_slots, due = self._coarse.spaces, set(self._coarse.jobs), {}
        for job in streamed:
            stream = self._streams[job]
            stream.n_windows += 1
            if job in in_slots and stream.n_windows in stream.stops:
                due[job] = n_known_frames(stream.n_windows, _n_frames(job, spaces), spaces)
        if not due:
            return
        for job, known in self._coarse.known(due).items():
            try:
                yield from self._decode(job, *known)
            except DeviceError:
                raise
            except BarkError as error:
                self._drop([job.request.tag])
                yield Finished(job.request.tag, None, error)

    def _end_stream(self, job: Job) -> Iterator[Finished | Part]:
        """Decodes a streamed job's last part, and yields its result."""
        assert job.semantic is not None and job.coarse is not None
        try:
            yield from self._decode(job, *job.coarse)
        except DeviceError:
            raise
        except BarkError as error:
            finished = Finished(job.request.tag, None, error)
        else:
            utterance = self._streams[job].decoder.utterance(job.semantic, job.coarse)
            finished = Finished(job.request.tag, utterance, None)
        del self._streams[job]
        yield finished

    def _decode(self, job: Job, codes_QT: np.ndarray, logprob_QT: np.ndarray) -> Iterator[Part]:
        require_finite(logprob_QT, "coarse")
        part = self._streams[job].decoder.decode(codes_QT, _n_frames(job, self._coarse.spaces))
        if part is not None:
            yield Part(job.request.tag, part)


def _n_frames(job: Job, spaces: TokenSpaces) -> int:
    assert job.semantic is not None
    return int(spaces.n_frames(len(job.semantic[0])))
