"""`bark-jax train`: trains networks on a dataset, all weights or a LoRA; resumable."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bark_jax._system import stopping
from bark_jax.cli.devices import choose_devices
from bark_jax.cli.group import Verb
from bark_jax.cli.models import open_processor
from bark_jax.cli.options import json_option, model_option, revision_option, tokenizer_option
from bark_jax.cli.prepare import prepare_recordings, semantic_tokenizer_option
from bark_jax.errors import InputError, OutputError, quoted

if TYPE_CHECKING:
    from bark_jax.model import BarkModel
    from bark_jax.training.dataset import Dataset

# Names on the command line are Suno's; those of the modules, on the right, are transformers'.
NETWORKS = {
    "semantic": "semantic",
    "coarse": "coarse_acoustics",
    "fine": "fine_acoustics",
    "codec": "codec_model",
}
TRANSFORMERS = ("semantic", "coarse", "fine")
DATA_FOLDER, MANIFEST_FILE = "data", "manifest.jsonl"  # in RUN, if DATA is a manifest: its dataset, and its copy
MODEL_FOLDER, LORA_FILE = "model", "lora.safetensors"

EXAMPLES = """\b
Examples:
  bark-jax train data run -m suno/bark-small --network coarse --lora 8 --steps 2000
  bark-jax train recordings.jsonl run -m suno/bark-small --steps 5000 --dtype bfloat16 --devices all
  bark-jax train data codec-run -m suno/bark-small --network codec --codec-parts decoder --steps 3000
"""

# Defaults are those of the dataclasses of bark_jax.training, which also check the values. They depend on the network.
_RUN_OPTIONS = (
    click.option("--eval-every", type=int, help="Steps between two evaluations.  [default: 500]"),
    click.option("--save-every", type=int, help="Steps between two checkpoints.  [default: 500]"),
    click.option(
        "--patience", type=int, help="Evaluations without a new best loss before training stops.  [default: no limit]"
    ),
)
_SETTING_OPTIONS = (
    click.option("--batch-size", type=int, help="Rows of a step, over all devices.  [default: 8; codec 16]"),
    click.option(
        "--accumulate", type=int, help="Micro-batches of a step, run one by one to save memory.  [default: 1]"
    ),
    click.option(
        "--remat",
        is_flag=True,
        default=None,
        help="Recompute each layer in the backward pass: a third more computation, a fraction of the memory.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16"]),
        help="Dtype of the computation; weights and optimiser stay float32.  [default: float32]",
    ),
    click.option("--history-share", type=float, help="Share of rows that are given a voice.  [default: 0.5]"),
    click.option(
        "--eval-share", type=float, help="Share of the dataset that is held out to evaluate.  [default: 0.05]"
    ),
    click.option("--seed", type=int, help="Random seed of the split, the order and every draw.  [default: 0]"),
)
_OPTIMIZER_OPTIONS = (
    click.option("--learning-rate", type=float, help="Peak learning rate.  [default: 3e-4; codec 1e-3]"),
    click.option("--warmup-steps", type=int, help="Steps of learning-rate warm-up.  [default: 100; codec 200]"),
    click.option("--weight-decay", type=float, help="Weight decay of matrices.  [default: 0.01; codec 0.001]"),
    click.option("--clip-norm", type=float, help="Maximum gradient norm.  [default: 1]"),
)
RUN_FIELDS = ("eval_every", "save_every", "patience")
STAGE_FIELDS = ("batch_size", "accumulate", "dtype", "history_share", "eval_share", "seed")
CODEC_FIELDS = ("batch_size", "eval_share", "seed")
OPTIMIZER_FIELDS = ("learning_rate", "warmup_steps", "weight_decay", "clip_norm")


def _training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the verb these options, listed in this order."""
    for option in reversed((*_SETTING_OPTIONS, *_OPTIMIZER_OPTIONS, *_RUN_OPTIONS)):
        function = option(function)
    return function


