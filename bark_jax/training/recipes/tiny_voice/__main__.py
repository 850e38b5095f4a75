"""The built-in voice, from nothing to what ships, by one command: data, training, sampling, writing, listening.

    python -m bark_jax.training.recipes.tiny_voice WORK

Run again, it goes on where it was stopped.
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

CHOOSING_TEXTS = 24  # at most, a kind


@click.command()
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--amount", type=click.Choice(tuple(AMOUNTS)), default="full", show_default=True, help="Data and steps.")
@click.option("--start", type=click.Path(exists=True, file_okay=False, path_type=Path), help="A model to go on from.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--texts", "n_texts", type=click.IntRange(1), default=60, show_default=True, help="To listen to, a kind.")
@click.option("--seeds", "n_seeds", type=click.IntRange(1), default=3, show_default=True, help="To listen with.")
@click.option("--measure", "only_measure", metavar="MODEL", help="Train nothing; listen to a model that is there.")
@click.option(
    "--choose/--no-choose",
    "is_chosen",
    default=None,
    help="Choose temperatures by a grid and write them into the model  [default: for one that is trained].",
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
    """Trains the built-in voice in WORK: the model, how well it is understood (report.json), samples (samples.png).

    full trains from nothing and wants an accelerator; adapt goes on from a model that speaks; smoke goes all the way in
    minutes and gives noise.
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
    """WORK/samples.png: what flite says on the left, the same of the model on the right."""
    flite, rows = Flite(work), []
    for voice in bark.voices():
        for kind in measuring.KINDS:
            (text,) = texts.draw(kind, 1, seed=measuring.TEXTS_SEED, held_out=True)
            (clip,) = measuring.speak(bark, [text], seed=0, voice=voice)
            rows.append([(f"flite {voice}: {text}", flite.speak(text, voice).audio), ("the model", clip.samples)])
    plot_samples(rows, bark.sample_rate, work / "samples.png")


if __name__ == "__main__":
    main()
