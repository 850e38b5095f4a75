"""Scripts around checkpoints: `python -m converters SRC DST`. The work is done in `bark_jax.checkpoints`."""
