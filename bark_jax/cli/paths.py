"""Files that a verb will write, checked before it does minutes of work."""

from pathlib import Path

from bark_jax.errors import InputError, OutputError, quoted
from bark_jax.files import as_path, check_can_create

PLOT_FORMATS = (".png", ".svg", ".pdf")


def check_writable(option: str, path: str) -> None:
    """Raises InputError where a file of this name cannot be written."""
    option = f"--{option.replace('_', '-')}"
    place, told = as_path(path, option), f"{option} is {quoted(path, 300)}"
    if place.is_dir():
        raise InputError(f"{told}, which is a folder; give the name of a file in it")
    if not place.parent.is_dir():
        raise InputError(f"{told}, but there is no folder {quoted(str(place.parent), 300)}; create it first")
    try:
        check_can_create(place)
    except OutputError as error:
        raise InputError(f"{told}: {error}") from error


def check_plot(path: str | None) -> str | None:
    """The path, if a plot can be written there. Raises UnsupportedError without matplotlib, InputError otherwise."""
    if path is not None:
        from bark_jax.audio import plots  # noqa: F401, raises UnsupportedError without matplotlib

        if Path(path).suffix.lower() not in PLOT_FORMATS:
            raise InputError(f"--plot is {quoted(path)}, expected a name that ends in one of {', '.join(PLOT_FORMATS)}")
        check_writable("plot", path)
    return path
