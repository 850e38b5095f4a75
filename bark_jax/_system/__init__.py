"""Helpers around Python, the operating system and JAX: signals, forks, JAX's options, lazy imports, JSON, equality."""
