"""The folder's programs.json and README.md: every program's file, weights, inputs and outputs."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax

from bark_jax import __version__
from bark_jax.stablehlo.programs import Array, Program

MANIFEST_FILE = "programs.json"
README_FILE = "README.md"
SCRIPT_FILE = "speak.py"
FORMAT, VERSION = "bark_jax programs", 1


@dataclasses.dataclass(frozen=True)
class StageFiles:
    """Files of a stage on one platform, relative to the folder."""

    program: str
    weights: tuple[str, ...]
    custom_calls: tuple[str, ...]  # calls that a later version of JAX may refuse


Files = Mapping[str, Mapping[str, StageFiles]]  # by stage, then by platform


def manifest(programs: Mapping[str, Program], files: Files, rows: int | None, sample_rate: int) -> dict[str, Any]:
    """The content of programs.json."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "bark_jax": __version__,
        "jax": jax.__version__,
        "rows": rows,
        "sample_rate": sample_rate,
        "stages": {
            stage: {
                "inputs": {name: _described(array) for name, array in program.inputs.items()},
                "outputs": {name: _described(array) for name, array in program.outputs.items()},
                "platforms": {platform: dataclasses.asdict(each) for platform, each in files[stage].items()},
            }
            for stage, program in programs.items()
        },
    }


def _described(array: Array) -> dict[str, Any]:
    described: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype}
    if array.default is not None:
        described["default"] = array.default
    return described | {"meaning": array.meaning}


def as_json(content: Mapping[str, Any]) -> str:
    """The text of programs.json."""
    return json.dumps(content, indent=1) + "\n"


def readme(label: str, programs: Mapping[str, Program], files: Files, rows: int | None) -> str:
    """The text of README.md: what is in the folder, how it runs, and a table of each program's arrays."""
    platforms = ", ".join(next(iter(files.values())))
    size = "any number of rows" if rows is None else f"{rows} row{'s' if rows > 1 else ''}"
    calls = sorted({call for stage in files.values() for each in stage.values() for call in each.custom_calls})
    unstable = (
        f"\nThe programs for cuda call {', '.join(calls)}. JAX does not promise that a later version of it, or another "
        "cuDNN, runs these calls.\n"
        if calls
        else ""
    )
    tables = "\n\n".join(_table(stage, program) for stage, program in programs.items())
    return f"""# {label} as StableHLO

The stages of Bark, exported by bark_jax {__version__} with JAX {jax.__version__} for {platforms}. A program takes \
{size}.

```
pip install jax flatbuffers numpy safetensors
```

```python
from speak import load, load_file, speak

found = speak(load("."), [[12, 20, 8]], seeds=[0], chosen=load_file("voices/none.safetensors"))
found["samples"][0, : found["n_samples"][0]]  # audio of the first row
```

The ids are those of the model's tokenizer, by the package tokenizers:

```python
from tokenizers import Tokenizer

Tokenizer.from_file("tokenizer.json").encode("Hello.", add_special_tokens=False).ids
```
{unstable}
`programs.json` names the files of each stage: a program for each platform, as `jax.export` serializes it, and \
weights. A program is called with two dicts of arrays, its weights and its inputs, and returns a dict.

{tables}
"""


def _table(stage: str, program: Program) -> str:
    lines = [f"## {stage}", "", "| array | shape | dtype | default | meaning |", "|---|---|---|---|---|"]
    for direction, arrays in (("input", program.inputs), ("output", program.outputs)):
        for name, array in arrays.items():
            shape = ", ".join(map(str, array.shape))
            default = "" if array.default is None else json.dumps(array.default)
            lines.append(f"| {direction} `{name}` | [{shape}] | {array.dtype} | {default} | {array.meaning} |")
    return "\n".join(lines)
