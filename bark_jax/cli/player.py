"""Plays audio through the first command-line player that the machine has."""

import shutil
import subprocess

import numpy as np

from bark_jax._system import stopping
from bark_jax.errors import UnsupportedError
from bark_jax.files import temporary_folder

# Arguments that make each player play one file and end: no window, no prompt, no messages.
PLAYERS = {
    "ffplay": ("-nodisp", "-autoexit", "-loglevel", "error"),
    "paplay": (),
    "aplay": ("-q",),
    "afplay": (),
    "play": ("-q",),
}


def find_player() -> list[str]:
    """Returns a player's command; the audio file is its last argument. Raises UnsupportedError if there is none."""
    for name, arguments in PLAYERS.items():
        if path := shutil.which(name):
            return [path, *arguments]
    raise UnsupportedError(f"--play needs one of {', '.join(PLAYERS)}, and none is on this machine; use -o FILE")


def play(player: list[str], samples: np.ndarray, sample_rate: int) -> None:
    """Plays audio and waits for its end; a signal that ends the process kills the player.

    Args:
      player: a command of `find_player`.
      samples: float32 [A] or [A, channels], in -1..1.

    Raises:
      UnsupportedError: the player failed.
    """
    from bark_jax.audio.files import write_audio

    with temporary_folder() as folder:
        path = folder / "bark.wav"  # the one format that all of PLAYERS read
        write_audio(path, samples, sample_rate)
        with subprocess.Popen([*player, str(path)]) as running, stopping.cleaned_up(running.kill):
            status = running.wait()
    if status:
        raise UnsupportedError(f"{player[0]} could not play the audio (exit status {status}); use -o FILE")
