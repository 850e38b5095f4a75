"""python -m bark_jax: the command line."""

from bark_jax._system import stopping

stopping.install()  # before anything that takes long to import

from bark_jax.cli import main  # noqa: E402

main(prog_name="python -m bark_jax")
