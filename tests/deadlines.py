"""Timeouts of tests for calls that may hang. No test asserts a speed, as a busy machine would fail it."""

# Ends a process, thread or loop that hangs. A working one takes seconds, on a busy machine minutes.
HANG_S = 600
