"""Rules: which arrays of a checkpoint make which parameter. Each layout has a table of them."""

import dataclasses
import enum
import functools
import re
from collections.abc import Mapping, Sequence

from bark_jax.checkpoints._transforms import UNCHANGED, Axes, Transform, WeightNorm
from bark_jax.config import EncodecConfig


class Use(enum.Enum):
    """What an array is for."""

    PARAMETER = "makes a parameter"
    COPY = "repeats a parameter, or stands in for it where that is absent"
    CAUSAL_MASK = "a constant that says who may attend to whom; checked, then dropped"
    STATISTIC = "kept by training; no forward pass reads it"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a naming scheme.

    Names are templates: `{i}` stands for any number, `{at}` for any path. `{q+1}` in `parameter` is the number of the
    array's `{q}`, plus one.

    names: the arrays, in the order in which `transform` takes them.
    parameter: what they make, or, for a statistic, where it belongs.
    """

    names: tuple[str, ...]
    parameter: str
    transform: Transform = UNCHANGED
    use: Use = Use.PARAMETER


def rule(name: str, parameter: str, transform: Transform = UNCHANGED, use: Use = Use.PARAMETER) -> Rule:
    """A rule about a single array."""
    return Rule((name,), parameter, transform, use)


def kernel_rules(theirs: str, ours: str, axes: Axes, config: EncodecConfig) -> tuple[Rule, ...]:
    """A convolution's kernel: plain, or weight-normed in either of torch's spellings (the newer one first)."""
    if config.norm_type != "weight_norm":
        return (rule(theirs + ".weight", ours + ".kernel", axes),)
    newer, older = theirs + ".parametrizations.weight.original", theirs + ".weight_"
    return (
        Rule((newer + "0", newer + "1"), ours + ".kernel", WeightNorm(axes)),
        Rule((older + "g", older + "v"), ours + ".kernel", WeightNorm(axes)),
    )


@dataclasses.dataclass(frozen=True)
class Match:
    """A checkpoint's array and the rule that takes it, as array number `index` of `parameter`."""

    rule: Rule
    index: int
    parameter: str


def find_rule(rules: Sequence[Rule], name: str) -> Match | None:
    """The first rule that takes the array called `name`."""
    for candidate in rules:
        for index, template in enumerate(candidate.names):
            fields = match_template(template, name)
            if fields is not None:
                return Match(candidate, index, fill_template(candidate.parameter, fields))
    return None


def names_of(rules: Sequence[Rule], parameter: str) -> tuple[Rule, tuple[str, ...]]:
    """The way back: the first rule that makes `parameter`, and the names of the arrays it makes it from."""
    for candidate in rules:
        fields = match_template(candidate.parameter, parameter)
        if fields is not None and candidate.use in (Use.PARAMETER, Use.STATISTIC):
            return candidate, tuple(fill_template(name, fields) for name in candidate.names)
    raise KeyError(f"no rule makes {parameter}")


def match_template(template: str, name: str) -> Mapping[str, str] | None:
    """What the template's fields are in `name`; None where it does not fit."""
    found = _pattern(template).fullmatch(name)
    return None if found is None else found.groupdict()


def fill_template(template: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda field: _filled(field, fields), template)


_FIELD = re.compile(r"\{(\w+)(\+1)?\}")


def _filled(field: re.Match, fields: Mapping[str, str]) -> str:
    value = fields[field[1]]
    return str(int(value) + 1) if field[2] else value


@functools.cache
def _pattern(template: str) -> re.Pattern:
    parts, end = [], 0
    for field in _FIELD.finditer(template):
        content = r"[\w.]+" if field[1] == "at" else r"0|[1-9]\d{0,5}"
        parts += [re.escape(template[end : field.start()]), f"(?P<{field[1]}>{content})"]
        end = field.end()
    return re.compile("".join(parts) + re.escape(template[end:]), re.ASCII)