@click.command("train", cls=Verb, epilog=EXAMPLES, short_help="Train networks, all weights or a LoRA.")
@click.argument("data")
@click.argument("run")
@model_option
@revision_option
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice(tuple(NETWORKS)),
    default=TRANSFORMERS,
    help="Network to train; repeat the option to train several, one by one.  [default: semantic, coarse, fine]",
)
@click.option("--steps", "n_steps", type=int, required=True, help="Number of optimiser steps of each network.")
@click.option("--lora", "rank", metavar="RANK", type=int, help="Train a LoRA of this rank instead of all weights.")
@click.option(
    "--lora-alpha", "alpha", type=float, help="Scale of the LoRA, which is alpha / rank.  [default: twice the rank]"
)
@click.option(
    "--codec-parts",
    type=click.Choice(["decoder", "all"]),
    help="Parts of the codec to train, with --network codec.  [default: decoder]",
)
@click.option("--devices", metavar="N", help="Number of devices to share each batch over, or all.  [default: 1]")
@click.option(
    "--shard-state",
    is_flag=True,
    help="Divide master weights and optimiser state among the devices instead of having all on each.",
)
@_training_options
@semantic_tokenizer_option
@tokenizer_option
@json_option
def command(data: str, run: str, as_json: bool, **options: Any) -> None:
    """Train networks of a model on DATA: a dataset of `bark-jax prepare`, or a manifest, which is prepared in RUN/data.

    Each network has a folder in RUN with metrics.jsonl, loss.png and checkpoints. The result is RUN/model, to use with
    -m, or with --lora RUN/lora.safetensors, to use with --lora of `bark-jax say`. Networks that earlier commands have
    trained in RUN on the same model are kept in it. Re-running the command resumes from the last checkpoint.

    Training needs: pip install 'bark-jax[train]'.

    \f
    Raises:
      click.UsageError, InputError: options that exclude each other or do not fit what RUN holds, before any training.
    """
    networks = options["networks"] = tuple(dict.fromkeys(options["networks"]))
    _check_networks(networks, options)
    from bark_jax.training.network_training import check_rows

    plan = _make_plan(networks, options)
    _check_run(Path(run), networks, plan, is_lora=options["rank"] is not None)
    plan["devices"] = choose_devices(options["devices"])
    if options["shard_state"]:
        plan["shard_state"] = True
    check_rows(plan["settings"].batch_size, getattr(plan["settings"], "accumulate", 1), plan["devices"])
    processor = open_processor(options["model"], options["revision"], options["tokenizer"])
    dataset = _open_data(data, Path(run), processor, options)
    with stopping.last_words(f"stopped; re-run the command to resume from the last checkpoint in {run}"):
        report = _train(networks, plan, dataset, Path(run), processor, options)
    if options["codec_parts"] == "all":
        click.echo(
            "the trained codec encodes audio as other codes: prepare the data again with this model, and train the "
            "transformers on it",
            err=True,
        )
    click.echo(json.dumps(report) if as_json else report["output"])


def _check_networks(networks: tuple[str, ...], options: dict[str, Any]) -> None:
    """Raises click.UsageError for options that exclude each other or have no effect on these networks."""
    has_codec = "codec" in networks
    if has_codec and len(networks) > 1:
        raise click.UsageError("The codec is trained by itself, as the codes that the others read may change with it.")
    if has_codec and options["rank"] is not None:
        raise click.UsageError("--lora is for the transformers; the codec is trained whole.")
    if has_codec and options["shard_state"]:
        raise click.UsageError("--shard-state is for the transformers.")
    if options["shard_state"] and options["devices"] is None:
        raise click.UsageError("--shard-state divides the state among devices; give --devices too.")
    if not has_codec and options["codec_parts"] is not None:
        raise click.UsageError("--codec-parts is for --network codec.")
    if options["alpha"] is not None and options["rank"] is None:
        raise click.UsageError("--lora-alpha is for --lora.")
    unused = [name for name in (*STAGE_FIELDS, "remat") if name not in CODEC_FIELDS and options[name] is not None]
    if has_codec and unused:
        raise click.UsageError(f"--{unused[0].replace('_', '-')} has no effect on the codec.")


