"""`bark-jax serve`: speech over HTTP, with OpenAI's speech API."""

from typing import Any

import click

from bark_jax.cli.group import Verb
from bark_jax.cli.options import DTYPES, model_option, revision_option
from bark_jax.errors import UnsupportedError

KEY_VARIABLE = "BARK_JAX_API_KEY"

EXAMPLES = """\b
Examples:
  bark-jax serve -m tiny
  bark-jax serve -m suno/bark-small --dtype bfloat16 --voice v2/en_speaker_6 --port 9000
"""


@click.command("serve", cls=Verb, epilog=EXAMPLES, short_help="Serve speech over HTTP.")
@model_option
@revision_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--voice", help="Voice of requests that name none: a preset's name or the path of a .npz file.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Dtype of the networks.  [default: the model's]")
@click.option("--api-key", envvar=KEY_VARIABLE, show_envvar=True, help="Key that requests have to bring.")
def command(host: str, port: int, api_key: str | None, **options: Any) -> None:
    """Serve speech over HTTP at http://HOST:PORT, with OpenAI's speech API and a page to try it on."""
    try:
        import uvicorn

        from bark_jax.serve import Settings, make_app, open_service
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"{error.name} is not installed; run: pip install 'bark-jax[serve]'") from error
    from bark_jax.batch.job import Job

    settings = Settings(Job(**options), api_key=api_key)
    app = make_app(open_service(settings), settings)
    uvicorn.run(app, host=host, port=port, log_level="warning")
