"""Which sampling the voice speaks best with: a grid of temperatures, on texts that are neither trained on nor measured.

A temperature near 0 repeats itself, a high one mumbles. All of the grid draws, so that seeds differ; greedy tokens are
listened to beside it, as what drawing costs.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bark_jax.bark import Bark
from bark_jax.config import GENERATION_CONFIG_FILE, BarkGenerationConfig, read_config, save_json
from bark_jax.training.recipes.tiny_voice import measure as measuring
from bark_jax.training.recipes.tiny_voice import texts

TEXTS_SEED = 8_000  # of the texts to choose by
MEASURED = 60  # texts a kind, those that the recipe listens to, which are left out; some 110 sentences are held out
CAUSAL = (0.1, 0.3, 0.6)  # of the semantic and the coarse stage
FINE = (0.1, 0.3, 0.5)
GREEDY = {"do_sample": False}
N_FINALISTS = 4  # settings that are heard with more seeds
MORE_SEEDS = (1, 2)


class Choice(NamedTuple):
    """Settings of `Bark.generate`, and word error rates with them over all texts and voices."""

    settings: dict[str, Any]
    by_kind: dict[str, float]

    @property
    def word_error(self) -> float:
        """Kinds of text count alike."""
        return sum(self.by_kind.values()) / len(self.by_kind)


def choose(bark: Bark, n_texts: int, *, seed: int = 0) -> tuple[Choice, list[Choice]]:
    """The best settings, and all that were listened to, greedy ones first and the finalists last.

    The causal stages' temperatures are chosen together, beside the fine stage's as it is, then the fine stage's. What
    one seed says varies by some points, so the best of all are heard with more of them.
    """
    current = bark.model.generation_config.fine_acoustics_config.temperature
    heard = [word_errors_with(bark, GREEDY, n_texts, seed=seed)]
    heard += [word_errors_with(bark, settings, n_texts, seed=seed) for settings in causal_grid(current)]
    best = _best(heard[1:])
    others = [best.settings | {"fine_temperature": value} for value in FINE if value != current]
    heard += [word_errors_with(bark, settings, n_texts, seed=seed) for settings in others]
    finalists = [
        mean([choice, *(word_errors_with(bark, choice.settings, n_texts, seed=seed + more) for more in MORE_SEEDS)])
        for choice in sorted(heard[1:], key=lambda choice: choice.word_error)[:N_FINALISTS]
    ]
    return _best(finalists), [*heard, *finalists]


def mean(choices: Sequence[Choice]) -> Choice:
    """Of the same settings with other seeds."""
    by_kind = {kind: sum(each.by_kind[kind] for each in choices) / len(choices) for kind in choices[0].by_kind}
    return Choice(choices[0].settings, by_kind)


def causal_grid(fine: float) -> Iterator[dict[str, float]]:
    for semantic, coarse in itertools.product(CAUSAL, CAUSAL):
        yield {"semantic_temperature": semantic, "coarse_temperature": coarse, "fine_temperature": fine}


def _best(choices: Sequence[Choice]) -> Choice:
    """Of equal ones the last, which draws the most freely."""
    return min(reversed(choices), key=lambda choice: choice.word_error)


def choosing_texts(kind: str, n_texts: int) -> list[str]:
    """Held out of training, and none that `measure` listens to."""
    measured = set(texts.draw(kind, MEASURED, seed=measuring.TEXTS_SEED, held_out=True))
    drawn = texts.draw(kind, n_texts + MEASURED, seed=TEXTS_SEED, held_out=True)
    return [text for text in drawn if text not in measured][:n_texts]


def word_errors_with(bark: Bark, settings: dict[str, Any], n_texts: int, *, seed: int) -> Choice:
    """Every text in every voice, and without one."""
    by_kind = {}
    for kind in measuring.KINDS:
        chosen = choosing_texts(kind, n_texts)
        hearings = [
            measuring.hear(bark, kind, chosen, seed=seed, voice=voice, **settings)[1]
            for voice in (None, *bark.voices())
        ]
        by_kind[kind] = sum(hearing.word_error for hearing in hearings) / len(hearings)
    return Choice(settings, by_kind)


def choose_for(folder: str, *, n_texts: int) -> str:
    """Writes the best settings into a model's folder; returns the table of all.

    Raises:
      ModelNotFoundError: there is no such folder, or no settings in it.
    """
    path = Path(folder, GENERATION_CONFIG_FILE)  # not that of a model named otherwise: nobody expects it to change
    config = read_config(path, BarkGenerationConfig)
    best, heard = choose(Bark.from_pretrained(folder), n_texts)
    save_json(with_choice(config, best), path)
    return table(heard)


def with_choice(config: BarkGenerationConfig, choice: Choice) -> BarkGenerationConfig:
    """The model's settings with the chosen ones in place of its own."""
    stages = {"semantic": "semantic_config", "coarse": "coarse_acoustics_config", "fine": "fine_acoustics_config"}
    parts = {
        field: dataclasses.replace(getattr(config, field), temperature=choice.settings[f"{stage}_temperature"])
        for stage, field in stages.items()
    }
    return dataclasses.replace(config, **parts)


def table(choices: Sequence[Choice]) -> str:
    """In Markdown."""
    lines = ["| semantic | coarse | fine | word error %: digits | sentences | both |", "|---|---|---|---|---|---|"]
    for choice in choices:
        chosen = [choice.settings.get(f"{stage}_temperature") for stage in ("semantic", "coarse", "fine")]
        temperatures = ["greedy"] * 3 if choice.settings == GREEDY else map(str, chosen)
        errors = [*choice.by_kind.values(), choice.word_error]
        lines.append(f"| {' | '.join(temperatures)} | {' | '.join(f'{100 * error:.1f}' for error in errors)} |")
    return "\n".join(lines)
