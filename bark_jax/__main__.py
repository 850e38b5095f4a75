"""python -m bark_jax: the command line."""

from bark_jax.cli import main

main(prog_name="python -m bark_jax")
