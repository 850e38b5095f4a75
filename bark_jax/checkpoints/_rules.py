"""Rules that map the arrays of a checkpoint to parameters, by templates of names. Each layout has a table of them.

    rule("layers.{i}.mlp.in_proj.weight", "blocks.{i}.mlp.up.kernel", LINEAR)

makes `blocks.3.mlp.up.kernel` of `layers.3.mlp.in_proj.weight`, transposed.
"""

import dataclasses
import enum
import functools
import re
from collections.abc import Mapping, Sequence

from bark_jax.checkpoints._transforms import UNCHANGED, Axes, Transform, WeightNorm
from bark_jax.config import EncodecConfig


class Use(enum.Enum):
    """The use of an array: whether it makes a parameter, or is checked or dropped."""

    PARAMETER = "makes a parameter"
    COPY = "repeats a parameter, or stands in for it where that is absent"
    CAUSAL_MASK = "a constant mask of attention; checked, then dropped"
    STATISTIC = "a running statistic of training, which no forward pass reads; dropped"


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule: the arrays that make one parameter, and the transform from them to it.

    Names are templates: `{i}` matches any number, `{at}` any path with dots. `{q+1}` in `parameter` is the number that
    the array has for `{q}`, plus one.

    names: templates of the arrays' names, in the order in which `transform` takes them.
    parameter: template of the parameter's name, or, for a statistic or a mask, a name in the module that it belongs to.
    """

    names: tuple[str, ...]
    parameter: str
    transform: Transform = UNCHANGED
    use: Use = Use.PARAMETER


def rule(name: str, parameter: str, transform: Transform = UNCHANGED, use: Use = Use.PARAMETER) -> Rule:
    """Makes a rule about a single array."""
    return Rule((name,), parameter, transform, use)


def kernel_rules(theirs: str, ours: str, axes: Axes, config: EncodecConfig) -> tuple[Rule, ...]:
    """Makes the rules of a convolution's kernel: plain, or weight-normed, in both of torch's spellings (newer first).

    `weight_norm` of torch.nn.utils.parametrizations names its g and v original0 and original1; that of torch.nn.utils,
    which is older, weight_g and weight_v.
    """
    if config.norm_type != "weight_norm":
        return (rule(theirs + ".weight", ours + ".kernel", axes),)
    newer, older = theirs + ".parametrizations.weight.original", theirs + ".weight_"
    return (
        Rule((newer + "0", newer + "1"), ours + ".kernel", WeightNorm(axes)),
        Rule((older + "g", older + "v"), ours + ".kernel", WeightNorm(axes)),
    )


@dataclasses.dataclass(frozen=True)
class Match:
    """The rule that takes an array, as array number `index` of those that make `parameter`."""

    rule: Rule
    index: int
    parameter: str


def find_rule(rules: Sequence[Rule], name: str) -> Match | None:
    """Returns the first rule that takes the array called `name`; None if no rule does."""
    for candidate in rules:
        for index, template in enumerate(candidate.names):
            fields = match_template(template, name)
            if fields is not None:
                return Match(candidate, index, fill_template(candidate.parameter, fields))
    return None


def names_of(rules: Sequence[Rule], parameter: str) -> tuple[Rule, tuple[str, ...]]:
    """Finds the rule that makes `parameter`, and the names of the arrays it makes it from: the inverse of `find_rule`.

    Raises KeyError where no rule makes it.
    """
    for candidate in rules:
        fields = match_template(candidate.parameter, parameter)
        if fields is not None and candidate.use in (Use.PARAMETER, Use.STATISTIC):
            return candidate, tuple(fill_template(name, fields) for name in candidate.names)
    raise KeyError(f"no rule makes {parameter}")


def match_template(template: str, name: str) -> Mapping[str, str] | None:
    """Matches a name against a template: "h.{i}.bias" and "h.3.bias" give {"i": "3"}; None where it does not match."""
    found = _pattern(template).fullmatch(name)
    return None if found is None else found.groupdict()


def fill_template(template: str, fields: Mapping[str, str]) -> str:
    """Replaces the fields of a template: "h.{i}.bias" with {"i": "3"} gives "h.3.bias"."""
    return _FIELD.sub(lambda field: _filled(field, fields), template)


_FIELD = re.compile(r"\{(\w+)(\+1)?\}")


def _filled(field: re.Match, fields: Mapping[str, str]) -> str:
    value = fields[field[1]]
    return str(int(value) + 1) if field[2] else value


@functools.cache
def _pattern(template: str) -> re.Pattern:
    parts, end = [], 0
    for field in _FIELD.finditer(template):
        content = r"[\w.]+" if field[1] == "at" else r"0|[1-9]\d{0,5}"  # no leading zeros: "h.03" is not "h.3"
        parts += [re.escape(template[end : field.start()]), f"(?P<{field[1]}>{content})"]
        end = field.end()
    # ASCII alone: \d also matches the digits of other scripts, so two names would mean the same layer.
    return re.compile("".join(parts) + re.escape(template[end:]), re.ASCII)
