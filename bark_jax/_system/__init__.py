"""What every room needs of Python, the system and JAX: signals, forks, JAX's options, lazy names, JSON, equality."""
