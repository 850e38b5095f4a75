"""Options that several verbs have, and a dataclass that declares a verb's own."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import click

from bark_jax.generation.settings import SETTING_NAMES, SETTINGS, without_draws

# Bark's own small model: the built-in one knows few words, and the large one is a download of 4.5 GB.
DEFAULT_MODEL = "suno/bark-small"
MODEL_VARIABLE = "BARK_JAX_MODEL"
DTYPES = ("float32", "bfloat16", "float16", "int8")  # those of `checkpoints.load`, without importing JAX

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

model_option: Decorator = click.option(
    "-m",
    "--model",
    default=DEFAULT_MODEL,
    envvar=MODEL_VARIABLE,
    show_default=True,
    show_envvar=True,
    help="A folder, a Hub id, or tiny, which is built in.",
)
revision_option: Decorator = click.option("--revision", help="Branch, tag or commit of a Hub id.")
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_greedy_option: Decorator = click.option(
    "--greedy", is_flag=True, help="Take the most likely token at every step; no draws."
)


def declared(option: Decorator) -> Any:
    """A dataclass field that an option fills: `voice: str | None = declared(click.option("--voice"))`."""
    return dataclasses.field(metadata={"option": option})


def options_of(declaration: type) -> Decorator:
    """Gives a verb the options that the fields of a dataclass declare, in their order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(dataclasses.fields(declaration)):
            function = field.metadata["option"](function)
        return function

    return decorate


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a verb --greedy, and the settings of SETTINGS that are options, by their names there."""
    for option in reversed((*_setting_options(), _greedy_option)):
        function = option(function)
    return function


def _setting_options() -> Iterator[Decorator]:
    """Their values are checked by `resolve_settings`; what is not given is left to the checkpoint."""
    for setting in SETTINGS:
        option = _option(setting.name)
        if setting.is_option:
            yield click.option(option, type=setting.kind, help=setting.help)
        if setting.has_stage_options:
            for stage, name in zip(setting.stages, setting.names[1:], strict=True):
                yield click.option(_option(name), type=setting.kind, help=f"As {option}, for the {stage} stage alone.")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def sampling_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of `sampling_options` out of `options`; returns them as settings of `generate`."""
    names = sorted(SETTING_NAMES & options.keys())
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    if not options.pop("greedy"):
        return given
    if idle := [_option(name) for name in given if name not in without_draws(given, {"do_sample": False})]:
        raise click.UsageError(
            f"--greedy draws nothing, so {', '.join(idle)} would have no effect; give one or the other."
        )
    return given | {"do_sample": False}
