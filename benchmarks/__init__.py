"""Benchmarks: parity and speed at Bark's real sizes, memory, mutation tests. Run as commands; see RESULTS.md."""
