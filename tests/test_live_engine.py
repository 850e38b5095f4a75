"""The live engine: requests that arrive, leave and stream while others run have the tokens that they have alone."""

import collections

import jax
import numpy as np
import pytest
from test_batch_engine import TOKENS, assert_equal, bytes_before_runs, make_requests, replace_function

from bark_jax import Bark
from bark_jax.errors import BarkError, DeviceError
from bark_jax.generation import engine
from bark_jax.generation import live as live_engine
from bark_jax.generation.engine import Finished
from bark_jax.generation.live import CPU_SLOTS, LiveEngine, LiveRequest, Part
from bark_jax.generation.streaming import stream_row

LENGTHS = (3, 60, 9, 120, 1, 70, 20, 47)


class Arrivals:
    """Requests that come at given turns: `later` maps the number of a look to what happens then."""

    def __init__(self, first, later=()):
        self._waiting, self._later = collections.deque(first), dict(later)
        self._n_looks, self._cancelled = 0, []
        self.n_waits = 0

    def take(self):
        return self._waiting.popleft() if self._waiting else None

    def take_cancelled(self):
        self._n_looks += 1
        for event in self._later.pop(self._n_looks, ()):
            self.cancel(event) if isinstance(event, int) else self._waiting.append(event)
        cancelled, self._cancelled = self._cancelled, []
        return cancelled

    def cancel(self, tag):
        self._cancelled.append(tag)

    def wait(self):
        self.n_waits += 1
        for number in sorted(self._later):
            self._n_looks = number - 1
            return True
        return False


@pytest.fixture(scope="module")
def bark():
    return Bark.from_pretrained("tiny")


@pytest.fixture(scope="module")
def live(bark):
    return LiveEngine(bark.model, n_slots=4)


@pytest.fixture(scope="module")
def requests(bark):
    """Every second one is streamed."""
    return [LiveRequest(tag, row, tag % 2 == 1) for tag, row in make_requests(bark, LENGTHS)]


@pytest.fixture(scope="module")
def alone(bark, requests):
    """What each request gives by itself: an utterance, and a streamed one's parts."""
    found = {}
    for tag, row, is_streamed in requests:
        if is_streamed:
            stream = stream_row(bark.model, row)
            parts = list(stream)
            found[tag] = stream.utterance, parts
        else:
            found[tag] = bark.model.generate_rows([row])[0], []
    return found


def serve(live, arrivals):
    """The results by tag, the parts by tag, and all events in order."""
    events = list(live.serve(arrivals))
    finished = {event.tag: event for event in events if isinstance(event, Finished)}
    parts = {tag: [event.part for event in events if event.tag == tag and isinstance(event, Part)] for tag in finished}
    return finished, parts, events


def assert_as_alone(tags, finished, parts, alone):
    for tag in tags:
        utterance, expected = alone[tag]
        assert finished[tag].error is None
        assert_equal(finished[tag].utterance, utterance)
        np.testing.assert_allclose(finished[tag].utterance.samples, utterance.samples, atol=1e-5)
        assert len(parts[tag]) == len(expected)
        for part, right in zip(parts[tag], expected, strict=True):
            assert part.first_frame == right.first_frame
            np.testing.assert_array_equal(part.codes, right.codes)
            np.testing.assert_allclose(part.samples, right.samples, atol=1e-5)


def test_rows_that_arrive_while_others_run_equal_their_runs_alone(live, requests, alone):
    later = {2: requests[2:4], 3: requests[4:5], 20: requests[5:]}
    finished, parts, _ = serve(live, Arrivals(requests[:2], later))
    assert sorted(finished) == list(range(len(requests)))
    assert_as_alone(finished, finished, parts, alone)


def test_a_stream_sends_before_others_end(live, requests):
    """The long row, streamed, has its first part before any end of rows as long, plain, that came before it."""
    long = requests[3]
    others = [long._replace(tag=10 + number, is_streamed=False) for number in range(3)]
    _, _, events = serve(live, Arrivals([*others, long]))
    assert isinstance(events[0], Part) and events[0].tag == long.tag


def test_rows_that_leave_free_their_slots_and_change_no_other(live, requests, alone):
    """All slots are taken by long rows, two of which leave in their first stage and two in their second."""
    long = [requests[3]._replace(tag=100 + number) for number in range(4)]
    later = {2: [100, 101], 7: [102], 8: [103], 9: requests[:4]}
    finished, parts, events = serve(live, Arrivals(long, later))
    assert sorted(finished) == [0, 1, 2, 3]
    assert {event.tag for event in events if event.tag >= 100} <= {102, 103}
    assert_as_alone(finished, finished, parts, alone)
    assert live.usage.n_semantic == live.usage.n_coarse == 0


def test_a_cpu_has_few_slots_unless_told(bark):
    assert LiveEngine(bark.model).n_slots == CPU_SLOTS
    assert LiveEngine(bark.model, n_slots=9).n_slots == 9


