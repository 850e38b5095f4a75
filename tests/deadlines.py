"""Timeouts of tests for calls that may hang. No test asserts a speed, as a busy machine would fail it."""

# Ends a process, a thread or a loop that would wait for ever. What works takes seconds, and beside other work minutes.
HANG_S = 600
