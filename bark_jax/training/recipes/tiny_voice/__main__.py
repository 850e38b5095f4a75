"""Trains the built-in voice from scratch by one command: corpus, training, choice of temperatures, evaluation.

    python -m bark_jax.training.recipes.tiny_voice WORK

Re-running the command resumes.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import jax

from bark_jax.bark import Bark
from bark_jax.checkpoints.compiled import keep_compiled_programs
from bark_jax.errors import BarkError
from bark_jax.files import write_atomically
from bark_jax.training.dataset import Dataset
from bark_jax.training.loop import TrainingStopped
from bark_jax.training.metrics import METRICS_FILE, read_metrics
from bark_jax.training.recipes.tiny_voice import choose as choosing
from bark_jax.training.recipes.tiny_voice import measure as measuring
from bark_jax.training.recipes.tiny_voice.amounts import AMOUNTS
from bark_jax.training.recipes.tiny_voice.open_texts import draw_held_out
from bark_jax.training.recipes.tiny_voice.pace import Clock
from bark_jax.training.recipes.tiny_voice.plots import plot_samples
from bark_jax.training.recipes.tiny_voice.speech import Flite
from bark_jax.training.recipes.tiny_voice.train import choose_voices, fetch, train, write_model

CHOOSING_TEXTS = 24  # maximum number of texts of each kind for the choice of temperatures
SECONDS_FILE = "seconds.json"
GOALS = {"digits": 0.05, "sentences": 0.15, "open": 0.25}  # word error rates of `full`, without a voice
STOPPED = 75  # exit status: work is left. EX_TEMPFAIL of sysexits.h


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
    help="Choose temperatures by grid search and write them into the model  [default: after adapt and smoke].",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="Stop after so long, with exit status 75 if work is left  [default: run to the end].",
)
@click.option(
    "--fetch", "only_fetch", is_flag=True, help="Only put what training needs from the network into WORK, and end."
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
    minutes: float | None,
    only_fetch: bool,
) -> None:
    """Trains the built-in voice in WORK: the model, word error rates (report.json), spectrograms (samples.png).

    --amount full trains from random weights, for 20 minutes on one GPU and 16 cores; adapt fine-tunes a trained model
    on a CPU; smoke runs every part in minutes, and its model makes noise. Re-running the command resumes.
    \f
    Raises ClickException if a part fails. (Click's help ends at the form feed.)
    """
    clock = Clock(minutes)
    work.mkdir(parents=True, exist_ok=True)
    keep_compiled_programs()
    try:
        if only_fetch:
            fetch(work, AMOUNTS[amount])
            return
        folder = str(work / "model") if only_measure is None else only_measure
        with _added_seconds(work / SECONDS_FILE):
            if only_measure is None:
                model = train(work, AMOUNTS[amount], seed=seed, start=start, clock=clock)
                voices = choose_voices(Dataset.open(work / "codes"))
                write_model(model, AMOUNTS[amount].form, voices, work / "model")
            clock.begin_part("the measurements")
            if is_chosen or (is_chosen is None and only_measure is None and AMOUNTS[amount].is_chosen):
                click.echo(choosing.choose_for(folder, n_texts=min(n_texts, CHOOSING_TEXTS)))
            bark = Bark.from_pretrained(folder)
            max_seconds = AMOUNTS[amount].measured_seconds if only_measure is None else None
            measures = [
                measuring.measure(
                    bark, kind, n_texts=n_texts, seeds=range(n_seeds), voice=voice, max_seconds=max_seconds
                )
                for voice in (None, *bark.voices())
                for kind in measuring.kinds_of(bark)
            ]
    except TrainingStopped as stopped:
        click.echo(str(stopped))
        raise SystemExit(STOPPED) from stopped
    except BarkError as error:
        raise click.ClickException(str(error)) from error
    click.echo(measuring.table(measures))
    if only_measure is None and amount == "full":
        click.echo(_goals(measures))
    report = {
        "amount": amount,
        "seed": seed,
        "seconds": json.loads((work / SECONDS_FILE).read_text()),
        "steps": {path.parent.name: read_metrics(path.parent)[-1]["step"] for path in work.glob(f"*/{METRICS_FILE}")},
        "model_bytes": sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()),
        "device": jax.local_devices()[0].device_kind,
        "jax": jax.__version__,
        "measures": [each._asdict() for each in measures],
    }
    _draw(bark, work, max_seconds)
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _goals(measures: Sequence[measuring.Measure]) -> str:
    """Says for each kind of text whether the model reaches its goal without a voice."""
    found = {each.kind: each.median for each in measures if each.voice is None}
    verbs = {kind: "reaches" if found[kind] <= goal else "misses" for kind, goal in GOALS.items()}
    return "\n".join(
        f"{kind}: {100 * found[kind]:.1f} % word error, {verbs[kind]} the goal of {100 * goal:.0f} %"
        for kind, goal in GOALS.items()
    )


@contextlib.contextmanager
def _added_seconds(path: Path) -> Iterator[None]:
    """Adds the seconds of a `with` block to the JSON list in a file: one number for each run of the command."""
    started = time.perf_counter()
    try:
        yield
    finally:
        before = json.loads(path.read_text()) if path.is_file() else []
        write_atomically(path, (json.dumps([*before, round(time.perf_counter() - started)]) + "\n").encode())


def _draw(bark: Bark, work: Path, max_seconds: float | None) -> None:
    """Plots WORK/samples.png: spectrograms of flite on the left, of the model with the same texts on the right."""
    flite, rows = Flite(work), []
    for voice in bark.voices():
        for kind in measuring.kinds_of(bark):
            (text,) = draw_held_out(kind, 1, seed=measuring.TEXTS_SEED)
            (clip,) = measuring.speak(bark, [text], seed=0, voice=voice, max_seconds=max_seconds)
            rows.append([(f"flite {voice}: {text}", flite.speak(text, voice).audio), ("the model", clip.samples)])
    plot_samples(rows, bark.sample_rate, work / "samples.png")


if __name__ == "__main__":
    main()
