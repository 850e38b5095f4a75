"""The slot engine: every row gets the tokens that it gets alone, whatever else is in the slots."""

import contextlib
import functools
import gc
import subprocess
import sys

import jax
import numpy as np
import pytest
from compilations import xla_flags

from bark_jax import Bark
from bark_jax.errors import BarkError, InputError, UnsupportedError
from bark_jax.generation import coarse, engine
from bark_jax.generation.engine import Engine, Request
from bark_jax.generation.runner import coarse_prompt, sampling_of
from bark_jax.generation.seeds import row_keys

TOKENS = ("semantic", "coarse", "fine")
LENGTHS = (3, 60, 9, 33, 120, 8, 1, 47, 20, 70, 5, 95)


def make_requests(bark, lengths=LENGTHS, **settings):
    """Rows of known lengths; every third has a voice, every fourth chooses the likeliest tokens."""
    voice = bark.generate("a voice", seed=1, max_new_tokens=90, allow_early_stop=False).as_voice()
    requests = []
    for index, length in enumerate(lengths):
        mine = dict(max_new_tokens=length, allow_early_stop=False, do_sample=index % 4 != 3) | settings
        (row,) = bark.rows(f"row {index}", None if index % 3 else voice, row_keys(index, None, 1), mine)
        requests.append(Request(index, row))
    return requests


def run(speaker, requests):
    return {finished.tag: finished for finished in speaker.run(requests)}


def assert_equal(found, expected):
    for name in TOKENS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.fixture(scope="module")
def bark():
    return Bark.from_pretrained("tiny")


@pytest.fixture(scope="module")
def requests(bark):
    return make_requests(bark)


@pytest.fixture(scope="module")
def speaker(bark):
    return Engine(bark.model, n_slots=4)


@pytest.fixture(scope="module")
def spoken(speaker, requests):
    return run(speaker, requests)


def replace_function(monkeypatch, engine, **functions):
    monkeypatch.setattr(engine._programs, "functions", engine._programs.functions._replace(**functions))


@contextlib.contextmanager
def bytes_before_runs(monkeypatch, module, name):
    """Yields a list that grows by the bytes on the device before each run of an engine makes its slots.

    Garbage collection is off, as nothing should need it. Results count: on a CPU they are views of the device's arrays.
    """
    held = []

    class Measured(getattr(module, name)):
        def __init__(self, *args):
            held.append(sum(array.nbytes for array in jax.live_arrays()))
            super().__init__(*args)

    monkeypatch.setattr(module, name, Measured)
    gc.disable()
    try:
        yield held
    finally:
        gc.enable()


def test_rows_equal_their_runs_alone(spoken, bark, requests):
    assert sorted(spoken) == list(range(len(requests)))
    for tag, row in requests:
        (alone,) = bark.model.generate_rows([row])
        found = spoken[tag].utterance
        assert_equal(found, alone)
        np.testing.assert_allclose(found.samples, alone.samples, atol=1e-5)
        np.testing.assert_allclose(found.semantic_logprob, alone.semantic_logprob, atol=1e-4)


def test_a_row_that_cuts_the_distribution_is_cut_among_rows_that_do_not(bark, speaker):
    """With top_k of 1 it chooses the likeliest tokens, whoever is in the slots before it and beside it."""
    uncut = make_requests(bark, (9, 60, 33), temperature=1.5, do_sample=True)
    (cut,) = make_requests(bark, (47,), temperature=1.5, do_sample=True, top_k=1)
    (greedy,) = make_requests(bark, (47,), do_sample=False)
    found = run(speaker, [*uncut, Request("cut", cut.row)])
    (alone,) = bark.model.generate_rows([greedy.row])
    np.testing.assert_array_equal(found["cut"].utterance.semantic, alone.semantic)
    np.testing.assert_array_equal(found["cut"].utterance.coarse, alone.coarse)


def test_the_order_of_rows_changes_no_bit_of_any(spoken, speaker, requests):
    again = run(speaker, requests[::-1])
    assert list(again) != list(spoken)
    for tag, finished in again.items():
        assert_equal(finished.utterance, spoken[tag].utterance)
        np.testing.assert_array_equal(finished.utterance.coarse_logprob, spoken[tag].utterance.coarse_logprob)


