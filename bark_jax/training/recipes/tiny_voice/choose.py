"""Grid search for the temperatures with the lowest word error, on texts outside of the training and evaluation sets.

Low temperatures repeat sounds, high ones make unclear speech. Only settings that sample can be chosen, so that seeds
sound different; greedy decoding is measured for comparison.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bark_jax.bark import Bark
from bark_jax.config import GENERATION_CONFIG_FILE, BarkGenerationConfig, read_config, save_json
from bark_jax.training.recipes.tiny_voice import measure as measuring
from bark_jax.training.recipes.tiny_voice.open_texts import draw_held_out

TEXTS_SEED = 8_000  # of the draw of texts for the search
MEASURED = 60  # evaluation texts of each kind, which the search leaves out; about 110 sentences are held out in all
CAUSAL = (0.1, 0.3, 0.6)  # temperatures of the semantic and the coarse stage
FINE = (0.1, 0.3, 0.5)  # temperatures of the fine stage
GREEDY = {"do_sample": False}
N_FINALISTS = 4  # settings that are measured with more seeds
MORE_SEEDS = (1, 2)


class Choice(NamedTuple):
    """Settings of `Bark.generate`, and word error rates with them by kind of text, over all voices."""

    settings: dict[str, Any]
    by_kind: dict[str, float]

    @property
    def word_error(self) -> float:
        """Mean word error rate over the kinds of text, all of equal weight."""
        return sum(self.by_kind.values()) / len(self.by_kind)


def choose(bark: Bark, n_texts: int, *, seed: int = 0) -> tuple[Choice, list[Choice]]:
    """Searches temperatures. Returns (the best, all that were measured: greedy first, finalists last).

    Searches the grid of semantic and coarse temperatures at the model's fine temperature, then the fine temperature.
    One seed's word error varies by a few points, so the N_FINALISTS best are measured with MORE_SEEDS too.
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
    """The mean of measurements of the same settings with different seeds."""
    by_kind = {kind: sum(each.by_kind[kind] for each in choices) / len(choices) for kind in choices[0].by_kind}
    return Choice(choices[0].settings, by_kind)


def causal_grid(fine: float) -> Iterator[dict[str, float]]:
    """Yields all pairs of semantic and coarse temperatures, with the given fine temperature."""
    for semantic, coarse in itertools.product(CAUSAL, CAUSAL):
        yield {"semantic_temperature": semantic, "coarse_temperature": coarse, "fine_temperature": fine}


def _best(choices: Sequence[Choice]) -> Choice:
    """The choice with the lowest word error; among equals the last, which has the highest temperatures."""
    return min(reversed(choices), key=lambda choice: choice.word_error)


def choosing_texts(kind: str, n_texts: int) -> list[str]:
    """Draws texts that are held out of training and not among those that `measure` evaluates."""
    measured = set(draw_held_out(kind, MEASURED, seed=measuring.TEXTS_SEED))
    drawn = draw_held_out(kind, n_texts + MEASURED, seed=TEXTS_SEED)
    return [text for text in drawn if text not in measured][:n_texts]


def word_errors_with(bark: Bark, settings: dict[str, Any], n_texts: int, *, seed: int) -> Choice:
    """Measures word error rates with some settings: every text in every voice, and without a voice."""
    by_kind = {}
    for kind in measuring.kinds_of(bark):
        chosen = choosing_texts(kind, n_texts)
        hearings = [
            measuring.hear(bark, kind, chosen, seed=seed, voice=voice, **settings)[1]
            for voice in (None, *bark.voices())
        ]
        by_kind[kind] = sum(hearing.word_error for hearing in hearings) / len(hearings)
    return Choice(settings, by_kind)


def choose_for(folder: str, *, n_texts: int) -> str:
    """Writes the best temperatures into a model folder. Returns the Markdown table of all.

    Raises:
      ModelNotFoundError: there is no such folder, or it has no generation config.
    """
    # A local folder only: `Bark.from_pretrained` would also accept a name, whose cached files must not change.
    path = Path(folder, GENERATION_CONFIG_FILE)
    config = read_config(path, BarkGenerationConfig)
    best, heard = choose(Bark.from_pretrained(folder), n_texts)
    save_json(with_choice(config, best), path)
    return table(heard)


def with_choice(config: BarkGenerationConfig, choice: Choice) -> BarkGenerationConfig:
    """A copy of the model's generation config with the chosen temperatures."""
    stages = {"semantic": "semantic_config", "coarse": "coarse_acoustics_config", "fine": "fine_acoustics_config"}
    parts = {
        field: dataclasses.replace(getattr(config, field), temperature=choice.settings[f"{stage}_temperature"])
        for stage, field in stages.items()
    }
    return dataclasses.replace(config, **parts)


def table(choices: Sequence[Choice]) -> str:
    """Formats choices as a Markdown table of word error rates in percent."""
    kinds = list(choices[0].by_kind)
    lines = [
        f"| semantic | coarse | fine | word error %: {' | '.join(kinds)} | mean |",
        "|---" * (4 + len(kinds)) + "|",
    ]
    for choice in choices:
        chosen = [choice.settings.get(f"{stage}_temperature") for stage in ("semantic", "coarse", "fine")]
        temperatures = ["greedy"] * 3 if choice.settings == GREEDY else map(str, chosen)
        errors = [*choice.by_kind.values(), choice.word_error]
        lines.append(f"| {' | '.join(temperatures)} | {' | '.join(f'{100 * error:.1f}' for error in errors)} |")
    return "\n".join(lines)
