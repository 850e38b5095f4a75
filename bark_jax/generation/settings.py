"""Generation settings: one value for all rows or one for each row, for all stages or for one.

A name without a prefix applies to every stage that has the setting; the prefixes `semantic_`, `coarse_` and `fine_`
apply to one stage and take precedence. Defaults come from the checkpoint's generation_config.json. Everything is
checked here, before a network runs.

SETTINGS is the one table of them. The checks, the command line's options and docs/settings.md follow from it;
GenerateSettings repeats it for type checkers, which read source alone, and a test compares the two.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeVar

import numpy as np

from bark_jax.config import BarkGenerationConfig
from bark_jax.errors import InputError, quoted
from bark_jax.generation.tokens import STAGES, TokenSpaces
from bark_jax.generation.transformers_settings import is_idle, why_refused

# At 1e-3 a difference of 0.01 between logits is a factor of e^10: draws are practically greedy, and lower values only
# risk overflow. At 1e3 draws are practically uniform.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3

# Upper bound of counts (rows, candidates, windows): more than any machine can run, and few enough that lists of that
# length do not exhaust memory before the first row is done.
MAX_COUNT = 1_000_000

SMALLEST_POSITIVE = math.ulp(0.0)  # 5e-324, for bounds that read "above 0"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A generation setting: an entry of SETTINGS."""

    name: str
    stages: tuple[str, ...]  # stages that have it
    kind: type  # bool, int or float
    help: str  # its effect, a sentence
    expected: str  # the valid values, as errors and the documentation say them
    minimum: float = -math.inf
    maximum: float = math.inf
    takes_none: bool = False
    off: float | None = None  # value that None stands for; draws are as if without the setting
    in_file: bool = False  # its default is the stage's field of this name in generation_config.json
    default: Any = None  # its default, where in_file is False
    note: str = ""  # more for the documentation
    is_shared: bool = False  # one value for all rows of a call, as each value compiles a program
    is_option: bool = False  # an option of the command line
    has_stage_options: bool = False  # the command line also has one option for each stage

    @property
    def names(self) -> tuple[str, ...]:
        """Its keywords of `generate`: the name for all stages, then one with a prefix for each stage."""
        return (self.name, *(f"{stage}_{self.name}" for stage in self.stages))

    def check(self, name: str, value: Any) -> Any:
        """Returns the value as `kind`, `off` for None. Raises InputError, which calls the setting `name`."""
        if value is None and self.takes_none:
            return self.off
        is_kind = {bool: _is_flag, int: _is_integer, float: _is_number}[self.kind]
        if not is_kind(value) or not self.minimum <= value <= self.maximum:
            raise InputError(f"{name} is {quoted(value)}, expected {self.expected}")
        return self.kind(value)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "do_sample",
        STAGES,
        bool,
        "True draws tokens at random, False takes the most likely one at every step.",
        "True or False",
        in_file=True,
        note="With False, settings of draws are refused, as they would have no effect.",
    ),
    Setting(
        "temperature",
        STAGES,
        float,
        "Sampling temperature: below 1 is more predictable, above 1 more varied.",
        f"{MIN_TEMPERATURE} to {MAX_TEMPERATURE:g}; for the most likely token use do_sample=False",
        minimum=MIN_TEMPERATURE,
        maximum=MAX_TEMPERATURE,
        takes_none=True,
        off=1.0,
        in_file=True,
        note="None is 1.0. The fine stage takes the most likely code at 1.0 unless fine_do_sample=True, as transformers"
        " does.",
        is_option=True,
        has_stage_options=True,
    ),
    Setting(
        "top_k",
        ("semantic", "coarse"),
        int,
        "Top-k sampling: draw from the k most likely tokens.",
        "a count of tokens from 1 up, or None for all",
        minimum=1,
        # `Sampling.top_k_B` is int32.
        maximum=2**31 - 1,
        takes_none=True,
        off=0,
        in_file=True,
        is_option=True,
    ),
    Setting(
        "top_p",
        ("semantic", "coarse"),
        float,
        "Nucleus sampling: draw from the most likely tokens whose probabilities add up to p.",
        "a probability above 0 and up to 1, or None",
        minimum=SMALLEST_POSITIVE,
        maximum=1,
        takes_none=True,
        off=1.0,
        in_file=True,
        is_option=True,
    ),
    Setting(
        "max_new_tokens",
        ("semantic",),
        int,
        "Maximum number of semantic tokens of a row.",
        "1 to max_new_tokens of generation_config.json, 768 in Bark",
        takes_none=True,
        in_file=True,
    ),
    Setting(
        "max_seconds",
        ("semantic",),
        float,
        "Maximum length of the audio in seconds.",
        "a positive number of seconds, up to 15.39 in Bark",
        takes_none=True,
        note="The same limit as max_new_tokens; give one of the two.",
        is_option=True,
    ),
    Setting(
        "min_eos_p",
        ("semantic",),
        float,
        "End a row once the end token's probability reaches this value; Suno's own code uses 0.2.",
        "a probability above 0 and up to 1, or None",
        minimum=SMALLEST_POSITIVE,
        maximum=1,
        takes_none=True,
        off=2.0,  # which no probability reaches
        in_file=True,
        note="None waits until the end token is chosen.",
        is_option=True,
    ),
    Setting(
        "allow_early_stop",
        ("semantic",),
        bool,
        "True ends a row at its end token, False generates max_new_tokens tokens without an end token.",
        "True or False",
        default=True,
    ),
    Setting(
        "max_coarse_history",
        ("coarse",),
        int,
        "Number of earlier coarse tokens that each coarse window reads.",
        "a count of tokens up to max_coarse_history of generation_config.json, 630 in Bark",
        in_file=True,
        is_shared=True,
    ),
    Setting(
        "sliding_window_len",
        ("coarse",),
        int,
        "Number of coarse tokens that each coarse window generates.",
        "a count of tokens, whole frames, for which max_coarse_history leaves positions",
        in_file=True,
        is_shared=True,
    ),
)

