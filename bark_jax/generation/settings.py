"""Generation settings: one value for all rows or one a row, for all stages or for one.

A name without a prefix goes to every stage that has it; `semantic_`, `coarse_` and `fine_` go to one and win. What is
not given comes from the checkpoint's generation_config.json. Everything is checked here, before a network runs.

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

# Below this a float32 logit difference of one bit decides like the most likely token; far above, all draws are even.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e3

# Of rows, candidates, windows: beyond any machine, and far below what would fill its memory before the first is done.
MAX_COUNT = 1_000_000

LEAST_POSITIVE = math.ulp(0.0)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A row of SETTINGS."""

    name: str
    stages: tuple[str, ...]  # that have it
    kind: type  # bool, int or float
    help: str  # what it does, a sentence
    expected: str  # the values that are taken, as errors and the documentation say it
    least: float = -math.inf
    most: float = math.inf
    takes_none: bool = False
    off: float | None = None  # what None stands for; draws are as if without the setting
    in_file: bool = False  # left out, it is the stage's field of this name in generation_config.json
    default: Any = None  # left out, where it is in no file
    note: str = ""  # more for the documentation
    is_shared: bool = False  # one value for all rows of a call, as each compiles a program of its own
    is_option: bool = False  # of the command line
    has_stage_options: bool = False  # there, also one option a stage

    @property
    def names(self) -> tuple[str, ...]:
        """As `generate` takes it: for all stages, and for each."""
        return (self.name, *(f"{stage}_{self.name}" for stage in self.stages))

    def check(self, name: str, value: Any) -> Any:
        """The value as its kind, or what None stands for. Raises InputError, which calls the setting `name`."""
        if value is None and self.takes_none:
            return self.off
        is_kind = {bool: _is_flag, int: _is_integer, float: _is_number}[self.kind]
        if not is_kind(value) or not self.least <= value <= self.most:
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
        least=MIN_TEMPERATURE,
        most=MAX_TEMPERATURE,
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
        least=1,
        most=2**31 - 1,
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
        least=LEAST_POSITIVE,
        most=1,
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
        least=LEAST_POSITIVE,
        most=1,
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
        "True lets a row end at its end token, False excludes that token, so that a row has max_new_tokens.",
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
PerRow: TypeAlias = T | Sequence[T] | np.ndarray  # for all rows, or one a row


class GenerateSettings(TypedDict, total=False):
    """The settings of `generate`: for all stages, or with a prefix for one; one value for all rows, or one a row."""

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
    """How one row chooses its tokens in one stage. Its fields are the settings of draws, by their names there."""

    temperature: float  # 0 takes the most likely token
    top_k: int = 0  # 0 for all
    top_p: float = 1.0


DRAW_SETTINGS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(StageSampling))


@dataclasses.dataclass(frozen=True)
class RowSettings:
    """Everything one row is generated with, but for its text, voice and key."""

    semantic: StageSampling
    coarse: StageSampling
    fine: StageSampling
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
      given: settings by the names in SETTINGS, each one value or a list of one value a row. Settings of transformers
        that do nothing at the value given, such as num_beams=1, are taken and do nothing.

    Raises:
      InputError: names the setting, its value and what is expected; for an unknown name the nearest ones.
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
    """`resolve_settings` for one of STAGES, whose settings have no prefix here.

    With do_sample=False the temperature and what cuts the distribution are left out, as transformers' networks do.

    Raises:
      InputError: also for a setting of another stage.
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
    """Settings of the semantic or the coarse stage; `config` is that of the stage."""
    is_drawn = _value(given, stage, "do_sample", config)
    values = {name: _value(given, stage, name, config) for name in DRAW_SETTINGS}
    if is_drawn:
        return StageSampling(**values)
    for name in values:
        _refuse_without_effect(given, stage, name)
    return StageSampling(0.0)


def _fine_stage(given: Mapping[str, Any], config: Any) -> StageSampling:
    temperature = _value(given, "fine", "temperature", config)
    is_most_likely = temperature == 1.0
    if "fine_do_sample" in given:
        is_most_likely = not check_flag("fine_do_sample", given["fine_do_sample"])
    elif not check_flag("do_sample", given.get("do_sample", True)):
        is_most_likely = True
    if is_most_likely and _key(given, "fine", "do_sample") in given:
        _refuse_without_effect(given, "fine", "temperature")
    return StageSampling(0.0 if is_most_likely else temperature)


def _value(given: Mapping[str, Any], stage: str, name: str, config: Any) -> Any:
    """A stage's setting, checked: as it is given, else the checkpoint's; `config` is that of the stage."""
    setting, key = _BY_NAME[name], _key(given, stage, name)
    if key in given:
        return setting.check(key, given[key])
    value = getattr(config, name) if setting.in_file else setting.default
    if setting.kind is int and value == 0:
        value = None  # files write 0 for "all"
    return setting.check(f"{key} of generation_config.json", value)


def _refuse_without_effect(given: Mapping[str, Any], stage: str, name: str) -> None:
    """Refuses a setting of draws where the most likely token is taken."""
    value = _pick(given, stage, name, None)
    if value is None or value == _BY_NAME[name].off:
        return  # what it is without the setting: to give it along with do_sample=False claims nothing that is not so
    if f"{stage}_{name}" not in given and f"{stage}_do_sample" in given:
        return  # the setting is for the other stages, this one has been told apart
    what = f"{stage} {name}={quoted(value)} would have no effect: "
    if _key(given, stage, "do_sample") in given:
        raise InputError(what + "do_sample=False takes the most likely token. Leave one of the two out.")
    raise InputError(what + "this checkpoint takes the most likely token by default. Add do_sample=True to draw.")


def without_draws(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns defaults for `given` in their place: without those that its do_sample=False leaves no effect."""
    greedy = [stage for stage in STAGES if _pick(given, stage, "do_sample", True) is False]
    if len(greedy) == len(STAGES):
        greedy.append("")
    idle = {f"{stage}_{name}".removeprefix("_") for stage in greedy for name in DRAW_SETTINGS}
    return {name: value for name, value in settings.items() if name not in idle}


def _max_tokens(given: Mapping[str, Any], spaces: TokenSpaces) -> int:
    tokens = _pick(given, "semantic", "max_new_tokens", None)
    seconds = _pick(given, "semantic", "max_seconds", None)
    if tokens is not None and seconds is not None:
        raise InputError(f"give max_new_tokens={quoted(tokens)} or max_seconds={quoted(seconds)}, not both")
    if seconds is not None:
        name = _key(given, "semantic", "max_seconds")
        if not (_is_number(seconds) and 0 < seconds < math.inf):
            raise InputError(f"{name} is {quoted(seconds)}, expected a positive number of seconds")
        n_tokens = seconds * spaces.semantic_rate  # of which 1e308 are no integer
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


def check_count(name: str, value: Any, least: int = 1, most: int = MAX_COUNT) -> int:
    """The value as an int. Raises InputError, naming it, where it is no integer from `least` to `most`."""
    if not _is_integer(value) or not least <= value <= most:
        raise InputError(f"{name} is {quoted(value)}, expected an integer from {least} up to {most}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """The value as a bool. Raises InputError, naming it, where it is none."""
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
    """The name that a stage's setting is given by, and with its prefix where it is not given."""
    return name if name in given and f"{stage}_{name}" not in given else f"{stage}_{name}"


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
