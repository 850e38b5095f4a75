"""The manifest of a corpus, in JSON Lines: reads it, and reports every fault before any clip is encoded.

    {"audio": "clips/0001.flac", "text": "Good morning.", "voice": "anna", "semantic": [17, 256, ...], "id": "0001"}

    audio       path of a recording, relative to the manifest
    text        what is said
    voice       speaker's name; "default" if left out
    semantic    list of semantic tokens, or the path of a .npy file; may be left out if a semantic tokenizer is given
    id          string or whole number, unique in the manifest; optional, for your own bookkeeping

Other keys are a fault.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bark_jax._system.json_lines import Fault, list_faults, read_lines, read_object
from bark_jax.errors import BarkError, InputError, quoted
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.text.processor import BarkProcessor
from bark_jax.training.semantic_tokens import WHERE_FROM, check_semantic
from bark_jax.voices.files import read_npy

DEFAULT_VOICE = "default"
KEYS = ("audio", "text", "voice", "semantic", "id")

MAX_LINE_BYTES = 2**20
MAX_LISTED_FAULTS = 20

MIN_S = 0.1
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8_000, 192_000  # Hz; 8 kHz is telephone quality, above 192 kHz a header is wrong
SILENCE = 1e-4  # -80 dB of full scale; a clip whose peak is below is refused as silent
MAX_LOUDNESS = 4.0  # peak; floats slightly beyond -1..1 are common, 16-bit integers stored as floats reach 32,768

# Minimum share of the seconds that a header claims which the file must hold, and which must decode. Sizes in bytes may
# be off by a few, and an MP3's length is an estimate.
MIN_HELD, MIN_DECODED = 0.98, 0.9
UNKNOWN_BYTES = 2**31 - 2**20  # programs that write to a pipe put about 2**31 or 2**32 for a size they do not know

_WRONG_SIZE = re.compile(r": (\d{1,20}) \(should be (\d{1,20})\)")
_BLOCK = 2**16  # frames (samples of every channel) read at a time


class ManifestError(InputError):
    """A manifest with faults: `faults` lists all, the message the first MAX_LISTED_FAULTS, `advice` says what to do."""

    def __init__(self, path: Path, faults: list[Fault], advice: str = ""):
        self.path, self.faults, self.advice = path, faults, advice
        title = f"{path} has {len(faults)} {'fault' if len(faults) == 1 else 'faults'}; nothing was prepared:"
        message = list_faults(title, faults[:MAX_LISTED_FAULTS], len(faults))
        super().__init__(f"{message}\n{advice}" if advice else message)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of a manifest. Its types are checked, its files are not opened yet."""

    line: int
    audio: Path
    text: str
    voice: str
    semantic: np.ndarray | Path | None
    id: str | None

    def read_semantic(self) -> np.ndarray | None:
        """The semantic tokens [S], unchecked, read from the .npy file if one is named; None if the line has none."""
        return read_npy(self.semantic) if isinstance(self.semantic, Path) else self.semantic


class Corpus(NamedTuple):
    """Totals of a checked manifest."""

    n_entries: int
    seconds: float  # of audio
    voices: tuple[str, ...]  # in order of first appearance


