"""Entry point for converting checkpoints: `python -m converters SRC DST`. `bark_jax.checkpoints` does the work."""