T = TypeVar("T")
PerRow: TypeAlias = T | Sequence[T] | np.ndarray  # one value for all rows, or one for each


class GenerateSettings(TypedDict, total=False):
    """Settings of `generate`: for all stages, or with a prefix for one; one value for all rows, or one for each."""

    do_sample: PerRow[bool]
    semantic_do_sample: PerRow[bool]
    coarse_do_sample: PerRow[bool]
    fine_do_sample: PerRow[bool]
    temperature: PerRow[float | None]
    semantic_temperature: PerRow[float | None]
    coarse_temperature: PerRow[float | None]
    fine_temperature: PerRow[float | None]
    top_k: PerRow[int | None]
    semantic_top_k: PerRow[int | None]
    coarse_top_k: PerRow[int | None]
    top_p: PerRow[float | None]
    semantic_top_p: PerRow[float | None]
    coarse_top_p: PerRow[float | None]
    max_new_tokens: PerRow[int | None]
    semantic_max_new_tokens: PerRow[int | None]
    max_seconds: PerRow[float | None]
    semantic_max_seconds: PerRow[float | None]
    min_eos_p: PerRow[float | None]
    semantic_min_eos_p: PerRow[float | None]
    allow_early_stop: PerRow[bool]
    semantic_allow_early_stop: PerRow[bool]
    max_coarse_history: PerRow[int]
    coarse_max_coarse_history: PerRow[int]
    sliding_window_len: PerRow[int]
    coarse_sliding_window_len: PerRow[int]


GenerateSettings.__doc__ = "\n".join(
    [
        GenerateSettings.__doc__ or "",
        *(f"\n{each.name}: {' '.join([each.help, each.note]).strip()} Expected: {each.expected}." for each in SETTINGS),
    ]
)


_BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}
SETTING_NAMES: frozenset[str] = frozenset(name for setting in SETTINGS for name in setting.names)
SHARED_NAMES: frozenset[str] = frozenset(name for setting in SETTINGS if setting.is_shared for name in setting.names)


@dataclasses.dataclass(frozen=True)
class StageSampling:
    """Sampling settings of one row in one stage. Fields have the names of their entries in SETTINGS."""

    temperature: float  # 0 takes the most likely token (greedy)
    top_k: int = 0  # 0 for all tokens
    top_p: float = 1.0  # 1 for all the probability mass


DRAW_SETTINGS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(StageSampling))


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """All settings of one row, resolved and checked; its text, voice and key are in `rows.Row`."""

    semantic: StageSampling
    coarse: StageSampling
    fine: StageSampling
    max_semantic_tokens: int
    min_end_probability: float  # probability of the end token that ends the row; above 1, only choosing it does
    n_coarse_history: int  # tokens of the stream that a coarse window's prompt holds
    coarse_window: int  # tokens of the stream that a coarse window generates
    may_end_early: bool = True  # False makes the end token illegal: the row has max_semantic_tokens


def resolve_settings(
    given: Mapping[str, Any], n_rows: int, config: BarkGenerationConfig, spaces: TokenSpaces
) -> list[RowSettings]:
    """Resolves keyword arguments and the checkpoint's defaults to the settings of each row.

    Args:
      given: settings by their names in SETTINGS, each one value or a list with a value for each row. Settings of
        transformers at a value without effect, such as num_beams=1, are accepted and ignored.

    Raises:
      InputError: a name is unknown, with the nearest known ones; or a value is invalid, with its name and what is
        expected; or a setting would have no effect.
    """
    given = {name: value for name, value in given.items() if not is_idle(name, value, config)}
    for name in given:
        _check_name(name)
    by_row = {name: _spread(name, value, n_rows) for name, value in given.items()}
    rows = [
        _row_settings({name: values[row] for name, values in by_row.items()}, config, spaces) for row in range(n_rows)
    ]
    if len({(row.n_coarse_history, row.coarse_window) for row in rows}) > 1:
        shared = " and ".join(setting.name for setting in SETTINGS if setting.is_shared)
        raise InputError(f"{shared} differ between rows, expected one value for all")
    return rows


