"""Strict parsing of untrusted JSON: rows, manifests, and fields that hold JSON."""

import itertools
import json
import math
import re
from typing import Any

from bark_jax.errors import InputError, quoted

# Metadata that people write has some five levels. Python's parser takes a thousand, but then `json.dumps`, `==` and
# `repr` of the value fail with RecursionError.
MAX_DEPTH = 64

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


def read_strict(data: bytes | str) -> Any:
    """Parses one JSON text.

    Duplicate keys, NaN, infinities and numbers beyond float64 are refused, although Python's parser takes them: values
    are written back into files that other programs read, and those refuse them.

    Raises:
      InputError: it is not UTF-8, not JSON, or more than MAX_DEPTH levels deep. The depth is checked before parsing.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        check_depth(text)
        # parse_constant gets NaN, Infinity and -Infinity; parse_float also 1e999, which Python would read as infinity.
        return json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg} at column {error.colno})") from error
    except InputError:
        raise
    except ValueError as error:  # a number of thousands of digits, or raised by `_unique` or `_finite`
        raise InputError(f"not JSON ({quoted(str(error), 200)})") from error


def check_depth(text: str) -> None:
    """Raises InputError where arrays and objects are nested more than MAX_DEPTH deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:  # the usual case, without the regular expressions
        return
    # Strings are cut out, as their brackets nest nothing. In a text that is no JSON the depth may come out too high; it
    # is refused either way.
    steps = (1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(_STRING.sub("", text)))
    deepest = max(itertools.accumulate(steps), default=0)
    if deepest > MAX_DEPTH:
        raise InputError(f"nested too deeply ({deepest:,} levels deep, expected at most {MAX_DEPTH})")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key comes twice")
    return fields


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no number of JSON, or too large")
    return value
