"""Requests between callers and the engine: turns among callers, cancelled ones, and waiting without polling."""

import threading

import pytest

pytest.importorskip("starlette")

from deadlines import HANG_S

from bark_jax.generation.live import LiveRequest
from bark_jax.serve.errors import ApiError
from bark_jax.serve.inbox import Inbox
from bark_jax.serve.limits import Admission


def requests(caller, n):
    return [LiveRequest((caller, number), None) for number in range(n)]


def take_all(inbox):
    found = []
    while (request := inbox.take()) is not None:
        found.append(request.tag)
    return found


def test_callers_take_turns():
    inbox = Inbox()
    inbox.put("long", requests("long", 4))
    inbox.put("short", requests("short", 1))
    assert len(inbox) == 5
    assert take_all(inbox) == [("long", 0), ("short", 0), ("long", 1), ("long", 2), ("long", 3)]


def test_a_cancelled_caller_is_dropped_where_its_requests_are():
    inbox = Inbox()
    inbox.put("a", requests("a", 4))
    inbox.put("b", requests("b", 1))
    taken = [inbox.take(), inbox.take(), inbox.take()]
    inbox.finish("a", taken[0].tag)
    inbox.cancel("a")
    assert set(inbox.take_cancelled()) == {("a", 1)} and set(inbox.take_cancelled()) == set()
    assert take_all(inbox) == []
    inbox.finish("a", ("a", 1))  # a result that was on its way
    inbox.cancel("nobody")
    assert inbox.take_all() == ["b"]


def test_waiting_ends_with_a_request_and_with_the_end():
    inbox, found = Inbox(), []
    thread = threading.Thread(target=lambda: found.extend([inbox.wait(), inbox.take().tag, inbox.wait()]))
    thread.start()
    inbox.put("a", requests("a", 1))
    inbox.close()
    thread.join(HANG_S)
    assert found == [True, ("a", 0), False]


def test_a_refusal_says_which_limit_is_reached():
    spoken, open_ = Admission(1, 9), Admission(9, 1)
    with spoken.enter(), open_.enter() as ticket:
        ticket.end_speaking()
        for admission, what in ((spoken, "1 texts are being spoken"), (open_, "1 answers are open")):
            with pytest.raises(ApiError, match=what), admission.enter():
                pass


def test_retry_after_follows_from_what_texts_take():
    admission = Admission(1, 4)
    with admission.enter():
        for seconds, least, most in ((0.0, 1, 1), (30, 2, 30), (1e9, 60, 60)):
            admission.observe(seconds)
            with pytest.raises(ApiError, match="try again") as refused, admission.enter():
                pass
            assert least <= int(refused.value.headers["Retry-After"]) <= most
    assert admission.n_open == admission.n_speaking == 0
