"""Checks of the files that a verb will write, made before it works for minutes."""

from pathlib import Path

from bark_jax.errors import InputError, OutputError, quoted
from bark_jax.files import as_path, check_can_create

PLOT_FORMATS = (".png", ".svg", ".pdf")


def check_writable(option: str, path: str) -> None:
    """Raises InputError if a file cannot be written at `path`, the value of --`option`."""
    option = f"--{option.replace('_', '-')}"
    file, subject = as_path(path, option), f"{option} is {quoted(path, 300)}"
    if file.is_dir():
        raise InputError(f"{subject}, which is a folder; give the name of a file in it")
    if not file.parent.is_dir():
        raise InputError(f"{subject}, but there is no folder {quoted(str(file.parent), 300)}; create it first")
    try:
        check_can_create(file)
    except OutputError as error:
        raise InputError(f"{subject}: {error}") from error


def check_plot(path: str | None) -> str | None:
    """Returns the path if a plot can be written there.

    Raises:
      UnsupportedError: matplotlib is not installed.
      InputError: the name has another ending than PLOT_FORMATS, or the file cannot be written.
    """
    if path is not None:
        from bark_jax.audio import plots  # noqa: F401, raises UnsupportedError without matplotlib

        if Path(path).suffix.lower() not in PLOT_FORMATS:
            raise InputError(f"--plot is {quoted(path)}, expected a name that ends in one of {', '.join(PLOT_FORMATS)}")
        check_writable("plot", path)
    return path
