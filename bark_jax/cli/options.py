"""Options that several verbs have, and dataclass fields that declare the options of one verb."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import click

from bark_jax.generation.settings import SETTING_NAMES, SETTINGS, without_draws

# The built-in model knows 145 words alone, and suno/bark is a download of 4.5 GB.
DEFAULT_MODEL = "suno/bark-small"
MODEL_VARIABLE = "BARK_JAX_MODEL"
DTYPES = ("float32", "bfloat16", "float16", "int8")  # a copy of those of `checkpoints.load`, which imports JAX

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

model_option: Decorator = click.option(
    "-m",
    "--model",
    default=DEFAULT_MODEL,
    envvar=MODEL_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="Model: a folder, a Hub id, or tiny, the built-in one.",
)
revision_option: Decorator = click.option("--revision", help="Branch, tag or commit of a Hub id.")
devices_option: Decorator = click.option(
    "--devices", metavar="N", help="Number of devices to divide the rows among, or all.  [default: 1]"
)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
dtype_option: Decorator = click.option(
    "--dtype", type=click.Choice(DTYPES), help="Dtype of the networks.  [default: the model's]"
)
attention_option: Decorator = click.option(
    "--attn-implementation",
    type=click.Choice(["auto", "xla", "cudnn"]),
    default="auto",
    show_default=True,
    help="Attention implementation.",
)
lora_option: Decorator = click.option(
    "--lora", metavar="FILE", help="LoRA weights to apply: a file that `bark-jax train --lora` wrote."
)
tokenizer_option: Decorator = click.option(
    "--tokenizer", help="Tokenizer file or folder, for models that come without one."
)
_greedy_option: Decorator = click.option(
    "--greedy", is_flag=True, help="Decode greedily: take the most likely token at every step."
)


def declared(option: Decorator) -> Any:
    """Returns a dataclass field that an option fills: `voice: str | None = declared(click.option("--voice"))`."""
    return dataclasses.field(metadata={"option": option})


def options_of(declaration: type) -> Decorator:
    """Returns a decorator that gives a verb the options that the fields of a dataclass declare, in their order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(dataclasses.fields(declaration)):  # click lists the decorator applied last first
            function = field.metadata["option"](function)
        return function

    return decorate


def network_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a verb the options of how a model is loaded: --dtype, --attn-implementation, --lora, --tokenizer."""
    for option in reversed((dtype_option, attention_option, lora_option, tokenizer_option)):
        function = option(function)
    return function


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a verb --greedy, and an option for each of SETTINGS with `is_option`, under its name there."""
    for option in reversed((*_setting_options(), _greedy_option)):
        function = option(function)
    return function


def _setting_options() -> Iterator[Decorator]:
    """Options of generation settings, without defaults: what is not given comes from generation_config.json.

    click checks the type alone; `resolve_settings` checks the range, as it does for Python's callers.
    """
    for setting in SETTINGS:
        option = _option(setting.name)
        if setting.is_option:
            yield click.option(option, type=setting.kind, help=setting.help)
        if setting.has_stage_options:
            for stage, name in zip(setting.stages, setting.names[1:], strict=True):
                help_text = f"Value of {option} for the {stage} stage alone."
                yield click.option(_option(name), type=setting.kind, help=help_text)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def sampling_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Moves the options of `sampling_options` out of `options`; returns those given as settings of `generate`.

    Raises:
      click.UsageError: --greedy with a setting that only random draws read, such as --top-k.
    """
    names = sorted(SETTING_NAMES & options.keys())
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    if not options.pop("greedy"):
        return given
    if idle := [_option(name) for name in given if name not in without_draws(given, {"do_sample": False})]:
        raise click.UsageError(
            f"--greedy draws nothing, so {', '.join(idle)} would have no effect; give one or the other."
        )
    return given | {"do_sample": False}
