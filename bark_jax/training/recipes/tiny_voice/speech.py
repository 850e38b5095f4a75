"""Synthetic training speech: flite, a small speech synthesiser with a free licence, with the time of each phone.

The timed phones make the semantic tokens: three states a phone (its first, middle and last third), 50 tokens a second.
"""

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from bark_jax.errors import InputError, UnsupportedError
from bark_jax.files import atomic_folder

# The order is part of the trained model: token = 3 * index + state.
_PHONES = "pau p iy t er f ih k s dh eh r y uw zh ax w l ae th ao v aw z hh n uh sh d m aa ay ah ey b jh g ow ch ng oy"
PHONES = tuple(_PHONES.split())
STATES = 3
N_TOKENS = STATES * len(PHONES)
TOKEN_RATE = 50
SAMPLE_RATE = 24_000
GAIN = 1.2  # flite's output is quiet; samples are clipped to 0.99 after it
HELD_UTTERANCES = 1024  # in memory at a time: some 350 MB
DEBIAN_PACKAGES = ("flite", "libflite1")
SOUND_PACKAGES = ("libasound2t64", "libasound2")


class Utterance(NamedTuple):
    """A text spoken by flite."""

    text: str
    voice: str
    semantic: np.ndarray  # int32 [S] in [0, N_TOKENS), an even number of them
    audio: np.ndarray  # float32 [A] at SAMPLE_RATE, as long as the tokens


class Flite:
    """The synthesiser's program: in `folder`, on PATH, or downloaded from Debian's archive by apt-get into `folder`.

    Args:
      folder: where a downloaded program is kept.

    Raises:
      UnsupportedError: flite is in neither and cannot be downloaded.
    """

    def __init__(self, folder: Path):
        self._env = dict(os.environ)
        program = None if _is_fetched(folder) else shutil.which("flite")
        if program is None:
            root = fetch_flite(folder)
            program = str(root / "usr/bin/flite")
            libraries = next(root.glob("usr/lib/*/libflite.so.1")).parent
            self._env["LD_LIBRARY_PATH"] = str(libraries)
        self._program = program

    def speak(self, text: str, voice: str = "slt") -> Utterance:
        """Speaks a text. Voices: slt (a woman), rms and awb (men).

        Raises:
          InputError: flite fails, for instance on an unknown voice.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "speech.wav")
            command = [self._program, "-voice", voice, "-psdur", "-t", text, "-o", str(path)]
            result = subprocess.run(command, capture_output=True, text=True, env=self._env, timeout=60, check=False)
            if result.returncode or not path.is_file():
                raise InputError(f"flite could not say {text!r}: {result.stderr.strip() or result.returncode}")
            samples, rate = soundfile.read(path, dtype="float32")
        semantic = phone_states(result.stdout.split())
        audio = np.clip(soxr.resample(samples, rate, SAMPLE_RATE) * GAIN, -0.99, 0.99)
        n_samples = len(semantic) * SAMPLE_RATE // TOKEN_RATE
        audio = np.pad(audio, (0, max(0, n_samples - len(audio))))[:n_samples]
        return Utterance(text, voice, semantic, audio.astype(np.float32))

    def speak_all(self, texts: Iterable[str], voice: str = "slt") -> Iterator[Utterance]:
        """Speaks texts in parallel on all cores; yields utterances in the order of the texts."""
        waiting = iter(texts)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # A part at a time: `map` starts all that it is given, whether their audio is taken or not.
            while part := list(itertools.islice(waiting, HELD_UTTERANCES)):
                yield from pool.map(lambda text: self.speak(text, voice), part)


def phone_states(ends: Sequence[str]) -> np.ndarray:
    """Semantic tokens of phones and the times at which they end: ["pau:0.2", "hh:0.26", ...] -> int32 [S].

    Phones that PHONES lacks count as silence. S is padded to an even number: 2 tokens last exactly 3 frames, so an even
    number ends on a frame.
    """
    tokens: list[int] = []
    start = 0
    for item in ends:
        phone, end = item.split(":")
        stop = round(float(end) * TOKEN_RATE)
        index = PHONES.index(phone) if phone in PHONES else 0
        tokens += [STATES * index + STATES * i // (stop - start) for i in range(stop - start)]
        start = stop
    tokens += [STATES - 1] * (len(tokens) % 2)
    return np.array(tokens, np.int32)


def _is_fetched(folder: Path) -> bool:
    return (folder / "flite/usr/bin/flite").is_file()


def fetch_flite(folder: Path) -> Path:
    """Downloads flite's Debian packages and unpacks them into `folder`/flite, unless done already; installs nothing.

    Raises:
      UnsupportedError: this is no Debian, or the download fails.
    """
    root = folder / "flite"
    if _is_fetched(folder):
        return root
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UnsupportedError("flite is not on PATH and this is no Debian to fetch it from; install flite")
    with tempfile.TemporaryDirectory() as packages:
        result = _download(DEBIAN_PACKAGES, packages)
        if result.returncode or len(list(Path(packages).glob("*.deb"))) != len(DEBIAN_PACKAGES):
            raise UnsupportedError(f"flite is not on PATH and apt-get cannot fetch it: {result.stderr.strip()}")
        # flite plays sound too, by a library whose package has another name in newer releases. Most machines have it.
        any(_download([name], packages).returncode == 0 for name in SOUND_PACKAGES)
        with atomic_folder(root, overwrite=True, kind="flite") as partial:
            for file in sorted(Path(packages).glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", file, partial], check=True)
    return root


def _download(packages: Sequence[str], folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["apt-get", "download", *packages], cwd=folder, capture_output=True, text=True, check=False)
