"""Generation settings: one value for all rows or one a row, for all stages or for one.

A name without a prefix goes to every stage that has it; `semantic_`, `coarse_` and `fine_` go to one and win. What is
not given comes from the checkpoint's generation_config.json. Everything is checked here, before a network runs.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bark_jax.config import BarkGenerationConfig
from bark_jax.errors import InputError, quoted
from bark_jax.generation.tokens import TokenSpaces

# Below this a float32 logit difference of one bit decides like the most likely token; far above, all draws are even.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3

# Of rows, candidates, windows: beyond any machine, and far below what would fill its memory before the first is done.
MAX_COUNT = 1_000_000

STAGES = ("semantic", "coarse", "fine")


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """How one row chooses its tokens in one stage; the form that `generation.sampling.Sampling` takes."""

    temperature: float  # 0 takes the most likely token
    top_k: int = 0  # 0 for all
    top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """Everything one row is generated with, but for its text, voice and key."""

    semantic: StageSettings
    coarse: StageSettings
    fine: StageSettings
    max_semantic_tokens: int
    min_end_probability: float  # above 1 where the end token has to be chosen
    n_coarse_history: int  # tokens of the stream that a coarse window's prompt holds
    coarse_window: int  # tokens of the stream between two prompts
    may_end_early: bool = True


def resolve_settings(
    given: Mapping[str, Any], n_rows: int, config: BarkGenerationConfig, spaces: TokenSpaces
) -> list[RowSettings]:
    """One RowSettings a row from keyword arguments.

    Args:
      given: settings by name, each one value or a list of one value a row:
        do_sample           draw (True) or take the most likely token (False); any stage
        temperature         not along with do_sample=False, where it would have no effect; nor are top_k and top_p.
                            0.001 to 1000; any stage. None is 1.0, and in the fine stage the most likely code, as is
                            1.0 there unless fine_do_sample=True: transformers' rule
        top_k               draw from the k most likely tokens; semantic and coarse; None for all
        top_p               draw from the most likely tokens that hold this probability; semantic and coarse
        max_new_tokens      most semantic tokens, 1 to max_semantic; semantic
        max_seconds         the same as a duration, up to 15.39 s in Bark; semantic
        min_eos_p           end once the end token is this likely; semantic; None waits until it is chosen
        allow_early_stop    False goes on to max_new_tokens whatever the end token says; semantic
        max_coarse_history  tokens that each coarse window looks back at; one value for all rows, as it compiles a
                            program of its own
        sliding_window_len  tokens that a coarse window generates, whole frames; one value for all rows likewise

        Settings of transformers that do nothing at the value given, such as num_beams=1, are taken and do nothing.

    Raises:
      InputError: names the setting, its value and what is expected; for an unknown name the nearest ones.
    """
    given = {name: value for name, value in given.items() if not _is_idle(name, value, config)}
    for name in given:
        _check_name(name)
    by_row = {name: _spread(name, value, n_rows) for name, value in given.items()}
    rows = [
        _row_settings({name: values[row] for name, values in by_row.items()}, config, spaces) for row in range(n_rows)
    ]
    if len({(row.n_coarse_history, row.coarse_window) for row in rows}) > 1:
        raise InputError("max_coarse_history and sliding_window_len differ between rows, expected one value for all")
    return rows


def resolve_stage(
    stage: str, given: Mapping[str, Any], n_rows: int, config: BarkGenerationConfig, spaces: TokenSpaces
) -> list[RowSettings]:
    """`resolve_settings` for one of STAGES, whose settings have no prefix here.

    With do_sample=False the temperature and what cuts the distribution are left out, as transformers' networks do.

    Raises:
      InputError: also for a setting of another stage.
    """
    given = {name: value for name, value in given.items() if not _is_idle(name, value, config)}
    for name in given:
        if name not in _NAMES_BY_STAGE[stage]:
            _check_name(name)
            raise InputError(
                f"{name} is no setting of the {stage} stage, which has {', '.join(_NAMES_BY_STAGE[stage])}"
            )
    if given.get("do_sample") is False:
        given = {name: value for name, value in given.items() if name not in ("temperature", "top_k", "top_p")}
    return resolve_settings({f"{stage}_{name}": value for name, value in given.items()}, n_rows, config, spaces)


def _row_settings(given: Mapping[str, Any], config: BarkGenerationConfig, spaces: TokenSpaces) -> RowSettings:
    semantic_config, coarse_config = config.semantic_config, config.coarse_acoustics_config
    ends = _pick(given, "semantic", "min_eos_p", semantic_config.min_eos_p)
    n_coarse_history, coarse_window = _coarse_windows(given, spaces)
    return RowSettings(
        semantic=_drawn_stage(given, "semantic", semantic_config),
        coarse=_drawn_stage(given, "coarse", coarse_config),
        fine=_fine_stage(given, config.fine_acoustics_config.temperature),
        max_semantic_tokens=_max_tokens(given, spaces),
        min_end_probability=2.0 if ends is None else _probability("min_eos_p", ends),
        n_coarse_history=n_coarse_history,
        coarse_window=coarse_window,
        may_end_early=check_flag("allow_early_stop", _pick(given, "semantic", "allow_early_stop", True)),
    )


def _drawn_stage(given: Mapping[str, Any], stage: str, config: Any) -> StageSettings:
    """Settings of the semantic or the coarse stage."""
    is_drawn = check_flag("do_sample", _pick(given, stage, "do_sample", config.do_sample))
    values = {name: _pick(given, stage, name, getattr(config, name)) for name in ("temperature", "top_k", "top_p")}
    temperature = _temperature(stage, 1.0 if values["temperature"] is None else values["temperature"])
    top_k = 0 if values["top_k"] is None else _top_k(stage, values["top_k"], _is_given(given, stage, "top_k"))
    top_p = 1.0 if values["top_p"] is None else _probability(f"{stage}_top_p", values["top_p"])
    if is_drawn:
        return StageSettings(temperature, top_k, top_p)
    for name in values:
        _refuse_without_effect(given, stage, name)
    return StageSettings(0.0)


def _fine_stage(given: Mapping[str, Any], default: float | None) -> StageSettings:
    temperature = _pick(given, "fine", "temperature", default)
    is_most_likely = temperature is None or (_is_number(temperature) and temperature == 1.0)
    checked = 1.0 if temperature is None else _temperature("fine", temperature)
    if "fine_do_sample" in given:
        is_most_likely = not check_flag("fine_do_sample", given["fine_do_sample"])
    elif "do_sample" in given and not check_flag("do_sample", given["do_sample"]):
        is_most_likely = True
    if is_most_likely and _is_given(given, "fine", "do_sample"):
        _refuse_without_effect(given, "fine", "temperature")
    return StageSettings(0.0 if is_most_likely else checked)


# What these mean if they are left out: to give them along with do_sample=False claims nothing that is not so.
_NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def _refuse_without_effect(given: Mapping[str, Any], stage: str, name: str) -> None:
    """Refuses a setting of draws where the most likely token is taken."""
    value = _pick(given, stage, name, None)
    if value is None or value == _NEUTRAL[name]:
        return
    if f"{stage}_{name}" not in given and f"{stage}_do_sample" in given:
        return  # the setting is for the other stages, this one has been told apart
    what = f"{stage} {name}={quoted(value)} would have no effect: "
    if _is_given(given, stage, "do_sample"):
        raise InputError(what + "do_sample=False takes the most likely token. Leave one of the two out.")
    raise InputError(what + "this checkpoint takes the most likely token by default. Add do_sample=True to draw.")


def without_draws(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns defaults for `given` in their place: without those that its do_sample=False leaves no effect."""
    greedy = [stage for stage in STAGES if _pick(given, stage, "do_sample", True) is False]
    if len(greedy) == len(STAGES):
        greedy.append("")
    idle = {f"{stage}_{name}".removeprefix("_") for stage in greedy for name in _NEUTRAL}
    return {name: value for name, value in settings.items() if name not in idle}