def test_an_idle_engine_waits(live, requests):
    arrivals = Arrivals(requests[:1], {1000: requests[4:5]})
    finished, _, _ = serve(live, arrivals)
    assert sorted(finished) == [0, 4] and arrivals.n_waits == 2


def test_a_row_whose_values_are_not_finite_fails_alone(live, requests, alone, monkeypatch):
    from bark_jax.generation import live as module

    def refuse(values, stage):
        raise BarkError("the coarse stage computed values that are not finite")

    monkeypatch.setattr(module, "require_finite", refuse)
    finished, parts, _ = serve(live, Arrivals(requests[:4]))
    assert "not finite" in str(finished[1].error) and "not finite" in str(finished[3].error)
    assert_as_alone((0, 2), finished, parts, alone)


def test_a_failing_device_fails_the_rows_that_ran_and_no_later_one(live, requests, alone, monkeypatch):
    right, calls = live._programs.functions.run_coarse, []

    def run_coarse(*rows, **options):
        calls.append(rows)
        if len(calls) == 2:
            raise jax.errors.JaxRuntimeError("INTERNAL: device lost")
        return right(*rows, **options)

    replace_function(monkeypatch, live, run_coarse=run_coarse)
    finished, parts, _ = serve(live, Arrivals(requests[:4], {100: requests[4:]}))
    failed = {tag for tag, each in finished.items() if each.error is not None}
    assert failed and failed <= {0, 1, 2, 3}
    assert all(isinstance(finished[tag].error, DeviceError) for tag in failed)
    assert_as_alone({4, 5, 6, 7}, finished, parts, alone)


@pytest.mark.slow
def test_no_memory_halves_the_slots_and_no_row_is_lost(bark, requests, alone, monkeypatch):
    """The fine stage runs out of memory on the first of two rows that ended together: both start over."""
    live = LiveEngine(bark.model, n_slots=4)
    right, calls = live._programs.functions.fill, []

    def fill(*rows, **options):
        calls.append(rows)
        if len(calls) == 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return right(*rows, **options)

    replace_function(monkeypatch, live, fill=fill)
    twins = [requests[2]._replace(tag=tag) for tag in (2, 22)]
    with bytes_before_runs(monkeypatch, live_engine, "_LiveRun") as held:
        finished, parts, _ = serve(live, Arrivals(twins))
    assert held[1] - held[0] < 10**5 < held[0], "the slots that found no memory are freed before others are made"
    assert live.n_slots == 2 and sorted(finished) == [2, 22]
    assert_as_alone([2], finished, parts, alone)


@pytest.mark.slow
def test_a_device_that_never_has_memory_is_an_error_of_each_row(bark, requests, monkeypatch):
    live = LiveEngine(bark.model, n_slots=1)

    def start(*rows, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    replace_function(monkeypatch, live, start_semantic=start)
    finished, _, _ = serve(live, Arrivals(requests[:2], {9: requests[2:3]}))
    assert sorted(finished) == [0, 1, 2]
    assert all("out of memory" in str(each.error) for each in finished.values())


@pytest.mark.slow
def test_a_row_with_a_cut_compiles_nothing_for_the_others(live, bark, requests, alone):
    (cut,) = make_requests(bark, (47,), temperature=1.5, do_sample=True, top_k=1)
    (greedy,) = make_requests(bark, (47,), do_sample=False)
    live.warm_up(requests[1].row)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr(jax._src.interpreters.pxla.logger, "log", lambda level, text, *args: compiled.append(text % args))
        finished, parts, _ = serve(live, Arrivals([*requests[:2], LiveRequest(50, cut.row)]))
    assert not [line for line in compiled if "divided" in line or "run_" in line or "generate_" in line]
    (utterance,) = bark.model.generate_rows([greedy.row])
    np.testing.assert_array_equal(finished[50].utterance.semantic, utterance.semantic)
    assert_as_alone((0, 1), finished, parts, alone)


@pytest.mark.slow
def test_an_engine_loses_no_row_that_ended_beside_one_that_found_no_memory(bark, requests, monkeypatch):
    """The same for the engine of batches: rows that left their slots together are all kept."""
    batch = engine.Engine(bark.model, n_slots=4)
    right, calls = batch._programs.functions.fill, []

    def fill(*rows, **options):
        calls.append(rows)
        if len(calls) == 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return right(*rows, **options)

    replace_function(monkeypatch, batch, fill=fill)
    twins = [requests[2]._replace(tag=tag) for tag in (1, 2, 3)]
    found = {finished.tag: finished for finished in batch.run(twins)}
    assert sorted(found) == [1, 2, 3] and all(each.error is None for each in found.values())
    for name in TOKENS:
        np.testing.assert_array_equal(getattr(found[1].utterance, name), getattr(found[3].utterance, name))
