"""Pickling of errors, warnings and results, every class that the packages define."""

import collections.abc
import copy
import dataclasses
import fractions
import importlib
import inspect
import multiprocessing
import os
import pathlib
import pickle
import pkgutil
import types
import typing

import jax
import numpy as np
import pytest

import bark_jax
from bark_jax import errors
from bark_jax.audio import clip
from bark_jax.batch.rows import Fault, RowsError, check_rows
from bark_jax.batch.speech import Spoken
from bark_jax.generation.rows import Conditioning, Utterance
from bark_jax.generation.streaming import StreamedPart
from bark_jax.serve.errors import ApiError
from bark_jax.text.processor import BarkInputs
from bark_jax.text.prompts import TextCutWarning
from bark_jax.text.vocabulary import UnknownWordsWarning
from bark_jax.training.manifest import ManifestError
from bark_jax.voices.voice import Voice

# Classes that hold functions or networks, or work in progress, are no results and need not be pickled.
# Of networks and of a conversion at work: rooms and modules whose results are arrays on a device, or hold functions.
PARTS = {"networks", "semantic", "coarse", "fine", "codec", "codec_steps", "sampling", "slots", "padding"} | {
    "arrays",
    "cli",
    "export",
    "layouts",
    "pickle",
    "plan",
    "rules",
    "sources",
    "stablehlo",
}
HOLD_FUNCTIONS = {"Setting", "StageFunctions"}
NEED_RAY = {"bark_jax.serve.ray_app", "bark_jax.serve.ray_service"}
IN_PROGRESS = {"OpenText", "Run"}
HOLD_NETWORKS = {"BarkModel", "CodecTraining", "Network", "NetworkTraining", "TrainedCodec", "TrainedStage"}


def all_classes():
    """Every class of the package by its module."""
    for found in pkgutil.walk_packages(bark_jax.__path__, "bark_jax."):
        if found.name.endswith("__main__") or found.name in NEED_RAY:
            continue
        module = importlib.import_module(found.name)
        yield from (each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == found.name)


ERRORS = sorted((each for each in all_classes() if issubclass(each, BaseException)), key=str)
RESULTS = sorted(
    (
        each
        for each in all_classes()
        if (dataclasses.is_dataclass(each) or (issubclass(each, tuple) and hasattr(each, "_fields")))
        and not each.__name__.startswith("_")
        and each.__module__.startswith("bark_jax.")
        and not PARTS & {part.lstrip("_") for part in each.__module__.split(".")}
        and each.__name__ not in HOLD_NETWORKS | HOLD_FUNCTIONS | IN_PROGRESS
    ),
    key=str,
)

# Instances of classes whose __init__ takes more than a message. A new class fails here until it has an entry.
MADE_ERRORS = {
    ApiError: lambda: ApiError(404, "there is no model x", param="model", code="model_not_found"),
    RowsError: lambda: RowsError("rows.jsonl", [Fault(2, "id is missing")], 7),
    ManifestError: lambda: ManifestError(pathlib.Path("m.jsonl"), [Fault(1, "it is not JSON")], "Mend it."),
    TextCutWarning: lambda: TextCutWarning("the end is cut", cut="the end"),
    UnknownWordsWarning: lambda: UnknownWordsWarning(("cromulent",), 120),
}

# Fields whose type does not say what they hold.
EXAMPLES = {
    bool: True,
    int: 3,
    float: 0.5,
    str: "a",
    bytes: b"a",
    typing.Any: ("any", 1),
    pathlib.Path: pathlib.Path("a"),
    np.ndarray: np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
    np.dtype: np.dtype("int16"),
    errors.BarkError: errors.InputError("x is 1, expected 2"),
    os.PathLike: pathlib.Path("b"),
    fractions.Fraction: fractions.Fraction(3, 4),
}