def _max_tokens(given: Mapping[str, Any], spaces: TokenSpaces) -> int:
    tokens = _pick(given, "semantic", "max_new_tokens", None)
    seconds = _pick(given, "semantic", "max_seconds", None)
    if tokens is not None and seconds is not None:
        raise InputError(f"give max_new_tokens={quoted(tokens)} or max_seconds={quoted(seconds)}, not both")
    if seconds is not None:
        if not (_is_number(seconds) and 0 < seconds < math.inf):
            raise InputError(f"max_seconds is {quoted(seconds)}, expected a positive number of seconds")
        n_tokens = seconds * spaces.semantic_rate  # of which 1e308 are no integer
        if n_tokens >= spaces.max_semantic + 1:
            longest_s = math.floor(100 * spaces.max_semantic / spaces.semantic_rate) / 100
            raise InputError(
                f"max_seconds is {quoted(seconds)}, expected at most {longest_s:g}, all that the network has positions "
                "for; for more, split the text or use generate_long (bark-jax say --long)"
            )
        return max(1, int(n_tokens))
    if tokens is None:
        return spaces.max_semantic
    if not _is_integer(tokens) or not 1 <= tokens <= spaces.max_semantic:
        limit_s = float(spaces.max_semantic / spaces.semantic_rate)
        raise InputError(
            f"semantic max_new_tokens is {quoted(tokens)}, expected 1 to {spaces.max_semantic} ({limit_s:.1f} s of "
            "audio, all that the network has positions for); for more, split the text"
        )
    return int(tokens)


