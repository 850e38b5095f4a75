"""Files that a verb will write, checked before it does minutes of work."""

import os
from pathlib import Path

from bark_jax.errors import InputError

PLOT_FORMATS = (".png", ".svg", ".pdf")


def check_place(option: str, path: str) -> None:
    """Raises InputError where a file of this name cannot be written."""
    folder, option = Path(path).parent, option.replace("_", "-")
    if Path(path).is_dir():
        raise InputError(f"--{option} is {path!r}, which is a folder; give the name of a file in it")
    if not folder.is_dir():
        raise InputError(f"--{option} is {path!r}, but there is no folder {str(folder)!r}; create it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"--{option} is {path!r}, but the folder {str(folder)!r} takes no new files")


def check_plot(path: str | None) -> str | None:
    """The path, if a plot can be written there. Raises UnsupportedError without matplotlib, InputError otherwise."""
    if path is not None:
        from bark_jax import plots  # noqa: F401, raises UnsupportedError without matplotlib

        if Path(path).suffix.lower() not in PLOT_FORMATS:
            raise InputError(f"--plot is {path!r}, expected a name that ends in one of {', '.join(PLOT_FORMATS)}")
        check_place("plot", path)
    return path
