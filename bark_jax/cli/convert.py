"""`bark-jax convert`: the same command as `python -m converters`."""

import os
from typing import Any

from bark_jax.cli.group import Verb
from converters.command import command as converters_command
from converters.command import run


def _convert(**options: Any) -> None:
    # JAX is asked for shapes alone; it need not take an accelerator's memory from whoever runs beside this.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    run(**options)


command = Verb(
    "convert",
    callback=_convert,
    params=list(converters_command.params),
    help=converters_command.help,
    short_help="Convert a PyTorch checkpoint into a folder.",
    epilog=converters_command.epilog.replace("python -m converters", "bark-jax convert"),
)
