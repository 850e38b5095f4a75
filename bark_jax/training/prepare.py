"""A manifest of recordings to the dataset that training reads: text ids, semantic tokens and codes of equal length.

Audio becomes mono at the model's sample rate, and its end is cut or continued with silence so that its codes are the
spaces.n_frames(S) that go with S semantic tokens. More than `semantic_tokens.MAX_DIFFERENCE_S` is a fault. The codes
are those of the model's own codec.
"""

import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bark_jax._system.own_jax_config import under_own_config
from bark_jax.errors import BarkError, ConfigError, InputError, UnsupportedError
from bark_jax.files import check_destination
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.model import BarkModel
from bark_jax.networks.codec.encodec import Codec
from bark_jax.text.processor import BarkProcessor
from bark_jax.training.dataset import Dataset, Example, check_same_meaning, open_writer, samples_per_frame
from bark_jax.training.manifest import (
    MIN_S,
    Entry,
    Fault,
    ManifestError,
    check_manifest,
    longest_s,
    read_entries,
    read_mono,
)
from bark_jax.training.semantic_tokens import SemanticTokenizer, check_semantic, make_semantic

# Frames are padded to a multiple of this, and rows to ENCODE_ROWS, so that clips of any length run few programs.
FRAMES_STEP = 256
ENCODE_ROWS = 4
# Clips that are held at once and sorted by length before they are encoded.
HELD_CLIPS = 16 * ENCODE_ROWS


class _Clip(NamedTuple):
    """An example whose codes are yet to be made of its audio samples."""

    text: np.ndarray  # int32 [T]
    semantic: np.ndarray  # int32 [S]
    samples: np.ndarray  # float32, whole frames
    voice: int