def _coarse_windows(given: Mapping[str, Any], spaces: TokenSpaces) -> tuple[int, int]:
    """Tokens that a coarse window looks back at and generates; together at most what the checkpoint's own take."""
    history = _pick(given, "coarse", "max_coarse_history", spaces.n_coarse_history)
    window = _pick(given, "coarse", "sliding_window_len", spaces.coarse_window)
    room = spaces.n_coarse_history + spaces.coarse_window
    if not _is_integer(history) or not spaces.n_coarse <= history <= spaces.n_coarse_history:
        raise InputError(
            f"max_coarse_history is {quoted(history)}, expected {spaces.n_coarse} to {spaces.n_coarse_history}"
        )
    if not _is_integer(window) or window < 1 or window % spaces.n_coarse or window > room - history:
        raise InputError(
            f"sliding_window_len is {quoted(window)}, expected a multiple of {spaces.n_coarse} up to {room - history}: "
            f"history and window share {room} positions"
        )
    return int(history), int(window)


def _temperature(stage: str, value: Any) -> float:
    if not _is_number(value) or not MIN_TEMPERATURE <= value <= MAX_TEMPERATURE:
        raise InputError(
            f"{stage} temperature is {quoted(value)}, expected {MIN_TEMPERATURE} to {MAX_TEMPERATURE:g}; "
            "for the most likely token use do_sample=False"
        )
    return float(value)


def _top_k(stage: str, value: Any, is_given: bool) -> int:
    least = 1 if is_given else 0  # files write 0 for "all"
    if not _is_integer(value) or not least <= value < 2**31:
        raise InputError(f"{stage} top_k is {quoted(value)}, expected a count of tokens from 1 up, or None for all")
    return int(value)


def _probability(name: str, value: Any) -> float:
    if not _is_number(value) or not 0 < value <= 1:
        raise InputError(f"{name} is {quoted(value)}, expected a probability above 0 and up to 1, or None")
    return float(value)


def check_count(name: str, value: Any, least: int = 1, most: int = MAX_COUNT) -> int:
    """The value as an int. Raises InputError, naming it, where it is no integer from `least` to `most`."""
    if not _is_integer(value) or not least <= value <= most:
        raise InputError(f"{name} is {quoted(value)}, expected an integer from {least} up to {most}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """The value as a bool. Raises InputError, naming it, where it is none."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} is {quoted(value)}, expected True or False")
    return bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _is_given(given: Mapping[str, Any], stage: str, name: str) -> bool:
    return f"{stage}_{name}" in given or name in given


