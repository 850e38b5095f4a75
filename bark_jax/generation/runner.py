"""From rows to a stage's checked results: the steps that all drivers of the stages share.

`generate`, streams, the engine of batches and parity runs differ in when they run which rows, and in nothing else:

    prompt     semantic_prompt, coarse_prompt, fine_prompt     arrays of the rows, filled up with idle rows
    draws      sampling_of                                     keys and settings of the rows
    device     device_errors (`networks.platform`)             around everything that runs there
    host       semantic_result, coarse_result, fine_result     one row of the arrays that come back
    check      require_finite                                  NaN and infinity become an error

`run_semantic`, `run_coarse`, `run_fine` and `run_codec` take these steps, for rows that start and end together.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from bark_jax.errors import BarkError, InputError, quoted
from bark_jax.generation import coarse, fine, semantic
from bark_jax.generation.codec import decode_codes, decode_padded
from bark_jax.generation.placement import ON_ITS_PLATFORM, Placement, placement_of
from bark_jax.generation.rows import Row, Utterance
from bark_jax.generation.sampling import Sampling
from bark_jax.generation.settings import StageSampling
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.generation.windows import count_coarse_windows
from bark_jax.networks.causal import CoarseNetwork, SemanticNetwork
from bark_jax.networks.codec.encodec import Codec
from bark_jax.networks.fine import FineNetwork
from bark_jax.networks.layout import for_decoding
from bark_jax.networks.platform import Devices, check_sharding, device_errors

OnStage = Callable[[str], None]  # called with the stage that starts
OnProgress = Callable[[str, int, int], None]  # called with stage, amount done (tokens or windows), maximum

_NOTHING = np.zeros(0, np.int32)


class Networks(Protocol):
    """The interface of a model that drivers use; `BarkModel` is one."""

    semantic: SemanticNetwork
    coarse_acoustics: CoarseNetwork
    fine_acoustics: FineNetwork
    codec_model: Codec
    spaces: TokenSpaces

    @property
    def device(self) -> jax.Device:
        """The device on which the stages run."""

    @property
    def is_offloaded(self) -> bool:
        """Whether networks stay on the CPU and are copied to the device one at a time."""

    def on_accelerator(self, network: Any) -> Any:
        """Returns the network on `device`, copied there if it is offloaded."""


def run_rows(
    networks: Networks,
    rows: Sequence[Row],
    on_stage: OnStage,
    on_progress: OnProgress | None = None,
    devices: Devices = None,
) -> list[Utterance]:
    """Runs all four stages, one after the other, for all rows; arguments and errors of `BarkModel.generate_rows`."""
    spaces, where = networks.spaces, placement_of(networks, devices)
    on_stage("semantic")
    spoken = run_semantic(networks.semantic, rows, spaces, where, on_progress)
    on_stage("coarse")
    tokens = [tokens for tokens, _ in spoken]
    coded = run_coarse(networks.coarse_acoustics, rows, tokens, spaces, where, on_progress)
    on_stage("fine")
    filled = run_fine(networks.fine_acoustics, rows, [codes for codes, _ in coded], spaces, where)
    on_stage("codec")
    audio = run_codec(networks.codec_model, filled, where)
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
    where: Placement = ON_ITS_PLATFORM,
    on_progress: OnProgress | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs the semantic stage.

    Returns:
      For each row semantic tokens, int32 [S], and their log-probabilities, float32 [S].

    Raises:
      BarkError: a computed value is not finite; or DeviceMemoryError (out of memory), DeviceError, UnsupportedError, as
        `device_errors` and `check_sharding` do.
    """
    n_rows = where.count(len(rows))
    prompt, sampling = semantic_prompt(rows, spaces, n_rows), sampling_of(rows, "semantic", n_rows)
    check_sharding(network)
    with device_errors("semantic", network, len(rows)):
        generate: Callable[..., semantic.SemanticTokens] = where.compiled(semantic.generate_semantic)
        if on_progress is not None:
            maximum = max(row.settings.max_semantic_tokens for row in rows)
            generate = _in_parts(semantic.generate_in_parts, on_progress, "semantic", maximum, where)
        # The filled-up number of rows decides the layout: three rows run as four.
        laid_out = for_decoding(where.network(network), n_rows // where.n_devices)
        out = jax.device_get(generate(laid_out, where.rows(prompt), where.rows(sampling), spaces=spaces))
    require_finite(out.logprob_BT, "semantic")
    return [semantic_result(out, b) for b in range(len(rows))]


def run_coarse(
    network: CoarseNetwork,
    rows: Sequence[Row],
    tokens: list[np.ndarray],
    spaces: TokenSpaces,
    where: Placement = ON_ITS_PLATFORM,
    on_progress: OnProgress | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs the coarse stage on each row's semantic tokens [S].

    Returns:
      For each row coarse codes, int32 [n_coarse, T], and their log-probabilities, float32 [n_coarse, T].

    Raises:
      BarkError: as `run_semantic`.
    """
    spaces = coarse_spaces(rows, spaces)
    n_rows = where.count(len(rows))
    prompt, sampling = coarse_prompt(rows, tokens, spaces, n_rows), sampling_of(rows, "coarse", n_rows)
    check_sharding(network)
    with device_errors("coarse", network, len(rows)):
        generate: Callable[..., coarse.CoarseCodes] = functools.partial(coarse.generate_coarse, placement=where)
        if on_progress is not None:
            n_windows = int(np.max(count_coarse_windows(prompt.n_frames_B, spaces)))
            generate = _in_parts(coarse.generate_in_parts, on_progress, "coarse", n_windows, where)
        laid_out = for_decoding(where.network(network), n_rows // where.n_devices)
        out = jax.device_get(generate(laid_out, where.rows(prompt), where.rows(sampling), spaces=spaces))
    require_finite(out.logprob_BQT, "coarse")
    return [coarse_result(out, b) for b in range(len(rows))]


def _in_parts(
    generate_in_parts: Callable, on_progress: OnProgress, stage: str, maximum: int, where: Placement
) -> Callable:
    """A stage's `generate_in_parts` that reports each part to `on_progress`; `maximum` may never be reached."""
    report = functools.partial(on_progress, stage)
    return functools.partial(generate_in_parts, on_part=lambda n_done: report(n_done, maximum), placement=where)


def run_fine(
    network: FineNetwork,
    rows: Sequence[Row],
    codes: list[np.ndarray],
    spaces: TokenSpaces,
    where: Placement = ON_ITS_PLATFORM,
    histories: Sequence[np.ndarray | None] | None = None,
) -> list[np.ndarray]:
    """Runs the fine stage on each row's coarse codes [n_coarse, T].

    Args:
      histories: codes [n_fine, T] that each row's windows read as its history, instead of its voice's.

    Returns:
      For each row all codes, int32 [n_fine, T].

    Raises:
      BarkError: as `run_semantic`.
    """
    n_rows = where.count(len(rows))
    prompt = fine_prompt(rows, codes, spaces, n_rows, histories=histories)
    sampling = sampling_of(rows, "fine", n_rows)
    check_sharding(network)
    with device_errors("fine", network, len(rows)):
        generate = where.compiled(fine.generate_fine)
        out = generate(where.network(network), where.rows(prompt), where.rows(sampling), spaces=spaces)
        codes_BQT = np.asarray(out)
    filled = [fine_result(codes_BQT, b, coarse_QT) for b, coarse_QT in enumerate(codes)]
    for codes_QT in filled:
        require_finite(codes_QT, "fine")
    return filled


def run_codec(network: Codec, codes: list[np.ndarray], where: Placement = ON_ITS_PLATFORM) -> list[np.ndarray]:
    """Runs the codec on each row's codes [n_fine, T].

    Returns:
      For each row audio samples, float32 [A] for a mono codec, [A, channels] for a stereo one.

    Raises:
      BarkError: as `run_semantic`.
    """
    idle = np.zeros((len(codes[0]), 0), np.int32)
    check_sharding(network)
    with device_errors("codec", network, len(codes)):
        filled = _fill(codes, idle, where.count(len(codes)))
        audio = decode_codes(where.network(network), filled, where.compiled(decode_padded))[: len(codes)]
    for samples in audio:
        require_finite(samples, "codec")
    return audio


def semantic_prompt(rows: Sequence[Row], spaces: TokenSpaces, n_rows: int | None = None) -> semantic.SemanticPrompt:
    """Lays rows out as the semantic stage's input, filled up with idle rows; see `_fill`."""
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
    """Lays rows and their semantic tokens out as the coarse stage's input; `spaces` comes from `coarse_spaces`."""
    voices = [None if row.voice is None else (row.voice.semantic, row.voice.coarse) for row in rows]
    return coarse.make_prompt(_fill(tokens, _NOTHING, n_rows), _fill(voices, None, n_rows), spaces)


def fine_prompt(
    rows: Sequence[Row],
    codes: Sequence[np.ndarray],
    spaces: TokenSpaces,
    n_rows: int | None = None,
    histories: Sequence[np.ndarray | None] | None = None,
) -> fine.FinePrompt:
    """Lays rows and their coarse codes out as the fine stage's input; `histories` as for `run_fine`."""
    if histories is None:
        histories = [None if row.voice is None else row.voice.fine for row in rows]
    idle = np.zeros((spaces.n_coarse, 0), np.int32)
    return fine.make_prompt(_fill(codes, idle, n_rows), _fill(histories, None, n_rows), spaces)


def semantic_result(out: semantic.SemanticTokens, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [S] and log-probabilities [S] of one row, from arrays on the host."""
    n = out.length_B[row]
    return out.tokens_BT[row, :n], out.logprob_BT[row, :n]


def coarse_result(out: coarse.CoarseCodes, row: int, n_frames: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Codes and log-probabilities [n_coarse, T] of one row, or of its first n_frames, from arrays on the host."""
    n = out.length_B[row] if n_frames is None else n_frames
    return out.codes_BQT[row, :, :n], out.logprob_BQT[row, :, :n]


def fine_result(codes_BQT: np.ndarray, row: int, coarse_QT: np.ndarray) -> np.ndarray:
    """All codes [n_fine, T] of one row from codes [B, n_fine, T'] on the host; its coarse codes give T."""
    return codes_BQT[row, :, : coarse_QT.shape[1]]


def coarse_spaces(rows: Sequence[Row], spaces: TokenSpaces) -> TokenSpaces:
    """The token spaces with the rows' max_coarse_history and sliding_window_len, on which all rows of a call agree.

    They are static arguments of the coarse stage: each pair compiles a program.
    """
    settings = rows[0].settings
    return dataclasses.replace(spaces, n_coarse_history=settings.n_coarse_history, coarse_window=settings.coarse_window)


def sampling_of(rows: Sequence[Row], stage: str, n_rows: int | None = None) -> Sampling:
    """The rows' keys and sampling settings in "semantic", "coarse" or "fine", filled up with idle rows; see `_fill`."""
    # Idle rows are greedy, so they never switch top-k and top-p on for the batch (`Sampling.may_cut`).
    settings = _fill([getattr(row.settings, stage) for row in rows], StageSampling(temperature=0.0), n_rows)
    keys = np.stack(_fill([row.key for row in rows], np.zeros(2, np.uint32), n_rows))
    return Sampling.stack(settings, keys)


def _fill(rows: Sequence[Any], idle: Any, n_rows: int | None = None) -> list[Any]:
    """Appends idle rows up to n_rows, by default the next power of two, so that batches of all sizes run few programs.

    5 rows run as 8. Idle rows generate nothing and end at once, though decoding steps still compute them.
    """
    # At most 11 numbers of rows up to MAX_ROWS: 1, 2, 4 ... 1,024. The price: 33 rows decode as 64.
    n_rows = 2 ** (len(rows) - 1).bit_length() if n_rows is None else n_rows
    return [*rows, *[idle] * (n_rows - len(rows))]


def require_finite(values: np.ndarray, stage: str) -> None:
    """Raises BarkError for values of any shape that are not finite, and for codes of -1, which stand for NaN logits."""
    if not np.isfinite(values).all() or (values.dtype.kind == "i" and (values < 0).any()):
        raise BarkError(
            f"the {stage} stage computed values that are not finite. The weights may be damaged, or too large for "
            "float16: try dtype='bfloat16' or 'float32'."
        )


def as_on_stage(on_stage: OnStage | None) -> OnStage:
    """Returns the callback, or one that does nothing for None. Raises InputError where it cannot be called."""
    if on_stage is not None and not callable(on_stage):
        raise InputError(f"on_stage is {quoted(on_stage)}, expected a function of the stage's name")
    return on_stage or (lambda stage: None)
