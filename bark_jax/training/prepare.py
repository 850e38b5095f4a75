"""Prepares datasets: turns a manifest of recordings into text ids, semantic tokens and codes of matching length.

Audio is averaged to mono and resampled to the model's sample rate. Its end is trimmed or padded with silence to the
spaces.n_frames(S) frames that go with S semantic tokens; a difference above `semantic_tokens.MAX_DIFFERENCE_S` is a
fault. The model's own codec encodes it.
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

# A batch is padded to ENCODE_ROWS rows and a multiple of FRAMES_STEP frames, so that clips of all lengths share a few
# compiled programs: at most 5 in Bark, whose longest clip, 15.4 s, has about 1,150 frames.
FRAMES_STEP = 256
ENCODE_ROWS = 4
# Clips in memory at a time; they are sorted by length before they are encoded, which saves padding.
HELD_CLIPS = 16 * ENCODE_ROWS  # 64 clips of 15.4 s are 95 MB


class _Clip(NamedTuple):
    """An example before its audio is encoded."""

    text: np.ndarray  # int32 [T]
    semantic: np.ndarray  # int32 [S]
    samples: np.ndarray  # float32 [A], A a multiple of samples_per_frame
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
    """Prepares a manifest's dataset and writes it as a folder, atomically.

    Checks every line and file before it encodes the first clip. Holds HELD_CLIPS clips in memory at most.

    Args:
      manifest: path of the manifest, see `manifest`.
      folder: where to write the dataset.
      bark: the model to train, in float32. Its token spaces decide the layout, its codec makes the codes.
      processor: the model's processor; texts become the ids that generation would read.
      semantic_tokenizer: makes semantic tokens for the lines that have none.
      keep_audio: stores the audio too, as 16-bit integers; codec training needs it.
      min_s, max_s: bounds of a clip's length in seconds, see `check_manifest`.
      overwrite: replaces an existing dataset.
      progress: called after each clip with (clips done, clips in total).

    Raises:
      ManifestError: with all faults of the manifest; or with one that only appears during encoding, such as a failing
        semantic tokenizer or a file that changed after the check.
      InputError: the folder exists, or the processor or codec does not fit the model.
      ConfigError: the codec has another frame rate, or normalisation or chunks.
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
    rows_at_once: int = ENCODE_ROWS,
) -> Dataset:
    """Encodes the audio of a dataset again with another codec and writes the result as a new dataset, atomically.

    Run it after codec training, before training transformers on the new codes. The new dataset holds no audio.

    Args:
      dataset: prepared with its audio (keep_audio).
      codec: makes the new codes; float32.
      folder, overwrite, progress: as for `prepare_dataset`.
      rows_at_once: clips that are encoded at once; more are faster on an accelerator, and take more of its memory.

    Raises:
      InputError: the dataset holds no audio, the codec is not float32, or the folder exists.
      ConfigError: the codec has other rates than the dataset, or normalisation or chunks.
    """
    spaces = dataset.spaces
    _check_codec(codec, spaces)
    check_destination(folder, overwrite=overwrite, kind="dataset")
    clips = (_clip_of(dataset, index) for index in range(len(dataset)))
    with open_writer(folder, spaces, dataset.voices, codec=codec_fingerprint(codec), overwrite=overwrite) as writer:
        for clip, codes_QT in _with_codes(codec, clips, spaces.n_fine, rows_at_once):
            writer.add(Example(clip.text, clip.semantic, codes_QT, clip.voice))
            if progress is not None:
                progress(writer.n_examples, len(dataset))
    return Dataset.open(folder, spaces=spaces)


@under_own_config
def encode_audio(
    codec: Codec, audio: Sequence[np.ndarray], n_codebooks: int, rows_at_once: int = ENCODE_ROWS
) -> list[np.ndarray]:
    """Encodes clips of different length in padded batches: for each its codes, int32 [n_codebooks, F].

    The encoder is causal and padding comes after a clip, so a clip's vectors equal those of encoding it alone, up to
    rounding: another shape is another compiled program. Clips too short for that are encoded alone, see
    `_min_padded_frames`. Matrix products have precision "highest".

    Args:
      audio: mono clips, float32 [A], A a multiple of the codec's hop_length and not 0.
      rows_at_once: rows of a batch.
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
    for first in range(0, len(padded), rows_at_once):
        batch = padded[first : first + rows_at_once]
        width = -(-n_frames[batch[-1]] // FRAMES_STEP) * FRAMES_STEP
        samples_BA = np.zeros((rows_at_once, width * hop), np.float32)
        for row, index in enumerate(batch):
            samples_BA[row, : len(audio[index])] = audio[index]
        for row_QT, index in zip(_encode(codec, samples_BA, n_codebooks), batch, strict=False):
            # strict=False above: a last batch has rows of silence that belong to no clip.
            codes[index] = row_QT[:, : n_frames[index]]
    return codes


def codec_fingerprint(codec: Codec) -> str:
    """SHA-256 over the weights of encoder and codebooks, which determine the codes: "sha256:" and 64 hex digits."""
    digest = hashlib.sha256()
    for part in (codec.encoder, codec.quantizer):
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(part))):
            array = np.asarray(leaf)
            # Names and shapes too: the same bytes in another shape are another codec.
            digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"


def fit_samples(samples: np.ndarray, sample_rate: int, spaces: TokenSpaces) -> np.ndarray:
    """Resamples mono audio, float32 [A], from `sample_rate` to the model's, both in Hz.

    Raises:
      UnsupportedError: the rates differ and soxr is not installed.
    """
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
    """Raises ConfigError or InputError if the codec or the processor does not fit the model's token spaces."""
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
    """Reads the clip of a checked line.

    Raises:
      ManifestError: a file has changed since the check, or the semantic tokenizer fails.
    """
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


def _with_codes(
    codec: Codec, clips: Iterable[_Clip], n_codebooks: int, rows_at_once: int = ENCODE_ROWS
) -> Iterator[tuple[_Clip, np.ndarray]]:
    """Yields each clip with its codes, int32 [Q, F], in the order of `clips`."""
    clips = iter(clips)
    while held := list(itertools.islice(clips, max(HELD_CLIPS, 4 * rows_at_once))):
        codes = encode_audio(codec, [clip.samples for clip in held], n_codebooks, rows_at_once)
        yield from zip(held, codes, strict=True)


def _min_padded_frames(codec: Codec) -> float:
    """Minimum number of frames of a clip that may be padded on the right; infinite for a codec that is not causal.

    Layers pad their left edge by reflection. In a shorter clip the reflected part would reach into the padding.
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
