"""Lowers every program for a GPU that is not here, and counts the kernels that it calls and the copies of its KV cache.

    python -m benchmarks cuda

Lowering ends before XLA compiles, so nothing here says how fast a program is. It says which calls of cuDNN and of the
Pallas kernels are in it, and what would copy a cache whatever XLA does.
"""

import collections
import contextlib
import itertools
import math
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import jax

from bark_jax.networks.attention import IMPLEMENTATIONS
from benchmarks.programs import Program, model_of_shapes, stages

PROGRAMS = ("semantic prompt", "semantic loop", "coarse loop", "fine")
DTYPES = ("bfloat16", "float16", "int8")
CUDNN, KERNEL = "__cudnn$fmha", "__gpu$xla.gpu.triton"  # how the targets of custom calls start
# Results of these operations are new arrays. dynamic_update_slice and scatter write a loop's carry in place.
COPIES = (
    "broadcast_in_dim",
    "concatenate",
    "convert",
    "dynamic_slice",
    "gather",
    "pad",
    "select",
    "slice",
    "transpose",
)
_CALL = re.compile(r"stablehlo\.custom_call @([\w$.]+)")
_COPY = re.compile(rf"stablehlo\.({'|'.join(COPIES)})\b.*(?:-> |: )tensor<([0-9x]+)x[a-z]+[0-9]+>$", re.MULTILINE)


class Lowered(NamedTuple):
    """Calls and copies in a lowered program. Bodies of loops count once, and so do functions that it calls."""

    cudnn: int  # calls of cuDNN's attention
    kernels: int  # calls of Pallas kernels
    others: dict[str, int]  # other custom calls by target
    copies: int  # results of COPIES with as many numbers as the keys of one layer's cache


def lower(program: Program) -> Lowered:
    """Lowers a program for CUDA. Call it within `pretended_gpu`, and make the program there too."""
    text = program.trace().lower(lowering_platforms=("cuda",)).as_text()
    calls = collections.Counter(_CALL.findall(text))
    cudnn = sum(n for target, n in calls.items() if target.startswith(CUDNN))
    kernels = sum(n for target, n in calls.items() if target.startswith(KERNEL))
    others = {target: n for target, n in calls.items() if not target.startswith((CUDNN, KERNEL))}
    n_keys = None if program.cache is None else program.cache.keys[0].size
    copies = sum(math.prod(map(int, shape.split("x"))) == n_keys for _, shape in _COPY.findall(text))
    return Lowered(cudnn, kernels, others, copies)


def measure(sizes: tuple[str, ...], rows: tuple[int, ...]) -> Iterator[str]:
    """Yields the lines of a Markdown table, one for each size, kind of weights, attention and number of rows.

    A cell has a program's calls of cuDNN and of Pallas kernels, and of a loop its copies of a layer's keys or values.
    """
    yield f"| size | weights | attention | rows | {' | '.join(PROGRAMS)} |"
    yield "|---|---|---|---|" + "---|" * len(PROGRAMS)
    with pretended_gpu():
        for size, dtype, attention in itertools.product(sizes, DTYPES, IMPLEMENTATIONS):
            model = model_of_shapes(size, dtype, "gpu", attention)
            for n_rows in rows:
                programs = [program for program in stages(model, n_rows) if program.name in PROGRAMS]
                cells = [_cell(program.name, lower(program)) for program in programs]
                yield f"| {size} | {dtype} | {attention} | {n_rows} | {' | '.join(cells)} |"


def _cell(name: str, lowered: Lowered) -> str:
    others = "".join(f", {n} {target}" for target, n in sorted(lowered.others.items()))
    # A prompt makes the cache, and its MLP's activations are as large: only a loop's copies say something.
    copies = f", {lowered.copies}" if name.endswith("loop") else ""
    return f"{lowered.cudnn}, {lowered.kernels}{copies}{others}"


@contextlib.contextmanager
def pretended_gpu() -> Iterator[None]:
    """Lets JAX lower calls of cuDNN and Pallas kernels where there is no GPU.

    It asks for cuDNN's version while it traces a call, and since 0.11 for the GPU while it lowers a kernel.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
        cudnn = "jax._src.cudnn.fused_attention_stablehlo"
        stack.enter_context(mock.patch(f"{cudnn}.check_cudnn_version", lambda: 91_000))
        stack.enter_context(mock.patch(f"{cudnn}.check_compute_capability", lambda capability: True))
        if hasattr(jax.sharding, "AbstractDevice"):
            device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", 1, "gpu")
            mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
            stack.enter_context(jax.sharding.use_abstract_mesh(mesh))
        yield