def check_manifest(
    path: str | os.PathLike[str],
    *,
    spaces: TokenSpaces,
    processor: BarkProcessor,
    min_s: float = MIN_S,
    max_s: float | None = None,
    has_tokenizer: bool = False,
) -> Corpus:
    """Checks a manifest and every file that it names. Holds one clip in memory at a time.

    Args:
      path: the manifest.
      spaces: token spaces of the model that the data are for.
      processor: tokenizes the texts, and refuses what generation would refuse.
      min_s, max_s: bounds of a clip's length in seconds; max_s None is `longest_s`, 15.4 s in Bark.
      has_tokenizer: a semantic tokenizer is given, so lines may lack semantic tokens.

    Raises:
      ManifestError: with the faults of all lines.
      InputError: the file does not exist or is empty.
    """
    path, faults, ids, voices = Path(path), [], {}, {}
    max_s = longest_s(spaces) if max_s is None else max_s
    n_entries, seconds, lacks_semantic = 0, 0.0, False
    for entry in read_entries(path):
        n_entries += 1
        if isinstance(entry, Fault):
            faults.append(entry)
            continue
        if entry.id is not None and ids.setdefault(entry.id, entry.line) != entry.line:
            faults.append(Fault(entry.line, f"id {quoted(entry.id)} is that of line {ids[entry.id]} too"))
        voices.setdefault(entry.voice)
        if entry.semantic is None and not has_tokenizer:
            faults.append(Fault(entry.line, "there are no semantic tokens, and no semantic tokenizer"))
            lacks_semantic = True
        duration_s, found = _check_files(entry, spaces, processor, min_s, max_s)
        seconds += duration_s
        faults += [Fault(entry.line, what) for what in found]
    if faults:
        raise ManifestError(path, faults, WHERE_FROM if lacks_semantic else "")
    if not n_entries:
        raise InputError(f"{path} is empty, expected a JSON object a line")
    return Corpus(n_entries, seconds, tuple(voices))


