"""Options that several verbs have."""

from collections.abc import Callable
from typing import Any

import click

# Bark's own small model: the built-in one makes no speech, and the large one is a download of 4.5 GB.
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

# By their names in `settings.resolve_settings`, which checks the values. What is not given is left to the checkpoint.
_SAMPLING_OPTIONS = (
    click.option("--temperature", type=float, help="Of all stages; below 1 is safer, above 1 wilder."),
    click.option("--semantic-temperature", type=float, help="Of the semantic stage alone."),
    click.option("--coarse-temperature", type=float, help="Of the coarse stage alone."),
    click.option("--fine-temperature", type=float, help="Of the fine stage alone."),
    click.option("--top-k", type=int, help="Draw from the k most likely tokens."),
    click.option("--top-p", type=float, help="Draw from the most likely tokens of this probability in all."),
    click.option("--min-eos-p", type=float, help="End once the end is this likely; Suno's own code takes 0.2."),
    click.option("--max-seconds", type=float, help="Longest audio."),
    click.option("--greedy", is_flag=True, help="Always the most likely token; no draws."),
)


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SAMPLING_OPTIONS):
        function = option(function)
    return function


def sampling_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of `sampling_options` out of `options`; returns them as settings of `generate`."""
    is_greedy = options.pop("greedy")
    names = ("temperature", "semantic_temperature", "coarse_temperature", "fine_temperature", "top_k", "top_p")
    draws = {name: options.pop(name) for name in names}
    given = {name: value for name, value in draws.items() if value is not None}
    if is_greedy and given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise click.UsageError(f"--greedy draws nothing, so {names} would have no effect; give one or the other.")
    lengths = {name: options.pop(name) for name in ("min_eos_p", "max_seconds")}
    given |= {name: value for name, value in lengths.items() if value is not None}
    return given | ({"do_sample": False} if is_greedy else {})
