"""Speech to learn from: flite, a small synthesiser with a free licence, which also tells when each phone is spoken.

A semantic token is a phone and how much of it has passed: three states a phone, at 50 tokens a second.
"""

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

# The order is part of the trained model: token = 3 * index + state.
_PHONES = "pau p iy t er f ih k s dh eh r y uw zh ax w l ae th ao v aw z hh n uh sh d m aa ay ah ey b jh g ow ch ng oy"
PHONES = tuple(_PHONES.split())
STATES = 3
N_TOKENS = STATES * len(PHONES)
TOKEN_RATE = 50
SAMPLE_RATE = 24_000
GAIN = 1.2  # flite is quiet
DEBIAN_PACKAGES = ("flite", "libflite1")


class Utterance(NamedTuple):
    """A text as flite speaks it."""

    text: str
    voice: str
    semantic: np.ndarray  # int32 [S] in [0, N_TOKENS), an even number of them
    audio: np.ndarray  # float32 [A] at SAMPLE_RATE, as long as the tokens


class Flite:
    """The synthesiser's program, found on PATH or fetched from Debian's archive into a folder.

    Args:
      folder: where a fetched one is kept.

    Raises:
      UnsupportedError: it is not here and cannot be fetched.
    """

    def __init__(self, folder: Path):
        self._env = dict(os.environ)
        program = shutil.which("flite")
        if program is None:
            root = _fetch(folder)
            program = str(root / "usr/bin/flite")
            libraries = next(root.glob("usr/lib/*/libflite.so.1")).parent
            self._env["LD_LIBRARY_PATH"] = str(libraries)
        self._program = program

    def speak(self, text: str, voice: str = "slt") -> Utterance:
        """Speaks a text. Voices: slt (a woman), rms and awb (men)."""
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
        """Speaks texts on all cores, in their order."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(lambda text: self.speak(text, voice), texts)


def phone_states(ends: Sequence[str]) -> np.ndarray:
    """Semantic tokens of phones with the time at which each ends: ["pau:0.2", "hh:0.26", ...] -> int32 [S].

    Phones that PHONES lacks count as silence. The number of tokens is made even, so that it is whole in frames.
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


def _fetch(folder: Path) -> Path:
    """Unpacks flite's Debian packages, unless they are there; nothing is installed."""
    root = folder / "flite"
    if (root / "usr/bin/flite").is_file():
        return root
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UnsupportedError("flite is not on PATH and this is no Debian to fetch it from; install flite")
    with tempfile.TemporaryDirectory() as packages:
        result = subprocess.run(
            ["apt-get", "download", *DEBIAN_PACKAGES], cwd=packages, capture_output=True, text=True, check=False
        )
        files = sorted(Path(packages).glob("*.deb"))
        if result.returncode or len(files) != len(DEBIAN_PACKAGES):
            raise UnsupportedError(f"flite is not on PATH and apt-get cannot fetch it: {result.stderr.strip()}")
        root.mkdir(parents=True, exist_ok=True)
        for file in files:
            subprocess.run(["dpkg-deb", "-x", file, root], check=True)
    return root
