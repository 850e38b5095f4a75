"""Work of the parts in test_benchmark_parts.py, in a module that the process of the parts imports quickly."""

import os
import time


def work(part):
    """A part as the tests give it: (what it does, its argument)."""
    does, value = part
    if does == "raise":
        raise ValueError(value)
    if does == "exit":
        os._exit(value)
    if does == "sleep":
        time.sleep(value)
    return {"value": value, "process": os.getpid()}
