"""`python -m converters SRC DST`: `bark-jax convert`, from a checkout."""

import sys

from bark_jax._system import stopping

stopping.install()  # before anything that takes long to import

from bark_jax.cli import main  # noqa: E402

main(["convert", *sys.argv[1:]], prog_name="bark-jax")