def _pick(given: Mapping[str, Any], stage: str, name: str, default: Any) -> Any:
    return given.get(f"{stage}_{name}", given.get(name, default))


def _spread(name: str, value: Any, n_rows: int) -> Sequence[Any]:
    """One value a row: a list or array as it is, anything else repeated."""
    if isinstance(value, np.ndarray) and value.ndim:
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return [value] * n_rows
    if len(value) != n_rows:
        raise InputError(f"{name} has {len(value)} values for {n_rows} rows; give one a row, or a single value for all")
    return value


_NAMES_BY_STAGE: Mapping[str, tuple[str, ...]] = {
    "semantic": (
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "max_new_tokens",
        "max_seconds",
        "min_eos_p",
        "allow_early_stop",
    ),
    "coarse": ("do_sample", "temperature", "top_k", "top_p", "max_coarse_history", "sliding_window_len"),
    "fine": ("do_sample", "temperature"),
}

SETTING_NAMES: frozenset[str] = frozenset(
    name for stage, names in _NAMES_BY_STAGE.items() for short in names for name in (short, f"{stage}_{short}")
)

_BEAMS = "beam search is not part of Bark"
_OUTPUTS = "Bark.generate gives the tokens of every stage and their log-probabilities"
_HIDDEN = "a network gives its hidden states where it is called with output_hidden_states=True"

# Settings of transformers' `generate` that people try, and why they are not here.
_REFUSED: Mapping[str, str] = {
    "num_beams": _BEAMS,
    "num_beam_groups": _BEAMS,
    "penalty_alpha": "contrastive search is not part of Bark",
    "repetition_penalty": "in transformers it penalises a placeholder, not the tokens",
    "coarse_max_new_tokens": "the coarse stage's length follows from the semantic tokens",
    "cache_implementation": "the cache is always static here",
    "use_cache": "the cache is always on",
    "max_length": "use max_new_tokens or max_seconds",
    "generation_config": "give its settings by name",
    "logits_processor": "the stages are compiled as a whole; change the tokens between them instead",
    "stopping_criteria": "the stages are compiled as a whole; max_new_tokens and min_eos_p say when a row ends",
    "return_dict_in_generate": _OUTPUTS,
    "output_attentions": _HIDDEN,
    "output_hidden_states": _HIDDEN,
    "output_logits": _OUTPUTS,
    "output_scores": _OUTPUTS,
}
# The values, beside None, at which some of transformers' do nothing. They are taken, as many scripts give them.
_IDLE: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "repetition_penalty": (1.0,),
    "cache_implementation": ("static",),
    "use_cache": (True,),
    "max_length": (),
    "return_dict_in_generate": (False,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_logits": (False,),
    "output_scores": (False,),
}


def _without_prefix(name: str) -> str:
    """The name without that of a stage, unless the two are one of _REFUSED together."""
    prefix, _, short = name.partition("_")
    return short if prefix in STAGES and name not in _REFUSED else name


def _is_idle(name: str, value: Any, config: BarkGenerationConfig) -> bool:
    """Whether it is a setting of transformers at a value that does nothing, such as the end token that pads anyway."""
    end = config.semantic_config.eos_token_id
    values = (_IDLE | {"pad_token_id": (end,), "eos_token_id": (end,)}).get(_without_prefix(name))
    if values is None or not (value is None or isinstance(value, (bool, int, float, str))):
        return False
    return value is None or value in values


def _check_name(name: str) -> None:
    if name in SETTING_NAMES:
        return
    if (short := _without_prefix(name)) in _REFUSED:
        raise InputError(f"{name} is not a setting of generate: {_REFUSED[short]}")
    nearest = difflib.get_close_matches(name[:64], sorted(SETTING_NAMES), n=3)
    hint = (
        f"did you mean {' or '.join(nearest)}?" if nearest else f"the settings are {', '.join(sorted(SETTING_NAMES))}"
    )
    raise InputError(f"generate has no setting {quoted(name)}; {hint}")
