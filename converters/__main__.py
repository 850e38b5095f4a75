"""`python -m converters SRC DST`: the same as `bark-jax convert SRC DST`, run from a checkout without installing."""

import sys

from bark_jax._system import stopping

stopping.install()  # before the imports that take seconds, so that Ctrl-C ends those too

from bark_jax.cli import main  # noqa: E402

main(["convert", *sys.argv[1:]], prog_name="bark-jax")
