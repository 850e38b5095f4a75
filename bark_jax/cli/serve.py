"""`bark-jax serve`: speech over HTTP, with OpenAI's speech API."""

import dataclasses
import importlib
import os
from typing import TYPE_CHECKING, Any

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.options import model_option, network_options, revision_option, sampling_options, sampling_settings
from bark_jax.errors import UnsupportedError

if TYPE_CHECKING:
    from bark_jax.serve import Settings

KEY_VARIABLE = "BARK_JAX_API_KEY"

EXAMPLES = """\b
Examples:
  bark-jax serve -m tiny
  bark-jax serve -m suno/bark-small --dtype bfloat16 --voice v2/en_speaker_6
  BARK_JAX_API_KEY=... bark-jax serve -m suno/bark-small --host 0.0.0.0 --port 9000
  curl localhost:8000/v1/audio/speech -H "Content-Type: application/json" -d '{"model": "tiny", "input": "Hi."}' > a.mp3
"""


def _check_key(context: click.Context, parameter: click.Parameter, key: str | None) -> str | None:
    """Refuses an empty variable, which click takes for none: it was to be filled from another one that is not set."""
    if key is None and os.environ.get(KEY_VARIABLE) == "":
        raise click.UsageError(f"{KEY_VARIABLE} is empty, expected a key; unset it for a server without one", context)
    return key


@click.command("serve", cls=Verb, epilog=EXAMPLES, short_help="Serve speech over HTTP.")
@model_option
@revision_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--voice", help="Voice of requests that name none: a preset's name or the path of a .npz file.")
@click.option(
    "--api-key",
    envvar=KEY_VARIABLE,
    show_envvar=True,
    callback=_check_key,
    help="Key that requests have to bring. Other users of this machine can read it in the list of processes, the "
    "variable not.",
)
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    help="Name that requests may call the server by, such as speech.example; may be given several times.  [default: "
    "names of this machine if only it can connect, else any]",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    help="Origin of another web page that may use the server, such as https://app.example; may be given several times.",
)
@click.option(
    "--slots",
    "n_slots",
    type=click.IntRange(1),
    help="Number of sentences to speak at once.  [default: 16; on a CPU 4]",
)
@click.option("--devices", "n_devices", type=click.IntRange(1), help="Number of devices to use.  [default: all]")
@click.option(
    "--max-requests",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Maximum number of requests that are spoken or wait; more are answered 429.",
)
@click.option(
    "--max-characters",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="Maximum number of characters of a text.",
)
@click.option(
    "--timeout", "timeout_s", type=float, default=300, show_default=True, help="Maximum number of seconds of a request."
)
@click.option(
    "--stop-within",
    "stop_within_s",
    type=click.FloatRange(1),
    default=30,
    show_default=True,
    help="Seconds that requests in progress have after SIGTERM.",
)
@click.option(
    "--silence",
    "silence_s",
    type=float,
    default=0.25,
    show_default=True,
    help="Seconds of silence between the sentences of a text.",
)
@click.option("--max-tokens", type=click.IntRange(1), help="Maximum number of text tokens of a sentence.")
@sampling_options
@network_options
@click.option("--log-text", "logs_text", is_flag=True, help="Log the texts of requests.")
@click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Log warnings and errors alone.")
def command(host: str, port: int, stop_within_s: float, is_quiet: bool, **options: Any) -> None:
    """Serve speech over HTTP at http://HOST:PORT, with OpenAI's speech API.

    Requests of many callers are spoken together. SIGTERM and Ctrl-C take no more of them and finish those in progress;
    a second one ends the server at once.
    """
    _import_extra()
    from bark_jax.serve import make_app, open_service, server

    is_local = server.is_loopback(host)
    settings = _settings(options, host=host, is_local=is_local)
    server.set_up_logging(is_quiet=is_quiet)
    # Before the model is loaded, which takes long: a port in use is reported at once.
    with server.listen(host, port) as listening:
        service = open_service(settings)
        click.echo(f"{service.model} at {server.url_of(listening)}", err=True)
        if not is_local and settings.api_key is None:
            click.echo(f"warning: anyone who reaches {host} can use this server; set {KEY_VARIABLE}", err=True)
        server.run(make_app(service, settings), listening, stop_within_s=stop_within_s)
    if service.thread.is_alive:
        server.leave()


def _import_extra() -> None:
    """Imports what the extra `serve` installs. Raises UnsupportedError where it is missing."""
    for name in ("starlette", "uvicorn", "prometheus_client"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UnsupportedError(f"{name} is not installed; run: pip install 'bark-jax[serve]'") from error


def _settings(options: dict[str, Any], *, host: str, is_local: bool) -> "Settings":
    from bark_jax.batch.job import Job
    from bark_jax.serve.settings import LOOPBACK_NAMES, Settings

    generation = sampling_settings(options)
    job_names = {field.name for field in dataclasses.fields(Job)} & options.keys()
    job = Job(**{name: options.pop(name) for name in job_names}, settings=generation)
    allowed = options.pop("allowed_hosts")
    hosts = (*LOOPBACK_NAMES, host, *allowed) if is_local else (allowed or None)
    return Settings(job, hosts=hosts, **options)