def example(kind):
    """A value of a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in EXAMPLES:
        return EXAMPLES[kind]
    if origin is np.ndarray:
        return EXAMPLES[np.ndarray]
    if kind is jax.Array:
        return jax.device_put(np.arange(3))
    if kind in (Voice, Conditioning):
        fine = np.arange(24).reshape(8, 3)
        return Voice(np.arange(5), fine[:2], fine, name="anna")
    if origin in (types.UnionType, typing.Union, typing.Literal):
        return example(arguments[0]) if origin is not typing.Literal else arguments[0]
    if origin in (dict, collections.abc.Mapping):
        return {"a": example(arguments[1])}
    if origin in (list, collections.abc.Sequence, tuple):
        return (list if origin is list else tuple)([example(arguments[0])] * 2)
    if inspect.isclass(kind) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
        return make(kind)
    raise NotImplementedError(f"there is no example of {kind}: give it one in {__name__}.EXAMPLES")


def make(kind):
    """An instance with examples as values; checks that refuse them are left out."""
    if kind in (Voice, Conditioning):
        return example(kind)
    hints = typing.get_type_hints(kind)
    if not dataclasses.is_dataclass(kind):
        return kind(*[example(hints[name]) for name in kind._fields])
    made = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(made, field.name, example(hints[field.name]))
    return made


def are_equal(mine, theirs):
    if type(mine) is not type(theirs):
        return False
    if isinstance(mine, (np.ndarray, jax.Array)):
        return mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(are_equal(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, (list, tuple)):
        return len(mine) == len(theirs) and all(map(are_equal, mine, theirs))
    if isinstance(mine, BaseException):
        names = ("args", "__dict__", "errno", "strerror", "filename")
        return str(mine) == str(theirs) and all(
            are_equal(getattr(mine, name, None), getattr(theirs, name, None)) for name in names
        )
    if dataclasses.is_dataclass(mine):
        return are_equal(vars(mine), vars(theirs))
    return mine == theirs


COPIES = {
    "pickled": lambda value: pickle.loads(pickle.dumps(value)),
    "pickled as Python 2 did": lambda value: pickle.loads(pickle.dumps(value, protocol=0)),
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_errors_and_warnings_come_back_as_they_were(kind, how):
    error = MADE_ERRORS[kind]() if kind in MADE_ERRORS else kind("x is 1, expected 2")
    error.details = {"line": 3}
    error.add_note("seen twice")
    again = COPIES[how](error)
    assert are_equal(error, again) and again.__notes__ == ["seen twice"] and again.details == {"line": 3}


def test_an_error_of_the_system_keeps_its_number_and_file():
    for error in (errors.OutputError(28, "No space left", "a.wav"), errors.BusyError(11, "Busy")):
        assert are_equal(error, copy.copy(error)) and error.errno in (28, 11)


def test_an_error_with_an_init_of_its_own_needs_no_help():
    error = Peculiar("a", n=3)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.n, again.errno) == (Peculiar, "a and 3", 3, None)


class Peculiar(errors.OutputError):
    def __init__(self, name, *, n):
        super().__init__(f"{name} and {n}")
        self.n = n


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_results_come_back_as_they_were(kind, how):
    result = make(kind)
    assert are_equal(result, COPIES[how](result))


BY_VALUE = (clip.Recording, clip.Clip, clip.SpokenPart, Utterance, StreamedPart, Spoken, bark_jax.LongClip, Voice)


@pytest.mark.parametrize("kind", BY_VALUE, ids=lambda kind: kind.__name__)
def test_results_with_arrays_are_equal_by_value(kind):
    result = make(kind)
    again = copy.deepcopy(result)
    assert result == again and hash(result) == hash(again)
    field = dataclasses.fields(kind)[1].name
    object.__setattr__(again, field, np.array([[9]]))
    assert result != again and result != "another kind"


@pytest.mark.parametrize("how", COPIES)
def test_a_voice_stays_read_only(how):
    voice = COPIES[how](make(Voice))
    assert voice == make(Voice) and voice.name == "anna"
    with pytest.raises(dataclasses.FrozenInstanceError):
        voice.name = "other"
    for array in voice.to_dict().values():
        assert not array.flags.writeable


def test_inputs_of_generate_come_back_too():
    inputs = BarkInputs(input_ids=np.arange(3), attention_mask=np.ones(3))
    for make_copy in COPIES.values():
        again = make_copy(inputs)
        assert type(again) is BarkInputs and are_equal(dict(inputs), dict(again))


def test_an_error_reaches_the_parent_of_a_pool(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "Hi."}\n')
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        waiting = pool.apply_async(check_rows, (tmp_path / "rows.jsonl", "jsonl"), {"source": "rows.jsonl"})
        with pytest.raises(RowsError, match="id is missing") as caught:
            waiting.get(timeout=300)
    assert caught.value.n_faults == 1 and caught.value.faults[0].line == 1
