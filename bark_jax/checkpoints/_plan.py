"""Applies a table of rules to a checkpoint: every array is accounted for, and every parameter is made exactly once.

Names, shapes and dtypes are checked before any value is read, so the wrong network is refused within milliseconds, with
the names on both sides. Parameters are then converted one at a time, so that only one is in memory.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from bark_jax.checkpoints._arrays import StoredArray
from bark_jax.checkpoints._rules import Rule, Use, find_rule, names_of
from bark_jax.checkpoints._transforms import Transform
from bark_jax.checkpoints.model_folder import (
    NETWORKS,
    FileRecord,
    Shapes,
    check_depth,
    list_names,
    network_shapes,
    write_network,
)
from bark_jax.errors import CheckpointError

KEPT_DTYPES = tuple(np.dtype(dtype) for dtype in (np.float32, np.float16, ml_dtypes.bfloat16))
READ_DTYPES = (*KEPT_DTYPES, np.dtype(np.float64))
CHUNK_ELEMENTS = 2**22  # values that `isfinite` checks at a time, so that its result takes 4 MiB

# Called with the network that is being written, the bytes written of its file, and the file's bytes in all.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class NetworkSource:
    """A network in an opened checkpoint: its config, its arrays (not read yet) and the rules that convert them.

    network: a key of NETWORKS.
    where: the file, for messages.
    arrays: by name, without `prefix`.
    prefix: what the names in the file have in front, such as "semantic.", for messages.
    """

    network: str
    where: str
    config: Any
    arrays: Mapping[str, StoredArray]
    rules: Sequence[Rule]
    prefix: str = ""

    def shapes(self) -> Shapes:
        """Shapes of the parameters that a network of this config has, by name."""
        return network_shapes(NETWORKS[self.network].module_class, self.config)

    def label(self, name: str) -> str:
        """The name of an array as it is in the file."""
        return self.prefix + name


@dataclasses.dataclass(frozen=True)
class Fill:
    """The source of one parameter: names of arrays, in the order in which the transform takes them."""

    names: tuple[str, ...]
    transform: Transform


@dataclasses.dataclass(frozen=True)
class Plan:
    """The use of every array of a checkpoint: parameter, copy of one, or causal mask. Statistics are dropped."""

    fills: Mapping[str, Fill]  # parameter -> its arrays
    copies: Mapping[str, str]  # array -> the parameter that it repeats
    masks: Sequence[str]  # arrays that are causal masks


def write_converted(
    source: NetworkSource,
    path: Path,
    *,
    dtype: np.dtype | None = None,
    allow_non_finite: bool = False,
    progress: Progress | None = None,
) -> FileRecord:
    """Converts a network of a checkpoint and writes it as a file of this project.

    Args:
      dtype: of all arrays; None keeps float32, float16 and bfloat16, and makes float32 of float64.
      allow_non_finite: accept NaN and infinite weights.

    Raises:
      CheckpointError: the checkpoint is not this network, all of its weights are zero, or one is NaN or infinite.
    """
    check_depth(source.where, source.config, len(source.arrays))
    shapes = source.shapes()
    plan = make_plan(source, shapes)
    check_constants(source, plan)
    announced = {
        parameter: jax.ShapeDtypeStruct(shapes[parameter].shape, dtype or _kept_dtype(source, plan.fills[parameter]))
        for parameter in shapes
    }
    return write_network(path, announced, _converted(source, plan, announced, allow_non_finite, progress))


def make_plan(source: NetworkSource, shapes: Shapes) -> Plan:
    """Assigns every array to its use.

    Raises:
      CheckpointError: it lists all arrays that are missing, unexpected, given twice, or of the wrong shape or dtype.
    """
    taken: dict[str, dict[tuple[Rule, int], list[str]]] = defaultdict(lambda: defaultdict(list))
    copies, masks, unexpected = {}, [], []
    for name in source.arrays:
        match = find_rule(source.rules, name)
        if match is None or (match.rule.use in (Use.PARAMETER, Use.COPY) and match.parameter not in shapes):
            unexpected.append(source.label(name))
        elif match.rule.use is Use.PARAMETER:
            taken[match.parameter][match.rule, match.index].append(name)
        elif match.rule.use is Use.COPY:
            copies[name] = match.parameter
        elif match.rule.use is Use.CAUSAL_MASK:
            masks.append(name)
    for name, parameter in list(copies.items()):
        if parameter not in taken:  # the checkpoint has only the copy, so it makes the parameter
            taken[parameter][find_rule(source.rules, name).rule, 0].append(name)
            del copies[name]
    fills, missing, twice = _fills(source, taken, shapes)
    faults = {
        "missing": missing,
        "unexpected": unexpected,
        "given twice": twice,
        "wrong shape": _misshapen(source, fills, shapes),
        "wrong type": _mistyped(source, fills),
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {list_names(names)}" for fault, names in faults.items() if names)
        raise CheckpointError(f"{source.where} does not hold the {source.network} network of this size. {listed}")
    return Plan(fills, copies, masks)


def _fills(
    source: NetworkSource, taken: Mapping[str, Mapping[tuple[Rule, int], list[str]]], shapes: Shapes
) -> tuple[dict[str, Fill], list[str], list[str]]:
    """Makes the fills of complete parameters. Returns them, labels of missing arrays, and of parameters made twice."""
    fills, missing, twice = {}, [], []
    for parameter in shapes:
        parts = taken.get(parameter, {})
        rules = {rule for rule, _ in parts}
        if len(rules) > 1 or any(len(names) > 1 for names in parts.values()):
            names = [source.label(name) for found in parts.values() for name in found]
            twice.append(f"{parameter} (by {' and '.join(names)})")
        elif rules and len(parts) == len(next(iter(rules)).names):
            (rule,) = rules
            fills[parameter] = Fill(tuple(parts[rule, index][0] for index in range(len(parts))), rule.transform)
        else:
            held = {name for names in parts.values() for name in names}
            expected = _expected_names(list(rules) or source.rules, parameter)
            missing += [f"{source.label(name)} (for {parameter})" for name in expected if name not in held]
    return fills, missing, twice


def _expected_names(rules: Sequence[Rule], parameter: str) -> tuple[str, ...]:
    try:
        return names_of(rules, parameter)[1]
    except KeyError:  # no rule of this layout makes the parameter
        return ("an array",)


def _misshapen(source: NetworkSource, fills: Mapping[str, Fill], shapes: Shapes) -> list[str]:
    return [
        f"{source.label(name)} is {source.arrays[name].shape}, expected {expected} (for {parameter})"
        for parameter, fill in fills.items()
        for name, expected in zip(fill.names, fill.transform.source_shapes(shapes[parameter].shape), strict=True)
        if tuple(source.arrays[name].shape) != expected
    ]


def _mistyped(source: NetworkSource, fills: Mapping[str, Fill]) -> list[str]:
    expected = " or ".join(dtype.name for dtype in READ_DTYPES)
    return [
        f"{source.label(name)} is {source.arrays[name].dtype}, expected {expected}"
        for fill in fills.values()
        for name in fill.names
        if source.arrays[name].dtype not in READ_DTYPES
    ]


def check_constants(source: NetworkSource, plan: Plan) -> None:
    """Reads the arrays that are about to be dropped, and checks that nothing is lost with them.

    Raises:
      CheckpointError: a causal mask is another mask, or a copy (a tied head) differs from its parameter.
    """
    for name in plan.masks:
        if not _is_causal_mask(source.arrays[name]):
            raise CheckpointError(
                f"{source.where}: {source.label(name)} is not the causal mask (ones on and below the diagonal). "
                "Under another mask the network would see the future; no Bark is trained so."
            )
    for name, parameter in plan.copies.items():
        fill = plan.fills[parameter]
        # equal_nan: NaN is refused later by a message of its own, or allowed on request.
        if not np.array_equal(source.arrays[name].read(), source.arrays[fill.names[0]].read(), equal_nan=True):
            raise CheckpointError(
                f"{source.where}: {source.label(name)} differs from {source.label(fill.names[0])}. "
                "Bark ties them: a head is its codebook's embedding table."
            )


def _is_causal_mask(array: StoredArray) -> bool:
    size = array.shape[-1] if array.shape else 0
    # [1, 1, size, size] in both layouts: bool in transformers', float ones in Suno's, which compare equal to True.
    if tuple(array.shape[-2:]) != (size, size) or math.prod(array.shape) != size * size:
        return False
    return np.array_equal(array.read().reshape(size, size), np.tri(size, dtype=np.bool_))


def _kept_dtype(source: NetworkSource, fill: Fill) -> np.dtype:
    first, *others = (source.arrays[name].dtype for name in fill.names)
    for other in others:
        # float16 beside bfloat16 gives float32: neither holds all values of the other.
        first = jnp.promote_types(first, other)
    return np.dtype(first) if first in KEPT_DTYPES else np.dtype(np.float32)


def _converted(
    source: NetworkSource, plan: Plan, announced: Shapes, allow_non_finite: bool, progress: Progress | None
) -> Iterator[tuple[str, np.ndarray]]:
    done, total = 0, sum(math.prod(array.shape) * array.dtype.itemsize for array in announced.values())
    has_values = False
    for parameter, expected in announced.items():
        array = read_parameter(source, plan.fills[parameter], expected.dtype)
        if not allow_non_finite:
            _check_finite(source, plan.fills[parameter], array)
        has_values = has_values or bool(array.any())
        yield parameter, array
        done += array.nbytes
        if progress is not None:
            progress(source.network, done, total)
    # Known only now, as a pass of its own would read the file twice. The caller's atomic folder drops what was written.
    if not has_values:
        raise CheckpointError(f"{source.where}: every weight of the {source.network} network is zero")


def read_parameter(source: NetworkSource, fill: Fill, dtype: np.dtype) -> np.ndarray:
    """Reads a parameter's values, in Flax's layout and shape, as `dtype`. Raises CheckpointError for a damaged file."""
    array = fill.transform.apply(*(source.arrays[name].read() for name in fill.names))
    # A value beyond float16 becomes infinite, and `_check_finite` refuses that with the array's name.
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)


def _check_finite(source: NetworkSource, fill: Fill, array: np.ndarray) -> None:
    flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel()
    for start in range(0, flat.size, CHUNK_ELEMENTS):
        chunk = flat[start : start + CHUNK_ELEMENTS]
        finite = np.isfinite(chunk)
        if not finite.all():
            names = " and ".join(source.label(name) for name in fill.names)
            raise CheckpointError(
                f"{source.where}: {names} has {chunk[~finite][0]} among its values, as {array.dtype}. "
                "Such a network gives noise; to convert it nevertheless, allow it (--allow-non-finite)."
            )
