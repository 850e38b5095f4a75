"""From rows to a stage's checked results: prompt, device, host. What every driver of the stages shares.

`generate`, streams, the engine of batches and parity runs differ in when they run which rows, and in nothing else:

    prompt     semantic_prompt, coarse_prompt, fine_prompt     rows, filled up with idle ones
    draws      sampling_of
    device     device_errors (`networks.platform`)             around whatever runs there
    host       semantic_result, coarse_result, fine_result     one row of what comes back
    check      require_finite

`run_semantic`, `run_coarse`, `run_fine` and `run_codec` are these steps in a row, for rows that start and end together.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from bark_jax.errors import BarkError, InputError, quoted
from bark_jax.generation import coarse, fine, semantic
from bark_jax.generation.codec import decode_codes
from bark_jax.generation.rows import Row, Utterance
from bark_jax.generation.sampling import Sampling
from bark_jax.generation.settings import StageSampling
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.generation.windows import count_coarse_windows
from bark_jax.networks.causal import CoarseNetwork, SemanticNetwork
from bark_jax.networks.codec.encodec import Codec
from bark_jax.networks.fine import FineNetwork
from bark_jax.networks.layout import for_decoding
from bark_jax.networks.platform import check_sharding, device_errors, on_its_platform

OnStage = Callable[[str], None]  # the stage that starts
OnProgress = Callable[[str, int, int], None]  # stage, how much is done, the most that it can become
ToDevice = Callable[[Any], Any]  # a network -> the network where its stage runs

_NOTHING = np.zeros(0, np.int32)


class Networks(Protocol):
    """What the drivers need of a model; `BarkModel` is one."""

    semantic: SemanticNetwork
    coarse_acoustics: CoarseNetwork
    fine_acoustics: FineNetwork
    codec_model: Codec
    spaces: TokenSpaces

    @property
    def device(self) -> jax.Device: ...

    @property
    def is_offloaded(self) -> bool: ...

    def on_accelerator(self, network: Any) -> Any: ...


def run_rows(
    networks: Networks, rows: Sequence[Row], on_stage: OnStage, on_progress: OnProgress | None = None
) -> list[Utterance]:
    """All four stages, one after the other; see `BarkModel.generate_rows`."""
    spaces, to_device = networks.spaces, networks.on_accelerator
    on_stage("semantic")
    spoken = run_semantic(networks.semantic, rows, spaces, to_device, on_progress)
    on_stage("coarse")
    tokens = [tokens for tokens, _ in spoken]
    coded = run_coarse(networks.coarse_acoustics, rows, tokens, spaces, to_device, on_progress)
    on_stage("fine")
    filled = run_fine(networks.fine_acoustics, rows, [codes for codes, _ in coded], spaces, to_device)
    on_stage("codec")
    audio = run_codec(networks.codec_model, filled, to_device)
    return [
        Utterance(tokens, codes, all_codes, samples, semantic_logprob, coarse_logprob)
        for (tokens, semantic_logprob), (codes, coarse_logprob), all_codes, samples in zip(
            spoken, coded, filled, audio, strict=True
        )
    ]


def run_semantic(
    network: SemanticNetwork,
    rows: Sequence[Row],
    spaces: TokenSpaces,
    to_device: ToDevice = on_its_platform,
    on_progress: OnProgress | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The semantic stage of each row: tokens and their log-probabilities. Errors as for `BarkModel.generate_rows`."""
    prompt, sampling = semantic_prompt(rows, spaces), sampling_of(rows, "semantic")
    check_sharding(network)
    with device_errors("semantic", network, len(rows)):
        generate: Callable[..., semantic.SemanticTokens] = semantic.generate_semantic
        if on_progress is not None:
            maximum = max(row.settings.max_semantic_tokens for row in rows)
            generate = _in_parts(semantic.generate_in_parts, on_progress, "semantic", maximum)
        laid_out = for_decoding(to_device(network), len(prompt.max_tokens_B))
        out = jax.device_get(generate(laid_out, prompt, sampling, spaces=spaces))
    require_finite(out.logprob_BT, "semantic")
    return [semantic_result(out, b) for b in range(len(rows))]