def prepare_dataset(
    manifest: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    bark: BarkModel,
    processor: BarkProcessor,
    semantic_tokenizer: SemanticTokenizer | None = None,
    keep_audio: bool = False,
    min_s: float = MIN_S,
    max_s: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Writes the dataset of a manifest as a folder that appears whole or not at all.

    Everything is checked before the first clip is encoded. No more than HELD_CLIPS clips are in memory at once.

    Args:
      bark: whose token spaces the data are for, and whose codec makes the codes, in float32.
      processor: the model's; text becomes the ids that generation would read.
      semantic_tokenizer: for the lines without semantic tokens of their own.
      keep_audio: keeps the audio too, as 16-bit integers, to train the codec.
      min_s, max_s: see `check_manifest`.
      overwrite: replaces a dataset that is there.
      progress: called with the clips done and all of them.

    Raises:
      ManifestError: with all faults of the manifest; or with the first that only showed while preparing.
      InputError: a folder that is there, a semantic tokenizer that fails, or parts that do not go together.
    """
    spaces, codec = bark.spaces, bark.codec_model
    _check_parts(codec, processor, spaces)
    check_destination(folder, overwrite=overwrite, kind="dataset")
    max_s = longest_s(spaces) if max_s is None else max_s
    bounds = {"min_s": min_s, "max_s": max_s}
    corpus = check_manifest(
        manifest, spaces=spaces, processor=processor, has_tokenizer=semantic_tokenizer is not None, **bounds
    )
    voices = {name: index for index, name in enumerate(corpus.voices)}
    clips = (
        _read_clip(entry, manifest, voices, spaces, processor, semantic_tokenizer, bounds)
        for entry in read_entries(manifest)
    )
    fingerprint = codec_fingerprint(codec)
    with open_writer(
        folder, spaces, corpus.voices, with_audio=keep_audio, codec=fingerprint, overwrite=overwrite
    ) as writer:
        for clip, codes_QT in _with_codes(codec, clips, spaces.n_fine):
            writer.add(Example(clip.text, clip.semantic, codes_QT, clip.voice), clip.samples if keep_audio else None)
            if progress is not None:
                progress(writer.n_examples, corpus.n_entries)
    return Dataset.open(folder, spaces=spaces)


def recode(
    dataset: Dataset,
    folder: str | os.PathLike[str],
    codec: Codec,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Writes a dataset that was prepared with its audio once more, with the codes of another codec.

    For what reads codes after the codec was trained. The audio stays in the first dataset alone.

    Args:
      codec: float32.
      folder, overwrite, progress: as for `prepare_dataset`.

    Raises:
      InputError: the dataset holds no audio, the codec is another model's, or a folder that is there.
    """
    spaces = dataset.spaces
    _check_codec(codec, spaces)
    check_destination(folder, overwrite=overwrite, kind="dataset")
    clips = (_clip_of(dataset, index) for index in range(len(dataset)))
    with open_writer(folder, spaces, dataset.voices, codec=codec_fingerprint(codec), overwrite=overwrite) as writer:
        for clip, codes_QT in _with_codes(codec, clips, spaces.n_fine):
            writer.add(Example(clip.text, clip.semantic, codes_QT, clip.voice))
            if progress is not None:
                progress(writer.n_examples, len(dataset))
    return Dataset.open(folder, spaces=spaces)


@under_own_config
def encode_audio(codec: Codec, audio: Sequence[np.ndarray], n_codebooks: int) -> list[np.ndarray]:
    """The codes of rows of unequal length, each as if it were encoded alone: int32 [n_codebooks, F].

    Padding comes after a row's whole frames, which do not look ahead, so it changes their vectors only where another
    shape makes another program round differently: by the last bits. Products are taken in full float32.

    Args:
      audio: rows of mono float32 samples, a whole number of frames each, one at least.
    """
    hop = codec.config.hop_length
    n_frames = [len(samples) // hop for samples in audio]
    least = _min_padded_frames(codec)
    codes: list[np.ndarray | None] = [None] * len(audio)
    padded = []
    for index, samples in enumerate(audio):
        if n_frames[index] >= least:
            padded.append(index)
        else:
            codes[index] = _encode(codec, samples[None], n_codebooks)[0]
    padded.sort(key=n_frames.__getitem__)
    for first in range(0, len(padded), ENCODE_ROWS):
        batch = padded[first : first + ENCODE_ROWS]
        width = -(-n_frames[batch[-1]] // FRAMES_STEP) * FRAMES_STEP
        samples_BA = np.zeros((ENCODE_ROWS, width * hop), np.float32)
        for row, index in enumerate(batch):
            samples_BA[row, : len(audio[index])] = audio[index]
        for row_QT, index in zip(_encode(codec, samples_BA, n_codebooks), batch, strict=False):
            codes[index] = row_QT[:, : n_frames[index]]
    return codes


def codec_fingerprint(codec: Codec) -> str:
    """SHA-256 of what decides the codes: the weights of the encoder and the codebooks."""
    digest = hashlib.sha256()
    for part in (codec.encoder, codec.quantizer):
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(part))):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"


def fit_samples(samples: np.ndarray, sample_rate: int, spaces: TokenSpaces) -> np.ndarray:
    """Mono audio samples at the model's sample rate."""
    if sample_rate == spaces.sample_rate:
        return samples
    try:
        import soxr
    except ImportError as error:
        raise UnsupportedError(
            f"audio at {sample_rate} Hz, not {spaces.sample_rate}, needs soxr: pip install 'bark-jax[train]'"
        ) from error
    return soxr.resample(samples, sample_rate, spaces.sample_rate)


def _check_parts(codec: Codec, processor: BarkProcessor, spaces: TokenSpaces) -> None:
    """Raises ConfigError or InputError where model, codec and processor are not of one kind."""
    check_same_meaning(processor.spaces, spaces, "the processor")
    _check_codec(codec, spaces)


def _check_codec(codec: Codec, spaces: TokenSpaces) -> None:
    config = codec.config
    found = (config.hop_length, config.sampling_rate, config.audio_channels)
    expected = (samples_per_frame(spaces), spaces.sample_rate, 1)
    if found != expected or config.normalize or config.chunk_length is not None:
        raise ConfigError(
            f"the codec has hop_length, sampling_rate and audio_channels {found}, expected {expected}, without "
            "normalisation and chunks: it is not this model's"
        )
    if codec.dtype != jnp.float32:
        raise InputError(f"the codec is in {codec.dtype}, expected float32: load the model with dtype='float32'")


def _read_clip(
    entry: Entry | Fault,
    manifest: str | os.PathLike[str],
    voices: dict[str, int],
    spaces: TokenSpaces,
    processor: BarkProcessor,
    semantic_tokenizer: SemanticTokenizer | None,
    bounds: dict[str, float],
) -> _Clip:
    """A line's clip. Its faults were found before; a file that has changed since is refused here."""
    try:
        if isinstance(entry, Fault) or entry.voice not in voices:
            raise InputError("the manifest has changed while it was prepared")
        text = processor(entry.text, padding="longest")["input_ids"][0]
        samples, rate = read_mono(entry.audio, **bounds)
        samples = fit_samples(samples, rate, spaces)
        semantic = entry.read_semantic()
        if semantic is not None:
            semantic = check_semantic(semantic, len(samples) / spaces.sample_rate, spaces, "semantic")
        else:
            semantic = make_semantic(semantic_tokenizer, samples, entry.text, spaces, "semantic")
    except BarkError as error:
        raise ManifestError(manifest, [Fault(entry.line, str(error))]) from error
    n_samples = spaces.n_frames(len(semantic)) * samples_per_frame(spaces)
    samples = np.pad(samples[:n_samples], (0, max(0, n_samples - len(samples))))
    return _Clip(text, semantic, samples, voices[entry.voice])


def _clip_of(dataset: Dataset, index: int) -> _Clip:
    example = dataset[index]
    return _Clip(example.text, example.semantic, dataset.audio(index), example.voice)


def _with_codes(codec: Codec, clips: Iterable[_Clip], n_codebooks: int) -> Iterator[tuple[_Clip, np.ndarray]]:
    """Each clip with its codes [Q, F], in the order of the clips."""
    clips = iter(clips)
    while held := list(itertools.islice(clips, HELD_CLIPS)):
        codes = encode_audio(codec, [clip.samples for clip in held], n_codebooks)
        yield from zip(held, codes, strict=True)


def _min_padded_frames(codec: Codec) -> float:
    """Frames from which on a clip may be padded; infinite for a codec that looks ahead.

    A shorter clip is too short for its start to be mirrored, so what comes after it counts.
    """
    if not all(layer.is_causal for layer in codec.encoder.layers):
        return math.inf
    frames, positions_per_frame = 1, codec.config.hop_length
    for layer in codec.encoder.layers:
        frames = max(frames, -(-layer.min_start // positions_per_frame))
        positions_per_frame //= getattr(layer, "stride", 1)
    return frames


def _encode(codec: Codec, samples_BA: np.ndarray, n_codebooks: int) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(_encode_compiled(codec, jnp.asarray(samples_BA), n_codebooks=n_codebooks))


@functools.partial(jax.jit, static_argnames="n_codebooks")
def _encode_compiled(codec: Codec, samples_BA: jax.Array, n_codebooks: int) -> jax.Array:
    return codec.encode(samples_BA, n_codebooks=n_codebooks)
