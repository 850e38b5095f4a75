"""The command line, `bark-jax`: one file a verb, each with its click command under the name `command`.

    say.py             the steps of `say`: check, read the text, load, speak, write
    say_text.py        the text: the argument, stdin, or a default sentence
    say_speech.py      the options, and the checks that come before networks are loaded
    say_audio.py       output files: audio, voice, tokens, plot
    group.py           click classes that all verbs share: exit codes, errors and warnings in one line
    options.py         options that several verbs have
    models.py          opens the tokenizer and voices of a model, without its networks
    paths.py           checks output paths before minutes of work
    progress.py, batch_progress.py    progress bars and lines on stderr
    player.py, process.py             the audio player; streams, encoding and garbage collection of the process

Results go to stdout; progress, warnings and errors go to stderr. JAX, Flax and torch are imported in the bodies of the
commands that need them: `bark-jax --help` would otherwise take seconds.
"""

import click

from bark_jax import __version__
from bark_jax.cli import (
    batch,
    bench,
    convert,
    doctor,
    download,
    export,
    parity,
    prepare,
    say,
    serve,
    train,
    verify,
    voices,
)
from bark_jax.cli.group import Verbs


@click.group(cls=Verbs)
@click.version_option(__version__, prog_name="bark-jax")
def main() -> None:
    """Bark, Suno's text-to-audio model, in JAX: generates 24 kHz speech, song and other sounds from text.

    \b
    Exit status: 0 success, 1 failure, 2 wrong usage, 3 model or voice not found,
    4 some rows failed, 130 stopped by Ctrl-C, 143 stopped by SIGTERM.
    """


for verb in (say, batch, serve, voices, download, convert, export, prepare, train, parity, verify, bench, doctor):
    main.add_command(verb.command)
