"""Files that a verb will write, checked before it does minutes of work."""

import tempfile
from pathlib import Path

from bark_jax.errors import InputError
from bark_jax.hub import shown

PLOT_FORMATS = (".png", ".svg", ".pdf")


def check_place(option: str, path: str) -> None:
    """Raises InputError where a file of this name cannot be written."""
    folder = Path(path).parent
    told, told_folder = f"--{option.replace('_', '-')} is {shown(path, 300)}", shown(str(folder), 300)
    try:
        if Path(path).is_dir():
            raise InputError(f"{told}, which is a folder; give the name of a file in it")
        if not folder.is_dir():
            raise InputError(f"{told}, but there is no folder {told_folder}; create it first")
        # Permissions do not tell: a system's own folders, or a full disk, take no file from whoever asks.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{told}, but the folder {told_folder} takes no such file: {error.strerror}; name another place"
        ) from error


def check_plot(path: str | None) -> str | None:
    """The path, if a plot can be written there. Raises UnsupportedError without matplotlib, InputError otherwise."""
    if path is not None:
        from bark_jax import plots  # noqa: F401, raises UnsupportedError without matplotlib

        if Path(path).suffix.lower() not in PLOT_FORMATS:
            raise InputError(f"--plot is {path!r}, expected a name that ends in one of {', '.join(PLOT_FORMATS)}")
        check_place("plot", path)
    return path
