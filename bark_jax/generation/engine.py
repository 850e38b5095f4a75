"""Continuous batching: slots of the accelerator that are refilled as soon as their row is done.

    requests -> semantic slots -> coarse slots -> groups of the fine stage and the codec -> finished

A batch of fixed rows runs until its longest row ends. Here a row that ends leaves its slot, between chunks of steps in
the semantic stage and between windows in the coarse stage, and another takes it. The coarse stage, which takes longest,
runs whenever its slots are full or nothing else is left to do.

Every program has one shape, whatever the rows: prompts are read in groups of a fixed size, and the number of slots is
constant. So a row's tokens depend on the row and on the number of slots alone, never on other rows, its slot or the
order in which rows end.

On several devices the slots are divided among them, by `jax.shard_map` without collectives: within a chunk no device
waits for another.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bark_jax._system.forks import check_process
from bark_jax._system.own_jax_config import under_own_config
from bark_jax.errors import BarkError, DeviceMemoryError, InputError, UnsupportedError
from bark_jax.generation import coarse, fine, semantic
from bark_jax.generation.codec import FRAMES_STEP, decode_codes, decode_padded
from bark_jax.generation.placement import AXIS, divide, divide_rows, put_copy
from bark_jax.generation.rows import Row, Utterance
from bark_jax.generation.runner import (
    Networks,
    OnStage,
    coarse_prompt,
    coarse_result,
    coarse_spaces,
    fine_prompt,
    fine_result,
    require_finite,
    sampling_of,
    semantic_prompt,
    semantic_result,
)
from bark_jax.generation.sampling import Sampling
from bark_jax.generation.settings import check_count
from bark_jax.generation.slots import ROWS_AT_ONCE, put_rows, rows_at_once
from bark_jax.generation.windows import count_coarse_windows, count_fine_windows
from bark_jax.networks.layout import for_decoding
from bark_jax.networks.platform import Devices, check_devices, device_errors, platform_of

# Slots by default. In bfloat16 the large model's caches then take 1.6 GB in the semantic and 1.5 GB in the coarse
# stage.
N_SLOTS = 16
# Steps of the semantic stage between two polls for rows that have ended. A slot idles for half of them on average.
# A multiple of semantic.STEPS_PER_POLL, to which `run_steps` rounds up.
STEPS_PER_CHUNK = 32


class Request(NamedTuple):
    """A row to speak, with a tag by which the caller recognises its result."""

    tag: Any
    row: Row


class Finished(NamedTuple):
    """The result of a request: an utterance, or the error of this row alone."""

    tag: Any
    utterance: Utterance | None
    error: BarkError | None


@dataclasses.dataclass(eq=False)
class Job:
    """A request in progress, with the results of the stages it has passed."""

    request: Any  # a Request, or a `live.LiveRequest`
    semantic: tuple[np.ndarray, np.ndarray] | None = None  # tokens [S], log-probabilities [S]
    coarse: tuple[np.ndarray, np.ndarray] | None = None  # codes, log-probabilities, [n_coarse, T] each

    @property
    def row(self) -> Row:
        """Row of the request."""
        return self.request.row


Ended = tuple[Job, BarkError | None]  # a job that has left its slot, with its error


class Engine:
    """Generates rows of any mix of lengths by continuous batching.

    Args:
      model: its networks are copied to the devices.
      n_slots: rows in the semantic stage at once, and as many in the coarse stage; rounded up to a multiple of the
        number of devices. Throughput grows with it until the device's arithmetic or memory is full.
      devices: devices of this process, or "all" of them; None takes the model's.
      group_size, may_cut: as for `Programs`.

    Raises:
      InputError: n_slots or devices is invalid.
      UnsupportedError: the model's networks are offloaded, or this process was forked after JAX had run.
    """

    @under_own_config
    def __init__(
        self,
        model: Networks,
        n_slots: int = N_SLOTS,
        devices: Devices = None,
        *,
        group_size: int | None = None,
        may_cut: bool = False,
    ):
        check_process()
        devices = check_devices([model.device] if devices is None else devices)
        if model.is_offloaded:
            raise UnsupportedError("the engine runs all networks at once, and this model's are offloaded one by one")
        self._programs = Programs(model, devices, group_size=group_size, may_cut=may_cut)
        # Rounded up to a multiple of the devices, as shard_map divides rows into equal shards.
        self.n_slots = -(-check_count("n_slots", n_slots) // len(devices)) * len(devices)

    @under_own_config
    def run(self, requests: Iterable[Request]) -> Iterator[Finished]:
        """Generates rows and yields each as it is done, in any order.

        Requests are taken as slots come free, up to about three times n_slots ahead of the results. Where a device is
        out of memory the number of slots is halved, and unfinished rows start over.

        Raises:
          BarkError: not even one slot for each device fits; or, as DeviceError, a device fails. Rows that fail for
            their own reasons are `Finished` with an error.
        """
        check_process()
        requests, again = iter(requests), collections.deque()
        while True:
            run = Run(self._programs, self.n_slots, requests, again)
            try:
                yield from run.finished()
                return
            except DeviceMemoryError as error:
                self._halve(error)
                again = collections.deque(Job(job.request) for job in run.unfinished)
            del run  # frees its slots before fewer are made

    def _halve(self, error: Exception) -> None:
        n_devices = self._programs.n_devices
        fewer = self.n_slots // 2 // n_devices * n_devices
        if fewer == 0:
            raise BarkError(
                f"the devices are out of memory with {self.n_slots} slots, the minimum: {error}. Take a "
                "smaller model, or dtype='bfloat16'."
            ) from error
        self.n_slots = fewer


class Run:
    """A pass over the requests with a fixed number of slots; out of memory ends it, and another one resumes."""

    def __init__(
        self,
        programs: "Programs",
        n_slots: int,
        requests: Iterator[Request],
        again: "collections.deque[Job]",
    ):
        self._programs = programs
        self._requests, self._again = requests, again
        self._is_exhausted = False
        self._semantic = _SemanticSlots(programs, programs.semantic_model, n_slots)
        self._coarse = _CoarseSlots(programs, programs.coarse_model, n_slots)
        self._spoken: collections.deque[Job] = collections.deque()  # have semantic tokens, wait for a coarse slot
        self._groups: dict[tuple, list[Job]] = {}  # have coarse codes, wait for others of the same shape, by shape
        self._ended: collections.deque[Ended] = collections.deque()  # have left their slot just now
        self._in_group: list[Job] = []  # in the fine stage and the codec now
        self._on_stage: OnStage = lambda stage: None  # called with "fine" and "codec"
        self._windows: tuple[int, int] | None = None  # (max_coarse_history, sliding_window_len) of all rows

    @property
    def unfinished(self) -> list[Job]:
        """Jobs whose requests have been taken and not yielded, the most advanced first."""
        waiting = [job for jobs in self._groups.values() for job in jobs]
        ended = [job for job, _ in self._ended]
        in_slots = [*self._coarse.jobs, *self._spoken, *self._semantic.jobs]
        return [*self._in_group, *waiting, *ended, *in_slots, *self._again]

    def finished(self) -> Iterator[Finished]:
        """Runs chunks of the stages until no request is left; yields each result.

        Coarse slots run when full, so that no step decodes empty slots while rows could fill them, or when no semantic
        row is left to fill them.
        """
        while True:
            yield from self._fill()
            if self._coarse.is_full or (self._coarse.jobs and not self._semantic.jobs):
                ended = self._coarse.run()
            elif self._semantic.jobs:
                ended = self._semantic.run()
            elif self._groups:
                yield from self._finish_group(next(iter(self._groups)))
                continue
            else:
                return
            self._ended.extend(ended)
            while self._ended:
                job, error = self._ended.popleft()
                if error is not None:
                    yield Finished(job.request.tag, None, error)
                elif job.coarse is None:
                    self._spoken.append(job)
                else:
                    yield from self._group(job)

    def _fill(self) -> Iterator[Finished]:
        """Fills free slots with waiting rows. Yields rows that are refused."""
        while self._spoken and not self._coarse.is_full:
            self._coarse.add(self._spoken.popleft())
        while not self._semantic.is_full and (job := self._take()) is not None:
            if (error := self._objection(job.row)) is not None:
                yield Finished(job.request.tag, None, error)
            else:
                self._semantic.add(job)
        self._semantic.insert()
        self._coarse.insert()

    def _take(self) -> Job | None:
        if self._again:
            return self._again.popleft()
        if self._is_exhausted:
            return None
        request = next(self._requests, None)
        self._is_exhausted = request is None
        return None if request is None else Job(request)

    def _objection(self, row: Row) -> BarkError | None:
        """The error of a row whose coarse windows differ from the first row's: they are static in the programs."""
        windows = row.settings.n_coarse_history, row.settings.coarse_window
        if self._windows is None:
            self._windows = windows
            self._coarse.spaces = coarse_spaces([row], self._programs.model.spaces)
        if windows == self._windows:
            return None
        return InputError(
            f"max_coarse_history and sliding_window_len are {windows}, and {self._windows} in the first row: all rows "
            "of a run share them"
        )

    def _group(self, job: Job) -> Iterator[Finished]:
        """Adds a row to the group of its shape (fine windows, steps of codec frames), and finishes a full group.

        Rows of one shape waste no fine window and no codec frames on each other.
        """
        spaces, n_frames = self._programs.model.spaces, job.coarse[0].shape[1]
        n_history = 0 if job.row.voice is None else min(job.row.voice.fine.shape[1], spaces.n_fine_history)
        shape = int(count_fine_windows(n_frames, n_history, spaces)), -(-n_frames // FRAMES_STEP)
        self._groups.setdefault(shape, []).append(job)
        if len(self._groups[shape]) == self._programs.n_group:
            yield from self._finish_group(shape)

    def _finish_group(self, shape: tuple) -> Iterator[Finished]:
        yield from self._finish(self._groups.pop(shape))

    def _finish(self, jobs: list[Job]) -> Iterator[Finished]:
        """Runs the fine stage and the codec for up to n_group rows, and yields their results."""
        self._in_group = jobs
        codes, audio = self._programs.finish(self._in_group, self._on_stage)
        for job, codes_QT, samples in zip(self._in_group, codes, audio, strict=True):
            (tokens, semantic_logprob), (coarse_QT, coarse_logprob) = job.semantic, job.coarse
            utterance = Utterance(tokens, coarse_QT, codes_QT, samples, semantic_logprob, coarse_logprob)
            error = _objection_to(codes_QT, "fine") or _objection_to(samples, "codec")
            yield Finished(job.request.tag, None if error else utterance, error)
        self._in_group = []


class StageFunctions(NamedTuple):
    """Jitted functions of all stages, which the engine calls with one shape each.

    Each takes a network, then trees of arrays [B, ...] whose rows the mesh's devices share, and keyword `spaces`.
    """

    start_semantic: Callable[..., semantic.Decoding]
    run_semantic: Callable[..., semantic.Decoding]  # a chunk of STEPS_PER_CHUNK steps; the state is donated
    start_coarse: Callable[..., coarse.WindowsDone]
    run_coarse: Callable[..., coarse.WindowsDone]  # one window; the state is donated
    fill: Callable[..., jax.Array]
    decode: Callable[..., jax.Array]


def stage_functions(mesh: Mesh) -> StageFunctions:
    """Makes the functions for a mesh of one axis, "data". Nothing is compiled until they are called or lowered."""
    steps = functools.partial(semantic.run_steps, n_steps=STEPS_PER_CHUNK)
    windows = functools.partial(coarse.run_windows, n_windows=1)
    return StageFunctions(
        divide(semantic.start, mesh),
        divide(steps, mesh, donate=(3,)),
        divide(coarse.start, mesh),
        divide(windows, mesh, donate=(3,)),
        divide(fine.generate_fine, mesh),
        divide(decode_padded, mesh),
    )


class Programs:
    """The compiled functions of all stages, each with one shape, on one device or sharded among several.

    Args:
      group_size: rows on each device whose prompts are read together, and that pass the fine stage and the codec
        together; None for as many as fill it.
      may_cut: True runs the programs with top-k and top-p from the start; False runs those without until a row has
        either.
    """

    def __init__(
        self, model: Networks, devices: list[jax.Device], *, group_size: int | None = None, may_cut: bool = False
    ):
        self.model, self.n_devices, self.may_cut = model, len(devices), may_cut
        platform = platform_of(devices[0])
        self.n_group = (group_size or rows_at_once(ROWS_AT_ONCE, platform)) * len(devices)
        self._mesh = Mesh(np.array(devices), (AXIS,))
        put = functools.partial(put_copy, sharding=NamedSharding(self._mesh, P()))
        self.semantic_model, self.coarse_model = put(model.semantic), put(model.coarse_acoustics)
        self.fine_model, self.codec = put(model.fine_acoustics), put(model.codec_model)
        self.functions = stage_functions(self._mesh)

    def rows(self, tree: Any) -> Any:
        """Puts arrays [B, ...] onto the devices, rows divided among them."""
        return divide_rows(tree, self._mesh)

    def finish(
        self, jobs: list[Job], on_stage: OnStage = lambda stage: None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Runs the fine stage and the codec for a group of rows: all codes [n_fine, T] and audio samples of each."""
        spaces = self.model.spaces
        on_stage("fine")
        rows, known = [job.row for job in jobs], [job.coarse[0] for job in jobs]
        with device_errors("fine", self.fine_model, len(jobs)):
            prompt = self.rows(fine_prompt(rows, known, spaces, self.n_group))
            sampling = self.rows(sampling_of(rows, "fine", self.n_group))
            codes_BQT = np.asarray(self.functions.fill(self.fine_model, prompt, sampling, spaces=spaces))
        codes = [fine_result(codes_BQT, b, coarse_QT) for b, coarse_QT in enumerate(known)]
        idle = [np.zeros((spaces.n_fine, 0), np.int32)] * (self.n_group - len(jobs))
        on_stage("codec")
        with device_errors("codec", self.codec, len(jobs)):
            return codes, decode_codes(self.codec, codes + idle, self.functions.decode)[: len(jobs)]


class _Slots:
    """Slots of one stage: their rows, and the state that the compiled functions read, insert into and advance."""

    stage: str

    def __init__(self, programs: Programs, network: Any, n_slots: int):
        self.programs = programs
        with device_errors(self.stage, network, n_slots):
            self.network = for_decoding(network, n_slots // programs.n_devices)
        self.n_slots, self.spaces = n_slots, programs.model.spaces
        self._jobs: list[Job | None] = [None] * n_slots
        self._added: collections.deque[int] = collections.deque()  # slots of rows that have yet to be inserted
        self._dropped: set[int] = set()  # slots whose row was dropped and still runs
        self._state: Any = None  # (prompt, sampling, state of the loop), trees of arrays [n_slots, ...]
        # Whether a row so far had top-k or top-p. It is static, so it only ever turns on: two programs at most.
        self._may_cut = programs.may_cut

    @property
    def jobs(self) -> list[Job]:
        """Jobs in slots."""
        return [job for job in self._jobs if job is not None]

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return None not in self._jobs

    def add(self, job: Job) -> None:
        """Gives a free slot to a job; `insert` reads its prompt later, together with others'."""
        slot = self._jobs.index(None)
        self._jobs[slot] = job
        self._added.append(slot)

    def drop(self, tags: Collection[Any]) -> None:
        """Frees the slots of the jobs with these tags; `insert` ends their rows."""
        for slot, job in enumerate(self._jobs):
            if job is not None and job.request.tag in tags:
                self._jobs[slot] = None
                if slot in self._added:
                    self._added.remove(slot)
                else:
                    self._dropped.add(slot)

    def insert(self) -> None:
        """Reads the prompts of added rows and scatters their states into their slots, a group at a time.

        Slots of dropped rows that nobody has taken get idle rows.
        """
        self._dropped.difference_update(self._added)
        if not self._added and not self._dropped:
            return
        with device_errors(self.stage, self.network, self.n_slots):
            self._insert_added()

    def _insert_added(self) -> None:
        if self._state is None:
            self._state = self.programs.rows(self._read([], self.n_slots))
        n_group = self.programs.n_group
        while self._added or self._dropped:
            slots = [self._added.popleft() for _ in range(min(n_group, len(self._added)))]
            group = self._read([self._jobs[slot] for slot in slots], n_group)
            # The rows that fill the group up are idle. They end dropped rows; the others get a slot past the end, which
            # the scatter drops.
            slots += [self._dropped.pop() for _ in range(min(n_group - len(slots), len(self._dropped)))]
            to = np.full(n_group, self.n_slots, np.int32)
            to[: len(slots)] = slots
            self._state = insert(self._state, self.programs.rows(group), to)

    def run(self) -> list[Ended]:
        """Runs one chunk of steps, or one window, and returns the jobs that ended, each with its error or None."""
        # may_cut is static, hence part of the tree's structure. The stored sampling always says False, so that groups
        # fit into it, and the actual value is set for the call.
        prompt, sampling, state = self._state
        with device_errors(self.stage, self.network, self.n_slots):
            state = self._advance(prompt, dataclasses.replace(sampling, may_cut=self._may_cut), state)
            self._state = prompt, sampling, state
            return list(self._collect(state))

    def _ended(self, is_done_B: np.ndarray) -> list[int]:
        """Occupied slots where bool is_done_B holds."""
        return [slot for slot, job in enumerate(self._jobs) if job is not None and is_done_B[slot]]

    def _take_out(self, slot: int, logprob: np.ndarray) -> Ended:
        job, self._jobs[slot] = self._jobs[slot], None
        return job, _objection_to(logprob, self.stage)

    def _sampling(self, jobs: list[Job], n_rows: int) -> Sampling:
        sampling = sampling_of([job.row for job in jobs], self.stage, n_rows)
        self._may_cut |= sampling.may_cut
        return dataclasses.replace(sampling, may_cut=False)

    def _read(self, jobs: list[Job], n_rows: int) -> Any:
        """Returns (prompt, sampling, state), arrays [n_rows, ...], of rows that start; rows past the jobs are idle."""
        raise NotImplementedError

    def _advance(self, prompt: Any, sampling: Sampling, state: Any) -> Any:
        raise NotImplementedError

    def _collect(self, state: Any) -> Iterator[Ended]:
        raise NotImplementedError


class _SemanticSlots(_Slots):
    stage = "semantic"

    def _read(self, jobs: list[Job], n_rows: int) -> tuple[semantic.SemanticPrompt, Sampling, semantic.Decoding]:
        prompt = self.programs.rows(semantic_prompt([job.row for job in jobs], self.spaces, n_rows))
        state = self.programs.functions.start_semantic(self.network, prompt, spaces=self.spaces)
        return prompt, self._sampling(jobs, n_rows), state

    def _advance(self, *rows: Any) -> semantic.Decoding:
        return self.programs.functions.run_semantic(self.network, *rows, spaces=self.spaces)

    def _collect(self, state: semantic.Decoding) -> Iterator[Ended]:
        # A poll fetches one bool a slot; the outputs, 768 tokens a slot, come only when a row has ended.
        if ended := self._ended(np.asarray(state.done_B)):
            output = jax.device_get(state.output)
        for slot in ended:
            self._jobs[slot].semantic = _copied(semantic_result(output, slot))
            # All of the row, not its length alone: NaN logits leave their one trace past it
            # (`semantic.SemanticTokens`).
            yield self._take_out(slot, output.logprob_BT[slot])


class _CoarseSlots(_Slots):
    stage = "coarse"

    def _read(self, jobs: list[Job], n_rows: int) -> tuple[coarse.CoarsePrompt, Sampling, coarse.WindowsDone]:
        tokens = [job.semantic[0] for job in jobs]
        prompt = self.programs.rows(coarse_prompt([job.row for job in jobs], tokens, self.spaces, n_rows))
        state = self.programs.functions.start_coarse(self.network, prompt, spaces=self.spaces)
        return prompt, self._sampling(jobs, n_rows), state

    def _advance(self, *rows: Any) -> coarse.WindowsDone:
        return self.programs.functions.run_coarse(self.network, *rows, spaces=self.spaces)

    def known(self, n_frames: Mapping[Job, int]) -> dict[Job, tuple[np.ndarray, np.ndarray]]:
        """Codes and log-probabilities so far, [n_coarse, T] each, of jobs in slots.

        Args:
          n_frames: for each job the number of frames that its windows so far have given.
        """
        prompt, _, state = self._state
        with device_errors(self.stage, self.network, self.n_slots):
            codes = coarse.read_codes(prompt, state, spaces=self.spaces)
        return {job: _copied(coarse_result(codes, self._jobs.index(job), n)) for job, n in n_frames.items()}

    def _collect(self, state: coarse.WindowsDone) -> Iterator[Ended]:
        prompt = self._state[0]
        needed_B = count_coarse_windows(np.asarray(prompt.n_frames_B), self.spaces)
        if ended := self._ended(np.asarray(state.window_B) >= needed_B):
            codes = jax.device_get(coarse.read_codes(prompt, state, spaces=self.spaces))
        for slot in ended:
            result = _copied(coarse_result(codes, slot))
            self._jobs[slot].coarse = result
            yield self._take_out(slot, result[1])


@functools.partial(jax.jit, donate_argnums=0)
def insert(all_rows: Any, some_rows: Any, slot_R: jax.Array) -> Any:
    """Scatters the states of some rows into slots, in place: `all_rows` is donated. See `slots.put_rows`."""
    return put_rows(all_rows, some_rows, slot_R, n_slots=len(jax.tree.leaves(all_rows)[0]))


def _copied(arrays: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Copies the arrays: a view would keep the arrays of all slots alive as long as one row's result."""
    return arrays[0].copy(), arrays[1].copy()


def _objection_to(values: np.ndarray, stage: str) -> BarkError | None:
    try:
        require_finite(values, stage)
    except BarkError as error:
        return error
    return None
