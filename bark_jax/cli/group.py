"""Click classes that all verbs share: exit codes, --traceback, and errors and warnings in one line on stderr.

Option names may be written with - or _, so `--max_tokens` is `--max-tokens`.
"""

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import click

from bark_jax._system import stopping
from bark_jax.cli import process
from bark_jax.errors import BarkError, FaultsError, InputError, ModelNotFoundError, VoiceNotFoundError

EXIT_FAILURE, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_SOME_FAILED = 1, 2, 3, 4
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT

TRACEBACK_VARIABLE = "BARK_JAX_TRACEBACK"


class Verb(click.Command):
    """A command that also takes --traceback."""

    def __init__(self, *args: Any, params: list[click.Parameter] | None = None, **kwargs: Any):
        super().__init__(*args, params=[*(params or []), _traceback_option()], **kwargs)


class Verbs(click.Group):
    """The program: its verbs, in the order they were added, and the handling of their errors."""

    command_class = Verb

    def __init__(self, *args: Any, params: list[click.Parameter] | None = None, **kwargs: Any):
        settings = {"help_option_names": ["-h", "--help"], "token_normalize_func": _with_dashes}
        params = [*(params or []), _traceback_option()]
        super().__init__(*args, params=params, context_settings=settings, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the program as a process of its own: with signal handlers, UTF-8, open streams and rare collection.

        Tests and other programs call `main`, which changes nothing of the process.
        """
        closed = process.open_closed_streams()
        stopping.install()
        process.use_utf8()
        process.collect_rarely()
        if 1 in closed:
            click.echo("error: stdout is closed, expected a file or a pipe for results; give > /dev/null", err=True)
            sys.exit(EXIT_FAILURE)
        try:
            return self.main(*args, **kwargs)
        finally:
            process.flush_stdout()

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Runs a verb with these arguments, by default those of the process."""
        return super().main(process.decoded(sys.argv[1:] if args is None else args), *rest, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the verbs in the order they were added; click would sort them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the verb. Prints an error in one line on stderr and exits with its status; see `_exit_code`.

        Other exceptions than the package's and the system's are bugs and keep their traceback.
        """
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warning_printer()
                try:
                    return super().invoke(ctx)
                finally:
                    sys.stdout.flush()  # a full disk or closed pipe is reported here as an error, not at exit
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # click exits quietly, as when the output goes to `head`
            raise
        except (BarkError, OSError) as error:
            _print_error(ctx, error)
            ctx.exit(_exit_code(error))
        except (MemoryError, RuntimeError) as error:
            if (message := _exhausted_message(error)) is None:
                raise
            _print_error(ctx, error, message)
            ctx.exit(EXIT_FAILURE)


def _with_dashes(name: str) -> str:
    return name.replace("_", "-")


def _traceback_option() -> click.Option:
    return click.Option(
        ["--traceback"],
        is_flag=True,
        expose_value=False,
        callback=_remember_traceback,
        help=f"Print the Python traceback of an error; {TRACEBACK_VARIABLE}=1 does the same.",
    )


def _remember_traceback(ctx: click.Context, _: click.Parameter, is_on: bool) -> None:
    if is_on:
        ctx.meta[TRACEBACK_VARIABLE] = True


def _exhausted_message(error: Exception) -> str | None:
    """Says which resource ran out, memory (out of memory) or threads; None for any other error.

    Python raises MemoryError and RuntimeError here, not OSError; the RuntimeError is known by its text alone.
    """
    if isinstance(error, MemoryError):
        return f"there is no memory left for this process ({error or 'see ulimit -v'}); raise its limit"
    if "start new thread" in str(error):
        return f"there are no threads left for this process ({error}); raise its limit, see ulimit -u"
    return None


def _print_error(ctx: click.Context, error: Exception, message: str | None = None) -> None:
    """Prints the error on stderr. A stderr that cannot be written does not change the exit status."""
    with contextlib.suppress(OSError):
        _write_error(ctx, error, message)


def _write_error(ctx: click.Context, error: Exception, message: str | None) -> None:
    if ctx.meta.get(TRACEBACK_VARIABLE) or os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    if message is None:  # a FaultsError has a line for each fault
        message = str(error) if isinstance(error, FaultsError) else " ".join(str(error).split())
    click.echo(f"error: {message}", err=True)


def _warning_printer() -> Callable[..., None]:
    """Returns a `warnings.showwarning` that prints each warning once, in one line, without Python's file and line.

    `prepare` reads the texts of recordings twice, to check them and to prepare them, and would print warnings twice.
    """
    printed = set()

    def print_warning(message: Warning | str, *_: Any) -> None:
        line = " ".join(str(message).split())
        if line not in printed:
            printed.add(line)
            click.echo(f"warning: {line}", err=True)

    return print_warning


def _exit_code(error: Exception) -> int:
    """3 for a model or voice that is not found, 2 for wrong input, 1 for all other errors."""
    if isinstance(error, (ModelNotFoundError, VoiceNotFoundError)):
        return EXIT_NOT_FOUND
    return EXIT_USAGE if isinstance(error, InputError) else EXIT_FAILURE
