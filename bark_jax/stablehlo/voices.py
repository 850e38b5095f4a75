"""A voice as the arrays that the programs take, made on the host as the stages' own prompts are."""

import numpy as np

from bark_jax.generation.coarse import trim_history
from bark_jax.generation.semantic import pad_prompt
from bark_jax.generation.tokens import TokenSpaces
from bark_jax.stablehlo.programs import n_coarse_semantic_history
from bark_jax.voices.voice import Voice

NO_VOICE = "none"  # file of the arrays for rows without a voice


def voice_arrays(voice: Voice | None, spaces: TokenSpaces) -> dict[str, np.ndarray]:
    """The inputs of one row that hold its voice, int32, by "STAGE.NAME"; for None those of no voice.

    They have no batch axis: "semantic.history" is [n_text], and the input of the program [B, n_text].
    """
    nothing = np.zeros(0, np.int32)
    tokens = nothing if voice is None else voice.semantic
    _, history_BT = pad_prompt([nothing], [tokens], spaces)
    # Both are at most as long as what the stage reads; see `trim_history`.
    trimmed, stream = (nothing, nothing) if voice is None else trim_history(tokens, voice.coarse, spaces)
    codes_QT = np.zeros((spaces.n_fine, 0), np.int32) if voice is None else voice.fine[:, -spaces.n_fine_history :]
    coarse_history = np.full(n_coarse_semantic_history(spaces), spaces.coarse_pad, np.int32)
    coarse_history[: len(trimmed)] = trimmed
    coarse_stream = np.full(spaces.n_coarse_history, spaces.coarse_pad, np.int32)
    coarse_stream[spaces.n_coarse_history - len(stream) :] = stream
    fine_history = np.full((spaces.n_fine, spaces.n_fine_history), spaces.codebook_size, np.int32)
    fine_history[:, : codes_QT.shape[1]] = codes_QT
    return {
        "semantic.history": history_BT[0],
        "coarse.history": coarse_history,
        "coarse.n_history": np.array(len(trimmed), np.int32),
        "coarse.stream": coarse_stream,
        "coarse.n_stream": np.array(len(stream), np.int32),
        "fine.history": fine_history,
        "fine.n_history": np.array(codes_QT.shape[1], np.int32),
    }
