"""Runs both sides on the same inputs, in float32 with matmul precision "highest".

By default JAX multiplies float32 in TF32 or bfloat16 passes on accelerators, whose error of 1e-3 would hide faults.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bark_jax._system.own_jax_config import under_own_config
from bark_jax.checkpoints import snapshots
from bark_jax.checkpoints.export import export_transformers
from bark_jax.checkpoints.find import find_model
from bark_jax.checkpoints.load import read_configs
from bark_jax.checkpoints.model_folder import is_model_folder
from bark_jax.config import CONFIG_FILE
from bark_jax.errors import InputError
from bark_jax.files import temporary_folder
from bark_jax.generation import semantic
from bark_jax.generation.rows import Row, Utterance
from bark_jax.generation.runner import run_coarse, run_codec, run_fine, run_semantic
from bark_jax.generation.sampling import key_data
from bark_jax.generation.settings import resolve_settings
from bark_jax.generation.tokens import TokenSpaces, interleave, text_tokens
from bark_jax.model import BarkModel
from bark_jax.parity import rows
from bark_jax.parity.reference import Reference, import_torch, silenced
from bark_jax.voices.voice import Voice, check_voice

N_TEXT_IDS = 12  # tokenizer ids of the prompt that is drawn where none is given


@under_own_config
def compare(
    model: str | os.PathLike,
    *,
    reference: str | os.PathLike | None = None,
    revision: str | None = None,
    text_ids: Sequence[int] | None = None,
    voice: Voice | None = None,
    max_new_tokens: int = 40,
    seed: int = 0,
    on_row: Callable[[rows.Row], None] = lambda row: None,
) -> list[rows.Row]:
    """Compares this package's networks and stages with transformers'.

        logits            of each network, on one random context of full length: 1,024 positions in Bark
        greedy tokens     of each stage, from equal inputs; within a stage each side reads its own tokens
        audio             of the codec from equal codes, and of all stages from the text on

    Both models are in memory in float32, twice 1.7 GB for Bark's small size.

    Args:
      model: a name or folder, as for `BarkModel.from_pretrained`.
      reference: the transformers folder to compare with. None takes `model` itself where it is one; else an export of
        `model` to transformers' form, which tests that conversion too but cannot reveal a fault of the import.
      revision: revision of a Hub id.
      text_ids: tokenizer ids [T]; None draws some.
      voice: None draws random tokens and codes.
      max_new_tokens: semantic tokens to generate; a second of audio has about 50.
      seed: seed of everything that is drawn.
      on_row: called with each result as soon as it is known.

    Returns:
      The results, one row for each check.

    Raises:
      UnsupportedError: torch or transformers is not installed.
      InputError: text_ids, max_new_tokens or voice does not fit the model; or reference is no transformers folder.
    """
    import_torch()
    folder = find_model(model, revision=revision)
    _, generation_config = read_configs(folder)
    inputs = _draw_inputs(TokenSpaces.from_config(generation_config), text_ids, voice, max_new_tokens, seed)
    with (
        jax.default_matmul_precision("highest"),
        silenced(),
        _reference_folder(model, revision, folder, reference) as torch_folder,
    ):
        ours = BarkModel.from_pretrained(str(folder), dtype="float32", attn_implementation="xla")
        theirs = Reference(torch_folder, generation_config)
        found = []
        for row in _all_rows(ours, theirs, inputs):
            on_row(row)
            found.append(row)
        return found


@contextlib.contextmanager
def _reference_folder(
    model: str | os.PathLike, revision: str | None, folder: Path, reference: str | os.PathLike | None
) -> Iterator[Path]:
    """Yields a folder that transformers loads: the given one, or a temporary export of `folder`, a converted model.

    Raises:
      InputError: reference is given and is no transformers folder.
    """
    given = model if reference is None else reference
    if not os.path.isdir(given):
        given = _snapshot(os.fspath(given), revision)
    if given is not None and not is_model_folder(given) and Path(given, CONFIG_FILE).is_file():
        yield Path(given)
        return
    if reference is not None:
        raise InputError(f"reference is {os.fspath(reference)!r}, expected a transformers folder, with a {CONFIG_FILE}")
    with temporary_folder() as temporary:
        yield export_transformers(folder, temporary / "exported")


def _snapshot(name: str, revision: str | None) -> Path | None:
    return snapshots.fetch(name, revision=revision) if snapshots.is_hub_id(name) else None


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """Inputs of both sides."""

    text_ids: np.ndarray  # int64 [T]
    voice: Voice
    max_tokens: int
    rng: np.random.Generator  # draws contexts; checks use it in order, so a seed gives the same ones


def _draw_inputs(
    spaces: TokenSpaces, text_ids: Sequence[int] | None, voice: Voice | None, max_tokens: int, seed: int
) -> _Inputs:
    rng = np.random.default_rng(seed)
    # 119,547 in Bark. Ids are drawn from 1 on, as 0 is BERT's [PAD].
    n_ids = spaces.text_pad - spaces.text_offset
    ids = rng.integers(1, n_ids, N_TEXT_IDS) if text_ids is None else np.asarray(text_ids, np.int64)
    if ids.ndim != 1 or not 1 <= len(ids) <= spaces.n_text or not ((ids >= 0) & (ids < n_ids)).all():
        raise InputError(f"text_ids has shape {ids.shape}, expected 1 to {spaces.n_text} ids from 0 to {n_ids - 1}")
    if not 1 <= max_tokens <= spaces.max_semantic:
        raise InputError(f"max_new_tokens is {max_tokens}, expected 1 to {spaces.max_semantic}")
    voice = _draw_voice(rng, spaces) if voice is None else check_voice(voice, spaces)
    return _Inputs(ids, voice, max_tokens, rng)


def _draw_voice(rng: np.random.Generator, spaces: TokenSpaces) -> Voice:
    """A random voice an eighth longer than the semantic prompt has room for, so that cutting it is tested."""
    semantic_T = rng.integers(0, spaces.semantic_vocab, spaces.n_text + spaces.n_text // 8)
    fine_QT = rng.integers(0, spaces.codebook_size, (spaces.n_fine, spaces.n_frames(len(semantic_T))))
    return Voice(semantic=semantic_T, coarse=fine_QT[: spaces.n_coarse], fine=fine_QT)


def _all_rows(ours: BarkModel, theirs: Reference, inputs: _Inputs) -> Iterator[rows.Row]:
    yield _semantic_logits(ours, theirs, inputs)
    yield _coarse_logits(ours, theirs, inputs)
    yield from _fine_logits(ours, theirs, inputs)
    yield from _generated(ours, theirs, inputs, None, "no voice")
    yield from _generated(ours, theirs, inputs, inputs.voice, "a voice")


def _semantic_logits(ours: BarkModel, theirs: Reference, inputs: _Inputs) -> rows.Row:
    spaces, network = ours.spaces, ours.semantic
    prompt = semantic.make_prompt([semantic.SemanticRow(_text(inputs, spaces), inputs.voice.semantic, 1)], spaces)
    # 256 of prompt, the infer token and 767 tokens: all of Bark's 1,024 positions.
    n_tokens = network.config.block_size - spaces.n_text - 1
    tokens_T = np.concatenate([[spaces.semantic_infer], inputs.rng.integers(0, spaces.semantic_vocab, n_tokens)])
    embeds_1TD = jnp.concatenate(
        [network.embed_prompt(prompt.text_BT, prompt.history_BT), network.embed(jnp.asarray(tokens_T)[None])], axis=1
    )
    reference_TV = theirs.semantic_logits(np.asarray(prompt.text_BT)[0], np.asarray(prompt.history_BT)[0], tokens_T)
    return rows.compare_logits("semantic", "logits", np.asarray(network(inputs_embeds=embeds_1TD))[0], reference_TV)


def _coarse_logits(ours: BarkModel, theirs: Reference, inputs: _Inputs) -> rows.Row:
    spaces, network = ours.spaces, ours.coarse_acoustics
    semantic_T = inputs.rng.integers(0, spaces.semantic_vocab, spaces.n_coarse_semantic)
    n_stream = network.config.block_size - len(semantic_T) - 1
    # 767 positions are left for the stream, an odd number: 384 frames are drawn and their last token is cut off.
    codes_QT = inputs.rng.integers(0, spaces.codebook_size, (spaces.n_coarse, -(-n_stream // spaces.n_coarse)))
    tokens_T = np.concatenate([semantic_T, [spaces.coarse_infer], interleave(codes_QT, spaces)[:n_stream]])
    ours_TV = np.asarray(network(jnp.asarray(tokens_T)[None]))[0]
    return rows.compare_logits("coarse", "logits", ours_TV, theirs.coarse_logits(tokens_T))


def _fine_logits(ours: BarkModel, theirs: Reference, inputs: _Inputs) -> Iterator[rows.Row]:
    spaces, network = ours.spaces, ours.fine_acoustics
    codes_TQ = inputs.rng.integers(0, spaces.codebook_size, (spaces.fine_window, spaces.n_fine))
    # From 1, though the fine stage predicts from 2 on: the network has a head for codebook 1 too.
    for codebook in range(network.config.n_codes_given, spaces.n_fine):
        # Pads from the predicted codebook on, as in a first window; its own embedding is summed in (`FineNetwork`).
        known_TQ = np.where(np.arange(spaces.n_fine) < codebook, codes_TQ, spaces.codebook_size)
        ours_TV = np.asarray(network(codebook, jnp.asarray(known_TQ)[None]))[0]
        reference_TV = theirs.fine_logits(codebook, known_TQ)
        yield rows.compare_logits("fine", f"logits, codebook {codebook}", ours_TV, reference_TV)


def _generated(
    ours: BarkModel, theirs: Reference, inputs: _Inputs, voice: Voice | None, label: str
) -> Iterator[rows.Row]:
    """Compares every stage from the output of the reference's previous stage; then all of our stages in sequence.

    Equal inputs keep a near tie in one stage from changing the next one's comparison.
    """
    spaces, check, row = ours.spaces, f"greedy tokens, {label}", _our_row(ours, inputs, voice)
    semantic_T, margins = theirs.semantic_tokens(inputs.text_ids.tolist(), voice, inputs.max_tokens)
    ((our_semantic_T, _),) = run_semantic(ours.semantic, [row], spaces)
    found = [rows.compare_tokens("semantic", check, our_semantic_T, semantic_T, margins)]
    yield found[0]
    ended_at_once = spaces.n_frames(len(semantic_T)) == 0
    if ended_at_once:  # random weights may do so; the other stages are compared on drawn tokens then
        semantic_T = inputs.rng.integers(0, spaces.semantic_vocab, inputs.max_tokens + 1)

    coarse_QT, margins = theirs.coarse_codes(semantic_T, voice)
    ((our_coarse_QT, _),) = run_coarse(ours.coarse_acoustics, [row], [semantic_T], spaces)
    ours_T, reference_T = interleave(our_coarse_QT, spaces), interleave(coarse_QT, spaces)
    found.append(rows.compare_tokens("coarse", check, ours_T, reference_T, margins))
    yield found[1]

    fine_QT, margins_QT = theirs.fine_codes(coarse_QT, voice)
    (our_fine_QT,) = run_fine(ours.fine_acoustics, [row], [coarse_QT], spaces)
    found.append(rows.compare_codes("fine", check, our_fine_QT, fine_QT, margins_QT, spaces.n_coarse))
    yield found[2]

    audio = theirs.decode(fine_QT)
    (our_audio,) = run_codec(ours.codec_model, [fine_QT])
    yield rows.compare_waveforms("codec", f"audio of equal codes, {label}", our_audio, audio)
    if not ended_at_once:
        is_excused = all(row.is_within for row in found)
        (utterance,) = ours.generate_rows([row])
        yield _end_to_end(utterance, fine_QT, audio, label, is_excused)


def _end_to_end(utterance: Utterance, fine_QT: np.ndarray, audio: np.ndarray, label: str, is_excused: bool) -> rows.Row:
    """Compares audio of the text, unless codes differ though every stage passed: then a near tie made other audio."""
    check = f"audio of the text, {label}"
    if is_excused and not np.array_equal(utterance.fine, fine_QT):
        return rows.Row("all", check, True, note="not compared: the tokens part at a near tie")
    return rows.compare_waveforms("all", check, utterance.samples, audio)


def _text(inputs: _Inputs, spaces: TokenSpaces) -> np.ndarray:
    return text_tokens(inputs.text_ids, np.ones_like(inputs.text_ids), spaces)


def _our_row(model: BarkModel, inputs: _Inputs, voice: Voice | None) -> Row:
    """The inputs as a greedy row: the most likely token in every stage, and no ending by min_eos_p."""
    asked = {"do_sample": False, "max_new_tokens": inputs.max_tokens, "min_eos_p": None}
    (settings,) = resolve_settings(asked, 1, model.generation_config, model.spaces)
    return Row(_text(inputs, model.spaces), voice, key_data(0), settings)
