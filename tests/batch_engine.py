"""A fake engine that runs each row alone: it reads a few rows ahead, and finishes rows out of order."""

import collections

from bark_jax.errors import BarkError
from bark_jax.generation.engine import Finished


class PlainEngine:
    """`batch.engine.Engine` without slots. `fails_on` gives the error of a row, or None."""

    def __init__(self, model, n_slots=3, fails_on=lambda row: None):
        self._model, self._n_slots, self._fails_on = model, n_slots, fails_on
        self.n_runs = 0

    def run(self, requests):
        self.n_runs += 1
        requests, held = iter(requests), collections.deque()
        while True:
            while len(held) < self._n_slots and (request := next(requests, None)) is not None:
                held.append(request)
            if not held:
                return
            held.rotate(1)
            yield self._finish(held.popleft())

    def _finish(self, request):
        try:
            if (error := self._fails_on(request.row)) is not None:
                raise error
            return Finished(request.tag, self._model.generate_rows([request.row])[0], None)
        except BarkError as error:
            return Finished(request.tag, None, error)
