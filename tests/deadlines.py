"""How long tests wait for what may hang. No test asserts that anything is fast: a busy machine would fail it."""

# Ends a process, a thread or a loop that would wait for ever. What works takes seconds, and beside other work minutes.
HANG_S = 600
