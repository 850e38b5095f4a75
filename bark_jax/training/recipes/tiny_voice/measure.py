"""Evaluates the voice: word error rates on held-out texts, with controls.

Figures are word error rates (see `listen`) of speech with the model's own settings, a median over seeds. The controls
are the same audio scored against other texts, and noise as loud and as long as the speech: they show the error rate of
a recogniser that hears no speech.
"""

import statistics
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bark_jax.audio.clip import Clip
from bark_jax.bark import Bark
from bark_jax.training.recipes.tiny_voice.listen import Hearing, listen
from bark_jax.training.recipes.tiny_voice.model import GRAMMAR, OPEN
from bark_jax.training.recipes.tiny_voice.open_texts import draw_held_out

KINDS = GRAMMAR.kinds  # of the model in the package
NOISE_TEXTS = 12  # of the noise control: the recogniser takes far longer on noise than on speech
TEXTS_SEED = 7_000  # of the draw of evaluation texts; training draws from other texts, see `texts.is_held_out`
ROWS = 16  # batch size of generation


class Measure(NamedTuple):
    """Word error rates of one kind of text in one voice."""

    kind: str
    voice: str | None
    n_texts: int
    by_seed: tuple[float, ...]
    other_text: float  # control, median over seeds
    noise: float  # control

    @property
    def median(self) -> float:
        """Median word error rate over the seeds."""
        return statistics.median(self.by_seed)


def kinds_of(bark: Bark) -> tuple[str, ...]:
    """Kinds of text that a model of this recipe speaks: OPEN's if it has no list of words, else GRAMMAR's."""
    return OPEN.kinds if bark.processor.words is None else GRAMMAR.kinds


def measure(
    bark: Bark,
    kind: str,
    *,
    n_texts: int,
    seeds: Sequence[int],
    voice: str | None = None,
    n_noises: int = NOISE_TEXTS,
    **settings: Any,
) -> Measure:
    """Speaks n_texts held-out texts once with each seed, and measures word error rates; those of noise on n_noises."""
    chosen = draw_held_out(kind, n_texts, seed=TEXTS_SEED)
    hearings, clips = [], []
    for seed in seeds:
        clips, hearing = hear(bark, kind, chosen, seed=seed, voice=voice, **settings)
        hearings.append(hearing)
    noises = [noise_like(clip.samples) for clip in clips[:n_noises]]
    noise = listen(kind, chosen[:n_noises], noises, bark.sample_rate)
    return Measure(
        kind,
        voice,
        n_texts,
        tuple(hearing.word_error for hearing in hearings),
        statistics.median(hearing.other_text for hearing in hearings),
        noise.word_error,
    )


def hear(
    bark: Bark, kind: str, chosen: Sequence[str], *, seed: int, voice: str | None, **settings: Any
) -> tuple[list[Clip], Hearing]:
    """Speaks texts with one seed, and recognises them."""
    clips = speak(bark, chosen, seed=seed, voice=voice, **settings)
    return clips, listen(kind, chosen, [clip.samples for clip in clips], bark.sample_rate)


def speak(bark: Bark, chosen: Sequence[str], *, seed: int, voice: str | None = None, **settings: Any) -> list[Clip]:
    """Speaks texts in batches of ROWS. Each text has a seed of its own, so its audio does not depend on the batch."""
    clips: list[Clip] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of unknown words would mean that a text is not of the grammar
        for first in range(0, len(chosen), ROWS):
            rows = list(chosen[first : first + ROWS])
            row_seeds = [seed * 1_000_000 + first + row for row in range(len(rows))]
            clips += bark.generate(rows, voice=voice, seed=row_seeds, **settings)
    return clips


def noise_like(samples: np.ndarray) -> np.ndarray:
    """White noise of the shape and loudness (root mean square) of `samples`, float32 [A]."""
    loudness = float(np.sqrt(np.mean(np.square(samples)))) if samples.size else 0.0
    return np.random.default_rng(0).normal(0, loudness, samples.shape).astype(np.float32)


def table(measures: Sequence[Measure]) -> str:
    """Formats measures as a Markdown table of word error rates in percent."""
    lines = [
        "| texts | voice | word error % | of each seed | against other texts | noise |",
        "|---|---|---|---|---|---|",
    ]
    for each in measures:
        seeds = ", ".join(f"{100 * error:.1f}" for error in each.by_seed)
        voice = "none" if each.voice is None else each.voice
        controls = f"{100 * each.other_text:.0f} | {100 * each.noise:.0f}"
        lines.append(f"| {each.n_texts} {each.kind} | {voice} | **{100 * each.median:.1f}** | {seeds} | {controls} |")
    return "\n".join(lines)
