"""Trains the built-in voice from scratch by one command: corpus, training, choice of temperatures, evaluation.

    python -m bark_jax.training.recipes.tiny_voice WORK

Re-running the command resumes.
"""

import json
import time
from pathlib import Path

import click
import jax

from bark_jax.bark import Bark
from bark_jax.errors import BarkError
from bark_jax.training.dataset import Dataset
from bark_jax.training.recipes.tiny_voice import choose as choosing
from bark_jax.training.recipes.tiny_voice import measure as measuring
from bark_jax.training.recipes.tiny_voice import texts
from bark_jax.training.recipes.tiny_voice.amounts import AMOUNTS
from bark_jax.training.recipes.tiny_voice.plots import plot_samples
from bark_jax.training.recipes.tiny_voice.speech import Flite
from bark_jax.training.recipes.tiny_voice.train import choose_voices, train, write_model

CHOOSING_TEXTS = 24  # maximum number of texts of each kind for the choice of temperatures


@click.command()
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--amount", type=click.Choice(tuple(AMOUNTS)), default="full", show_default=True, help="Amount of data and steps."
)
@click.option("--start", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Model to start from.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Random seed of data and training.")
@click.option(
    "--texts", "n_texts", type=click.IntRange(1), default=60, show_default=True, help="Evaluated texts of each kind."
)
@click.option("--seeds", "n_seeds", type=click.IntRange(1), default=3, show_default=True, help="Evaluated seeds.")
@click.option("--measure", "only_measure", metavar="MODEL", help="Train nothing; evaluate an existing model.")
@click.option(
    "--choose/--no-choose",
    "is_chosen",
    default=None,
    help="Choose temperatures by grid search and write them into the model  [default: after training].",
)
def main(
    work: Path,
    amount: str,
    start: Path | None,
    seed: int,
    n_texts: int,
    n_seeds: int,
    only_measure: str | None,
    is_chosen: bool | None,
) -> None:
    """Trains the built-in voice in WORK: the model, word error rates (report.json), spectrograms (samples.png).

    --amount full trains from random weights and needs an accelerator; adapt fine-tunes a trained model on a CPU; smoke
    runs every part in minutes, and its model makes noise.
    \f
    Raises ClickException if a part fails. (Click's help ends at the form feed.)
    """
    started = time.perf_counter()
    work.mkdir(parents=True, exist_ok=True)
    try:
        if only_measure is None:
            model = train(work, AMOUNTS[amount], seed=seed, start=start)
            write_model(model, choose_voices(Dataset.open(work / "codes")), work / "model")
        trained_s = time.perf_counter() - started
        folder = str(work / "model") if only_measure is None else only_measure
        if is_chosen or (is_chosen is None and only_measure is None):
            click.echo(choosing.choose_for(folder, n_texts=min(n_texts, CHOOSING_TEXTS)))
        bark = Bark.from_pretrained(folder)
        measures = [
            measuring.measure(bark, kind, n_texts=n_texts, seeds=range(n_seeds), voice=voice)
            for voice in (None, *bark.voices())
            for kind in measuring.KINDS
        ]
    except BarkError as error:
        raise click.ClickException(str(error)) from error
    click.echo(measuring.table(measures))
    report = {
        "amount": amount,
        "seed": seed,
        "seconds": round(trained_s),
        "device": jax.local_devices()[0].device_kind,
        "jax": jax.__version__,
        "measures": [each._asdict() for each in measures],
    }
    _draw(bark, work)
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _draw(bark: Bark, work: Path) -> None:
    """Plots WORK/samples.png: spectrograms of flite on the left, of the model with the same texts on the right."""
    flite, rows = Flite(work), []
    for voice in bark.voices():
        for kind in measuring.KINDS:
            (text,) = texts.draw(kind, 1, seed=measuring.TEXTS_SEED, held_out=True)
            (clip,) = measuring.speak(bark, [text], seed=0, voice=voice)
            rows.append([(f"flite {voice}: {text}", flite.speak(text, voice).audio), ("the model", clip.samples)])
    plot_samples(rows, bark.sample_rate, work / "samples.png")


if __name__ == "__main__":
    main()
