"""`python -m converters SRC DST`: see `command.py`."""

import os

# JAX is asked for shapes alone; it need not take an accelerator's memory from whoever runs beside this.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from bark_jax import stopping

stopping.install()

from converters.command import command  # noqa: E402

command(prog_name="python -m converters")
