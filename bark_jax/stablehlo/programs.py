"""The four stages as functions of named arrays: what is exported, and the description of each array.

    semantic   text, n_text               ->  tokens, n_tokens
    coarse     tokens, n_tokens           ->  codes, n_frames      codes of the first codebooks
    fine       codes, n_frames            ->  codes, n_frames      codes of all codebooks
    codec      codes, n_frames            ->  samples, n_samples

An output has the name and the shape of the input that reads it, so a caller passes arrays on and lays nothing out. The
functions make the stages' prompts, which `generation` makes on the host, from the same arrays inside the program.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax.config import BarkGenerationConfig, EncodecConfig
from bark_jax.generation import coarse, fine, semantic
from bark_jax.generation.codec import FRAMES_STEP
from bark_jax.generation.sampling import KEY_IMPLEMENTATION, Sampling
from bark_jax.generation.settings import RowSettings, StageSampling, resolve_settings
from bark_jax.generation.tokens import TokenSpaces

ROWS, FRAMES = "rows", "frames"  # symbolic sizes in `Array.shape`
PADDED_FRAMES = f"{FRAMES_STEP}*{FRAMES}"

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Array:
    """An input or output of a program. `default` is the value of an input for all rows; None where there is none."""

    shape: tuple[int | str, ...]  # ROWS is the first axis
    dtype: str
    meaning: str
    default: float | bool | None = None


class Program(NamedTuple):
    """A stage as a function of a network and of named arrays."""

    network: str  # attribute of `BarkModel`
    run: Callable[[Any, Arrays], Arrays]
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def programs_of(spaces: TokenSpaces, config: BarkGenerationConfig, codec: EncodecConfig) -> dict[str, Program]:
    """The programs of a model by stage, in their order. Defaults of their inputs are those of `config`."""
    (settings,) = resolve_settings({}, 1, config, spaces)
    return {
        "semantic": _semantic_program(spaces, settings),
        "coarse": _coarse_program(spaces, settings),
        "fine": _fine_program(spaces, settings),
        "codec": _codec_program(spaces, codec),
    }


def n_code_columns(spaces: TokenSpaces) -> int:
    """Columns of the arrays of codes: the longest row's frames, up to a multiple of FRAMES_STEP. 1,280 in Bark."""
    return -(-int(spaces.n_frames(spaces.max_semantic)) // FRAMES_STEP) * FRAMES_STEP


def n_coarse_semantic_history(spaces: TokenSpaces) -> int:
    """Columns of the coarse stage's `history`: 209 in Bark; at least one, as JAX takes nothing from an empty array."""
    return max(1, spaces.max_semantic_history)


def _semantic_program(spaces: TokenSpaces, settings: RowSettings) -> Program:
    def run(network: Any, given: Arrays) -> Arrays:
        is_text_BT = jnp.arange(spaces.n_text)[None] < given["n_text"][:, None]
        prompt = semantic.SemanticPrompt(
            text_BT=jnp.where(is_text_BT, given["text"] + spaces.text_offset, spaces.text_pad),
            history_BT=given["history"],
            max_tokens_B=given["max_tokens"],
            min_end_probability_B=given["min_end_probability"],
            may_end_B=given["may_end"],
        )
        found = semantic.generate_semantic(network, prompt, _sampling(given), spaces=spaces)
        return {"tokens": found.tokens_BT, "n_tokens": found.length_B, "logprob": found.logprob_BT}

    inputs = {
        "text": Array((ROWS, spaces.n_text), "int32", "ids of the tokenizer, left-aligned"),
        "n_text": Array((ROWS,), "int32", "ids in each row of text; those past them have no effect"),
        "history": Array((ROWS, spaces.n_text), "int32", "the voice's semantic tokens, from its file"),
        **_sampling_inputs(settings.semantic),
        "max_tokens": Array(
            (ROWS,),
            "int32",
            f"semantic tokens at most, up to {spaces.max_semantic}; 0 for a row that only fills the batch",
            settings.max_semantic_tokens,
        ),
        "min_end_probability": Array(
            (ROWS,),
            "float32",
            "probability of the end token that ends a row; above 1, only drawing it does",
            settings.min_end_probability,
        ),
        "may_end": Array((ROWS,), "bool", "false makes the end token illegal", settings.may_end_early),
    }
    return Program("semantic", run, inputs, _token_arrays(spaces) | {"logprob": _logprob((spaces.max_semantic,))})


def _coarse_program(spaces: TokenSpaces, settings: RowSettings) -> Program:
    n_columns, n_history = n_code_columns(spaces), n_coarse_semantic_history(spaces)
    width = spaces.max_semantic_history + spaces.max_semantic + spaces.n_coarse_semantic

    def run(network: Any, given: Arrays) -> Arrays:
        prompt = coarse.CoarsePrompt(
            semantic_BT=_join(
                given["history"], given["n_history"], given["tokens"], given["n_tokens"], width, spaces.coarse_pad
            ),
            n_history_B=given["n_history"],
            stream_BT=given["stream"],
            n_stream_B=given["n_stream"],
            n_frames_B=spaces.n_frames(given["n_tokens"]),
        )
        state = coarse.run_all_windows(network, prompt, _sampling(given), spaces=spaces)
        found = coarse.arrange_codes(state.stream_BT, state.logprob_BT, prompt.n_frames_B, spaces)
        n_frames_B = prompt.n_frames_B
        return {
            "codes": _fit(found.codes_BQT, n_frames_B, n_columns),
            "n_frames": n_frames_B,
            "logprob": _fit(found.logprob_BQT, n_frames_B, n_columns),
        }

    inputs = {
        **_token_arrays(spaces),
        "history": Array((ROWS, n_history), "int32", "the voice's semantic tokens, from its file"),
        "n_history": Array((ROWS,), "int32", "semantic tokens of the voice, from its file"),
        "stream": Array((ROWS, spaces.n_coarse_history), "int32", "the voice's coarse codes, from its file"),
        "n_stream": Array((ROWS,), "int32", "coarse codes of the voice, from its file"),
        **_sampling_inputs(settings.coarse),
    }
    outputs = _code_arrays(spaces.n_coarse, n_columns) | {"logprob": _logprob((spaces.n_coarse, n_columns))}
    return Program("coarse_acoustics", run, inputs, outputs)


def _fine_program(spaces: TokenSpaces, settings: RowSettings) -> Program:
    n_columns = n_code_columns(spaces)
    n_windows = -(-spaces.n_frames(spaces.max_semantic) // spaces.fine_window)
    width = spaces.n_fine_history + spaces.fine_window * n_windows

    def run(network: Any, given: Arrays) -> Arrays:
        codes_BQT = given["codes"]
        # Codes of the codebooks that are to be filled are unknown, which is the id codebook_size.
        unknown = spaces.n_fine - spaces.n_coarse
        codes_BQT = jnp.pad(codes_BQT, ((0, 0), (0, unknown), (0, 0)), constant_values=spaces.codebook_size)
        join = jax.vmap(_join, in_axes=(1, None, 1, None, None, None), out_axes=2)
        prompt = fine.FinePrompt(
            codes_BTQ=join(
                given["history"], given["n_history"], codes_BQT, given["n_frames"], width, spaces.codebook_size
            ),
            n_history_B=given["n_history"],
            n_frames_B=given["n_frames"],
        )
        codes_BQT = fine.generate_fine(network, prompt, _sampling(given), spaces=spaces)
        return {"codes": _fit(codes_BQT, given["n_frames"], n_columns), "n_frames": given["n_frames"]}

    sampled = _sampling_inputs(settings.fine)
    inputs = {
        **_code_arrays(spaces.n_coarse, n_columns),
        "history": Array((ROWS, spaces.n_fine, spaces.n_fine_history), "int32", "the voice's codes, from its file"),
        "n_history": Array((ROWS,), "int32", "frames of the voice, from its file"),
        "key": sampled["key"],
        "temperature": sampled["temperature"],
    }
    return Program("fine_acoustics", run, inputs, _code_arrays(spaces.n_fine, n_columns))


def _codec_program(spaces: TokenSpaces, config: EncodecConfig) -> Program:
    def run(network: Any, given: Arrays) -> Arrays:
        codes_BQT, n_frames_B = given["codes"], given["n_frames"]
        is_live_BT = jnp.arange(codes_BQT.shape[2])[None] < n_frames_B[:, None]
        samples_BAC = network.decode(jnp.where(is_live_BT[:, None], codes_BQT, 0), n_frames_B).astype(jnp.float32)
        samples = samples_BAC[:, :, 0] if config.audio_channels == 1 else samples_BAC
        return {"samples": samples, "n_samples": n_frames_B * config.hop_length}

    channels = () if config.audio_channels == 1 else (config.audio_channels,)
    outputs = {
        "samples": Array(
            (ROWS, f"{FRAMES_STEP * config.hop_length}*{FRAMES}", *channels),
            "float32",
            f"audio at {config.sampling_rate:,} Hz in about -1 to 1, zeros past a row's n_samples",
        ),
        "n_samples": Array((ROWS,), "int32", "samples of each row"),
    }
    return Program("codec_model", run, _code_arrays(spaces.n_fine, PADDED_FRAMES), outputs)


def _token_arrays(spaces: TokenSpaces) -> dict[str, Array]:
    return {
        "tokens": Array((ROWS, spaces.max_semantic), "int32", "semantic tokens; any id past a row's n_tokens"),
        "n_tokens": Array((ROWS,), "int32", "semantic tokens of each row"),
    }


def _code_arrays(n_codebooks: int, n_columns: int | str) -> dict[str, Array]:
    # Only the fine stage gives -1: the causal stages have log-probabilities, which are then not finite.
    return {
        "codes": Array(
            (ROWS, n_codebooks, n_columns), "int32", "codes, any past a row's n_frames; -1 if logits are not finite"
        ),
        "n_frames": Array((ROWS,), "int32", "frames of each row"),
    }


def _logprob(shape: tuple[int, ...]) -> Array:
    return Array((ROWS, *shape), "float32", "log-probability of each draw at temperature 1; not finite if logits are")


def _sampling_inputs(settings: StageSampling) -> dict[str, Array]:
    return {
        "key": Array((ROWS, 2), "uint32", "the high and the low half of each row's seed, of 64 bits"),
        "temperature": Array((ROWS,), "float32", "0 takes the most likely token", settings.temperature),
        "top_k": Array((ROWS,), "int32", "tokens that stay in the draw; 0 for all", settings.top_k),
        "top_p": Array((ROWS,), "float32", "probability mass that stays in the draw; 1 for all", settings.top_p),
    }


def _sampling(given: Arrays) -> Sampling:
    keys_B, temperature_B = jax.random.wrap_key_data(given["key"], impl=KEY_IMPLEMENTATION), given["temperature"]
    # The fine stage has neither cut.
    top_k_B = given.get("top_k", jnp.zeros_like(temperature_B, jnp.int32))
    top_p_B = given.get("top_p", jnp.ones_like(temperature_B))
    # may_cut: whether a row cuts is a value here, and one program has to serve both.
    return Sampling(keys_B, temperature_B, top_k_B, top_p_B, may_cut=True)


def _join(
    first_BT: jax.Array, n_first_B: jax.Array, then_BT: jax.Array, n_then_B: jax.Array, width: int, pad: int
) -> jax.Array:
    """Joins the live parts of two rows, [B, width]: n_first tokens of the first, n_then of the second, then pads.

    [[7, 8, 0]] of 2 and [[5, 0]] of 1 become [[7, 8, 5, pad, pad]].
    """
    column_T = jnp.arange(width)

    def join(first_T: jax.Array, n_first: jax.Array, then_T: jax.Array, n_then: jax.Array) -> jax.Array:
        index_T = column_T - n_first  # in `then`; below 0 in `first`
        tokens_T = jnp.where(index_T < 0, first_T.at[column_T].get(mode="clip"), then_T.at[index_T].get(mode="clip"))
        return jnp.where(index_T < n_then, tokens_T, pad).astype(jnp.int32)

    return jax.vmap(join)(first_BT, n_first_B, then_BT, n_then_B)


def _fit(x_BQT: jax.Array | np.ndarray, n_frames_B: jax.Array, n_columns: int) -> jax.Array:
    """Cuts or pads x [B, Q, T] to n_columns, with zeros past each row's n_frames."""
    n_kept = min(x_BQT.shape[2], n_columns)
    x_BQT = jnp.pad(x_BQT[:, :, :n_kept], ((0, 0), (0, 0), (0, n_columns - n_kept)))
    is_live_BT = jnp.arange(n_columns)[None] < n_frames_B[:, None]
    return jnp.where(is_live_BT[:, None], x_BQT, np.zeros((), x_BQT.dtype))