def _make_plan(networks: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of run, network and optimiser by keyword of `train_stage`; raises InputError for bad values."""
    from bark_jax.training.codec_training import OPTIMIZER, CodecSettings
    from bark_jax.training.loop import RunSettings
    from bark_jax.training.optimizer import OptimizerSettings
    from bark_jax.training.stage_training import LoraSettings, StageSettings

    plan = {"run": RunSettings(options["n_steps"], **_given(options, RUN_FIELDS))}
    if networks == ("codec",):
        parts = options["codec_parts"] or "decoder"
        plan["settings"] = CodecSettings(parts=parts, **_given(options, CODEC_FIELDS))
        plan["optimizer"] = dataclasses.replace(OPTIMIZER, **_given(options, OPTIMIZER_FIELDS))
        return plan
    lora = None
    if (rank := options["rank"]) is not None:
        if rank < 1:
            raise InputError(f"--lora is {rank}, expected a rank of 1 or more")
        lora = LoraSettings(rank, 2.0 * rank if options["alpha"] is None else options["alpha"])
    plan["remat"] = bool(options["remat"])
    plan["settings"] = StageSettings(lora=lora, **_given(options, STAGE_FIELDS))
    plan["optimizer"] = OptimizerSettings(**_given(options, OPTIMIZER_FIELDS))
    return plan


def _check_run(run: Path, networks: tuple[str, ...], plan: dict[str, Any], *, is_lora: bool) -> None:
    """Raises InputError now for what would stop the run after hours: at its last network, or when it writes RUN."""
    from bark_jax.files import as_path, check_can_create, check_destination
    from bark_jax.training.loop import check_settings

    try:
        check_can_create(as_path(run, "RUN") / MODEL_FOLDER)
    except OutputError as error:
        raise InputError(f"RUN is {quoted(str(run))}: {error}") from error
    for name in networks:
        wanted = {key: dataclasses.asdict(plan[key]) for key in ("run", "settings", "optimizer")}
        check_settings(run / NETWORKS[name], {"network": NETWORKS[name], **wanted})
    if not is_lora:
        check_destination(run / MODEL_FOLDER, overwrite=True)
    elif (run / LORA_FILE).is_dir():
        raise InputError(f"{run / LORA_FILE} is a folder, expected a file or nothing; give another RUN")


def _given(options: dict[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: options[name] for name in fields if options[name] is not None}


def _open_data(data: str, run: Path, processor: Any, options: dict[str, Any]) -> "Dataset":
    """Opens the dataset. A manifest is prepared into RUN/data first, unless an earlier command has done so."""
    from bark_jax.files import write_atomically
    from bark_jax.training.dataset import Dataset

    if Path(data).is_dir():
        return Dataset.open(data, spaces=processor.spaces)
    if not Path(data).is_file():
        raise InputError(f"DATA is {data!r}, which does not exist; give a dataset's folder, or a manifest's file")
    if (run / DATA_FOLDER).is_dir():
        _check_manifest_is_the_same(Path(data), run)
        return Dataset.open(run / DATA_FOLDER, spaces=processor.spaces)
    names = ("model", "revision", "tokenizer", "semantic_tokenizer")
    keep_audio = "codec" in options["networks"]
    given = {name: options[name] for name in names}
    dataset = prepare_recordings(data, run / DATA_FOLDER, keep_audio=keep_audio, **given)
    write_atomically(run / MANIFEST_FILE, Path(data).read_bytes())  # `_check_manifest_is_the_same` compares it
    return dataset


def _check_manifest_is_the_same(manifest: Path, run: Path) -> None:
    """Raises InputError if RUN/data was prepared from a manifest with other lines than it has now."""
    copy = run / MANIFEST_FILE
    if copy.is_file() and copy.read_bytes() != manifest.read_bytes():
        raise InputError(
            f"{run / DATA_FOLDER} was prepared from other lines than {manifest} has now. Give another RUN to train on "
            f"the new lines, or {run / DATA_FOLDER} as DATA to train on the old ones."
        )


def _train(
    networks: tuple[str, ...],
    plan: dict[str, Any],
    dataset: "Dataset",
    run: Path,
    processor: Any,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Trains the networks one by one and writes the result; returns its path and each network's steps and losses."""
    from bark_jax.checkpoints.find import find_model
    from bark_jax.model import BarkModel
    from bark_jax.training.stage_training import with_networks

    folder = find_model(options["model"], revision=options["revision"])
    fields = [NETWORKS[name] for name in networks]
    model = BarkModel.from_pretrained(str(folder), dtype="float32")
    earlier, earlier_loras = {}, {}
    if options["rank"] is None:
        earlier = _earlier_networks(run, model, fields)
        model = with_networks(model, earlier)
    else:
        earlier_loras = _earlier_loras(run, folder)
    if "codec" not in networks:
        _check_codes(dataset, model, run / MODEL_FOLDER if "codec_model" in earlier else options["model"])
    trained, results = {}, {}
    for name, field in zip(networks, fields, strict=True):
        click.echo(f"{name}: {run / field}", err=True)
        trained[field], results[name] = _train_one(model, field, dataset, run / field, plan)
    if options["rank"] is None:
        output = _write_model(run, model, trained, processor)
    else:
        output = _write_lora(run, folder, earlier_loras | trained)
    return {"output": str(output), "networks": results}


def _train_one(
    model: "BarkModel", field: str, dataset: "Dataset", folder: Path, plan: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """(trained network, or its LoRA; report of the run). The optimizer's state is freed before the next network."""
    from bark_jax.training.codec_training import train_codec
    from bark_jax.training.stage_training import train_stage

    if field == NETWORKS["codec"]:
        network, result = train_codec(model, dataset, folder, **plan)
        changes = network
    else:
        network, lora, result = train_stage(model, field, dataset, folder, **plan)
        changes = network if lora is None else lora
    keys = ("steps", "best_step", "best_loss", "stopped_early")
    return changes, {key: getattr(result, key) for key in keys}


def _earlier_networks(run: Path, model: "BarkModel", fields: list[str]) -> dict[str, Any]:
    """Loads from RUN/model the networks that earlier commands trained in RUN, to write them into RUN/model again.

    Those that were trained from another model, by the fingerprint in their settings, are left out, as are `fields`,
    which are about to be trained.
    """
    from bark_jax.checkpoints.load import module_maker
    from bark_jax.checkpoints.model_folder import is_model_folder, load_network
    from bark_jax.training.loop import read_settings
    from bark_jax.training.stage_training import fingerprint

    if not is_model_folder(run / MODEL_FOLDER):
        return {}
    found = {}
    for field in (field for field in NETWORKS.values() if field not in fields):
        settings, network = read_settings(run / field), getattr(model, field)
        if settings is not None and settings.get("start") == fingerprint(network):
            make_module = module_maker(type(network), network.config, platform=network.platform)
            found[field] = load_network(run / MODEL_FOLDER, field, make_module, "float32")
    return found


def _earlier_loras(run: Path, folder: Path) -> dict[str, Any]:
    """Loads the LoRA weights that earlier commands trained in RUN. Raises CheckpointError if on another model."""
    from bark_jax.checkpoints.lora import base_of, load_lora

    return load_lora(run / LORA_FILE, base=base_of(folder)) if (run / LORA_FILE).is_file() else {}


def _check_codes(dataset: "Dataset", model: "BarkModel", name: str | Path) -> None:
    """Raises InputError if the dataset's codes were made by another codec: the model would decode other sounds."""
    from bark_jax.training.prepare import codec_fingerprint

    if dataset.codec not in (None, codec_fingerprint(model.codec_model)):
        raise InputError(
            f"DATA has the codes of another codec than that of {name}, which decodes them to other sounds; prepare it "
            f"again with -m {name}"
        )


def _write_lora(run: Path, folder: Path, loras: dict[str, Any]) -> Path:
    from bark_jax.checkpoints.lora import base_of, save_lora

    save_lora(run / LORA_FILE, loras, base=base_of(folder))
    return run / LORA_FILE


def _write_model(run: Path, model: "BarkModel", networks: dict[str, Any], processor: Any) -> Path:
    from bark_jax.bark import Bark
    from bark_jax.training.stage_training import with_networks

    Bark(with_networks(model, networks), processor).save_pretrained(run / MODEL_FOLDER, overwrite=True)
    return run / MODEL_FOLDER