@pytest.mark.parametrize(
    "n_at_once", [5, 2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_coarse_prompts_that_any_number_of_rows_read_at_a_time_are_read_alike(
    spoken, bark, requests, n_at_once, monkeypatch
):
    """Rows of several lengths, with a voice and without: some read a long prompt, some a short one, some none."""
    model, rows = bark.model, [request.row for request in requests[:5]]
    alone = [spoken[tag].utterance for tag in range(5)]
    monkeypatch.setattr(coarse, "prompts_at_once", lambda n_rows, platform: n_at_once)
    run_windows = jax.jit(functools.partial(coarse.run_windows.__wrapped__, spaces=model.spaces))
    prompt = coarse_prompt(rows, [row.semantic for row in alone], model.spaces, len(rows))
    state = coarse.start(model.coarse_acoustics, prompt, spaces=model.spaces)
    for n_windows in (1, 100):
        sampling = sampling_of(rows, "coarse", len(rows))
        state = run_windows(model.coarse_acoustics, prompt, sampling, state, n_windows)
    found = coarse.read_codes(prompt, state, spaces=model.spaces)
    for row, (length, expected) in enumerate(zip(found.length_B, alone, strict=True)):
        np.testing.assert_array_equal(found.codes_BQT[row, :, :length], expected.coarse)
        np.testing.assert_allclose(found.logprob_BQT[row, :, :length], expected.coarse_logprob, rtol=0, atol=1e-5)


def test_rows_that_are_done_leave_first(speaker, bark):
    lengths = (120, 5, 5, 5, 5, 5)
    assert list(run(speaker, make_requests(bark, lengths)))[-1] == 0


def test_other_rows_compile_nothing(spoken, speaker, bark):
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr(jax._src.interpreters.pxla.logger, "log", lambda level, text, *args: compiled.append(text % args))
        run(speaker, make_requests(bark, (17, 4, 88, 31, 2)))
    assert not [line for line in compiled if "run_" in line or "divided" in line]


def test_requests_are_taken_as_slots_come_free(speaker, bark):
    taken = []
    requests = make_requests(bark, (20,) * 24)
    results = speaker.run(taken.append(request.tag) or request for request in requests)
    next(results)
    assert len(taken) <= 3 * speaker.n_slots
    results.close()
    assert len(taken) <= 3 * speaker.n_slots


def test_no_requests_give_nothing(speaker):
    assert list(speaker.run([])) == []


def test_a_row_that_cannot_share_the_run_is_an_error_of_its_own(speaker, bark, requests):
    (odd,) = make_requests(bark, (9,), sliding_window_len=30)
    found = run(speaker, [requests[0], odd._replace(tag="odd"), requests[2]])
    assert isinstance(found["odd"].error, InputError) and "sliding_window_len" in str(found["odd"].error)
    assert found[0].error is None and found[2].error is None


def test_a_row_whose_logits_are_not_finite_is_an_error_of_its_own(speaker, requests, monkeypatch):
    right = engine.require_finite

    def refuse(values, stage):
        if stage == "coarse" and values.shape == (2, bad):
            raise BarkError("the coarse stage computed values that are not finite")
        right(values, stage)

    bad = 99
    monkeypatch.setattr(engine, "require_finite", refuse)
    found = run(speaker, requests[:4])
    bad = found[2].utterance.coarse.shape[1]
    found = run(speaker, requests[:4])
    assert found[2].utterance is None and "coarse stage" in str(found[2].error)
    assert all(found[tag].error is None for tag in (0, 1, 3))


@pytest.mark.slow
def test_slots_are_halved_where_memory_ends(bark, requests, spoken, monkeypatch):
    speaker = Engine(bark.model, n_slots=8)
    right, calls = speaker._programs.functions.run_coarse, []

    def run_coarse(network, prompt, sampling, state, **options):
        calls.append(len(state.window_B))
        if len(state.window_B) > 4 and len(calls) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return right(network, prompt, sampling, state, **options)

    replace_function(monkeypatch, speaker, run_coarse=run_coarse)
    with bytes_before_runs(monkeypatch, engine, "Run") as held:
        found = run(speaker, requests)
    assert speaker.n_slots == 4 and calls[0] == 8 and sorted(found) == sorted(spoken)
    assert held[1] - held[0] < 10**5 < held[0], "the slots that found no memory are freed before others are made"
    for tag, finished in found.items():
        assert_equal(finished.utterance, spoken[tag].utterance)


def test_no_memory_for_a_slot_is_an_error_that_says_so(bark, requests, monkeypatch):
    speaker = Engine(bark.model, n_slots=1)

    def start(*rows, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    replace_function(monkeypatch, speaker, start_semantic=start)
    with pytest.raises(BarkError, match=r"out of memory with 1 slots.*smaller model"):
        run(speaker, requests)


def test_an_offloaded_model_is_refused(bark):
    from bark_jax.model import BarkModel

    model = BarkModel.from_pretrained("tiny")
    model.enable_cpu_offload()
    with pytest.raises(UnsupportedError, match="offloaded one by one"):
        Engine(model)


@pytest.mark.parametrize("n_slots", [0, 1.5, "4"])
def test_bad_counts_of_slots_are_refused(n_slots, bark):
    with pytest.raises(InputError, match="n_slots"):
        Engine(bark.model, n_slots=n_slots)


@pytest.mark.slow
def test_eight_devices_give_the_tokens_of_one(spoken, toy_folder, tmp_path):
    script = """
import sys, jax, numpy as np
from bark_jax import tiny
tiny.FOLDER = sys.argv[1]
from test_batch_engine import *
bark = Bark.from_pretrained("tiny")
found = run(Engine(bark.model, n_slots=16, devices=jax.devices()), make_requests(bark))
assert len(jax.devices()) == 8
np.savez(sys.argv[2], **{f"{tag}.{name}": getattr(f.utterance, name) for tag, f in found.items() for name in TOKENS})
"""
    out = tmp_path / "found.npz"
    environment = {"XLA_FLAGS": xla_flags(8), "PYTHONPATH": "tests", "PATH": ""}
    subprocess.run([sys.executable, "-c", script, str(toy_folder), str(out)], check=True, env=environment, timeout=900)
    found = np.load(out)
    for tag, finished in spoken.items():
        for name in TOKENS:
            np.testing.assert_array_equal(found[f"{tag}.{name}"], getattr(finished.utterance, name))