def resolve_stage(
    stage: str, given: Mapping[str, Any], n_rows: int, config: BarkGenerationConfig, spaces: TokenSpaces
) -> list[RowSettings]:
    """Resolves settings of one of STAGES, given without prefix, as a network's own `generate` takes them.

    With do_sample=False temperature, top_k and top_p are ignored, as transformers' networks do; `resolve_settings`
    refuses them.

    Raises:
      InputError: as `resolve_settings`, and for a setting of another stage.
    """
    given = {name: value for name, value in given.items() if not is_idle(name, value, config)}
    names = [setting.name for setting in SETTINGS if stage in setting.stages]
    for name in given:
        if name not in names:
            _check_name(name)
            raise InputError(f"{name} is no setting of the {stage} stage, which has {', '.join(names)}")
    if given.get("do_sample") is False:
        given = {name: value for name, value in given.items() if name not in DRAW_SETTINGS}
    return resolve_settings({f"{stage}_{name}": value for name, value in given.items()}, n_rows, config, spaces)


def _row_settings(given: Mapping[str, Any], config: BarkGenerationConfig, spaces: TokenSpaces) -> RowSettings:
    n_coarse_history, coarse_window = _coarse_windows(given, spaces)
    return RowSettings(
        semantic=_drawn_stage(given, "semantic", config.semantic_config),
        coarse=_drawn_stage(given, "coarse", config.coarse_acoustics_config),
        fine=_fine_stage(given, config.fine_acoustics_config),
        max_semantic_tokens=_max_tokens(given, spaces),
        min_end_probability=_value(given, "semantic", "min_eos_p", config.semantic_config),
        n_coarse_history=n_coarse_history,
        coarse_window=coarse_window,
        may_end_early=_value(given, "semantic", "allow_early_stop", config.semantic_config),
    )


def _drawn_stage(given: Mapping[str, Any], stage: str, config: Any) -> StageSampling:
    """Sampling settings of the semantic or the coarse stage; `config` is that of the stage."""
    is_drawn = _value(given, stage, "do_sample", config)
    values = {name: _value(given, stage, name, config) for name in DRAW_SETTINGS}
    if is_drawn:
        return StageSampling(**values)
    for name in values:
        _refuse_without_effect(given, stage, name)
    return StageSampling(0.0)


def _fine_stage(given: Mapping[str, Any], config: Any) -> StageSampling:
    """Sampling settings of the fine stage.

    Its default temperature of 1.0 means greedy, as in transformers, where only another temperature draws. The keyword
    fine_do_sample overrides that in both directions; do_sample=False makes it greedy as well.
    """
    temperature = _value(given, "fine", "temperature", config)
    is_greedy = temperature == 1.0
    if "fine_do_sample" in given:
        is_greedy = not check_flag("fine_do_sample", given["fine_do_sample"])
    elif not check_flag("do_sample", given.get("do_sample", True)):
        is_greedy = True
    if is_greedy and _key(given, "fine", "do_sample") in given:
        _refuse_without_effect(given, "fine", "temperature")
    return StageSampling(0.0 if is_greedy else temperature)


def _value(given: Mapping[str, Any], stage: str, name: str, config: Any) -> Any:
    """A stage's setting, checked: the given value, else the checkpoint's; `config` is that of the stage."""
    setting, key = _BY_NAME[name], _key(given, stage, name)
    if key in given:
        return setting.check(key, given[key])
    value = getattr(config, name) if setting.in_file else setting.default
    if setting.kind is int and value == 0:
        value = None  # top_k, the one integer read here: generation_config.json files write 0 for "all"
    return setting.check(f"{key} of generation_config.json", value)


def _refuse_without_effect(given: Mapping[str, Any], stage: str, name: str) -> None:
    """Raises InputError for a sampling setting of a stage that is greedy, where it would have no effect."""
    value = _pick(given, stage, name, None)
    if value is None or value == _BY_NAME[name].off:
        return  # the value of no setting: beside do_sample=False it contradicts nothing
    if f"{stage}_{name}" not in given and f"{stage}_do_sample" in given:
        return  # the setting is meant for the other stages: this one has a do_sample of its own
    what = f"{stage} {name}={quoted(value)} would have no effect: "
    if _key(given, stage, "do_sample") in given:
        raise InputError(what + "do_sample=False takes the most likely token. Leave one of the two out.")
    raise InputError(what + "this checkpoint takes the most likely token by default. Add do_sample=True to draw.")


