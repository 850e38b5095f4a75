"""Runs the command line: `python -m bark_jax`, the same as `bark-jax`."""

from bark_jax._system import stopping

stopping.install()  # first, so that Ctrl-C during slow imports ends the process cleanly

from bark_jax.cli import main  # noqa: E402

main(prog_name="python -m bark_jax")