def read_entries(path: str | os.PathLike[str]) -> Iterator[Entry | Fault]:
    """Yields an Entry or a Fault for each line of a manifest; skips blank lines.

    Raises:
      InputError: the file does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"the manifest {path} {'is no file' if path.exists() else 'does not exist'}")
    with open(path, "rb") as file:
        for number, line in read_lines(file, MAX_LINE_BYTES):
            try:
                yield _parse(number, line, path.parent)
            except InputError as error:
                yield Fault(number, str(error))


def read_mono(path: str | os.PathLike[str], *, min_s: float, max_s: float) -> tuple[np.ndarray, int]:
    """Reads an audio file as (mono samples, float32 [A], sample rate in Hz). Channels are averaged.

    The header is checked before the samples are read. Never reads more samples than the header claims, so an untrusted
    file cannot fill the memory.

    Args:
      min_s, max_s: bounds of the length in seconds.

    Raises:
      InputError: the file cannot be read, is cut short, silent or not finite, or its length or rate is out of bounds.
    """
    import soundfile

    if not os.path.isfile(path):
        raise InputError(
            f"the audio {quoted(str(path), 200)} {'is no file' if os.path.exists(path) else 'does not exist'}"
        )
    try:
        with soundfile.SoundFile(path) as sound:
            rate, n_claimed = sound.samplerate, sound.frames
            _check_not_cut(_claimed_s(sound.extra_info, n_claimed / rate), n_claimed / rate, MIN_HELD)
            _check_header(rate, n_claimed / rate, min_s, max_s)
            blocks = list(_mono_blocks(sound, n_claimed))
    except InputError:
        raise
    except Exception as error:  # soundfile's and libsndfile's errors, and a TypeError for a name that ends in .raw
        raise InputError(f"the audio cannot be read ({quoted(str(error), 200)})") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    _check_not_cut(n_claimed / rate, len(samples) / rate, MIN_DECODED)
    _check_header(rate, len(samples) / rate, min_s, max_s)  # the file may be shorter than its header says
    _check_loudness(samples)
    return samples, rate


def longest_s(spaces: TokenSpaces) -> float:
    """Maximum length of a clip in seconds, max_semantic tokens: 15.4 in Bark."""
    return float(spaces.max_semantic / spaces.semantic_rate)


def _parse(number: int, line: bytes | None, folder: Path) -> Entry:
    """Parses a line and checks its types. Raises InputError with what is wrong."""
    try:
        fields = read_object(line, MAX_LINE_BYTES)
    except InputError as error:
        raise InputError(f"it is {error}") from error
    if unknown := [key for key in fields if key not in KEYS]:
        raise InputError(f"it has {', '.join(map(quoted, unknown[:4]))}, expected only {', '.join(KEYS)}")
    fields = {"voice": DEFAULT_VOICE, **fields}
    for key, expected in (("audio", "a path"), ("text", "a string"), ("voice", "a name")):
        value = fields.get(key)
        if not isinstance(value, str) or (key != "text" and not (value.strip() and value.isprintable())):
            raise InputError(f"{key} is {quoted(value) if key in fields else 'missing'}, expected {expected}")
    name = fields.get("id")
    if not isinstance(name, (str, int, type(None))) or isinstance(name, bool):
        raise InputError(f"id is {quoted(name)}, expected a string or a whole number")
    return Entry(
        number,
        folder / fields["audio"],
        fields["text"],
        fields["voice"],
        _parse_semantic(fields.get("semantic"), folder),
        None if name is None else str(name),
    )


def _parse_semantic(value: Any, folder: Path) -> np.ndarray | Path | None:
    if value is None:
        return None
    if isinstance(value, str) and value:
        return folder / value
    if not isinstance(value, list) or not all(type(token) is int and abs(token) < 2**62 for token in value):
        raise InputError(f"semantic is {quoted(value)}, expected a list of whole numbers or the path of a .npy file")
    return np.array(value, np.int64)  # does not overflow: the numbers were checked to be below 2**62


def _check_files(
    entry: Entry, spaces: TokenSpaces, processor: BarkProcessor, min_s: float, max_s: float
) -> tuple[float, list[str]]:
    """(seconds of audio, messages of what is wrong with text, audio and semantic tokens)."""
    faults, duration_s = [], None
    try:
        processor(entry.text, padding="longest")
    except BarkError as error:
        faults.append(str(error))
    try:
        samples, rate = read_mono(entry.audio, min_s=min_s, max_s=max_s)
        duration_s = len(samples) / rate
    except InputError as error:
        faults.append(str(error))
    try:
        tokens = entry.read_semantic()
        if tokens is not None:
            check_semantic(tokens, duration_s, spaces, "semantic")
    except BarkError as error:
        faults.append(str(error))
    return duration_s or 0.0, faults


def _check_header(rate: int, duration_s: float, min_s: float, max_s: float) -> None:
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise InputError(
            f"the audio has a sample rate of {rate} Hz, expected {MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,}"
        )
    if duration_s < min_s:
        raise InputError(f"the audio has {duration_s:.2f} s, expected {min_s:g} s at least")
    if duration_s > max_s:
        raise InputError(
            f"the audio has {duration_s:.2f} s, at most {max_s:.2f} s can be learnt; cut it where the speaker pauses"
        )


def _mono_blocks(sound: Any, n_claimed: int) -> Iterator[np.ndarray]:
    """Yields mono blocks, float32 [A], up to n_claimed samples in all.

    Not `sound.blocks`: past the end of a file that was cut short it repeats old samples.
    """
    while n_claimed > 0:
        block = sound.read(min(_BLOCK, n_claimed), dtype="float32", always_2d=True)
        if not len(block):
            return
        n_claimed -= len(block)
        yield block.mean(axis=1, dtype=np.float32)


def _claimed_s(log: str, held_s: float) -> float:
    """Seconds that an audio file's header claims. libsndfile itself reports the seconds that the file has room for.

    Args:
      log: libsndfile's log, which has a line such as "data : 480000 (should be 48000)" for each wrong size.
      held_s: the seconds that libsndfile reports.
    """
    sizes = [(int(claimed), int(held)) for claimed, held in _WRONG_SIZE.findall(log)]
    shares = [claimed / held for claimed, held in sizes if 0 < held and claimed < UNKNOWN_BYTES]
    return held_s * max([1.0, *shares])


def _check_not_cut(claimed_s: float, held_s: float, least: float) -> None:
    if held_s < least * claimed_s:
        raise InputError(
            f"the audio claims {claimed_s:.2f} s and holds {held_s:.2f} s: the file was cut; copy or record it again"
        )


def _check_loudness(samples: np.ndarray) -> None:
    if not np.isfinite(samples).all():
        raise InputError(f"the audio holds NaN or infinity, first at audio sample {np.isfinite(samples).argmin()}")
    loudest = float(np.abs(samples).max())
    if loudest < SILENCE:
        raise InputError(f"the audio is silent: its loudest audio sample, of all channels' mean, is {loudest:.1g}")
    if loudest > MAX_LOUDNESS:
        raise InputError(f"the audio goes to {loudest:g}, expected -1 to 1: are these whole numbers written as floats?")
