"""Measurements: parity and speed at Bark's real sizes. Each module is a command; RESULTS.md has what they printed."""
