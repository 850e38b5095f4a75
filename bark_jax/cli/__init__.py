"""The command line, `bark-jax`: one file a verb, each with its click command under the name `command`.

`say` has three more: what it reads (`say_text`), what is checked before it speaks (`say_speech`), and where its audio
goes (`say_audio`). `models` opens the processors of models that are given by name.

`group` has what all verbs share: exit codes, errors in one line. Data goes to stdout, talk to stderr. JAX, Flax and
torch are imported in the bodies of the commands that need them, so that help costs nothing.
"""

import click

from bark_jax import __version__
from bark_jax.cli import batch, bench, convert, doctor, download, parity, prepare, say, train, voices
from bark_jax.cli.group import Verbs


@click.group(cls=Verbs)
@click.version_option(__version__, prog_name="bark-jax")
def main() -> None:
    """Bark, Suno's text-to-audio system, in JAX: text in, 24 kHz speech, song and sound out.

    \b
    Exit status: 0 done, 1 failure, 2 wrong usage, 3 model or voice not available,
    4 some rows failed, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """


for verb in (say, batch, voices, download, convert, prepare, train, parity, bench, doctor):
    main.add_command(verb.command)
