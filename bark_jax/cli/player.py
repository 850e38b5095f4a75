"""Playing audio through whatever player the machine has."""

import shutil
import subprocess

import numpy as np

from bark_jax._system import stopping
from bark_jax.errors import UnsupportedError
from bark_jax.files import temporary_folder

PLAYERS = {
    "ffplay": ("-nodisp", "-autoexit", "-loglevel", "error"),
    "paplay": (),
    "aplay": ("-q",),
    "afplay": (),
    "play": ("-q",),
}


def find_player() -> list[str]:
    """The command that plays the file named after it. Raises UnsupportedError where there is none."""
    for name, arguments in PLAYERS.items():
        if path := shutil.which(name):
            return [path, *arguments]
    raise UnsupportedError(f"--play needs one of {', '.join(PLAYERS)}, and none is on this machine; use -o FILE")


def play(player: list[str], samples: np.ndarray, sample_rate: int) -> None:
    """Plays audio samples and waits until they have been heard."""
    from bark_jax.audio.files import write_audio

    with temporary_folder() as folder:
        path = folder / "bark.wav"  # the one format that all of them know
        write_audio(path, samples, sample_rate)
        with subprocess.Popen([*player, str(path)]) as running, stopping.cleaned_up(running.kill):
            status = running.wait()
    if status:
        raise UnsupportedError(f"{player[0]} could not play the audio (exit status {status}); use -o FILE")