def run_coarse(
    network: CoarseNetwork,
    rows: Sequence[Row],
    tokens: list[np.ndarray],
    spaces: TokenSpaces,
    to_device: ToDevice = on_its_platform,
    on_progress: OnProgress | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The coarse stage of each row's semantic tokens: codes [n_coarse, T] and their log-probabilities."""
    spaces = coarse_spaces(rows, spaces)
    prompt, sampling = coarse_prompt(rows, tokens, spaces), sampling_of(rows, "coarse")
    check_sharding(network)
    with device_errors("coarse", network, len(rows)):
        generate: Callable[..., coarse.CoarseCodes] = coarse.generate_coarse
        if on_progress is not None:
            n_windows = int(np.max(count_coarse_windows(prompt.n_frames_B, spaces)))
            generate = _in_parts(coarse.generate_in_parts, on_progress, "coarse", n_windows)
        laid_out = for_decoding(to_device(network), len(prompt.n_frames_B))
        out = jax.device_get(generate(laid_out, prompt, sampling, spaces=spaces))
    require_finite(out.logprob_BQT, "coarse")
    return [coarse_result(out, b) for b in range(len(rows))]


def _in_parts(generate_in_parts: Callable, on_progress: OnProgress, stage: str, maximum: int) -> Callable:
    """A stage's `generate_in_parts` that tells `on_progress` of each part."""
    return functools.partial(generate_in_parts, on_part=lambda n_done: on_progress(stage, n_done, maximum))


def run_fine(
    network: FineNetwork,
    rows: Sequence[Row],
    codes: list[np.ndarray],
    spaces: TokenSpaces,
    to_device: ToDevice = on_its_platform,
    histories: Sequence[np.ndarray | None] | None = None,
) -> list[np.ndarray]:
    """The fine stage of each row's coarse codes: all codes [n_fine, T].

    Args:
      histories: codes [n_fine, T] that each row's windows read before it, instead of its voice's.
    """
    prompt, sampling = fine_prompt(rows, codes, spaces, histories=histories), sampling_of(rows, "fine")
    check_sharding(network)
    with device_errors("fine", network, len(rows)):
        codes_BQT = np.asarray(fine.generate_fine(to_device(network), prompt, sampling, spaces=spaces))
    filled = [fine_result(codes_BQT, b, coarse_QT) for b, coarse_QT in enumerate(codes)]
    for codes_QT in filled:
        require_finite(codes_QT, "fine")
    return filled


def run_codec(network: Codec, codes: list[np.ndarray], to_device: ToDevice = on_its_platform) -> list[np.ndarray]:
    """Audio samples of each row's codes [n_fine, T]."""
    idle = np.zeros((len(codes[0]), 0), np.int32)
    check_sharding(network)
    with device_errors("codec", network, len(codes)):
        audio = decode_codes(to_device(network), _fill(codes, idle))[: len(codes)]
    for samples in audio:
        require_finite(samples, "codec")
    return audio


def semantic_prompt(rows: Sequence[Row], spaces: TokenSpaces, n_rows: int | None = None) -> semantic.SemanticPrompt:
    """What the semantic network reads of rows, filled up with idle rows; see `_fill`."""
    idle = semantic.SemanticRow(_NOTHING, _NOTHING, max_tokens=0)
    return semantic.make_prompt(_fill([_as_semantic_row(row) for row in rows], idle, n_rows), spaces)


def _as_semantic_row(row: Row) -> semantic.SemanticRow:
    return semantic.SemanticRow(
        row.text,
        _NOTHING if row.voice is None else row.voice.semantic,
        row.settings.max_semantic_tokens,
        row.settings.min_end_probability,
        row.settings.may_end_early,
    )


def coarse_prompt(
    rows: Sequence[Row], tokens: Sequence[np.ndarray], spaces: TokenSpaces, n_rows: int | None = None
) -> coarse.CoarsePrompt:
    """What the coarse network reads of rows and their semantic tokens; `spaces` are those of `coarse_spaces`."""
    voices = [None if row.voice is None else (row.voice.semantic, row.voice.coarse) for row in rows]
    return coarse.make_prompt(_fill(tokens, _NOTHING, n_rows), _fill(voices, None, n_rows), spaces)


def fine_prompt(
    rows: Sequence[Row],
    codes: Sequence[np.ndarray],
    spaces: TokenSpaces,
    n_rows: int | None = None,
    histories: Sequence[np.ndarray | None] | None = None,
) -> fine.FinePrompt:
    """What the fine network reads of rows and their coarse codes; `histories` as for `run_fine`."""
    if histories is None:
        histories = [None if row.voice is None else row.voice.fine for row in rows]
    idle = np.zeros((spaces.n_coarse, 0), np.int32)
    return fine.make_prompt(_fill(codes, idle, n_rows), _fill(histories, None, n_rows), spaces)


def semantic_result(out: semantic.SemanticTokens, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [S] and their log-probabilities of one row, from arrays on the host."""
    n = out.length_B[row]
    return out.tokens_BT[row, :n], out.logprob_BT[row, :n]


def coarse_result(out: coarse.CoarseCodes, row: int, n_frames: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Codes [n_coarse, T] and their log-probabilities of one row, or of its first frames, from arrays on the host."""
    n = out.length_B[row] if n_frames is None else n_frames
    return out.codes_BQT[row, :, :n], out.logprob_BQT[row, :, :n]


def fine_result(codes_BQT: np.ndarray, row: int, coarse_QT: np.ndarray) -> np.ndarray:
    """All codes [n_fine, T] of one row, whose coarse codes are these, from an array on the host."""
    return codes_BQT[row, :, : coarse_QT.shape[1]]


def coarse_spaces(rows: Sequence[Row], spaces: TokenSpaces) -> TokenSpaces:
    """The token spaces with the coarse windows that the rows, which agree in them, ask for."""
    settings = rows[0].settings
    return dataclasses.replace(spaces, n_coarse_history=settings.n_coarse_history, coarse_window=settings.coarse_window)


def sampling_of(rows: Sequence[Row], stage: str, n_rows: int | None = None) -> Sampling:
    """How the rows choose tokens in "semantic", "coarse" or "fine", filled up with idle rows to n_rows; see `_fill`."""
    settings = _fill([getattr(row.settings, stage) for row in rows], StageSampling(temperature=0.0), n_rows)
    keys = np.stack(_fill([row.key for row in rows], np.zeros(2, np.uint32), n_rows))
    return Sampling.stack(settings, keys)


def _fill(rows: Sequence[Any], idle: Any, n_rows: int | None = None) -> list[Any]:
    """Adds idle rows up to n_rows, or to a power of two, so that batches of any size run few programs."""
    n_rows = 2 ** (len(rows) - 1).bit_length() if n_rows is None else n_rows
    return [*rows, *[idle] * (n_rows - len(rows))]


def require_finite(values: np.ndarray, stage: str) -> None:
    """Raises BarkError for numbers that are not finite, and for codes of -1, which come of such numbers."""
    if not np.isfinite(values).all() or (values.dtype.kind == "i" and (values < 0).any()):
        raise BarkError(
            f"the {stage} stage computed values that are not finite. The weights may be damaged, or too large for "
            "float16: try dtype='bfloat16' or 'float32'."
        )


def as_on_stage(on_stage: OnStage | None) -> OnStage:
    """What to call as a stage starts. Raises InputError for what cannot be called."""
    if on_stage is not None and not callable(on_stage):
        raise InputError(f"on_stage is {quoted(on_stage)}, expected a function of the stage's name")
    return on_stage or (lambda stage: None)