def without_draws(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `settings`, the caller's defaults, without sampling settings of the stages that `given` makes greedy.

    `given` overrides defaults; a default temperature beside its do_sample=False would be refused.
    """
    greedy = [stage for stage in STAGES if _pick(given, stage, "do_sample", True) is False]
    if len(greedy) == len(STAGES):
        greedy.append("")
    idle = {f"{stage}_{name}".removeprefix("_") for stage in greedy for name in DRAW_SETTINGS}
    return {name: value for name, value in settings.items() if name not in idle}


def _max_tokens(given: Mapping[str, Any], spaces: TokenSpaces) -> int:
    """The row's limit of semantic tokens, from max_new_tokens or max_seconds: 4 s are int(4 * 49.9) = 199."""
    tokens = _pick(given, "semantic", "max_new_tokens", None)
    seconds = _pick(given, "semantic", "max_seconds", None)
    if tokens is not None and seconds is not None:
        raise InputError(f"give max_new_tokens={quoted(tokens)} or max_seconds={quoted(seconds)}, not both")
    if seconds is not None:
        name = _key(given, "semantic", "max_seconds")
        if not (_is_number(seconds) and 0 < seconds < math.inf):
            raise InputError(f"{name} is {quoted(seconds)}, expected a positive number of seconds")
        n_tokens = seconds * spaces.semantic_rate  # compared before int(), which fails where it is infinite
        if n_tokens >= spaces.max_semantic + 1:
            longest_s = math.floor(100 * spaces.max_semantic / spaces.semantic_rate) / 100
            raise InputError(
                f"{name} is {quoted(seconds)}, expected at most {longest_s:g}, all that the network has positions "
                "for; for more, split the text or use generate_long (bark-jax say --long)"
            )
        return max(1, int(n_tokens))
    if tokens is None:
        return spaces.max_semantic
    if not _is_integer(tokens) or not 1 <= tokens <= spaces.max_semantic:
        limit_s = float(spaces.max_semantic / spaces.semantic_rate)
        raise InputError(
            f"{_key(given, 'semantic', 'max_new_tokens')} is {quoted(tokens)}, expected 1 to {spaces.max_semantic} "
            f"({limit_s:.1f} s of audio, all that the network has positions for); for more, split the text"
        )
    return int(tokens)


def _coarse_windows(given: Mapping[str, Any], spaces: TokenSpaces) -> tuple[int, int]:
    """Tokens of history and of generation of a coarse window; together at most the checkpoint's, 690 in Bark."""
    history = _pick(given, "coarse", "max_coarse_history", spaces.n_coarse_history)
    window = _pick(given, "coarse", "sliding_window_len", spaces.coarse_window)
    # The sum that `check_coarse_fit` has compared with the network's positions, so any split of it fits.
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


def check_count(name: str, value: Any, minimum: int = 1, maximum: int = MAX_COUNT) -> int:
    """Returns the value as an int. Raises InputError, with `name`, unless it is an integer in [minimum, maximum]."""
    if not _is_integer(value) or not minimum <= value <= maximum:
        raise InputError(f"{name} is {quoted(value)}, expected an integer from {minimum} up to {maximum}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Returns the value as a bool. Raises InputError, with `name`, unless it is True or False."""
    if not _is_flag(value):
        raise InputError(f"{name} is {quoted(value)}, expected True or False")
    return bool(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not _is_flag(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not _is_flag(value)


def _key(given: Mapping[str, Any], stage: str, name: str) -> str:
    """The keyword in `given` that sets a stage's setting; with the stage's prefix where none does."""
    return name if name in given and f"{stage}_{name}" not in given else f"{stage}_{name}"


def _pick(given: Mapping[str, Any], stage: str, name: str, default: Any) -> Any:
    return given.get(f"{stage}_{name}", given.get(name, default))


def _spread(name: str, value: Any, n_rows: int) -> Sequence[Any]:
    """Returns one value for each row: a list or array of that length, anything else repeated."""
    if isinstance(value, np.ndarray) and value.ndim:
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        return [value] * n_rows
    if len(value) != n_rows:
        raise InputError(f"{name} has {len(value)} values for {n_rows} rows; give one a row, or a single value for all")
    return value


def _check_name(name: str) -> None:
    if name in SETTING_NAMES:
        return
    if (reason := why_refused(name)) is not None:
        raise InputError(f"{name} is not a setting of generate: {reason}")
    nearest = difflib.get_close_matches(name[:64], sorted(SETTING_NAMES), n=3)
    hint = (
        f"did you mean {' or '.join(nearest)}?" if nearest else f"the settings are {', '.join(sorted(SETTING_NAMES))}"
    )
    raise InputError(f"generate has no setting {quoted(name)}; {hint}")
