"""What all verbs share: names with - or _, exit codes, and errors and warnings told in one line."""

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
    """The program: its verbs in the order they were added, and what happens to their errors."""

    command_class = Verb

    def __init__(self, *args: Any, params: list[click.Parameter] | None = None, **kwargs: Any):
        settings = {"help_option_names": ["-h", "--help"], "token_normalize_func": _with_dashes}
        params = [*(params or []), _traceback_option()]
        super().__init__(*args, params=params, context_settings=settings, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The program, as a process of its own; tests and other programs call `main`."""
        closed = process.open_closed_streams()
        stopping.install()
        process.use_utf8()
        if 1 in closed:
            click.echo("error: stdout is closed, expected a file or a pipe for results; give > /dev/null", err=True)
            sys.exit(EXIT_FAILURE)
        try:
            return self.main(*args, **kwargs)
        finally:
            process.flush_stdout()

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        return super().main(process.decoded(sys.argv[1:] if args is None else args), *rest, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warning_teller()
                try:
                    return super().invoke(ctx)
                finally:
                    sys.stdout.flush()  # now, while an error has its line
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:  # click ends quietly
            raise
        except (BarkError, OSError) as error:
            _tell(ctx, error)
            ctx.exit(_exit_code(error))
        except (MemoryError, RuntimeError) as error:
            if (limit := _limit_of(error)) is None:
                raise
            _tell(ctx, error, limit)
            ctx.exit(EXIT_FAILURE)


def _with_dashes(name: str) -> str:
    return name.replace("_", "-")


def _traceback_option() -> click.Option:
    return click.Option(
        ["--traceback"],
        is_flag=True,
        expose_value=False,
        callback=_remember_traceback,
        help=f"Show where in the code an error arose; also {TRACEBACK_VARIABLE}=1.",
    )


def _remember_traceback(ctx: click.Context, _: click.Parameter, is_on: bool) -> None:
    if is_on:
        ctx.meta[TRACEBACK_VARIABLE] = True


def _limit_of(error: Exception) -> str | None:
    """What the system did not give, by what Python says where it gives no error of the system's."""
    if isinstance(error, MemoryError):
        return f"there is no memory left for this process ({error or 'see ulimit -v'}); raise its limit"
    if "start new thread" in str(error):
        return f"there are no threads left for this process ({error}); raise its limit, see ulimit -u"
    return None


def _tell(ctx: click.Context, error: Exception, told: str | None = None) -> None:
    """In one line on stderr; a stderr that takes nothing changes no exit status."""
    with contextlib.suppress(OSError):
        _write_error(ctx, error, told)


def _write_error(ctx: click.Context, error: Exception, told: str | None) -> None:
    if ctx.meta.get(TRACEBACK_VARIABLE) or os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    if told is None:
        told = str(error) if isinstance(error, FaultsError) else " ".join(str(error).split())
    click.echo(f"error: {told}", err=True)


def _warning_teller() -> Callable[..., None]:
    """Tells each warning once, in one line: the place in the code, which Python adds, is nothing to who typed it.

    The texts of recordings are read when they are checked and again when they are prepared.
    """
    told = set()

    def tell(message: Warning | str, *_: Any) -> None:
        line = " ".join(str(message).split())
        if line not in told:
            told.add(line)
            click.echo(f"warning: {line}", err=True)

    return tell


def _exit_code(error: Exception) -> int:
    if isinstance(error, (ModelNotFoundError, VoiceNotFoundError)):
        return EXIT_NOT_FOUND
    return EXIT_USAGE if isinstance(error, InputError) else EXIT_FAILURE
